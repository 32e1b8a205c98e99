"""Intervals: how far a number can be trusted.

In: scores by seed and problem, counts, or detector scores. Out: `Interval`s at 95 %. Problems are
resampled within their families (families are fixed, not sampled); training seeds are resampled
too, but two or three of them say little, and no resampling can change that.

No interval is without width. A share has Wilson's. Where no resample of another figure differs
(every problem fares alike), problems that would fare otherwise may still exist: as many as Wilson's
interval allows for 0 of n, each at an end of the figure's scale, and the interval reaches as far as
those would move it (`percentiles`). Where the scale has no end there is no interval: NaN.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054
SMALL_FAMILY = 5
"""Smaller families are pooled: resampling a family of one would show no variation at all."""
_CHUNK = 1 << 20
"""Values drawn at once, so that memory does not grow with the number of resamples."""
_ROUNDING = 1e-12
"""Sums of equal numbers in another order differ by less."""

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval and what it rests on."""

    mean: float
    low: float
    high: float
    n_problems: int
    """Problems; for a share or an AUROC, the items counted."""
    n_seeds: int = 1
    """Training seeds; of a difference, those of the arm with fewer."""

    @property
    def is_known(self) -> bool:
        """Whether there is an interval at all: a number without one is not an estimate."""
        return self.high - self.low > 0 and not math.isnan(self.mean)


@dataclass(frozen=True)
class Scores:
    """One arm's score on each problem under each training seed."""

    values: _Array
    """float64[seeds, problems]"""
    problems: tuple[str, ...]
    families: tuple[str, ...]
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """Between which a score lies; None where it has no upper end."""

    def only(self, problems: Collection[str]) -> "Scores":
        """The scores on those problems: one stratum, say."""
        kept = [i for i, p in enumerate(self.problems) if p in problems]
        return replace(
            self,
            values=self.values[:, kept],
            problems=tuple(self.problems[i] for i in kept),
            families=tuple(self.families[i] for i in kept),
        )


class Bootstrap:
    """Resamples of the same problems, drawn once for any number of scores on them.

    Each resample draws problems, alike for all scores, and each score's seeds; see `_seed_draws`.
    """

    def __init__(self, scores: Sequence[Scores], *, resamples: int, seed: int) -> None:
        """Raises: ValueError without problems, or when the scores are not on the same ones."""
        first = scores[0]
        if not first.problems:
            raise ValueError("a mean over no problems")
        if any(other.problems != first.problems for other in scores):
            raise ValueError("resamples of different problems")
        self._scores, self._resamples = scores, resamples
        rng = np.random.default_rng(seed)
        means = np.stack([own.values.mean(axis=0) for own in scores])
        self._draws = _problem_draws(means, first.families, resamples, rng)
        self._after = rng.bit_generator.state

    def mean(self, index: int) -> Interval:
        """A score's mean over problems and seeds."""
        own = self._scores[index]
        draws = self._draws[index] + _seed_draws(own.values, self._resamples, self._rng())
        mean = float(own.values.mean())
        return percentiles(mean, draws, self._n, len(own.values), bounds=own.bounds)

    def difference(self, index: int, against: int) -> Interval:
        """Mean of one score minus another over the same problems."""
        a, b = self._scores[index], self._scores[against]
        rng, draws = self._rng(), self._draws[index] - self._draws[against]
        draws += _seed_draws(a.values, self._resamples, rng)
        draws -= _seed_draws(b.values, self._resamples, rng)
        mean = float(a.values.mean() - b.values.mean())
        bounds = None
        if a.bounds is not None and b.bounds is not None:
            bounds = (a.bounds[0] - b.bounds[1], a.bounds[1] - b.bounds[0])
        n_seeds = min(len(a.values), len(b.values))
        return percentiles(mean, draws, self._n, n_seeds, bounds=bounds)

    @property
    def _n(self) -> int:
        return len(self._scores[0].problems)

    def _rng(self) -> np.random.Generator:
        """As it stood after the problems were drawn: no figure depends on those beside it."""
        rng = np.random.default_rng()
        rng.bit_generator.state = self._after
        return rng


def percentiles(
    mean: float,
    draws: _Array,
    n_problems: int,
    n_seeds: int = 1,
    *,
    bounds: tuple[float, float] | None = None,
    independent: int | None = None,
) -> Interval:
    """The middle 95 % of a figure's resamples, float64[resamples].

    bounds: the ends of its scale, which no interval leaves, None where it has none; independent:
    what was resampled, where that is not n_problems. Where no resample differs, the rule at the top
    of this module holds.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    if high - low > _ROUNDING * max(1.0, abs(mean)):
        if bounds is not None:  # seeds' noise is added to that of problems, and may overshoot
            low, high = max(low, bounds[0]), min(high, bounds[1])
        return Interval(float(mean), float(low), float(high), n_problems, n_seeds)
    if bounds is None:
        return Interval(float(mean), math.nan, math.nan, n_problems, n_seeds)
    unseen = wilson(0, n_problems if independent is None else independent).high
    ends = [mean + unseen * (bound - mean) for bound in bounds]
    return Interval(float(mean), float(ends[0]), float(ends[1]), n_problems, n_seeds)


def paired_difference(a: Scores, b: Scores, *, resamples: int, seed: int) -> Interval:
    """Mean of a − b over the same problems. Raises: ValueError when the problems differ."""
    if set(a.problems) != set(b.problems) or not a.problems:
        odd = len(set(a.problems) ^ set(b.problems))
        raise ValueError(f"a paired difference needs the same problems; not shared: {odd}")
    place = {p: i for i, p in enumerate(b.problems)}
    other = replace(b, values=b.values[:, [place[p] for p in a.problems]], problems=a.problems)
    return Bootstrap([a, other], resamples=resamples, seed=seed).difference(0, 1)


def mean_score(scores: Scores, *, resamples: int, seed: int) -> Interval:
    """One arm's mean over problems and seeds. Raises: ValueError without problems."""
    return Bootstrap([scores], resamples=resamples, seed=seed).mean(0)


