"""PACE: the three sets, and what the student is shown in which order (docs/method.md §4).

In: candidate traces and their token lengths. Out: a decision on every candidate, and three stages
as explicit presentations. Every arm given the same budget and batch size gets the same number of
optimizer steps, hence the same learning-rate trace; only what is shown differs.
"""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal.config import Pace
from heal.records import Drop, Origin, Selected, StagePlan, Stratum
from heal.wording import plural

POOLS = ("D1", "D2", "D3")
POOL_OF = {Origin.UNAIDED: "D1", Origin.HINTED: "D2", Origin.REPAIRED: "D3"}
SHINGLE_WORDS = 5
PERMUTATIONS = 128

_Signature = NDArray[np.uint64]


class Order(StrEnum):
    """How the presentations are laid out; all three show the same multiset."""

    CURRICULUM = "curriculum"
    SHUFFLED = "shuffled"
    REVERSE = "reverse"


@dataclass(frozen=True)
class PoolCandidate:
    """A correct trace that passed its gates, as PACE sees it."""

    trace: str
    problem_id: str
    pool: str
    text: str
    parent: str | None = None
    """The kept prefix it continues (its cut's key); None for a whole trace."""
    score: float | None = None
    pure_dropped: bool = False
    marked_bad: bool = False
    """By a reader: past PURE it takes nobody's place."""


def pools(
    candidates: Iterable[PoolCandidate],
    strata: Mapping[str, Stratum],
    settings: Pace,
    seed: int = 0,
    refusal: Callable[[str], Drop | None] = lambda trace: None,
) -> list[Selected]:
    """One decision per candidate, in a fixed order whatever order they come in.

    Within a problem the sets fill one after another, D1 first. Next is always the candidate least
    like anything already kept of its problem, in any set (MinHash Jaccard over word 5-grams), so
    length plays no part; ties fall by a seeded hash of the key. `refusal` says why the student
    cannot be shown a trace (None: it can), and is asked only of those that would be kept: what it
    refuses takes nobody's place.
    """
    by_problem: dict[str, list[PoolCandidate]] = defaultdict(list)
    for candidate in candidates:
        by_problem[candidate.problem_id].append(candidate)
    decisions: list[Selected] = []
    likeness = Likeness(seed)
    for problem, group in sorted(by_problem.items()):
        stratum = strata.get(problem, Stratum.UNDETERMINED)
        decisions += choose(group, stratum, settings, seed, likeness, refusal)
    return decisions


def choose(
    group: Sequence[PoolCandidate],
    stratum: Stratum,
    settings: Pace,
    seed: int,
    likeness: "Likeness",
    refusal: Callable[[str], Drop | None] = lambda trace: None,
) -> list[Selected]:
    """The decisions on one problem's candidates; see `pools`."""
    drops = _decide(group, stratum, settings, seed, likeness, refusal)
    ordered = sorted(group, key=lambda c: (POOLS.index(c.pool), c.trace))
    return [Selected(c.trace, c.problem_id, c.pool, drops[c.trace], c.score) for c in ordered]


def cap(pool: str, stratum: Stratum, settings: Pace) -> int:
    """How many traces of one problem a set takes; D1 takes more of hard and extreme ones."""
    if pool == "D1":
        mostly_failed = stratum in (Stratum.HARD, Stratum.EXTREME)
        return settings.cap_d1_hard if mostly_failed else settings.cap_d1
    return settings.cap_d2 if pool == "D2" else settings.cap_d3


def budget_tokens(d1_tokens: int, settings: Pace) -> int:
    """Training tokens of every arm: `epochs` times HEAL's D1, at least `min_tokens`."""
    return max(round(settings.epochs * d1_tokens), settings.min_tokens)


def stage_steps(budget: int, batch_tokens: int, settings: Pace) -> tuple[int, int, int]:
    """Optimizer steps of the three stages: a function of the budget alone, so alike for all arms.

    They sum to budget / batch_tokens, rounded; a stage with a share gets at least one.
    """
    total = max(1, round(budget / batch_tokens))
    shares = np.asarray(settings.stage_share) / sum(settings.stage_share)
    ends = [0, *(round(total * float(share)) for share in np.cumsum(shares))]
    steps = [max(ends[i + 1] - ends[i], int(shares[i] > 0)) for i in range(3)]
    return steps[0], steps[1], steps[2]


