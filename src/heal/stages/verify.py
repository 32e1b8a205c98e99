"""Verify: a verdict for every trace (METHOD §1).

In: traces and their problems. Out: one `Check` each, in any order. A truncated trace is never
handed to a verifier: it is `TRUNCATED`, whatever it says.
"""

from collections.abc import Iterable, Iterator, Mapping

from heal.config import Problems
from heal.functions import edition
from heal.keys import content_key
from heal.records import Check, Problem, Trace
from heal.verifiers import Verifier
from heal.verifiers.base import Item


def check_key(trace: Trace, problem: Problem, settings: Problems) -> str:
    """Names a verdict: it depends on the trace, the gold answer and the verifier's edition."""
    # A trace the engine failed on keeps its key when it is drawn again, and must be judged again.
    failed = trace.error is not None
    judge = edition(settings.verifier)
    return content_key("check", trace.key, failed, problem.answer, judge, settings.verify_timeout_s)


def verify(
    traces: Iterable[tuple[str, Trace]], problems: Mapping[str, Problem], verifier: Verifier
) -> Iterator[tuple[str, Check]]:
    """(key, verdict) of every (key, trace), as they are decided; `traces` is read lazily."""
    keys: dict[str, str] = {}

    def items() -> Iterator[Item]:
        for key, trace in traces:
            keys[trace.key] = key
            yield trace.key, trace.text, trace.finish, problems[trace.problem_id]

    for check in verifier.verify_all(items()):
        yield keys[check.trace], check
