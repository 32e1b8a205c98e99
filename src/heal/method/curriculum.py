"""PACE's curriculum: what the student is shown, in which order and batch (docs/method.md §4).

In: the sets as token lengths. Out: three stages as explicit presentations, and a fourth of the
student's own answers. Every arm given the same budget and batch size gets the same number of
optimizer steps, hence the same learning-rate trace; only what is shown differs.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import numpy as np

from heal.config import Pace
from heal.method.pace import POOLS
from heal.records import StagePlan
from heal.wording import plural

Lengths = Mapping[str, int]
"""Trace → tokens, as the student reads it."""


class Order(StrEnum):
    """How the presentations are laid out; all three show the same multiset."""

    CURRICULUM = "curriculum"
    SHUFFLED = "shuffled"
    REVERSE = "reverse"


@dataclass(frozen=True)
class Beside:
    """What a curriculum may show beside its sets, and what it knows of them."""

    alternates: Mapping[str, Lengths] = field(default_factory=dict)
    """Trace of a set → other traces of its problem and set, shown in its place at later visits."""
    easy: frozenset[str] = frozenset()
    """Traces of D1 whose problem the teacher mostly solves."""
    own: Lengths = field(default_factory=dict)
    """The untouched student's own correct traces of such problems."""


NOTHING = Beside()
STAGES = ("foundation", "bridge", "frontier", "rehearsal")
"""The last one only with `pace.rehearsal`."""
LAST = len(POOLS) - 1
"""The stage, counted from 0, that is closed by a mixture."""
REHEARSAL = len(POOLS)
"""The stage, counted from 0, of the trained student's own answers."""


def budget_tokens(d1_tokens: int, settings: Pace) -> int:
    """Training tokens of every arm: `epochs` times HEAL's D1, at least `min_tokens`."""
    return max(round(settings.epochs * d1_tokens), settings.min_tokens)


def stage_steps(budget: int, batch_tokens: int, settings: Pace) -> tuple[int, ...]:
    """Optimizer steps of each stage: a function of the budget alone, so alike for all arms.

    They sum to budget / batch_tokens, rounded; a stage with a share gets at least one. The fourth
    is there with `rehearsal` and takes its share of them, `stage_share` is of the rest.
    """
    total = max(1, round(budget / batch_tokens))
    shares = np.asarray(settings.stage_share) / sum(settings.stage_share)
    if settings.rehearsal:
        shares = np.append(shares * (1 - settings.rehearsal), settings.rehearsal)
    ends = [0, *(round(total * float(share)) for share in np.cumsum(shares))]
    return tuple(max(b - a, int(s > 0)) for a, b, s in zip(ends, ends[1:], shares, strict=False))


def schedule(
    pools: Mapping[str, Lengths],
    settings: Pace,
    *,
    batch_tokens: int,
    budget: int,
    seed: int,
    order: Order = Order.CURRICULUM,
    beside: Beside = NOTHING,
) -> tuple[StagePlan, StagePlan, StagePlan]:
    """Three stages of token-sized batches from `pools`: set → trace → token length.

    Stage I shows D1, II D1 ∪ D2, III all (D3 from II on with `frontier_from` 2); II and III are
    `replay` old by tokens, each stage is `own_replay` the student's own, and the last `closing` of
    III is all sets evenly. A trace is shown at most `max_shows` times in a stage, its alternates in
    turn with it: new traces that run out leave their share to replay, replay that runs out gives it
    back, and only a stock too small for its stage (every trace shown `max_shows` times) is shown
    more often. `shuffled` and `reverse`
    rearrange exactly the curriculum's presentations over the same steps.

    With L the longest trace shown: a stage of n steps (the whole, when rearranged) has
    n · batch_tokens tokens within L/2 (3L/2); each batch lies within L of its stage's mean. So
    two arms agree in steps exactly, and in tokens within 3L/2 each. Holds for L < batch_tokens;
    longer traces loosen the batches, not the totals.
    Raises: ValueError when nothing is to be shown, or traces are so long that steps stay empty.
    """
    if not any(pools.values()):
        raise ValueError("no traces to train on: every set is empty")
    steps = stage_steps(budget, batch_tokens, settings)[:REHEARSAL]
    source = _Source(pools, settings, beside, random.Random(seed))
    shown = [source.stage(i, n * batch_tokens, settings.replay) for i, n in enumerate(steps)]
    lengths = source.lengths
    if order is Order.CURRICULUM:
        batches = [_batches(s, n, lengths) for s, n in zip(shown, steps, strict=True)]
    else:
        everything = [trace for stage in shown for trace in stage]
        if order is Order.SHUFFLED:
            source.rng.shuffle(everything)
        else:
            everything.reverse()
        flat = _batches(everything, sum(steps), lengths)
        ends = np.cumsum(steps)
        batches = [flat[end - n : end] for end, n in zip(ends, steps, strict=True)]
    first, second, third = (
        StagePlan(i + 1, tuple(batches[i]), settings.stage_lr[i]) for i in range(3)
    )
    return first, second, third


