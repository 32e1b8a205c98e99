"""Verify: a verdict for every trace (METHOD §1).

In: traces and their problems. Out: one `Check` each, in any order. A truncated trace is never
handed to a verifier: it is `TRUNCATED`, whatever it says.
"""

from collections.abc import Iterator, Mapping

from heal.config import Problems
from heal.keys import content_key
from heal.records import Check, Problem, Trace
from heal.verifiers import Verifier


def check_key(trace: Trace, problem: Problem, settings: Problems) -> str:
    """Names a verdict: it depends on the trace, the gold answer and the verifier."""
    # A trace the engine failed on keeps its key when it is drawn again, and must be judged again.
    failed = trace.error is not None
    return content_key(
        "check", trace.key, failed, problem.answer, settings.verifier, settings.verify_timeout_s
    )


def verify(
    traces: Mapping[str, Trace], problems: Mapping[str, Problem], verifier: Verifier
) -> Iterator[tuple[str, Check]]:
    """(key, verdict) of every trace given by key."""
    by_trace = {trace.key: key for key, trace in traces.items()}
    items = (
        (trace.key, trace.text, trace.finish, problems[trace.problem_id])
        for trace in traces.values()
    )
    for check in verifier.verify_all(items):
        yield by_trace[check.trace], check
