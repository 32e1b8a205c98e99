"""Budget: which repair to try next, so that tokens go where repairs are accepted.

In: the ways a problem can be repaired, what every draw so far cost and brought, and seeded dice.
Out: the next draws, never more than its limits allow. Thompson sampling in two steps: which kind
of way (hint kind, steps backed up), learnt across problems; then which cut, learnt within one.
Its whole state is counts of stored draws, so a resumed run decides alike. Knows nothing of
prompts, models or disk, nor of PURE: what passes the gates counts as accepted here.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

ROUND = 4
"""Draws per problem and round: few, so that the next ones know what came of them."""
SHRINK = 4.0
"""How many draws a wider record counts for beside a narrower one: all problems' beside this
problem's, and this problem's beside that of one cut."""

Name = tuple[str, ...]


@dataclass(frozen=True)
class Way:
    """One way to repair a problem: a cut of one of its failed paths, and a hint."""

    key: str
    problem_id: str
    kind: str
    """Hint kind and steps backed up: what ways of different problems have in common."""
    cut: str
    """The kept prefix."""

    @property
    def here(self) -> Name:
        """Names the record of this kind within this problem."""
        return ("kind", self.kind, self.problem_id)


@dataclass
class Tally:
    """What came of some draws."""

    draws: int = 0
    accepted: int = 0
    tokens: int = 0
    """Sampled for them, their hints included."""


@dataclass
class History:
    """What came of every draw so far: all the policy knows."""

    tallies: dict[Name, Tally] = field(default_factory=dict)

    def add(self, way: Way, *, draws: int = 1, accepted: int = 0, tokens: int = 0) -> None:
        """Count draws of a way; a hint's tokens are no draw."""
        names = (("way", way.key), ("cut", way.cut), ("problem", way.problem_id), way.here)
        for name in (*names, ("kind", way.kind), ("all",)):
            tally = self.tallies.setdefault(name, Tally())
            tally.draws += draws
            tally.accepted += accepted
            tally.tokens += tokens

    def of(self, *name: str) -> Tally:
        """Of `("way", key)`, `("cut", cut)`, `("problem", id)`, `("kind", kind)`, `way.here`."""
        return self.tallies.get(name) or Tally()


@dataclass(frozen=True)
class Limits:
    """How much one problem may be given."""

    draws: int
    """The fixed plan's paths × candidates."""
    target: int | None
    """Accepted repairs after which it is done; None: only the draws end it."""
    per_cut: int
    """Accepted repairs of one prefix that PACE can use; more are worth nothing."""


def next_draws(
    ways: Sequence[Way], history: History, limits: Limits, rng: np.random.Generator
) -> list[Way]:
    """The next draws of one problem, a way once per draw; [] when it is done.

    Never more than the draws left, nor than the repairs still missing: a round in which all are
    accepted ends exactly at the target.
    """
    chosen: list[Way] = []
    if not ways:
        return chosen
    so_far = history.of("problem", ways[0].problem_id)
    missing = ROUND if limits.target is None else limits.target - so_far.accepted
    waiting: Counter[str] = Counter()
    while len(chosen) < min(ROUND, missing, limits.draws - so_far.draws):
        wanted = [
            way
            for way in ways
            if history.of("cut", way.cut).accepted + waiting[way.cut] < limits.per_cut
        ]
        if not wanted:
            break
        chosen.append(_sample(wanted, history, rng))
        waiting[chosen[-1].cut] += 1
    return chosen


def _sample(ways: Sequence[Way], history: History, rng: np.random.Generator) -> Way:
    """Draw rates from what is believed of them, and take the best per token."""
    one_of = {way.kind: way for way in ways}
    rates = {kind: _kind_rate(one_of[kind], history, rng) for kind in sorted(one_of)}
    costs = _kind_costs(one_of, history)
    best = max(rates, key=lambda kind: rates[kind] / costs[kind])

    def worth(way: Way) -> float:
        own = history.of("way", way.key)
        hits, misses = SHRINK * rates[best], SHRINK * (1 - rates[best])
        rate = rng.beta(hits + own.accepted, misses + own.draws - own.accepted)
        return float(rate) / _shrunk(own.tokens, own.draws, costs[best])

    # The two steps are kept apart: among dozens of untried cuts some would always draw a high
    # rate, and a kind that fails everywhere would be tried on and on.
    return max((way for way in ways if way.kind == best), key=worth)


def _kind_rate(way: Way, history: History, rng: np.random.Generator) -> float:
    """Accepted per draw: sampled from all problems' record, moved by this problem's own."""
    everywhere, here = history.of("kind", way.kind), history.of(*way.here)
    rate = float(rng.beta(1 + everywhere.accepted, 1 + everywhere.draws - everywhere.accepted))
    rate = _shrunk(here.accepted, here.draws, rate)
    return min(max(rate, 1e-6), 1 - 1e-6)  # a Beta needs both of its parameters above zero


def _kind_costs(kinds: Collection[str], history: History) -> Mapping[str, float]:
    """Tokens per draw; a kind hardly tried is taken to cost what all of them do."""
    every = history.of("all")
    mean = max(every.tokens, 1) / max(every.draws, 1)
    tallies = {kind: history.of("kind", kind) for kind in kinds}
    return {kind: _shrunk(t.tokens, t.draws, mean) for kind, t in tallies.items()}


def _shrunk(total: float, n: int, prior: float) -> float:
    """A mean of n values, with `SHRINK` more at `prior`."""
    return (SHRINK * prior + total) / (SHRINK + n)
