"""Summary: how the students fare on held-out problems, arm by arm and against each other.

In: verified attempts, the problems' strata and families. Out: figures per arm and group of
problems, each with its interval and n, and paired differences. What is left out, and why, is
counted (`attempts.py`). No model, no disk.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from heal.method.attempts import Attempt, Counts, Votes, tally
from heal.method.intervals import Bootstrap, Interval, Scores
from heal.method.metrics import majority_accuracy, pass_at_k
from heal.records import Stratum

_Values = NDArray[np.float64]
_Figure = str | int
"""A field of `ArmScore`; of pass@j, j."""

ALL = "all"
HARD_AND_EXTREME = "hard+extreme"
PRIMARY = ("heal", "rft_more", HARD_AND_EXTREME)
"""The endpoint declared beforehand: avg@k of the first arm minus the second's."""


@dataclass(frozen=True)
class ArmScore:
    """One arm on one group of held-out problems."""

    arm: str
    stratum: str
    """A `Stratum` value, `hard+extreme` or `all`."""
    avg: Interval
    """avg@k: a truncated attempt is incorrect."""
    pass_at: Mapping[int, Interval]
    """pass@j for j = 2, 4, 8 … and k; pass@1 is avg@k."""
    maj_k: Interval
    truncated: Interval
    """Share of attempts that ran into the token limit, or were stopped for repeating themselves."""
    no_answer: Interval
    """Share of attempts that ended without an answer."""
    repeating: Interval
    """Share of attempts that were stopped for repeating themselves."""
    tokens: Interval
    """Mean tokens per attempt."""

    @property
    def pass_k(self) -> Interval:
        """pass@k over all attempts."""
        return self.pass_at[max(self.pass_at)]

    @property
    def mean_tokens(self) -> float:
        """Mean tokens per attempt, without its interval."""
        return self.tokens.mean


@dataclass(frozen=True)
class Difference:
    """avg@k of `arm` minus that of `against`, paired over problems."""

    arm: str
    against: str
    stratum: str
    interval: Interval
    metric: str = "avg@k"
    primary: bool = False
    """The one endpoint declared beforehand."""


@dataclass(frozen=True)
class EvalSummary:
    """Held-out results of every arm."""

    k: int
    """Attempts per problem, arm and seed: the k of avg@k."""
    seeds: int
    """Training seeds per trained arm: the fewest of any; 1 when none is trained."""
    arms: tuple[ArmScore, ...]
    differences: tuple[Difference, ...]
    failed: int = 0
    """Attempts left out because the engine failed on them."""
    left_out: int = 0
    """Problems left out because some student has no attempt at them."""


def summarise(
    attempts: Iterable[Attempt],
    strata: Mapping[str, str],
    families: Mapping[str, str],
    *,
    resamples: int,
    seed: int,
    arms: Sequence[str] = (),
) -> EvalSummary | None:
    """Figures and differences of every arm; None without usable attempts.

    `strata` and `families` by problem id; a problem without a stratum counts in `all` only.
    Differences are later minus earlier in `arms`, which orders the arms (those not named follow by
    name). Where attempts were lost, pass@k and maj@k take the fewest any problem has as their k.
    """
    found = tally(attempts)
    if not found.problems:
        return None
    named = [arm for arm in arms if arm in found.arms]
    order = named + sorted(found.arms.keys() - set(named))
    k = min(int(counts.attempts.min()) for counts in found.arms.values())
    figures = {arm: _figures(found.arms[arm], k) for arm in order}
    rows: dict[str, list[ArmScore]] = {arm: [] for arm in order}
    differences: dict[tuple[str, str], list[Difference]] = {}
    own = tuple(families.get(problem, "") for problem in found.problems)
    for name, places in _groups(found.problems, strata).items():
        group = _Group(name, places, found.problems, own)
        measured = group.measure(figures, resamples, seed)
        for arm in order:
            rows[arm].append(measured.row(arm))
        for earlier, later in combinations(order, 2):
            differences.setdefault((earlier, later), []).append(measured.difference(later, earlier))
    return EvalSummary(
        k=k,
        seeds=min((len(c.seeds) for arm, c in found.arms.items() if arm != "base"), default=1),
        arms=tuple(row for arm in order for row in rows[arm]),
        differences=tuple(d for pair in differences.values() for d in pair),
        failed=found.failed,
        left_out=found.left_out,
    )


