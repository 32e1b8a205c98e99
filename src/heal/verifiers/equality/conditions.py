"""Conditions on one number: which part of the real line they describe.

In: forms. Out: a `Region`, or None where a form describes none.
"""

from heal.verifiers.equality import values
from heal.verifiers.equality.forms import Form, Relation, Row, Value
from heal.verifiers.equality.regions import Interval, Region, without_interval, without_point
from heal.verifiers.equality.trees import INFINITY, Tree, number, substitute, symbols

FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
ORDERS = frozenset(FLIPPED)
_CLOSED = frozenset(["\\leq", "\\geq"])
_LESS = frozenset(["<", "\\leq"])
_FROM: Tree = ("negative", INFINITY)


def is_order(form: Form) -> bool:
    """Whether a form is an inequality."""
    return isinstance(form, Relation) and bool(ORDERS.intersection(form.operators))


def as_region(form: Form) -> Region | None:
    """The part of the real line that an inequality in one symbol, or `x in …`, describes."""
    if isinstance(form, Region):
        return form
    if not isinstance(form, Relation):
        return None
    trees = [
        side.tree if isinstance(side, Value) and side.unit.is_empty else None for side in form.sides
    ]
    if form.operators == ("\\in",) and _is_symbol(trees[0]):
        return as_interval(form.sides[1])
    bound = trees[1]
    if form.operators == ("\\neq",) and _is_symbol(trees[0]) and bound and _is_real(bound):
        return without_point(bound)
    if not set(form.operators) <= ORDERS:
        return None
    if len(trees) == 2:
        return _from_one(form.operators[0], trees[0], trees[1])
    return _from_two(form.operators, trees) if len(trees) == 3 else None


def as_interval(form: Form) -> Region | None:
    """A pair, or a set of numbers, as a part of the real line."""
    if isinstance(form, Region):
        return form
    if not isinstance(form, Row) or form.kind not in ("tuple", "bracket", "set"):
        return None
    trees = [i.tree for i in form.items if isinstance(i, Value) and i.unit.is_empty]
    if len(trees) < len(form.items):
        return None
    if form.kind == "set":
        return Region(tuple(Interval(tree, tree, True, True) for tree in trees))
    if len(trees) != 2:
        return None
    closed = form.kind == "bracket"
    return Region((Interval(trees[0], trees[1], closed, closed),))


def _from_one(operator: str, left: Tree | None, right: Tree | None) -> Region | None:
    if left is None or right is None:
        return None
    if not symbols(left):
        operator, left, right = FLIPPED[operator], right, left
    if not _is_real(right):
        return None
    closed = operator in _CLOSED
    if left[0] == "absolute":
        return _from_distance(operator, left, right)
    if not _is_symbol(left):
        return None
    if operator in _LESS:
        return Region((Interval(_FROM, right, False, closed),))
    return Region((Interval(right, INFINITY, closed, False),))


def _from_distance(operator: str, left: Tree, right: Tree) -> Region | None:
    """|ax + b| < c, for a line inside the bars."""
    inside = left[1]
    names = symbols(left)
    if not isinstance(inside, tuple) or len(names) != 1:
        return None
    at = [substitute(inside, next(iter(names)), number(x)) for x in (0, 1, 2)]
    slope: Tree = ("add", at[1], ("negative", at[0]))
    is_line = values.equal(("add", at[2], ("negative", at[1])), slope)
    if not is_line or values.equal(slope, number(0)) is not False:
        return None
    ends: list[Tree] = [
        ("divide", ("add", side, ("negative", at[0])), slope)
        for side in (("negative", right), right)
    ]
    first, second = (values.approximate(end) for end in ends)
    if first is None or second is None:
        return None
    low, high = ends if first <= second else ends[::-1]
    closed = (operator in _CLOSED) == (operator in _LESS)
    near = Interval(low, high, closed, closed)
    return Region((near,)) if operator in _LESS else without_interval(near)


def _from_two(operators: tuple[str, ...], trees: list[Tree | None]) -> Region | None:
    if operators[0] not in _LESS:
        operators, trees = tuple(FLIPPED[o] for o in operators[::-1]), trees[::-1]
    low, middle, high = trees
    if not set(operators) <= _LESS or low is None or high is None or not _is_symbol(middle):
        return None
    if not (_is_real(low) and _is_real(high)):
        return None
    return Region((Interval(low, high, operators[0] in _CLOSED, operators[1] in _CLOSED),))


def _is_symbol(tree: Tree | None) -> bool:
    return tree is not None and tree[0] == "symbol"


def _is_real(tree: Tree) -> bool:
    return not symbols(tree) and values.approximate(tree) is not None
