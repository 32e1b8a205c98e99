"""Stopping: when a problem's stratum is decided before all N of its traces are drawn.

In: the verdicts so far, N, and the error allowed. Out: the stratum, or None to go on. The N traces
of the fixed plan could have come in any order, so the first k are a draw without replacement from
them: every bound is an exact hypergeometric one, and nothing is assumed about the teacher. An
error of 0 stops only where the traces left can no longer change the stratum. What it does not
promise: that N traces say where the true pass rate lies.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from math import ceil, comb

from heal.method.ceiling import EXTREME_SHARE
from heal.records import Stratum, Verdict

LOOKS = 6
"""Batches the N traces are drawn in: few, because every look waits for the slowest trace."""


def looks(n: int) -> tuple[int, ...]:
    """How many traces are drawn at each look; the last is n."""
    batch = ceil(n / LOOKS)
    return tuple(min(at, n) for at in range(batch, n + batch, batch))


def decided(verdicts: Sequence[Verdict], drawn: int, n: int, error: float) -> Stratum | None:
    """The stratum all n traces would give, as far as the first `drawn` of them settle it.

    `drawn` is one of `looks(n)`. Over all looks together, and whatever the n verdicts are, the
    stratum differs from `heal.method.ceiling` of all n with probability ≤ error. Three claims
    settle it, each of the form "at least m of the n are of this kind":

        easy        at least half are correct
        hard        more than half are wrong, and too many are already correct for extreme
        extreme     more than half are wrong, and enough are not correct
        truncated   more than half are truncated

    A trace nobody could judge helps none of them, so such problems are drawn further.
    """
    count = Counter(verdicts)
    correct = count[Verdict.CORRECT]
    few = int(max(1, n * EXTREME_SHARE))

    def settled(seen: int, at_least: int) -> bool:
        # Half each: of one set of n verdicts, at most two false claims are at all likely, a false
        # majority and "hardly any correct" (tests/test_stopping.py adds all of them up).
        return seen >= enough(n, at_least, error / 2)[looks(n).index(drawn)]

    if settled(correct, n - n // 2):
        return Stratum.EASY
    if settled(count[Verdict.WRONG] + count[Verdict.NO_ANSWER], n // 2 + 1):
        if correct > few:
            return Stratum.HARD
        if settled(len(verdicts) - correct, n - few):
            return Stratum.EXTREME
    return Stratum.TRUNCATED if settled(count[Verdict.TRUNCATED], n // 2 + 1) else None


@cache
def enough(n: int, at_least: int, error: float) -> tuple[int, ...]:
    """By look: how many of a kind must be seen to claim that at least so many of n are of it.

    A claim at any look is false with probability ≤ error over all looks together; at 0 it is
    certain. A number above the traces drawn means that no claim can be made at that look.
    """
    few = at_least - 1  # with fewer of the kind among n, a false claim is only less likely
    if few < 0:
        return tuple(0 for _ in looks(n))
    tails = [_tails(n, few, drawn) for drawn in looks(n)]

    def bounds(level: float) -> tuple[int, ...]:
        return tuple(sum(tail > level for tail in at_look) for at_look in tails)

    # One level for all looks spends most of the error on the first, where most can be saved.
    levels = sorted({0.0, *(tail for at_look in tails for tail in at_look if tail <= error)})
    allowed = bisect_right(levels, error, key=lambda level: false_claim(n, few, bounds(level)))
    return bounds(levels[allowed - 1])


def false_claim(n: int, of_kind: int, bounds: Sequence[int]) -> float:
    """P(at some look at least its bound was seen), if `of_kind` of the n traces are of the kind."""
    alive, before, crossed = {0: 1.0}, 0, 0.0
    for drawn, bound in zip(looks(n), bounds, strict=True):
        after: dict[int, float] = defaultdict(float)
        for seen, chance in alive.items():
            left, batch = of_kind - seen, drawn - before
            for more in range(min(left, batch) + 1):
                after[seen + more] += chance * _chance(n - before, left, batch, more)
        crossed += sum(chance for seen, chance in after.items() if seen >= bound)
        alive = {seen: chance for seen, chance in after.items() if chance and seen < bound}
        before = drawn
    return crossed


def _tails(n: int, of_kind: int, drawn: int) -> list[float]:
    """P(at least s of the kind among the first `drawn`) for s = 0 … drawn; exactly 0 where so."""
    chances = [_chance(n, of_kind, drawn, seen) for seen in range(drawn + 1)]
    return [sum(chances[seen:]) for seen in range(drawn + 1)]


def _chance(n: int, of_kind: int, drawn: int, seen: int) -> float:
    """Hypergeometric: `seen` of `drawn` without replacement from n."""
    if seen > of_kind or drawn - seen > n - of_kind:
        return 0.0
    return comb(of_kind, seen) * comb(n - of_kind, drawn - seen) / comb(n, drawn)
