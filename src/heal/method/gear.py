"""GEAR: which failed traces to repair, and where each one broke (docs/method.md §2).

In: step entropies in nats, with bounds. Out: the step to cut at, how clear a winner it was, and
why it is not the entropy's choice when it is not. Steps are numbered from 1. Knows nothing of
prompts, models or disk.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from heal.records import Breakpoint, Fallback, FloatArray, Verdict

THIRD = 1 / 3
UNSCORED = frozenset({Breakpoint.RANDOM, Breakpoint.FIXED_THIRD, Breakpoint.RESTART})
"""Breakpoints that read nothing but where steps end."""
ZSCORE_SOFTENER = 0.1
"""Added to σ, in nats, so that a flat history does not turn ripples into surges."""
CUSUM_SLACK = 0.5
"""Share of σ a step must exceed the mean by before it adds to the excursion."""
PREFIX_NGRAM = 3

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Break:
    """Where a trace broke, and how sure that is."""

    step: int
    """b, from 1: the first step that is dropped."""
    surge: FloatArray
    """float32[K], the statistic by step; NaN outside the window and for the controls."""
    margin: float = 0.0
    """By how much b won, at worst: its lower bound minus the best upper bound of any other b."""
    fallback: Fallback | None = None
    undecided: bool = False
    """The bounds allow another b; this one is the choice of the midpoints."""


@dataclass(frozen=True)
class FailedPath:
    """A failed trace as `choose_paths` sees it."""

    trace: str
    verdict: Verdict
    answer: str | None
    opening: Sequence[int]
    """Ids of the part a repair may keep: the first third of the trace."""


def find_breakpoint(
    entropy_lo: FloatArray,
    entropy_hi: FloatArray,
    step_ends: Sequence[int],
    *,
    kind: Breakpoint,
    window: float = THIRD,
    seed: int = 0,
) -> Break:
    """b = argmax of the statistic over W = {k ≥ 2 : step k starts in the window}, earliest on ties.

        difference  D_k = E_k − E_{k−1}
        zscore      z_k = (E_k − μ_<k) / (σ_<k + 0.1), k ≥ 3
        cusum       S_k = max(0, S_{k−1} + E_k − μ_<k − σ_<k / 2), b = where its excursion starts
        random      any step of W · fixed_third the step starting nearest T/3 · restart b = 1

    No positive statistic, or an empty window, gives b = 2; a trace of one step b = 1: both say so.
    `undecided` is exact for `difference` and errs on the side of doubt for the other two.
    Raises: ValueError for `claims` and `checker`, which read more than entropies.
    """
    if kind in (Breakpoint.CLAIMS, Breakpoint.CHECKER):
        raise ValueError(f"'{kind}' reads more than entropies")
    nothing = np.full(len(step_ends), np.nan, np.float32)
    if kind is Breakpoint.RESTART:
        return Break(1, nothing)
    if len(step_ends) <= 1:
        return Break(1, nothing, fallback=Fallback.SINGLE_STEP)
    starts, total = np.asarray(step_ends[:-1]), step_ends[-1]
    if kind is Breakpoint.FIXED_THIRD:
        return Break(2 + int(np.abs(starts - total * THIRD).argmin()), nothing)
    inside = 2 + np.flatnonzero(starts < window * total)
    if kind is Breakpoint.ZSCORE:
        inside = inside[inside >= 3]
    if not len(inside):
        return Break(2, nothing, fallback=Fallback.EMPTY_WINDOW)
    if kind is Breakpoint.RANDOM:
        return Break(int(np.random.default_rng(seed).choice(inside)), nothing)
    return _largest_surge(entropy_lo, entropy_hi, inside, kind)


def checked_break(wrong: int | None, steps: int, otherwise: Callable[[], Break]) -> Break:
    """b: the step a checker found wrong, from 1; where it found none, another rule's, marked so."""
    if wrong is None:
        return replace(otherwise(), fallback=Fallback.NO_WORD)
    return Break(wrong, np.full(steps, np.nan, np.float32))


def kept_steps(b: int, back_up: int = 1) -> int:
    """How many steps the repair keeps: s_1 … s_{b−1}, and `back_up` − 1 fewer."""
    return max(0, b - back_up)


def choose_paths(paths: Sequence[FailedPath], n: int) -> list[str]:
    """Up to n wrong traces, differing first by final answer, then by how they open.

    Answers take turns, the most frequent first; within an answer the trace whose opening is
    farthest from those chosen is next. The order of `paths` does not matter. Truncated,
    unverifiable and answerless traces are not failures to learn from.
    """
    by_answer: dict[str, list[FailedPath]] = defaultdict(list)
    for path in sorted(paths, key=lambda p: p.trace):
        if path.verdict is Verdict.WRONG:
            by_answer["".join((path.answer or "").split())].append(path)
    queues = sorted(by_answer.items(), key=lambda item: (-len(item[1]), item[0]))
    ngrams = {p.trace: _ngrams(p.opening) for group in by_answer.values() for p in group}
    chosen: list[str] = []
    while len(chosen) < n and any(group for _, group in queues):
        for _, group in queues:
            if group and len(chosen) < n:
                near = [_nearness(ngrams[p.trace], chosen, ngrams) for p in group]
                chosen.append(group.pop(int(np.argmin(near))).trace)
    return chosen


