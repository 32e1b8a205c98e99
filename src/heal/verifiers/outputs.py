"""What a program printed or returned, beside what it should have.

In: two texts, or two values as JSON gives them. Out: whether they agree. Integers and words must be
equal; a number expected with a decimal point or an exponent may be off by one part in a million,
or be its unrounded self where six or more decimals are expected. Layout counts by lines and words.
"""

import math
from collections.abc import Sequence
from decimal import Decimal, DecimalException
from typing import Any

_RELATIVE = 1e-6
_AROUND_ZERO = 1e-9
"""Nothing is relatively close to 0."""
_ROUNDED_DECIMALS = 6


def same_output(printed: str, expected: str) -> bool:
    """The same words on the same lines; blank lines at the end do not count."""
    ours, theirs = _lines(printed), _lines(expected)
    return len(ours) == len(theirs) and all(
        len(a) == len(b) and all(map(_same_word, a, b)) for a, b in zip(ours, theirs, strict=True)
    )


def same_value(value: Any, expected: Any) -> bool:
    """As == would say of them, but for the last digits of decimals."""
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(same_value, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            same_value(value[key], expected[key]) for key in expected
        )
    if isinstance(expected, float) and isinstance(value, float):
        return _is_close(value, expected)
    return bool(value == expected)


def _lines(text: str) -> Sequence[list[str]]:
    return [line.split() for line in text.rstrip().split("\n")]


def _same_word(word: str, expected: str) -> bool:
    if word == expected:
        return True
    try:
        ours, theirs = Decimal(word), Decimal(expected)
        if not (ours.is_finite() and theirs.is_finite()):
            return False
        return ours == theirs or _may_stand_for(ours, theirs, expected.casefold())
    except DecimalException:
        return False


def _may_stand_for(ours: Decimal, theirs: Decimal, expected: str) -> bool:
    if "." not in expected and "e" not in expected:
        return False
    decimals = len(expected.rpartition(".")[2])
    if "e" not in expected and decimals >= _ROUNDED_DECIMALS:
        rounded = abs(ours - theirs) <= Decimal(1).scaleb(-decimals) / 2
        return rounded or _is_close(float(ours), float(theirs))
    return _is_close(float(ours), float(theirs))


def _is_close(value: float, expected: float) -> bool:
    least = _AROUND_ZERO if expected == 0 else 0.0
    return math.isclose(value, expected, rel_tol=_RELATIVE, abs_tol=least)
