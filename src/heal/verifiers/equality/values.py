"""Values: whether two expressions are equal, found by computing them.

In: expression trees. Out: equal, different, or None where neither can be shown. Rational values
are computed exactly, others to so many digits that the difference either stays or vanishes as
digits are added; expressions with symbols at several points. A value too large to write down is
compared by its form.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import product
from math import comb, factorial, gcd, lcm
from typing import Any

import mpmath  # type: ignore[import-untyped]

from heal.verifiers.equality.trees import Tree, operations, symbols

Env = Mapping[str, Any]

_MOST_BITS = 400_000
_MOST_FACTORS = 20_000
_MOST_DIGITS = 20_000
_LARGEST_EXPONENT_DIGITS = 3_000
_DIGITS = 40
# irrational-looking and far from special values; small, middling and large
_POINTS = (0.3719, 0.8143, 1.3717, 2.2361, 4.7123, 9.1357)
_STEP = 0.6183
_COUNTING = frozenset("ijklmnpqrstNMK")


class TooLargeError(ArithmeticError):
    """The value has too many digits to be computed."""


def equal(one: Tree, other: Tree) -> bool | None:
    """Whether two expressions are equal; None if that cannot be shown either way."""
    if one == other:
        return True
    exact = [exact_value(tree) for tree in (one, other)]
    if exact[0] is not None and exact[1] is not None:
        return exact[0] == exact[1]
    names = sorted(symbols(one) | symbols(other))
    if not names:
        return _equal_at(one, other, {})
    return _equal_at_points(one, other, names)


def exact_value(tree: Tree) -> Fraction | None:
    """The rational value of an expression, or None if it has none of a reasonable size."""
    try:
        return _exact(tree)
    except (TooLargeError, ZeroDivisionError):
        return None


def approximate(tree: Tree, digits: int = _DIGITS) -> Any:
    """The real value of an expression without symbols; None for one with symbols, or without it."""
    if symbols(tree):
        return None
    try:
        value = _value(tree, {}, digits)
    except (ArithmeticError, ValueError, TypeError):
        return None
    return mpmath.re(value) if _is_real(value) else None


def proportional(one: Tree, other: Tree) -> bool | None:
    """Whether one expression is a constant multiple, not zero, of another."""
    names = sorted(symbols(one) | symbols(other))
    ratios = []
    for env in _points(names):
        try:
            top, bottom = _value(one, env, _DIGITS), _value(other, env, _DIGITS)
            ratios.append(top / bottom)
        except (ArithmeticError, ValueError, TypeError):
            continue
    if len(ratios) < 3:
        return None
    first = ratios[0]
    return first != 0 and all(abs(r - first) <= abs(first) * _tolerance() for r in ratios)


def _tolerance() -> Any:
    return mpmath.mpf(10) ** (10 - _DIGITS)


def _points(names: list[str]) -> Iterator[dict[str, Any]]:
    for place in _POINTS:
        yield {
            name: mpmath.mpf(place + _STEP * (1 + place) * (i * i + i)) if name != "±" else 1
            for i, name in enumerate(names)
        }


def _equal_at_points(one: Tree, other: Tree, names: list[str]) -> bool | None:
    points = list(_points(names))
    used = operations(one) | operations(other)
    if used & {"absolute", "floor", "ceil"}:
        points += [{n: -v * 1.137 for n, v in env.items()} for env in points]
    verdict = _agreement(one, other, points)
    is_for_whole = used & {"sum", "prod"} or _alternates(one, other)
    if verdict is not True and set(names) <= _COUNTING and is_for_whole:
        counts = range(1, 6) if len(names) < 3 else range(1, 4)
        whole = [
            dict(zip(names, values, strict=True)) for values in product(counts, repeat=len(names))
        ]
        return _agreement(one, other, whole)
    return verdict


def _alternates(one: Tree, other: Tree) -> bool:
    """Whether (−1)^n or the like occurs: such expressions are meant for whole numbers."""
    return any(_has_negative_base(tree) for tree in (one, other))


def _has_negative_base(tree: Tree) -> bool:
    if tree[0] == "power" and isinstance(tree[1], tuple) and symbols(tree):
        base = exact_value(tree[1])
        if base is not None and base < 0:
            return True
    return any(_has_negative_base(part) for part in tree[1:] if isinstance(part, tuple))


def _agreement(one: Tree, other: Tree, points: list[dict[str, Any]]) -> bool | None:
    """Agreement at the points where both are real; where none is, at those where both exist."""
    complex_points, seen = [], 0
    for env in points:
        try:
            pair = [_value(tree, env, _DIGITS) for tree in (one, other)]
        except (ArithmeticError, ValueError, TypeError):
            continue
        if not all(_is_real(value) for value in pair):
            complex_points.append(pair)
            continue
        seen += 1
        # one close look: x and x + 10^-50 agree in forty digits
        is_seen_well = seen > 1 and _are_close(*pair)
        if not is_seen_well and _equal_at(one, other, env) is not True:
            return False
    if not seen and complex_points:
        return all(_are_close(*pair) for pair in complex_points)
    return True if seen >= 2 else None


def _are_close(one: Any, other: Any) -> bool:
    if one == other:
        return True
    size = max(abs(one), abs(other))
    return bool(mpmath.isfinite(size)) and abs(one - other) <= size * _tolerance()


def _equal_at(one: Tree, other: Tree, env: Env) -> bool | None:
    """Equality at one point: the difference of equal values vanishes as digits are added."""
    try:
        rough = [_defined_value(tree, env) for tree in (one, other)]
    except TooLargeError:
        return _equal_by_form(one, other)
    if None in rough:
        return None if rough[0] is rough[1] else False  # 1/0 is not 5
    if not all(mpmath.isfinite(value) for value in rough):
        return bool(rough[0] == rough[1])
    size = max(abs(value) for value in rough)
    digits = 4 * _DIGITS + (int(mpmath.log10(size)) if size > 1 else 0)
    if digits > _MOST_DIGITS:
        return _equal_by_form(one, other) if _are_close(*rough) else False
    fine = [_value(tree, env, digits) for tree in (one, other)]
    with mpmath.workdps(digits):
        gap, rough_gap = abs(fine[0] - fine[1]), abs(rough[0] - rough[1])
        vanishing = mpmath.mpf(10) ** (2 * _DIGITS - digits)
        small = gap <= vanishing * max(abs(value) for value in fine)
        return bool(small or (rough_gap > 0 and gap <= vanishing * rough_gap))


def _defined_value(tree: Tree, env: Env) -> Any:
    """The value, or None where there is none, as for 1/0. Raises: TooLargeError."""
    try:
        return _value(tree, env, _DIGITS)
    except TooLargeError:
        raise
    except (ArithmeticError, ValueError, TypeError):
        return None


def _equal_by_form(one: Tree, other: Tree) -> bool | None:
    forms = [_form(tree) for tree in (one, other)]
    if forms[0] == forms[1]:
        return True
    towers = [_is_tower(tree) for tree in (one, other)]
    if all(towers) and one[0] == other[0]:
        if one[0] == "factorial":
            return equal(_operand(one, 1), _operand(other, 1))
        if one[1] == other[1]:
            return equal(_operand(one, 2), _operand(other, 2))  # the same base: compare exponents
    values = [approximate(tree) for tree in (one, other)]
    # a tower of whole numbers, or the factorial of one, that is too large exceeds what is not
    is_far = any(
        tower and own is None and other_value is not None
        for tower, own, other_value in zip(towers, values, values[::-1], strict=True)
    )
    return False if is_far else None


def _is_tower(tree: Tree) -> bool:
    return tree[0] in ("power", "factorial") and all(_is_positive(part) for part in tree[1:])


def _is_positive(tree: object) -> bool:
    if not isinstance(tree, tuple):
        return False
    return (tree[0] == "number" and tree[1] > 1) or _is_tower(tree)


def _operand(tree: Tree, place: int) -> Tree:
    part = tree[place]
    assert isinstance(part, tuple)
    return part


def _form(tree: Tree) -> Tree:
    """One form: rational parts computed, terms and factors in order."""
    value = exact_value(tree)
    if value is not None:
        return ("number", value)
    parts = [_form(part) for part in tree[1:] if isinstance(part, tuple)]
    if not parts:
        return tree
    if tree[0] in ("add", "multiply"):
        flat = [q for p in parts for q in (p[1:] if p[0] == tree[0] else [p])]
        parts = sorted((q for q in flat if isinstance(q, tuple)), key=hash)
    return (tree[0], *parts)


def _exact(tree: Tree) -> Fraction | None:
    operation = tree[0]
    if operation == "number":
        assert isinstance(tree[1], Fraction)
        return tree[1]
    if operation in ("symbol", "constant", "root", "sum", "prod"):
        return None
    parts = [_exact(part) for part in tree[1:] if isinstance(part, tuple)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return _exact_operation(str(operation), known)


def _exact_operation(operation: str, parts: list[Fraction]) -> Fraction | None:
    if operation == "add":
        return parts[0] + parts[1]
    if operation == "multiply":
        return _bounded(parts[0] * parts[1])
    if operation == "divide":
        return _bounded(parts[0] / parts[1])
    if operation == "negative":
        return -parts[0]
    if operation == "absolute":
        return abs(parts[0])
    if operation == "power":
        return _exact_power(*parts)
    if operation == "floor":
        return Fraction(parts[0].__floor__())
    if operation == "ceil":
        return Fraction(parts[0].__ceil__())
    return _exact_counting(operation, parts)


def _exact_counting(operation: str, parts: list[Fraction]) -> Fraction | None:
    if any(part.denominator != 1 or part < 0 for part in parts):
        return None
    whole = [int(part) for part in parts]
    if max(whole) > _MOST_FACTORS and operation not in ("gcd", "lcm", "min", "max"):
        return None
    if operation == "factorial":
        return Fraction(factorial(whole[0]))
    if operation == "double_factorial":
        product_ = 1
        for k in range(whole[0], 1, -2):
            product_ *= k
        return Fraction(product_)
    if operation == "binomial":
        return Fraction(comb(*whole))
    if operation in ("gcd", "lcm"):
        return Fraction(gcd(*whole) if operation == "gcd" else lcm(*whole))
    if operation in ("min", "max"):
        return Fraction(min(whole) if operation == "min" else max(whole))
    return None


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    bits = base.numerator.bit_length() + base.denominator.bit_length()
    if bits * abs(exponent) > _MOST_BITS and abs(base) != 1:
        return None
    return base ** int(exponent)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > 4 * _MOST_BITS:
        raise TooLargeError
    return value


def _is_real(value: Any) -> bool:
    if not mpmath.isfinite(value):
        return isinstance(value, mpmath.mpf)
    size = abs(value)
    return bool(abs(mpmath.im(value)) <= size * _tolerance()) if size else True


def _value(tree: Tree, env: Env, digits: int) -> Any:
    with mpmath.workdps(digits + 10):
        return _compute(tree, env)


def _compute(tree: Tree, env: Env) -> Any:
    operation = str(tree[0])
    if operation == "number":
        assert isinstance(tree[1], Fraction)
        return mpmath.mpf(tree[1].numerator) / tree[1].denominator
    if operation == "symbol":
        return env[str(tree[1])]
    if operation == "constant":
        return _CONSTANTS[str(tree[1])]()
    if operation in ("sum", "prod"):
        return _series(tree, env)
    parts = [_compute(part, env) for part in tree[1:] if isinstance(part, tuple)]
    return _OPERATIONS[operation](*parts)


def _series(tree: Tree, env: Env) -> Any:
    operation, index, first, last, body = tree
    assert isinstance(index, tuple) and isinstance(body, tuple)
    ends = [_compute(end, env) for end in (first, last) if isinstance(end, tuple)]
    if not all(mpmath.isint(end) for end in ends) or abs(ends[1] - ends[0]) > _MOST_FACTORS:
        raise ValueError("bounds that are not whole numbers near each other")
    terms = (
        _compute(body, {**env, str(index[1]): mpmath.mpf(k)})
        for k in range(int(ends[0]), int(ends[1]) + 1)
    )
    return sum(terms, mpmath.mpf(0)) if operation == "sum" else mpmath.fprod(terms)


def _power(base: Any, exponent: Any) -> Any:
    if base == 1:
        return mpmath.mpf(1)
    if mpmath.isfinite(exponent) and abs(exponent) > mpmath.mpf(10) ** _LARGEST_EXPONENT_DIGITS:
        raise TooLargeError
    if mpmath.isfinite(exponent) and mpmath.isint(exponent) and abs(exponent) < 10**18:
        return mpmath.power(base, int(mpmath.re(exponent)))
    return mpmath.power(base, exponent)


def _root(degree: Any, inside: Any) -> Any:
    if mpmath.isint(degree) and int(degree) % 2 and _is_real(inside) and mpmath.re(inside) < 0:
        return -mpmath.power(-mpmath.re(inside), 1 / mpmath.mpf(degree))
    return mpmath.power(inside, 1 / mpmath.mpf(degree)) if degree != 2 else mpmath.sqrt(inside)


def _factorial(n: Any) -> Any:
    if abs(n) > mpmath.mpf(10) ** 12:
        raise TooLargeError
    return mpmath.factorial(n)


def _double_factorial(n: Any) -> Any:
    if abs(n) > mpmath.mpf(10) ** 12:
        raise TooLargeError
    return mpmath.fac2(n)


_CONSTANTS: dict[str, Any] = {
    "e": lambda: +mpmath.e,
    "pi": lambda: +mpmath.pi,
    "i": lambda: mpmath.mpc(0, 1),
    "infinity": lambda: mpmath.inf,
}
_OPERATIONS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negative": lambda a: -a,
    "absolute": abs,
    "power": _power,
    "root": _root,
    "factorial": _factorial,
    "double_factorial": _double_factorial,
    "binomial": mpmath.binomial,
    "floor": mpmath.floor,
    "ceil": mpmath.ceil,
    "ln": mpmath.log,
    "min": min,
    "max": max,
    "arg": mpmath.arg,
    "det": lambda a: a,
    **{name: getattr(mpmath, name) for name in ("sin", "cos", "tan", "sec", "csc", "cot")},
    **{name: getattr(mpmath, name) for name in ("sinh", "cosh", "tanh", "coth")},
    **{f"arc{name}": getattr(mpmath, f"a{name}") for name in ("sin", "cos", "tan", "sec", "csc")},
    **{f"arc{name}": getattr(mpmath, f"a{name}") for name in ("cot", "sinh", "cosh")},
}