def rehearse(
    pools: Mapping[str, Lengths],
    rehearsed: Lengths,
    settings: Pace,
    *,
    batch_tokens: int,
    budget: int,
    seed: int,
    beside: Beside = NOTHING,
) -> StagePlan:
    """Stage IV of a student: its own answers after stage III.

    Shown, repeated and sized as a stage of `schedule`, of which it takes the steps that `rehearsal`
    leaves. What `max_shows` of the answers leaves over is shown from the sets; without answers all
    is. Answers no longer than a batch leave no step empty.
    """
    steps = stage_steps(budget, batch_tokens, settings)[REHEARSAL]
    source = _Source(pools, settings, beside, random.Random(seed), rehearsed)
    shown = source.stage(REHEARSAL, steps * batch_tokens, replay=0.0)
    batches = _batches(shown, steps, source.lengths)
    return StagePlan(REHEARSAL + 1, tuple(batches), settings.stage_lr[LAST])


class _Source:
    """Where the presentations of all stages come from."""

    def __init__(
        self,
        pools: Mapping[str, Lengths],
        settings: Pace,
        beside: Beside,
        rng: random.Random,
        rehearsed: Lengths = MappingProxyType({}),
    ) -> None:
        self.rng = rng
        self._settings, self._beside, self._rehearsed = settings, beside, rehearsed
        self._pools = {pool: dict(pools.get(pool, {})) for pool in POOLS}
        sets = (*self._pools.values(), beside.own, rehearsed, *beside.alternates.values())
        self.lengths: dict[str, int] = {t: n for traces in sets for t, n in traces.items()}
        self._turns = _Turns(beside.alternates)

    def stage(self, stage: int, tokens: int, replay: float) -> list[str]:
        """Presentations of one stage: new, replayed and the student's own, evenly mixed."""
        new, old = self._sets(stage)
        closing = self._closing(tokens) if stage == LAST else []
        tokens -= sum(self.lengths[text] for text in closing)
        share = self._settings.own_replay
        own = self._stock(self._beside.own if share else ())
        own.show(tokens * share)
        tokens -= own.tokens
        fresh, again = self._stock(new), self._stock(old)
        for stock, target in (
            (fresh, tokens * (1 - replay)),
            (again, tokens),
            (fresh, tokens),
        ):
            stock.show(target - fresh.tokens - again.tokens)
        if fresh.exhausted and again.exhausted:
            everything = self._stock([*old, *new], endless=True)
            everything.show(tokens - fresh.tokens - again.tokens)
            fresh.shown += everything.shown
        mixed = _interleave((fresh.shown, again.shown, own.shown), self.lengths)
        return [*mixed, *closing]

    def _closing(self, tokens: int) -> list[str]:
        """What ends the curriculum: all sets, evenly."""
        share = self._settings.closing
        everything = [t for traces in self._pools.values() for t in traces]
        stock = self._stock(everything if share else ())
        stock.show(tokens * share)
        return stock.shown

    def _sets(self, stage: int) -> tuple[list[str], list[str]]:
        """What a stage is for, and what of the earlier sets it shows again."""
        early = stage == 1 and self._settings.frontier_from == 2
        new = [t for pool in POOLS[stage : stage + 1 + early] for t in self._pools[pool]]
        new += self._rehearsed if stage == REHEARSAL else ()
        old = [t for pool in POOLS[:stage] for t in self._pools[pool]]
        if self._settings.replay_easy:
            old = [t for t in old if t in self._beside.easy] or old
        if not new and not old:
            new = [t for traces in self._pools.values() for t in traces]
        return new, old

    def _stock(self, traces: Iterable[str], *, endless: bool = False) -> "_Stock":
        shows = None if endless else self._settings.max_shows
        return _Stock(traces, self.lengths, shows, self._turns, self.rng)