def schedule(
    pools: Mapping[str, Mapping[str, int]],
    settings: Pace,
    *,
    batch_tokens: int,
    budget: int,
    seed: int,
    order: Order = Order.CURRICULUM,
) -> tuple[StagePlan, StagePlan, StagePlan]:
    """Three stages of token-sized batches from `pools`: set → trace → token length.

    Stage I shows D1, II D1 ∪ D2, III all; II and III are `replay` old by tokens. A trace is shown
    at most `max_shows` times in a stage: new traces that run out leave their share to replay,
    replay that runs out gives it back, and only a stock too small for its stage (every trace
    shown `max_shows` times) is shown more often. `shuffled` and `reverse` rearrange exactly the
    curriculum's presentations over the same steps.

    With L the longest trace shown: a stage of n steps (the whole, when rearranged) has
    n · batch_tokens tokens within L/2 (3L/2); each batch lies within L of its stage's mean. So
    two arms agree in steps exactly, and in tokens within 3L/2 each. Holds for L < batch_tokens;
    longer traces loosen the batches, not the totals.
    Raises: ValueError when nothing is to be shown, or traces are so long that steps stay empty.
    """
    if not any(pools.values()):
        raise ValueError("no traces to train on: every set is empty")
    steps = stage_steps(budget, batch_tokens, settings)
    lengths = {trace: n for traces in pools.values() for trace, n in traces.items()}
    rng = random.Random(seed)
    shown = [_stage(pools, stage, n * batch_tokens, settings, rng) for stage, n in enumerate(steps)]
    if order is Order.CURRICULUM:
        batches = [_batches(s, n, lengths) for s, n in zip(shown, steps, strict=True)]
    else:
        everything = [trace for stage in shown for trace in stage]
        if order is Order.SHUFFLED:
            rng.shuffle(everything)
        else:
            everything.reverse()
        flat = _batches(everything, sum(steps), lengths)
        ends = np.cumsum(steps)
        batches = [flat[end - n : end] for end, n in zip(ends, steps, strict=True)]
    first, second, third = (
        StagePlan(i + 1, tuple(batches[i]), settings.stage_lr[i]) for i in range(3)
    )
    return first, second, third


def _decide(
    group: Sequence[PoolCandidate],
    stratum: Stratum,
    settings: Pace,
    seed: int,
    likeness: "Likeness",
    refusal: Callable[[str], Drop | None],
) -> dict[str, Drop]:
    drops = {c.trace: Drop.PURE if c.pure_dropped else Drop.MARKED for c in group}
    alive = [c for c in group if not (c.pure_dropped or c.marked_bad)]
    alive.sort(key=lambda c: _tie(seed, c.trace))
    signatures = likeness.signatures(alive)
    nearest = np.zeros(len(alive))
    place = {c.trace: i for i, c in enumerate(alive)}
    parents: Counter[str] = Counter()
    for pool in POOLS:
        rest = [c for c in alive if c.pool == pool]
        room = cap(pool, stratum, settings)
        while rest:
            # the first of equals: seeded order
            best = min(rest, key=lambda c: nearest[place[c.trace]])
            rest.remove(best)
            drop = _drop(best, float(nearest[place[best.trace]]), parents, room, settings)
            if drop is Drop.KEPT:
                drop = refusal(best.trace) or Drop.KEPT
            drops[best.trace] = drop
            if drop is not Drop.KEPT:
                continue
            room -= 1
            parents.update([best.parent] if best.parent else [])
            near = (signatures == signatures[place[best.trace]]).mean(axis=1)
            nearest = np.maximum(nearest, near)
    return drops


def _drop(
    candidate: PoolCandidate, likeness: float, parents: Counter[str], room: int, settings: Pace
) -> Drop:
    if likeness > settings.near_duplicate:
        return Drop.NEAR_DUPLICATE
    if candidate.parent and parents[candidate.parent] >= settings.per_parent:
        return Drop.PARENT_CAP
    return Drop.KEPT if room > 0 else Drop.PROBLEM_CAP


