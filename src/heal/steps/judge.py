"""Judge: does an equation hold, and if it seems not to, could it be meant otherwise?

In: the two sides. Out: true, false or cannot tell, with the rule that decided. Precision comes
first: `FALSE` is said only where no rule below offers an excuse.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction

from heal.steps.expressions import Side


class Truth(StrEnum):
    """Whether an equation holds."""

    TRUE = "true"
    FALSE = "false"
    CANNOT_TELL = "cannot_tell"


class Why(StrEnum):
    """The rule that decided."""

    EXACT = "exact"
    ROUNDED = "rounded"
    RUNNING_TOTAL = "running_total"
    """`5 + 3 = 8 + 2 = 10`: the second side continues from the first's value."""
    REMAINDER = "remainder"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"
    """A side holds a variable or a sign that is not read."""
    WHOLE_NUMBER = "whole_number"
    """Off by less than 1 where a whole number is given: rounded, or a remainder left unsaid."""
    INEXACT = "inexact"
    """Off by little, between decimals that may have been rounded before."""
    TWO_NUMBERS = "two_numbers"
    """`2 hours = 120 minutes`, `x: 3 = 5`: two numbers alone are no sum."""
    PART_OF_IT = "part_of_it"
    """`12 + 15 + 18 = 12 + 15 = 27`: the second side begins to work out the first."""
    UNITS = "units"
    QUESTION = "question"
    DOUBTFUL = "doubtful"
    """Something beside it could change its meaning."""


_SCALE = frozenset(
    {
        "dozen", "dozens", "hundred", "hundreds", "thousand", "thousands", "million", "millions",
        "billion", "billions", "tens", "ones", "pair", "pairs", "half", "halves", "quarter",
        "quarters", "third", "thirds", "twice", "times", "plus", "minus", "less", "more", "squared",
        "cubed", "mod", "modulo", "remainder", "percent", "cents", "cent",
    }
)  # fmt: skip
"""Units that are numbers or operations themselves."""

_GROUP = 3
"""Digits between marks of thousands."""
_CONVERSIONS = frozenset(
    Fraction(n) for n in (4, 7, 10, 12, 16, 24, 30, 52, 60, 100, 365, 1000, 3600)
)
_REMAINDER = re.compile(r"[ ,(\\a-z$)]{0,20}?\b(?:remainder|rem|[rR] ?\d|left over|leftover)\b")


def judge(left: Side | None, right: Side | None, relation: str, after: str) -> tuple[Truth, Why]:
    """The rules, the first that applies.

    A side that cannot be read says nothing. Equal under any reading of `%` is true. A number with
    decimals may be off by less than one in its last place if the other side needs more places;
    `≈` may be off by one in its last written digit that is not 0. A whole number that is off by
    less than 1 may be rounded. A side that starts with the value of the one before is a running
    total. Two numbers alone, different units, and doubtful neighbours say nothing when they differ.
    """
    if left is None or right is None:
        return Truth.CANNOT_TELL, Why.UNREADABLE
    if after.lstrip(" )\\]$*").startswith("?"):
        return Truth.CANNOT_TELL, Why.QUESTION
    readings = [x for x in (left.value, left.loose, left.minus) if x is not None]
    if any(a == b for a in readings for b in (right.value, right.loose)):
        return Truth.TRUE, Why.EXACT
    if any(_rounds(a, right) or _rounds(right.value, left) for a in readings):
        return Truth.TRUE, Why.ROUNDED
    if right.lead is not None and any(_is_lead(a, right) for a in readings):
        return Truth.TRUE, Why.RUNNING_TOTAL
    if relation == "≈":
        return _judge_approximation(left, right)
    return _judge_difference(left, right, readings, after)


def _rounds(value: Fraction, number: Side) -> bool:
    """Whether a number with decimals is this value, rounded or cut to its places."""
    return number.is_number and _rounds_to(value, number.value, number.decimals)


def _is_lead(value: Fraction, side: Side) -> bool:
    """Whether a side goes on from this value, perhaps rounded."""
    assert side.lead is not None, "asked for sides that go on"
    return value == side.lead or _rounds_to(value, side.lead, side.lead_decimals)


def _rounds_to(value: Fraction, number: Fraction, decimals: int) -> bool:
    scaled = value * 10**decimals
    return bool(decimals) and scaled.denominator != 1 and abs(scaled - number * 10**decimals) < 1


def _judge_approximation(left: Side, right: Side) -> tuple[Truth, Why]:
    gap = abs(left.value - right.value)
    if gap <= _last_place(right) or gap <= _last_place(left):
        return Truth.TRUE, Why.ROUNDED
    if gap * 10 <= max(abs(left.value), abs(right.value)) or left.doubtful or right.doubtful:
        return Truth.CANNOT_TELL, Why.INEXACT
    return Truth.FALSE, Why.DIFFERENT


def _last_place(side: Side) -> Fraction:
    """One unit of the last digit that is written and not 0: 100 for 1200, 0.01 for 3.14."""
    if not side.is_number:
        return Fraction(0)
    unit = Fraction(1, 10**side.decimals)
    while side.value and not side.decimals and side.value % (unit * 10) == 0:
        unit *= 10
    return unit


def _judge_difference(
    left: Side, right: Side, readings: Sequence[Fraction], after: str
) -> tuple[Truth, Why]:
    gap = min(abs(a - right.value) for a in readings)
    nearest = min(gap, abs(left.loose - right.loose))
    if nearest < 1 and (_is_rounded(left, right) or _is_rounded(right, left)):
        floor = left.value // 1 == right.value and right.is_number
        if floor and _REMAINDER.match(after):
            return Truth.TRUE, Why.REMAINDER
        return Truth.CANNOT_TELL, Why.WHOLE_NUMBER
    if left.is_number and right.is_number:
        return Truth.CANNOT_TELL, Why.TWO_NUMBERS
    if (left.decimals or right.decimals) and gap * 100 <= max(abs(left.value), abs(right.value)):
        return Truth.CANNOT_TELL, Why.INEXACT
    if not right.is_number and left.text[: len(right.text)] == right.text:
        return Truth.CANNOT_TELL, Why.PART_OF_IT
    if not _units_agree(left, right):
        return Truth.CANNOT_TELL, Why.UNITS
    # 1.500 is fifteen hundred to some
    thousands = _GROUP in (left.decimals, right.decimals)
    if left.doubtful or right.doubtful or thousands or _REMAINDER.match(after):
        return Truth.CANNOT_TELL, Why.DOUBTFUL
    return Truth.FALSE, Why.DIFFERENT


def _is_rounded(side: Side, number: Side) -> bool:
    """Whether a whole number, of percent perhaps, may stand for a value that is none."""
    if not number.is_number:
        return False
    whole = number.value.denominator == 1 and side.value.denominator != 1
    return whole or (number.loose.denominator == 1 and side.loose.denominator != 1)


def _units_agree(left: Side, right: Side) -> bool:
    """Whether words beside the numbers leave no other explanation for a difference."""
    words = {w.lower().strip(".") for side in (left, right) for u in side.units for w in u.split()}
    if not words:
        return True
    if words & _SCALE:
        return False
    if left.value and right.value:
        ratio = abs(left.value / right.value)
        if ratio in _CONVERSIONS or 1 / ratio in _CONVERSIONS:
            return False
    for side in (left, right):
        if side.is_sum and len({_stem(w) for u in (left.units, right.units) for w in u}) > 1:
            return False
        if side.is_sum and side.units and not (left.units and right.units):
            return False
    return True


def _stem(word: str) -> str:
    return word.lower().rstrip(".").removesuffix("es").removesuffix("s")
