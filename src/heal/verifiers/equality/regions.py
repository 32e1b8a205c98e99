"""Parts of the real line: unions of intervals, and when two are the same.

In and out: `Region`s. Ends are compared by their values; a region whose ends have symbols is
compared piece by piece as it is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

from heal.verifiers.equality import values
from heal.verifiers.equality.expressions import UnreadableError
from heal.verifiers.equality.trees import INFINITY, Tree, symbols


@dataclass(frozen=True)
class Interval:
    """A piece of the real line; a point has equal ends, both closed."""

    low: Tree
    high: Tree
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True)
class Region:
    """A union of intervals."""

    pieces: tuple[Interval, ...]


REALS = Region((Interval(("negative", INFINITY), INFINITY, False, False),))


def same_region(one: Region, other: Region) -> bool | None:
    """Whether two regions are the same set of numbers; None if an end cannot be compared."""
    if _has_symbols(one) or _has_symbols(other):
        return _same_as_written(one, other)
    pieces = [merged(region).pieces for region in (one, other)]
    if len(pieces[0]) != len(pieces[1]):
        return False
    return _all_same(pieces[0], pieces[1])


def combine(regions: Sequence[Region], how: str) -> Region:
    """Several conditions on one number: any of them, all of them, or, for a comma, whichever
    leaves something: `x < 2, x > 5` can only mean "or"."""
    if how == "or":
        return apply(regions, ["\\cup"] * (len(regions) - 1))
    both = apply(regions, ["\\cap"] * (len(regions) - 1))
    if how == "and" or both.pieces:
        return both
    return apply(regions, ["\\cup"] * (len(regions) - 1))


def apply(regions: Sequence[Region], signs: Sequence[str]) -> Region:
    """Unions, intersections and differences, from left to right. Raises: UnreadableError."""
    total = regions[0]
    for region, sign in zip(regions[1:], signs, strict=True):
        if sign == "\\cup":
            total = Region((*total.pieces, *region.pieces))
        else:
            other = region if sign == "\\cap" else _complement(region)
            total = _intersection(total, other)
    return total if _has_symbols(total) else merged(total)


def without_point(point: Tree) -> Region:
    """All real numbers but one."""
    return without_interval(Interval(point, point, True, True))


def without_interval(interval: Interval) -> Region:
    """All real numbers outside an interval."""
    return _complement(Region((interval,)))


def merged(region: Region) -> Region:
    """The same set in as few intervals as possible, in order; empty ones are gone."""
    pieces = [piece for piece in region.pieces if not _is_empty(piece)]
    pieces.sort(key=cmp_to_key(lambda a, b: _order(a.low, b.low) or b.low_closed - a.low_closed))
    found: list[Interval] = []
    for piece in pieces:
        if not found or not _touch(found[-1], piece):
            found.append(piece)
            continue
        last = found.pop()
        order = _order(last.high, piece.high)
        high, closed = (
            (last.high, last.high_closed) if order > 0 else (piece.high, piece.high_closed)
        )
        if order == 0:
            closed = last.high_closed or piece.high_closed
        found.append(Interval(last.low, high, last.low_closed, closed))
    return Region(tuple(found))


def _touch(one: Interval, other: Interval) -> bool:
    order = _order(other.low, one.high)
    return order < 0 or (order == 0 and (one.high_closed or other.low_closed))


def _is_empty(piece: Interval) -> bool:
    order = _order(piece.low, piece.high)
    return order > 0 or (order == 0 and not (piece.low_closed and piece.high_closed))


def _complement(region: Region) -> Region:
    pieces: list[Interval] = []
    low, closed = REALS.pieces[0].low, False
    for piece in merged(region).pieces:
        pieces.append(Interval(low, piece.low, closed, not piece.low_closed))
        low, closed = piece.high, not piece.high_closed
    pieces.append(Interval(low, INFINITY, closed, False))
    return merged(Region(tuple(pieces)))


def _intersection(one: Region, other: Region) -> Region:
    if _has_symbols(one) or _has_symbols(other):
        raise UnreadableError("an intersection of intervals with symbols")
    pieces = [_common(a, b) for a in one.pieces for b in other.pieces]
    return merged(Region(tuple(piece for piece in pieces if not _is_empty(piece))))


def _common(one: Interval, other: Interval) -> Interval:
    low_order, high_order = _order(one.low, other.low), _order(one.high, other.high)
    low, high = (one if low_order >= 0 else other), (one if high_order <= 0 else other)
    low_closed = low.low_closed and (low_order != 0 or other.low_closed)
    high_closed = high.high_closed and (high_order != 0 or other.high_closed)
    return Interval(low.low, high.high, low_closed, high_closed)


def _order(one: Tree, other: Tree) -> int:
    """Which of two constants is greater. Raises: UnreadableError if one has no real value."""
    first, second = values.approximate(one), values.approximate(other)
    if first is None or second is None:
        raise UnreadableError("an end that is no number")
    if _is_same(first, second) and values.equal(one, other) is not False:
        return 0
    return 1 if first > second else -1


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other or abs(one - other) <= 1e-25 * max(abs(one), abs(other)))


def _has_symbols(region: Region) -> bool:
    return any(symbols(piece.low) | symbols(piece.high) for piece in region.pieces)


def _same_as_written(one: Region, other: Region) -> bool | None:
    return len(one.pieces) == len(other.pieces) and _all_same(one.pieces, other.pieces)


def _all_same(one: Sequence[Interval], other: Sequence[Interval]) -> bool | None:
    for a, b in zip(one, other, strict=True):
        if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed):
            return False
        ends = [values.equal(a.low, b.low), values.equal(a.high, b.high)]
        if False in ends:
            return False
        if None in ends:
            return None
    return True