def _figures(counts: Counts, k: int) -> dict[_Figure, _Values]:
    """What an arm is worth on every problem under every seed, float64[seeds, problems] each."""
    rows = zip(counts.attempts.tolist(), counts.correct.tolist(), counts.votes, strict=True)
    cells = [list(zip(*row, strict=True)) for row in rows]

    def each(value: Callable[[int, int, Votes], float]) -> _Values:
        return np.array([[value(*cell) for cell in row] for row in cells], np.float64)

    return {
        "avg": counts.correct / counts.attempts,
        **{j: each(_pass_at(j)) for j in _ladder(k)},
        "maj_k": each(lambda n, correct, wrong: majority_accuracy(n, correct, wrong, k)),
        "truncated": counts.truncated / counts.attempts,
        "no_answer": counts.no_answer / counts.attempts,
        "repeating": counts.repeating / counts.attempts,
        "tokens": counts.tokens / counts.attempts,
    }


@dataclass(frozen=True)
class _Group:
    """Some of the held-out problems."""

    name: str
    places: NDArray[np.intp]
    """Which, among all."""
    problems: tuple[str, ...]
    """All of them, as `families`."""
    families: tuple[str, ...]

    def measure(
        self, figures: Mapping[str, Mapping[_Figure, _Values]], resamples: int, seed: int
    ) -> "_Measured":
        """Every figure of every arm, from the same resamples."""
        names = [(arm, figure) for arm, own in figures.items() for figure in own]
        scores = [self._scores(figures[arm][figure], figure) for arm, figure in names]
        found = Bootstrap(scores, resamples=resamples, seed=seed)
        return _Measured(self.name, found, {name: i for i, name in enumerate(names)})

    def _scores(self, values: _Values, figure: _Figure) -> Scores:
        return Scores(
            values[:, self.places],
            tuple(self.problems[i] for i in self.places),
            tuple(self.families[i] for i in self.places),
            bounds=None if figure == "tokens" else (0.0, 1.0),
        )


@dataclass(frozen=True)
class _Measured:
    """One group's figures; `index` says where each arm's are."""

    group: str
    found: Bootstrap
    index: Mapping[tuple[str, _Figure], int]

    def row(self, arm: str) -> ArmScore:
        """One arm."""
        own = {figure: self.found.mean(i) for (of, figure), i in self.index.items() if of == arm}
        return ArmScore(
            arm=arm,
            stratum=self.group,
            avg=own["avg"],
            pass_at={j: interval for j, interval in own.items() if isinstance(j, int)},
            maj_k=own["maj_k"],
            truncated=own["truncated"],
            no_answer=own["no_answer"],
            repeating=own["repeating"],
            tokens=own["tokens"],
        )

    def difference(self, arm: str, against: str) -> Difference:
        """`arm` minus `against`, turned round if that is the primary endpoint."""
        if (against, arm) == PRIMARY[:2]:
            arm, against = against, arm
        interval = self.found.difference(self.index[arm, "avg"], self.index[against, "avg"])
        primary = (arm, against, self.group) == PRIMARY
        return Difference(arm, against, self.group, interval, primary=primary)


def _groups(problems: Sequence[str], strata: Mapping[str, str]) -> dict[str, NDArray[np.intp]]:
    """Where all problems are, those of each stratum, and hard with extreme; no empty groups."""
    known = [strata.get(problem) for problem in problems]

    def within(*names: str) -> NDArray[np.intp]:
        return np.flatnonzero([stratum in names for stratum in known])

    groups = {ALL: np.arange(len(problems))} | {str(s): within(s) for s in Stratum}
    groups[HARD_AND_EXTREME] = within(Stratum.HARD, Stratum.EXTREME)
    return {name: places for name, places in groups.items() if len(places)}


def _ladder(k: int) -> list[int]:
    """2, 4, 8 … up to k, and k."""
    powers = [2**i for i in range(1, k.bit_length()) if 2**i < k]
    return [*powers, k]


def _pass_at(j: int) -> Callable[[int, int, Votes], float]:
    # few counts differ, however many problems there are
    return cache(lambda n, correct, wrong: pass_at_k(n, correct, j))
