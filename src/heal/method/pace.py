"""PACE's three sets: which traces the student is shown at all (docs/method.md §4).

In: candidate traces. Out: a decision on every one. In which order they are shown is
`curriculum.py`'s.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal.config import Pace
from heal.records import Choice, Drop, Origin, Selected, Stratum

POOLS = ("D1", "D2", "D3")
POOL_OF = {Origin.UNAIDED: "D1", Origin.HINTED: "D2", Origin.REPAIRED: "D3"}
SHINGLE_WORDS = 5
PERMUTATIONS = 128
_LEFT_OUT = (Drop.PROBLEM_CAP, Drop.NEAR_DUPLICATE)
"""What may take turns with a trace of the set: one more prefix's repair may not."""

_Signature = NDArray[np.uint64]


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
    suitability: float | None = None
    """For the student, by `pace.choice`, the higher the better; None: the student was not asked."""

    @property
    def accepted(self) -> bool:
        """Whether a set may take it."""
        return not (self.pure_dropped or self.marked_bad)


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
    length plays no part; ties fall by a seeded hash of the key. Where a set cannot take all,
    another `choice` than `diverse` takes the most suitable first, ties and `random` by the hash
    alone. `refusal` says why the student cannot be shown a trace (None: it can), and is asked only
    of those that would be kept: what it refuses takes nobody's place. With `fresh_text`, what is
    left out of a set, and is not the same text, takes turns with what is kept of it.
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


def _decide(
    group: Sequence[PoolCandidate],
    stratum: Stratum,
    settings: Pace,
    seed: int,
    likeness: "Likeness",
    refusal: Callable[[str], Drop | None],
) -> dict[str, Drop]:
    drops = {c.trace: Drop.PURE if c.pure_dropped else Drop.MARKED for c in group}
    alive = [c for c in group if c.accepted]
    alive.sort(key=lambda c: _tie(seed, c.trace))
    signatures = likeness.signatures(alive)
    nearest = np.zeros(len(alive))
    place = {c.trace: i for i, c in enumerate(alive)}
    parents: Counter[str] = Counter()
    for pool in POOLS:
        rest = [c for c in alive if c.pool == pool]
        room = cap(pool, stratum, settings)
        texts = set[str]()
        choice = settings.choice if len(rest) > room else Choice.DIVERSE
        while rest:
            best = _next(rest, choice, {c.trace: nearest[place[c.trace]] for c in rest})
            rest.remove(best)
            drop = _drop(best, float(nearest[place[best.trace]]), parents, room, settings)
            if settings.fresh_text and drop in _LEFT_OUT and texts and best.text not in texts:
                drop = Drop.ALTERNATE
            if drop in (Drop.KEPT, Drop.ALTERNATE):
                drop = refusal(best.trace) or drop
            drops[best.trace] = drop
            if drop in (Drop.KEPT, Drop.ALTERNATE):
                texts.add(best.text)
            if drop is not Drop.KEPT:
                continue
            room -= 1
            parents.update([best.parent] if best.parent else [])
            near = (signatures == signatures[place[best.trace]]).mean(axis=1)
            nearest = np.maximum(nearest, near)
    return drops


def contested(
    group: Sequence[PoolCandidate], stratum: Stratum, settings: Pace
) -> list[PoolCandidate]:
    """The accepted candidates of one problem's sets that cannot take all of theirs."""
    accepted = [c for c in group if c.accepted]
    offered = Counter(c.pool for c in accepted)
    return [c for c in accepted if offered[c.pool] > cap(c.pool, stratum, settings)]


def _next(
    rest: Sequence[PoolCandidate], choice: Choice, likeness: Mapping[str, float]
) -> PoolCandidate:
    """The one to decide on next; of equals the first, in seeded order."""
    if choice is Choice.RANDOM:
        return rest[0]
    if choice is Choice.DIVERSE:
        return min(rest, key=lambda c: likeness[c.trace])
    return max(rest, key=_suitability)


def _suitability(candidate: PoolCandidate) -> float:
    return -np.inf if candidate.suitability is None else candidate.suitability


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
