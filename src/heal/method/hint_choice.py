"""Which kind of hint suits a teacher: the choice of `gear.hint: auto` (docs/method.md §2.6).

In: what each kind cost and gave on the same few problems. Out: the kind to take, with the figures
it rests on. `answer` costs no tokens and cannot be refused, so it is taken unless another kind is
shown to yield more: a handful of problems seldom shows anything, and then the cheapest is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heal.method.intervals import CONFIDENCE, Interval, ratio_of_sums
from heal.records import HintKind

PER = 1_000
"""Teacher tokens that a yield is told for."""
RESAMPLES = 4_000


@dataclass(frozen=True)
class Tried:
    """One kind of hint on the probed problems, problem by problem, in the same order for all."""

    tokens: Sequence[int]
    """Sampled for hints, refused draws included, and for the repairs under them."""
    valid: Sequence[int]
    """Repairs past all gates, the step checker's among them where one is named."""
    repairs: int
    refused: int = 0
    """Draws of hints that a gate refused."""
    fell_back: int = 0
    """Hints that became `answer` in the end."""


@dataclass(frozen=True)
class KindYield:
    """What one kind yields: valid repairs per `PER` teacher tokens."""

    kind: HintKind
    repairs: int
    valid: int
    tokens: int
    refused: int
    fell_back: int
    value: float
    low: float | None
    """Of the 95 % interval over problems; None where the problems tell none."""
    high: float | None


@dataclass(frozen=True)
class HintChoice:
    """The kind that was chosen."""

    kind: HintKind
    problems: int
    why: str
    tried: tuple[KindYield, ...]


def choose_hint(tried: Mapping[HintKind, Tried], seed: int) -> HintChoice:
    """`answer`, unless the yield of another kind is shown to be higher; of several the highest.

    The difference to `answer` is taken over resampled problems, its interval widened for the number
    of rivals. tried: holds `answer`, unless no problem could be probed.
    """
    if not tried:
        return HintChoice(HintKind.ANSWER, 0, "no extreme problem could be probed", ())
    answer = tried[HintKind.ANSWER]
    yields = tuple(_yield(kind, own, seed) for kind, own in tried.items())
    rivals = [found for found in yields if found.kind is not HintKind.ANSWER]
    better = [x for x in rivals if _is_more(tried[x.kind], answer, len(rivals), seed)]
    n = len(answer.tokens)
    if not better:
        return HintChoice(HintKind.ANSWER, n, "no other kind is shown to yield more", yields)
    best = max(better, key=lambda found: found.value)
    return HintChoice(best.kind, n, "it is shown to yield more than `answer`", yields)


def _yield(kind: HintKind, own: Tried, seed: int) -> KindYield:
    tokens, valid = np.array(own.tokens), np.array(own.valid)
    spent = int(tokens.sum())
    found: Interval | None = ratio_of_sums(PER * valid, tokens, seed=seed) if spent else None
    known = found is not None and found.is_known
    return KindYield(
        kind,
        own.repairs,
        int(valid.sum()),
        spent,
        own.refused,
        own.fell_back,
        PER * int(valid.sum()) / spent if spent else 0.0,
        found.low if found is not None and known else None,
        found.high if found is not None and known else None,
    )


def _is_more(own: Tried, answer: Tried, rivals: int, seed: int) -> bool:
    """Whether the lower end of own − answer lies above zero."""
    n = len(answer.tokens)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    rates = []
    for each in (own, answer):
        paid = counts @ np.array(each.tokens)
        gained = counts @ np.array(each.valid)
        rates.append(np.divide(gained, paid, out=np.zeros(RESAMPLES), where=paid > 0))
    tail = (1 - CONFIDENCE) / 2 / max(1, rivals)
    return bool(np.quantile(rates[0] - rates[1], tail) > 0)