def wilson(successes: int, n: int) -> Interval:
    """A share with its Wilson score interval. Raises: ValueError for n = 0."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"a share of {successes} in {n}")
    share, z2 = successes / n, NORMAL_QUANTILE**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # the bounds touch the share at 0 and 1; rounding may not push them past it
    low, high = min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)
    return Interval(share, float(low), float(high), n)


def auroc(positive: NDArray[Any], negative: NDArray[Any], *, resamples: int, seed: int) -> Interval:
    """Chance that a positive scores above a negative, ties counting half; both are resampled.

    Raises: ValueError when either side is empty.
    """
    above, below = np.asarray(positive, np.float64), np.sort(np.asarray(negative, np.float64))
    if not len(above) or not len(below):
        raise ValueError(f"AUROC of {len(above)} positives and {len(below)} negatives")
    less = np.searchsorted(below, above, side="left")
    at_most = np.searchsorted(below, above, side="right")
    mean = float((less + at_most).mean() / (2 * len(below)))
    rng = np.random.default_rng(seed)
    draws = []
    for rows in _chunks(resamples, len(above) + len(below)):
        ranks = np.zeros((rows, len(below) + 1))
        ranks[:, 1:] = _counts(rows, len(below), rng).cumsum(axis=1)
        wins = (ranks[:, less] + ranks[:, at_most]) / (2 * len(below))
        draws.append((wins * _counts(rows, len(above), rng)).sum(axis=1) / len(above))
    found = np.concatenate(draws)
    fewer = min(len(above), len(below))
    return percentiles(mean, found, len(above) + len(below), bounds=(0.0, 1.0), independent=fewer)


def ratio_of_sums(
    costs: NDArray[Any],
    gains: NDArray[Any],
    *,
    seed: int,
    resamples: int = 10_000,
    bounds: tuple[float, float] | None = None,
) -> Interval | None:
    """What a unit of gain costs over all problems; problems are resampled.

    None where the upper end would be unbounded: too many resamples have no gain at all. Where every
    problem costs and gains alike there is no interval, unless bounds name the ends of the scale.
    Raises: ValueError without problems.
    """
    if not len(costs):
        raise ValueError("a ratio over no problems")
    rng, draws = np.random.default_rng(seed), []
    for rows in _chunks(resamples, len(costs)):
        counts = _counts(rows, len(costs), rng)
        paid, gained = counts @ costs, counts @ gains
        draws.append(np.divide(paid, gained, out=np.full(rows, np.inf), where=gained > 0))
    ratios = np.concatenate(draws)
    if np.isinf(ratios).mean() >= (1 - CONFIDENCE) / 2:
        return None
    worst = ratios[np.isfinite(ratios)].max()
    mean = costs.sum() / gains.sum()
    return percentiles(mean, np.minimum(ratios, worst), len(costs), bounds=bounds)


def _problem_draws(
    values: _Array, families: tuple[str, ...], resamples: int, rng: np.random.Generator
) -> _Array:
    """Means over problems drawn with replacement within families; small families are pooled.

    values: float64[scores, problems]; the answer: float64[scores, resamples].
    """
    _, group, sizes = np.unique(np.asarray(families), return_inverse=True, return_counts=True)
    group = np.where(sizes[group] < SMALL_FAMILY, -1, group)
    sums = np.zeros((len(values), resamples))
    for family in np.unique(group):
        own, done = np.ascontiguousarray(values[:, group == family]), 0
        for rows in _chunks(resamples, own.shape[1]):
            sums[:, done : done + rows] += own @ _counts(rows, own.shape[1], rng).T
            done += rows
    return sums / values.shape[1]


def _seed_draws(values: _Array, resamples: int, rng: np.random.Generator) -> _Array:
    """What resampling the seeds adds to the mean; zero with one seed.

    A seed's mean over problems differs from the others' also because each problem is answered a
    little differently under each seed, which drawing problems has counted already. So the seed
    effects are shrunk to their own variance (two-way layout: s² − residual / problems) before
    they are drawn, and widened by √(S / (S − 1)) for being centred on their own mean. Plain
    two-way resampling would count that noise about three times.
    """
    seeds, problems = values.shape
    if seeds == 1 or problems == 1:
        return np.zeros(resamples)
    effects = values.mean(axis=1) - values.mean()
    residual = values - values.mean(axis=0) - effects[:, None]
    noise = (residual**2).sum() / ((seeds - 1) * (problems - 1)) / problems
    variance = (effects**2).sum() / (seeds - 1)
    if variance <= noise:
        return np.zeros(resamples)
    effects = effects * np.sqrt((1 - noise / variance) * seeds / (seeds - 1))
    drawn: _Array = effects[rng.integers(0, seeds, (resamples, seeds))].mean(axis=1)
    return drawn


def _counts(rows: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each of n items is drawn in each of `rows` resamples."""
    drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)


def _chunks(resamples: int, width: int) -> list[int]:
    rows = max(1, _CHUNK // width)
    full, rest = divmod(resamples, rows)
    return [rows] * full + [rest] * (rest > 0)
