"""Verify: a verdict for every trace, and each problem's ceiling (docs/method.md §1).

A truncated trace is never handed to a verifier's reader: it is `TRUNCATED`, whatever it says.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from heal.keys import content_key
from heal.records import Check, Problem, Split, Trace, Verdict
from heal.stages.found import Answerable, Found, Lane, Request, Setup
from heal.store.columns import TraceRow

READ_MORE = ("gym@", "code@")
"""Verifiers of ours that read more of a problem than its answer."""


def check_key(trace: Trace, problem: Problem, judge: str, timeout_s: float) -> str:
    """Names a verdict: it depends on the trace, the gold answer and the verifier's edition."""
    # A trace the engine failed on keeps its key when it is drawn again, and must be judged again.
    named = ("check", trace.key, trace.error is not None, problem.answer, judge, timeout_s)
    # A user's function may look at the whole row.
    whole = ":" in judge or judge.startswith(READ_MORE)
    return content_key(*named, *([problem] if whole else ()))


def check_of(found: Found, setup: Setup, trace: Trace) -> Check | None:
    """The verdict on a trace; None if it is owed."""
    return _stored(found, setup, _key(found, setup, trace))


def verdicts_of(found: Found, setup: Setup, traces: Iterable[Trace]) -> list[Verdict] | None:
    """All verdicts, in order; None while one is owed."""
    checks = [check_of(found, setup, trace) for trace in traces]
    return None if None in checks else [check.verdict for check in checks if check is not None]


def owed_checks(found: Found, setup: Setup, traces: Iterable[Trace]) -> Iterator[Request]:
    """Requests for the verdicts that are not there."""
    asked: set[str] = set()
    for trace in traces:
        key = _key(found, setup, trace)
        if key not in asked and _stored(found, setup, key) is None:
            asked.add(key)
            yield _request(found.problem, trace, key)


def correct(found: Found, setup: Setup, traces: Iterable[Trace]) -> list[Trace]:
    """Those of the traces that are known to be correct."""
    checks = ((trace, check_of(found, setup, trace)) for trace in traces)
    return [trace for trace, check in checks if check and check.verdict is Verdict.CORRECT]


def trace_row(
    found: Found, setup: Setup, trace: Trace, stage: str, tag: str = "", gate: str | None = None
) -> TraceRow:
    """What the columns say of a trace."""
    check = check_of(found, setup, trace)
    return TraceRow(
        trace.problem_id,
        stage,
        tag,
        trace.key,
        trace.seed_index,
        trace.finish,
        len(trace.ids),
        trace.new_tokens,
        check.verdict if check else None,
        check.answer if check else None,
        gate,
        trace.hint,
        trace.cut,
        trace.error is not None,
    )


def is_training(problem: Problem) -> bool:
    """Whether a problem is one to train on."""
    return problem.split is Split.TRAIN


def _stored(found: Found, setup: Setup, key: str) -> Check | None:
    """A verdict; one that decided nothing, and is to be judged again, is there once it is new."""
    check = found.get("check", key, Check)
    undecided = check is not None and check.verdict is Verdict.UNVERIFIABLE
    lost = found.once(
        ("lost", key), lambda: check if undecided and setup.judges_again(key) else None
    )
    return check if check is not lost else None


def _key(found: Found, setup: Setup, trace: Trace) -> str:
    timeout_s = setup.config.problems.verify_timeout_s
    return found.once(
        ("check", trace.key, trace.error is not None),
        lambda: check_key(trace, found.problem, setup.judge, timeout_s),
    )


def _request(problem: Problem, trace: Trace, key: str) -> Request:
    ask = Answerable(trace.text, trace.finish, problem)
    return Request(Lane.VERIFY, "check", (key,), ask, lambda check: replace(check, trace=trace.key))