def _largest_surge(
    entropy_lo: FloatArray, entropy_hi: FloatArray, inside: NDArray[np.int64], kind: Breakpoint
) -> Break:
    lo, hi = np.asarray(entropy_lo, np.float64), np.asarray(entropy_hi, np.float64)
    middle = (lo + hi) / 2
    value, _ = _statistic(kind, middle, middle)
    low, high = _statistic(kind, lo, hi)
    leads_to = _excursion_starts(value) if kind is Breakpoint.CUSUM else 1 + np.arange(len(lo))
    peak = int(inside[value[inside - 1].argmax()])
    rises = bool(value[peak - 1] > 0)
    b = int(leads_to[peak - 1]) if rises else 2

    # b = 2 is also what no surge at all would give, so it never needs to rise above zero itself
    same = leads_to[inside - 1] == b
    if kind is Breakpoint.CUSUM and rises:
        # where the excursion may break off, what comes after may be one of its own
        same &= np.array([bool((low[b - 1 : k] > 0).all()) for k in inside])
    own = [*low[inside[same] - 1], *([0.0] if b == 2 else [])]
    rivals = [*high[inside[~same] - 1], *([0.0] if b != 2 else [])]
    margin = float(max(own, default=0.0) - max(rivals, default=0.0))
    unsure = kind is Breakpoint.CUSUM and rises and not _certain_start(low, high, b, peak)

    surge = np.full(len(lo), np.nan, np.float32)
    surge[inside - 1] = value[inside - 1]
    fallback = None if rises else Fallback.NO_SURGE
    return Break(b, surge, margin, fallback, undecided=margin < 0 or unsure)


def _statistic(kind: Breakpoint, lo: _Array, hi: _Array) -> tuple[_Array, _Array]:
    """Interval of the statistic at each step; NaN where it is not defined."""
    if kind is Breakpoint.DIFFERENCE:
        first = [np.nan]
        return np.concatenate([first, lo[1:] - hi[:-1]]), np.concatenate([first, hi[1:] - lo[:-1]])
    rise_lo, rise_hi, spread_lo, spread_hi = _against_history(lo, hi)
    if kind is Breakpoint.ZSCORE:
        wide, narrow = spread_hi + ZSCORE_SOFTENER, spread_lo + ZSCORE_SOFTENER
        low = rise_lo / np.where(rise_lo >= 0, wide, narrow)
        high = rise_hi / np.where(rise_hi >= 0, narrow, wide)
        return low, high
    return (
        _accumulate(rise_lo - CUSUM_SLACK * spread_hi),
        _accumulate(rise_hi - CUSUM_SLACK * spread_lo),
    )


def _against_history(lo: _Array, hi: _Array) -> tuple[_Array, _Array, _Array, _Array]:
    """Bounds of E_k − μ_<k and of σ_<k; NaN at the first step, which has no history.

    σ is a seminorm, so it moves by at most the root mean square of the half-widths.
    """
    steps = len(lo)
    middle, radius = (lo + hi) / 2, (hi - lo) / 2
    bounds = np.full((4, steps), np.nan)
    for k in range(1, steps):
        spread, slack = middle[:k].std(), np.sqrt((radius[:k] ** 2).mean())
        bounds[:, k] = (
            lo[k] - hi[:k].mean(),
            hi[k] - lo[:k].mean(),
            max(0.0, spread - slack),
            spread + slack,
        )
    return bounds[0], bounds[1], bounds[2], bounds[3]


def _accumulate(increments: _Array) -> _Array:
    sums = np.zeros(len(increments))
    for k in range(1, len(increments)):
        sums[k] = max(0.0, sums[k - 1] + increments[k])
    return sums


def _excursion_starts(sums: _Array) -> NDArray[np.int64]:
    """For each step, the step (from 1) at which its run above zero began."""
    starts = 1 + np.arange(len(sums))
    for k in range(1, len(sums)):
        if sums[k - 1] > 0:
            starts[k] = starts[k - 1]
    return starts


def _certain_start(low: _Array, high: _Array, b: int, peak: int) -> bool:
    """Whether, within the bounds, the excursion begins at b and lasts to its peak."""
    return bool((low[b - 1 : peak] > 0).all()) and bool(high[b - 2] == 0)


def _ngrams(ids: Sequence[int]) -> frozenset[tuple[int, ...]]:
    size = min(PREFIX_NGRAM, len(ids))
    values = [int(i) for i in ids]
    return frozenset(tuple(values[i : i + size]) for i in range(len(values) - size + 1))


def _nearness(
    own: frozenset[tuple[int, ...]],
    chosen: Sequence[str],
    ngrams: dict[str, frozenset[tuple[int, ...]]],
) -> float:
    """Jaccard similarity to the nearest trace chosen so far."""
    return max((len(own & ngrams[t]) / max(1, len(own | ngrams[t])) for t in chosen), default=0.0)
