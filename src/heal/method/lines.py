"""PURE's line by a stated share: what it loses of the clean, or lets pass of the fudged.

In: suspicions of assisted traces of which a step checker has a word, by problem. Out: a line, and
what it does to problems that did not draw it: folds of problems take turns. High is suspicious.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heal.config import Line
from heal.keys import content_key
from heal.method.intervals import Interval, ratio_of_sums

FOLDS = 5
MIN_JUDGED = 20
"""Fewer traces of the kind a share is of do not have that quantile."""
RESAMPLES = 2_000

ByProblem = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class AtLine:
    """What a line does to traces of which the step checker has a word."""

    clean: int
    fudged: int
    clean_lost: Interval | None
    """Share of the clean above the line, over problems; None without any."""
    fudged_passed: Interval | None
    """Share of the fudged not above it."""


def drawn_by_share(
    clean: ByProblem, fudged: ByProblem, wanted: Line
) -> tuple[float, AtLine] | None:
    """The line that a stated share of these traces draws, with its shares on held-out folds.

    None where the share is of honest traces, or of fewer than `MIN_JUDGED` traces.
    """
    own = clean if wanted.clean_lost is not None else fudged
    if wanted.honest_lost is not None or sum(map(len, own.values())) < MIN_JUDGED:
        return None
    problems = sorted(clean.keys() | fudged.keys(), key=lambda p: content_key("fold", p))
    fold = {problem: place % FOLDS for place, problem in enumerate(problems)}
    lines = [
        _line({p: s for p, s in own.items() if fold[p] != number}, wanted)
        for number in range(FOLDS)
    ]
    return _line(own, wanted), at_line(clean, fudged, lambda problem: lines[fold[problem]])


def at_line(clean: ByProblem, fudged: ByProblem, line: Callable[[str], float]) -> AtLine:
    """The shares on either side of a line, which may differ by problem."""
    lost = {p: [score > line(p) for score in scores] for p, scores in clean.items()}
    passed = {p: [score <= line(p) for score in scores] for p, scores in fudged.items()}
    n_clean, n_fudged = (sum(map(len, own.values())) for own in (clean, fudged))
    return AtLine(n_clean, n_fudged, _share(lost), _share(passed))


def _line(own: ByProblem, wanted: Line) -> float:
    scores = np.array([score for scores in own.values() for score in scores])
    if not len(scores):
        return np.inf
    share = (wanted.fudged_passed or 0) if wanted.clean_lost is None else 1 - wanted.clean_lost
    # 'lower': between a number and infinity there is none
    return float(np.quantile(scores, share, method="lower"))


def _share(hits: Mapping[str, Sequence[bool]]) -> Interval | None:
    kept = [own for own in hits.values() if own]
    if not kept:
        return None
    sums, counts = (np.array([f(own) for own in kept]) for f in (sum, len))
    return ratio_of_sums(sums, counts, seed=0, resamples=RESAMPLES, bounds=(0.0, 1.0))
