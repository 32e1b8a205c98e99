"""Summary: how the students fare on held-out problems, arm by arm and against each other.

In: verified attempts, the teacher's ceilings and the problems' families. Out: figures per arm and
group of problems, each with its interval and n, and paired differences. Attempts the engine failed
on are left out and counted; a problem that some student has no attempt at is left out for all of
them, or the arms would not be compared on the same problems. No model, no disk.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from heal.method.intervals import Interval, Scores, mean_score, paired_difference
from heal.method.metrics import Attempts, arm_scores, avg_at_k, maj_at_k, pass_at_k
from heal.records import Ceiling, EvalTrace, Stratum, Verdict

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
    """Share of attempts that ran into the token limit."""
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
    attempts: Iterable[EvalTrace],
    ceilings: Mapping[str, Ceiling],
    families: Mapping[str, str],
    *,
    resamples: int,
    seed: int,
    arms: Sequence[str] = (),
) -> EvalSummary | None:
    """Figures and differences of every arm; None without usable attempts.

    `ceilings` and `families` by problem id; a problem without a ceiling counts in `all` only.
    Differences are later minus earlier in `arms`, which orders the arms (those not named follow by
    name). Where attempts were lost, pass@k and maj@k take the fewest any problem has as their k.
    """
    everything = list(attempts)
    usable, left_out = _comparable([a for a in everything if a.error is None])
    if not usable:
        return None
    by_arm: dict[str, list[EvalTrace]] = {}
    for attempt in usable:
        by_arm.setdefault(attempt.arm, []).append(attempt)
    named = [arm for arm in arms if arm in by_arm]
    order = named + sorted(by_arm.keys() - set(named))
    groups = _groups({a.problem_id for a in usable}, ceilings)
    k = min(Counter((a.arm, a.seed, a.problem_id) for a in usable).values())
    measure = _Measure(families, resamples, seed, k)
    averages = {arm: arm_scores(by_arm[arm], families) for arm in order}
    return EvalSummary(
        k=k,
        seeds=_fewest_seeds(by_arm),
        arms=tuple(row for arm in order for row in measure.rows(arm, by_arm[arm], groups)),
        differences=tuple(
            measure.difference(later, earlier, averages, name, problems)
            for earlier, later in combinations(order, 2)
            for name, problems in groups.items()
        ),
        failed=sum(a.error is not None for a in everything),
        left_out=left_out,
    )


@dataclass(frozen=True)
class _Measure:
    """What every figure of one summary shares."""

    families: Mapping[str, str]
    resamples: int
    seed: int
    k: int

    def rows(
        self, arm: str, attempts: Sequence[EvalTrace], groups: Mapping[str, frozenset[str]]
    ) -> list[ArmScore]:
        """One arm on every group of problems."""

        def scores(value: Callable[[Attempts], float]) -> Scores:
            return arm_scores(attempts, self.families, value)

        average = scores(lambda tries: avg_at_k([t.verdict for t in tries]))
        passed = {j: scores(_pass_at(j)) for j in _ladder(self.k)}
        majority, truncated = scores(_maj_at(self.k)), scores(_truncated)
        tokens = scores(lambda tries: sum(t.tokens for t in tries) / len(tries))
        return [
            ArmScore(
                arm=arm,
                stratum=name,
                avg=self._mean(average, problems),
                pass_at={j: self._mean(found, problems) for j, found in passed.items()},
                maj_k=self._mean(majority, problems),
                truncated=self._mean(truncated, problems),
                tokens=self._mean(tokens, problems),
            )
            for name, problems in groups.items()
        ]

    def difference(
        self,
        arm: str,
        against: str,
        averages: Mapping[str, Scores],
        name: str,
        problems: frozenset[str],
    ) -> Difference:
        """`arm` minus `against` on one group, turned round if that is the primary endpoint."""
        if (against, arm) == PRIMARY[:2]:
            arm, against = against, arm
        interval = paired_difference(
            averages[arm].only(problems),
            averages[against].only(problems),
            resamples=self.resamples,
            seed=self.seed,
        )
        return Difference(arm, against, name, interval, primary=(arm, against, name) == PRIMARY)

    def _mean(self, scores: Scores, problems: frozenset[str]) -> Interval:
        return mean_score(scores.only(problems), resamples=self.resamples, seed=self.seed)


def _comparable(attempts: Sequence[EvalTrace]) -> tuple[list[EvalTrace], int]:
    """Attempts at problems that every student has attempts at, and how many problems are not."""
    seen: dict[tuple[str, int], set[str]] = {}
    for attempt in attempts:
        seen.setdefault((attempt.arm, attempt.seed), set()).add(attempt.problem_id)
    if not seen:
        return [], 0
    shared = set.intersection(*seen.values())
    kept = [a for a in attempts if a.problem_id in shared]
    return kept, len(set.union(*seen.values())) - len(shared)


def _groups(problems: set[str], ceilings: Mapping[str, Ceiling]) -> dict[str, frozenset[str]]:
    """All problems, each stratum, and hard with extreme; empty groups left out."""

    def within(*strata: Stratum) -> frozenset[str]:
        return frozenset(p for p in problems if p in ceilings and ceilings[p].stratum in strata)

    groups = {ALL: frozenset(problems)} | {str(s): within(s) for s in Stratum}
    groups[HARD_AND_EXTREME] = within(Stratum.HARD, Stratum.EXTREME)
    return {name: members for name, members in groups.items() if members}


def _fewest_seeds(by_arm: Mapping[str, Sequence[EvalTrace]]) -> int:
    counts = [len({a.seed for a in tries}) for arm, tries in by_arm.items() if arm != "base"]
    return min(counts, default=1)


def _ladder(k: int) -> list[int]:
    """2, 4, 8 … up to k, and k."""
    powers = [2**i for i in range(1, k.bit_length()) if 2**i < k]
    return [*powers, k]


def _pass_at(j: int) -> Callable[[Attempts], float]:
    return lambda tries: pass_at_k(len(tries), sum(_correct(tries)), j)


def _maj_at(k: int) -> Callable[[Attempts], float]:
    return lambda tries: maj_at_k([t.answer for t in tries], _correct(tries), k)


def _truncated(tries: Attempts) -> float:
    return sum(t.verdict is Verdict.TRUNCATED for t in tries) / len(tries)


def _correct(tries: Attempts) -> list[bool]:
    return [t.verdict is Verdict.CORRECT for t in tries]