class _Turns:
    """Which text a visit shows: the trace itself, then its alternates, one after another."""

    def __init__(self, alternates: Mapping[str, Lengths]) -> None:
        self._texts = {trace: (trace, *others) for trace, others in alternates.items()}
        self._visits = Counter[str]()

    def next(self, trace: str) -> str:
        """What the next visit would show."""
        texts = self._texts.get(trace, (trace,))
        return texts[self._visits[trace] % len(texts)]

    def visit(self, trace: str) -> str:
        """Show it."""
        text = self.next(trace)
        self._visits[trace] += 1
        return text


class _Stock:
    """Traces shown round after round, every round in a new order."""

    def __init__(
        self,
        traces: Iterable[str],
        lengths: Lengths,
        max_shows: int | None,
        turns: _Turns,
        rng: random.Random,
    ) -> None:
        self.shown: list[str] = []
        self.tokens = 0
        self._lengths, self._turns = lengths, turns
        self._order = self._rounds(sorted(traces), max_shows, rng)
        self._next = next(self._order, None)

    @property
    def exhausted(self) -> bool:
        return self._next is None

    def show(self, tokens: float) -> None:
        """Show more until one more would lead away from `tokens`; within half a trace of it."""
        target = self.tokens + tokens
        while self._next is not None:
            length = self._lengths[self._turns.next(self._next)]
            if self.tokens + length / 2 > target:
                return
            self.shown.append(self._turns.visit(self._next))
            self.tokens += length
            self._next = next(self._order, None)

    @staticmethod
    def _rounds(traces: list[str], max_shows: int | None, rng: random.Random) -> Iterator[str]:
        rounds = itertools.count() if max_shows is None else range(max_shows)
        for _ in rounds if traces else ():
            rng.shuffle(traces)
            yield from tuple(traces)


def _interleave(sequences: Sequence[Sequence[str]], lengths: Lengths) -> list[str]:
    """Merge sequences so that all progress evenly; the order within each stays."""
    placed = []
    for sequence in sequences:
        sizes = np.array([lengths[t] for t in sequence], np.float64)
        placed += list(zip((sizes.cumsum() - sizes / 2) / sizes.sum(), sequence, strict=True))
    return [trace for _, trace in sorted(placed, key=lambda item: float(item[0]))]


def _batches(sequence: Sequence[str], steps: int, lengths: Lengths) -> list[tuple[str, ...]]:
    """Cut a sequence into `steps` batches of even tokens: a trace goes where its middle falls."""
    if len(sequence) < steps:
        raise ValueError(
            f"{len(sequence)} presentations cannot fill {plural(steps, 'step')}: batches are "
            "smaller than the traces"
        )
    if not steps:
        return []
    sizes = np.array([lengths[t] for t in sequence], np.float64)
    middles = (sizes.cumsum() - sizes / 2) * steps / sizes.sum()
    places = [min(int(m), steps - 1) for m in middles]
    # a trace longer than a batch may span several; these two passes leave none of them empty
    places[0] = 0
    for i in range(1, len(places)):
        places[i] = min(places[i], places[i - 1] + 1)
    places[-1] = steps - 1
    for i in range(len(places) - 2, -1, -1):
        places[i] = max(places[i], places[i + 1] - 1)
    batches: list[list[str]] = [[] for _ in range(steps)]
    for trace, place in zip(sequence, places, strict=True):
        batches[place].append(trace)
    return [tuple(batch) for batch in batches]
