"""Retention: what a student still knows of what it knew before it was trained.

In: shares of correct attempts by problem, of the untouched student and of each trained one after
each stage. Out: avg@k minus the untouched student's on the same problems, by stratum, with its
interval over problems and training seeds. No model, no disk.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heal.method.intervals import Interval, Scores, paired_difference
from heal.method.summary import EvalSummary
from heal.records import StageExam, Stratum

BASE = "base"
STRATA = (Stratum.EASY, Stratum.HARD, Stratum.EXTREME)


@dataclass(frozen=True)
class Retained:
    """avg@k of an arm's students minus the untouched student's, paired over problems."""

    arm: str
    stage: int | None
    """After which, on the watched problems; None: when trained, on all held-out ones."""
    stratum: str
    interval: Interval


def after_training(summary: EvalSummary) -> tuple[Retained, ...]:
    """Of the finished students, stratum by stratum; none without the untouched one."""
    found = []
    for d in summary.differences:
        if d.stratum not in STRATA or BASE not in (d.arm, d.against):
            continue
        arm, own = (d.arm, d.interval) if d.against == BASE else (d.against, _turned(d.interval))
        found.append(Retained(arm, None, d.stratum, own))
    return tuple(found)


def after_stages(
    exams: Iterable[StageExam],
    base: Mapping[str, float],
    strata: Mapping[str, str],
    families: Mapping[str, str],
    *,
    resamples: int,
    seed: int,
) -> tuple[Retained, ...]:
    """Of each stage, on those watched problems that the untouched student was asked too.

    base: its shares by problem; strata and families by problem, as in `summary.summarise`.
    """
    groups: dict[tuple[str, int], list[StageExam]] = {}
    for exam in exams:
        groups.setdefault((exam.arm, exam.stage), []).append(exam)
    return tuple(
        Retained(arm, stage, stratum, interval)
        for (arm, stage), own in sorted(groups.items())
        for stratum, shared in _shared(own, base, strata)
        for interval in [_difference(own, base, shared, families, resamples, seed)]
    )


def _shared(
    exams: Sequence[StageExam], base: Mapping[str, float], strata: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The problems of each stratum that every seed and the untouched student answered."""
    known = set(base).intersection(*(exam.shares for exam in exams))
    for stratum in STRATA:
        own = tuple(sorted(problem for problem in known if strata.get(problem) == stratum))
        if own:
            yield stratum, own


def _difference(
    exams: Sequence[StageExam],
    base: Mapping[str, float],
    problems: tuple[str, ...],
    families: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Interval:
    by_seed = sorted(exams, key=lambda exam: exam.seed)
    trained = np.array([[exam.shares[p] for p in problems] for exam in by_seed], np.float64)
    before = np.array([[base[p] for p in problems]], np.float64)
    own = tuple(families.get(problem, "") for problem in problems)
    a, b = (Scores(values, problems, own) for values in (trained, before))
    return paired_difference(a, b, resamples=resamples, seed=seed)


def _turned(d: Interval) -> Interval:
    return Interval(-d.mean, -d.high, -d.low, d.n_problems, d.n_seeds)
