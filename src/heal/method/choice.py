"""Which of a problem's accepted traces suit a student: the rules of `pace.choice` (method.md §4.2).

In: what the untouched student makes of a trace. Out: a number, the higher the better; only traces
of one problem are compared by it. Knows nothing of caps, models or disk.
"""

import math

import numpy as np

from heal.records import Choice, IntArray, StudentScore

MOST_RANK = 100
"""Ranks are clipped here, as in arXiv 2601.14249: of tokens beyond it a student expects none."""
BY_STUDENT = frozenset({Choice.RANK_SURPRISAL, Choice.LOGPROB, Choice.MIDDLE})
"""Rules that ask the student."""


def mean_rank(rank: IntArray) -> float:
    """Mean of the clipped ranks. rank: int32[T], 1 is the likeliest token; T ≥ 1."""
    return float(np.minimum(rank, MOST_RANK).mean())


def suitability(score: StudentScore, by: Choice) -> float | None:
    """How well a trace suits its student; None where what the rule reads was not measured."""
    if score.mean_logprob is None:
        return None
    if by is Choice.RANK_SURPRISAL:
        return None if score.mean_rank is None else -rank_surprisal(score)
    if by is Choice.MIDDLE:
        p = math.exp(score.mean_logprob)
        return p * (1 - p)
    return score.mean_logprob


def rank_surprisal(score: StudentScore) -> float:
    """Mean clipped rank over mean surprisal in nats, the ratio of arXiv 2601.14249; low is good.

    ∞ for a trace without any surprise.
    """
    assert score.mean_rank is not None and score.mean_logprob is not None
    surprisal = -score.mean_logprob
    return score.mean_rank / surprisal if surprisal > 0 else math.inf
