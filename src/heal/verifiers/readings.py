"""How often two independent readings disagree: our rules, and math-verify alone.

In: problems, or pairs of an answer and its gold answer. Out: counts, and the first few that
disagree. A disagreement is a place to look: either reading may be the wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heal.records import Problem, Verdict
from heal.verifiers import alone, math
from heal.verifiers.worker import Job, WorkerPool

Pair = tuple[str, str]
"""An answer and the gold answer."""

_NAMED = 20
_BY_VERDICT = {Verdict.CORRECT: True, Verdict.WRONG: False}


@dataclass(frozen=True)
class Disagreements:
    """Two readings of the same things, counted.

    Of golds: which reading can use them. Of pairs: which reading calls them equal.
    """

    read: int
    both: int
    only_ours: int
    only_math_verify: int
    neither: int
    undecided: int
    """A reading took too long or failed."""
    named: tuple[str, ...]
    """The first few that differ, each as one line."""

    @property
    def disagree(self) -> int:
        """How many the readings differ on."""
        return self.only_ours + self.only_math_verify


def second_reading(
    problems_or_pairs: Iterable[Problem | Pair], workers: int = 2, timeout_s: float = 10.0
) -> Disagreements:
    """Read golds (can they be used?) or pairs (are they equal?) twice, and count differences."""
    items = list(problems_or_pairs)
    ours = _readings(
        [_job(i, item, "{}") for i, item in enumerate(items)], math.OPENER, workers, timeout_s
    )
    boxed = [_job(i, item, "\\boxed{{{}}}") for i, item in enumerate(items)]
    theirs = _readings(boxed, alone.OPENER, workers, timeout_s)
    pairs = list(zip(ours, theirs, strict=True))
    named = [
        _named(item, a is True)
        for item, (a, b) in zip(items, pairs, strict=True)
        if None not in (a, b) and a is not b
    ]
    return Disagreements(
        read=len(items),
        both=pairs.count((True, True)),
        only_ours=pairs.count((True, False)),
        only_math_verify=pairs.count((False, True)),
        neither=pairs.count((False, False)),
        undecided=sum(None in pair for pair in pairs),
        named=tuple(named[:_NAMED]),
    )


def _job(number: int, item: Problem | Pair, form: str) -> Job:
    if isinstance(item, Problem):
        return Job(str(number), None, item.answer)
    answer, gold = item
    return Job(str(number), form.format(answer), gold)


def _readings(
    jobs: Sequence[Job], opener: str, workers: int, timeout_s: float
) -> list[bool | None]:
    found: dict[str, bool | None] = {}
    with WorkerPool(workers, timeout_s, opener) as pool:
        for job in jobs:
            pool.submit(job)
        while pool.pending:
            found |= {reply.ticket: _BY_VERDICT.get(reply.verdict) for reply in pool.poll()}
    return [found[job.ticket] for job in jobs]


def _named(item: Problem | Pair, ours: bool) -> str:
    who = "only our rules" if ours else "only math-verify"
    if isinstance(item, Problem):
        return f"{item.id}: {item.answer[:80]!r}: {who} can use it"
    return f"{item[0][:80]!r} and {item[1][:80]!r}: {who} would call them equal"