class Likeness:
    """MinHash signatures over word 5-grams, made once for each trace of the problem at hand."""

    def __init__(self, seed: int) -> None:
        self._seed = seed % (1 << 32)
        self._known: dict[str, _Signature] = {}
        self._blank: Any = None

    def forget(self) -> None:
        """The next traces are of another problem: near-duplicates are told apart within one."""
        self._known.clear()

    def signatures(self, candidates: Sequence[PoolCandidate]) -> _Signature:
        """uint64[candidates, PERMUTATIONS]; one alone has nothing to be like."""
        if len(candidates) < 2:
            return np.zeros((len(candidates), 1), np.uint64)
        for candidate in candidates:
            if candidate.trace not in self._known:
                self._known[candidate.trace] = self._minhash(candidate.text)
        return np.stack([self._known[c.trace] for c in candidates])

    def _minhash(self, text: str) -> _Signature:
        if self._blank is None:
            from datasketch import MinHash  # imports scipy; `heal --help` must not

            self._blank = MinHash(num_perm=PERMUTATIONS, seed=self._seed)
        minhash = self._blank.copy()  # drawing its permutations anew would take longer than this
        minhash.update_batch(_shingles(text))
        return np.asarray(minhash.hashvalues, np.uint64)


def _shingles(text: str) -> set[bytes]:
    words = text.casefold().split()
    starts = range(max(1, len(words) - SHINGLE_WORDS + 1))
    return {" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in starts}


def _tie(seed: int, trace: str) -> bytes:
    return blake2b(f"{seed}|{trace}".encode(), digest_size=8).digest()


def _stage(
    pools: Mapping[str, Mapping[str, int]],
    stage: int,
    tokens: int,
    settings: Pace,
    rng: random.Random,
) -> list[str]:
    """Presentations of one stage: new and replayed traces, evenly mixed."""
    new = dict(pools.get(POOLS[stage], {}))
    old = {t: n for pool in POOLS[:stage] for t, n in pools.get(pool, {}).items()}
    if not new and not old:
        new = {t: n for traces in pools.values() for t, n in traces.items()}
    fresh, again = _Stock(new, settings.max_shows, rng), _Stock(old, settings.max_shows, rng)
    for stock, target in (
        (fresh, tokens * (1 - settings.replay)),
        (again, tokens),
        (fresh, tokens),
    ):
        stock.show(target - fresh.tokens - again.tokens)
    if fresh.exhausted and again.exhausted:
        everything = _Stock({**old, **new}, None, rng)
        everything.show(tokens - fresh.tokens - again.tokens)
        fresh.shown += everything.shown
    return _interleave(fresh.shown, again.shown, {**old, **new})


class _Stock:
    """Traces shown round after round, every round in a new order."""

    def __init__(
        self, lengths: Mapping[str, int], max_shows: int | None, rng: random.Random
    ) -> None:
        self.lengths = lengths
        self.shown: list[str] = []
        self.tokens = 0
        self._order = self._rounds(max_shows, rng)
        self._next = next(self._order, None)

    @property
    def exhausted(self) -> bool:
        return self._next is None

    def show(self, tokens: float) -> None:
        """Show more until one more would lead away from `tokens`; within half a trace of it."""
        target = self.tokens + tokens
        while self._next is not None and self.tokens + self.lengths[self._next] / 2 <= target:
            self.shown.append(self._next)
            self.tokens += self.lengths[self._next]
            self._next = next(self._order, None)

    def _rounds(self, max_shows: int | None, rng: random.Random) -> Iterator[str]:
        traces = sorted(self.lengths)
        rounds = itertools.count() if max_shows is None else range(max_shows)
        for _ in rounds if traces else ():
            rng.shuffle(traces)
            yield from tuple(traces)


def _interleave(
    first: Sequence[str], second: Sequence[str], lengths: Mapping[str, int]
) -> list[str]:
    """Merge two sequences so that both progress evenly; the order within each stays."""
    placed = []
    for sequence in (first, second):
        sizes = np.array([lengths[t] for t in sequence], np.float64)
        placed += list(zip((sizes.cumsum() - sizes / 2) / sizes.sum(), sequence, strict=True))
    return [trace for _, trace in sorted(placed, key=lambda item: float(item[0]))]


def _batches(
    sequence: Sequence[str], steps: int, lengths: Mapping[str, int]
) -> list[tuple[str, ...]]:
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
