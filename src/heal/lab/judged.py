"""Traces of a lab run with the truth about them, opened one at a time.

In: where bodies are, as the columns say it. Out: trace and `Truth`. Holds one trace at a time.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from heal.lab.truth import Truth, judge
from heal.records import Problem, Trace
from heal.store import Store


class Named(NamedTuple):
    """Where a trace's body is."""

    problem: str
    stage: str
    key: str


def judged(store: Store, traces: Iterable[Named]) -> Iterator[tuple[Named, Trace, Truth]]:
    """Traces with what is true of them, opened one at a time; those of a problem in a row."""
    for problem_id, group in groupby(traces, key=lambda named: named.problem):
        problem = store.get("problem", problem_id, problem_id, Problem)
        assert problem is not None, "columns name only what is stored"
        for named in group:
            trace = store.get(named.stage, named.key, problem_id, Trace)
            assert trace is not None, "columns name only what is stored"
            yield named, trace, judge(problem.problem, trace.text)
