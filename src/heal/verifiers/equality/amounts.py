"""Amounts: whether two numbers with their units are the same.

In: two `Value`s. Out: a `Decision`. A unit may be missing from one of them; it may not differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import mpmath  # type: ignore[import-untyped]

from heal.verifiers.equality import values
from heal.verifiers.equality.forms import Value
from heal.verifiers.equality.trees import PI, number, operations, symbols
from heal.verifiers.equality.units import Unit

_FEWEST_DIGITS = 6


@dataclass(frozen=True)
class Decision:
    """Whether two answers are the same (None: not decided), and the rule that decided."""

    same: bool | None
    reason: str
    unread: bool = False
    """Whether it is undecided because an answer is not read as mathematics."""


def all_of(results: Sequence[bool | None]) -> bool | None:
    """No if any is no; not decided if any is not."""
    if False in results:
        return False
    return None if None in results else True


def same_quantity(one: Value, other: Value) -> Decision:
    """Whether two values agree: a unit may be missing from one, but not differ."""
    one, other = _multiplied(one), _multiplied(other)
    units = one.unit, other.unit
    if units[0] == units[1]:
        return _same_number(one, other)
    if units[0].is_empty or units[1].is_empty:
        bare, full = (one, other) if units[0].is_empty else (other, one)
        return _with_unit_missing(bare, full)
    if dict(units[0].dimensions).keys() | dict(units[1].dimensions).keys() == {"degree", "radian"}:
        return _same_number(_in_radians(one), _in_radians(other))
    if units[0].dimensions != units[1].dimensions or not _are_alike(units[0], units[1]):
        return Decision(False, "different units")
    if units[0].scale == units[1].scale:
        return _same_number(one, other)
    return _same_number(_in_base_units(one), _in_base_units(other))


def _multiplied(value: Value) -> Value:
    if value.unit.factor == 1:
        return value
    unit = Unit(value.unit.scale, Fraction(1), value.unit.dimensions, value.unit.words)
    return Value(("multiply", number(value.unit.factor), value.tree), unit)


def _with_unit_missing(bare: Value, full: Value) -> Decision:
    if not full.unit.is_harmless:
        return Decision(False, "text behind the number")
    decision = _same_number(bare, full)
    kinds = dict(full.unit.dimensions)
    if not decision.same and kinds == {"percent": 1}:
        hundredth = Value(("divide", full.tree, number(100)))
        decision = _same_number(bare, hundredth)
    if not decision.same and kinds == {"degree": 1} and "constant" in operations(bare.tree):
        return _same_number(bare, _in_radians(full))
    return decision


def _in_radians(value: Value) -> Value:
    if dict(value.unit.dimensions) == {"degree": 1}:
        return Value(("multiply", value.tree, ("divide", PI, number(180))))
    return Value(value.tree)


def _in_base_units(value: Value) -> Value:
    return Value(("multiply", number(value.unit.scale), value.tree))


def _are_alike(one: Unit, other: Unit) -> bool:
    """Whether the words of one are among those of the other, and the rest says nothing more."""
    first, second = set(one.words), set(other.words)
    if not (first <= second or second <= first):
        return False
    return Unit(words=tuple(first ^ second)).is_harmless


def _same_number(one: Value, other: Value) -> Decision:
    same = values.equal(one.tree, other.tree)
    if same:
        return Decision(True, "equal values")
    if _is_rounded(one, other) or _is_rounded(other, one):
        return Decision(True, "equal when rounded")
    return Decision(same, "different values" if same is False else "values that cannot be compared")


def _is_rounded(decimal: Value, exact: Value) -> bool:
    """Whether a decimal of six digits or more is the other value, rounded or cut off."""
    if decimal.places is None or decimal.digits < _FEWEST_DIGITS:
        return False
    if exact.places is None and exact.has_decimals:
        return False  # a sum of decimals is computed, not rounded
    if exact.places is not None and not _FEWEST_DIGITS <= decimal.places < exact.places:
        return False
    shown, value = values.exact_value(decimal.tree), values.approximate(exact.tree)
    if shown is None or value is None or symbols(exact.tree):
        return False
    size = abs(mpmath.mpf(shown.numerator) / shown.denominator)
    if not mpmath.isfinite(value) or abs(value) > 2 * size + 1:
        return False  # far off, and perhaps too large to be written down
    step = Fraction(10) ** -decimal.places
    true = values.exact_value(exact.tree)
    true = _rational(value) if true is None else true
    gap = abs(true - shown)
    return gap <= step / 2 or (gap < step and abs(shown) < abs(true))


def _rational(value: object) -> Fraction:
    return Fraction(mpmath.nstr(value, 30))
