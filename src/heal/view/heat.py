"""How unsure the teacher was, laid over a text.

In: a step's text and its tokens' values. Out: pieces of the text with a level from 0 to 9. The
store keeps the ids of tokens and not what they spell, so where a token falls within its step is
estimated: words share the step's tokens by their length. The strip beside the text is exact.
"""

import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from heal.records import FloatArray

LEVELS = 10
NATS_PER_LEVEL = 0.3
"""Level k begins at k times so many nats; the last has no end. The scale is the same for all."""
_CHARS_PER_TOKEN = 4
_PIECE = re.compile(r"\s*(?:[^\W\d_]+|\d|\S)|\s+")
STRIP_COLUMNS = 480


class Piece(NamedTuple):
    """Part of a text; a level of None: nothing was measured."""

    text: str
    level: int | None


class Bar(NamedTuple):
    """A column of the strip, from `x` on, in tokens."""

    x: float
    width: float
    level: int
    nats: float


def level_of(nats: float) -> int | None:
    """Where a value stands on the scale; None for NaN."""
    if not math.isfinite(nats):
        return None
    return min(LEVELS - 1, max(0, int(nats / NATS_PER_LEVEL)))


def shaded(text: str, nats: FloatArray) -> list[Piece]:
    """A step's text by words, each with the largest value among the tokens that fall on it."""
    pieces = _PIECE.findall(text)
    if not len(nats) or not pieces:
        return [Piece(text, None)] if text else []
    sizes = np.array([max(1.0, len(p.strip()) / _CHARS_PER_TOKEN) for p in pieces])
    if len(text) == len(nats):  # one token a character
        sizes = np.array([float(len(piece)) for piece in pieces])
    ends = np.cumsum(sizes) * len(nats) / sizes.sum()
    starts = np.concatenate([[0.0], ends[:-1]])
    first = np.minimum(np.floor(starts + 1e-9).astype(int), len(nats) - 1)
    last = np.maximum(np.ceil(ends - 1e-9).astype(int), first + 1)
    known = np.where(np.isfinite(nats), nats, -1.0).tolist()
    spans = zip(first.tolist(), last.tolist(), strict=True)
    levels = [level_of(top) if (top := max(known[a:b])) >= 0 else None for a, b in spans]
    merged = groupby(zip(pieces, levels, strict=True), key=lambda pair: pair[1])
    return [Piece("".join(word for word, _ in group), level) for level, group in merged]


def strip(nats: FloatArray) -> list[Bar]:
    """One column a token; where there are very many, the largest of a few neighbours."""
    per = max(1, -(-len(nats) // STRIP_COLUMNS))
    bars = []
    for start in range(0, len(nats), per):
        value = _peak(nats[start : start + per])
        level = level_of(value)
        if level is not None:
            bars.append(Bar(start, min(per, len(nats) - start), level, value))
    return bars


def _peak(nats: FloatArray) -> float:
    finite = nats[np.isfinite(nats)]
    return float(finite.max()) if len(finite) else float("nan")


def scale() -> Sequence[tuple[int, str]]:
    """The levels and where each begins, for a legend."""
    return [(k, f"{k * NATS_PER_LEVEL:.1f}") for k in range(LEVELS)]
