"""Whether two answers are the same, and which rule says so.

In: two answers as text. Out: a `Decision`: yes, no, or None where one of them cannot be read.
Every rule is symmetric: which of the two is the reference makes no difference. Each is a named
function that decides, or passes the pair on by returning None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from heal.verifiers.equality import values
from heal.verifiers.equality.amounts import Decision, all_of, same_quantity
from heal.verifiers.equality.conditions import FLIPPED, as_interval, as_region, is_order
from heal.verifiers.equality.expressions import (
    Tree,
    UnreadableError,
    number,
    operations,
    symbols,
)
from heal.verifiers.equality.forms import (
    Based,
    Clock,
    Day,
    Form,
    Labelled,
    Relation,
    Residues,
    Row,
    Unread,
    Value,
    Words,
)
from heal.verifiers.equality.outline import spelled
from heal.verifiers.equality.reading import read_form, signs_expanded
from heal.verifiers.equality.regions import Region, same_region
from heal.verifiers.equality.spelling import tokens
from heal.verifiers.equality.units import NOTHING, Unit

_MINUS_ONE: Tree = ("negative", number(1))
_MOST_PAIRS = 400
_UNORDERED = ("list", "set")
_FUNCTIONS = frozenset(["sin", "cos", "tan", "sec", "csc", "cot", "ln", "absolute"])
_SUM_LIKE = frozenset(["symbol", "number", "constant", "add", "multiply", "negative", "divide"])


def compare(one: str, other: str) -> Decision:
    """Decide on two answers. 1,234 is a number or a list of two; both are read the same way."""
    decisions: list[Decision] = []
    for commas_group in (True, False):
        pair = [tokens(answer, commas_group) for answer in (one, other)]
        if spelled(pair[0]) == spelled(pair[1]):
            return Decision(True, "same spelling")
        decisions.append(_decided(read_form(pair[0]), read_form(pair[1])))
        if decisions[-1].same or not _has_comma(one + other):
            break
    return decisions[-1] if decisions[-1].same else decisions[0]


def _decided(one: Form, other: Form) -> Decision:
    try:
        return decide(_only_member(one), _only_member(other))
    except (UnreadableError, RecursionError, ArithmeticError) as error:
        return Decision(None, f"cannot be compared: {error}"[:200])


def _only_member(form: Form) -> Form:
    """The solution set {5} is the solution 5."""
    if isinstance(form, Row) and form.kind == "set" and len(form.items) == 1:
        return form.items[0] if isinstance(form.items[0], Value) else form
    return form


def is_readable(answer: str) -> bool:
    """Whether an answer is one of the forms known here."""
    return not isinstance(read_form(tokens(answer, True)), Unread)


def _has_comma(text: str) -> bool:
    return "," in text


def decide(one: Form, other: Form) -> Decision:
    """Apply the rules in order; the first that decides is right."""
    one, other = _simplified(one), _simplified(other)
    for rule in RULES:
        decision = rule(one, other) or rule(other, one)
        if decision is not None:
            return decision
    return Decision(False, "different kinds of answer")


# ---------------------------------------------------------------- before the rules


def _simplified(form: Form) -> Form:
    """Signs expanded, true chains of numbers ended, one value for one name."""
    form = signs_expanded(form)
    if isinstance(form, Relation):
        return _simplified_relation(form)
    if isinstance(form, Row) and form.kind == "list":
        return _simplified_list(form)
    if isinstance(form, Row) and form.kind == "set":
        return Row("set", _flat([signs_expanded(item) for item in form.items]))
    return form


def _simplified_relation(form: Relation) -> Form:
    if set(form.operators) != {"="}:
        return form
    constants = [side for side in form.sides if _constant(side) is not None]
    if len(constants) > 1 and any(_same(constants[0], c) is not True for c in constants[1:]):
        return Unread("a contradiction: " + repr(form.sides))
    if len(constants) == len(form.sides):
        return form.sides[-1]
    if len(form.sides) == 2 and _constant(form.sides[0]) is not None:
        form = Relation(form.operators, form.sides[::-1])
    several = signs_expanded(form.sides[-1])
    if len(form.sides) == 2 and isinstance(several, Row) and several is not form.sides[-1]:
        return Row("list", tuple(Relation(("=",), (form.sides[0], v)) for v in several.items))
    if len(form.sides) > 2 and constants and form.sides[-1] in constants:
        return Relation(("=",), (form.sides[0], form.sides[-1]))
    return form


def _simplified_list(form: Row) -> Form:
    flat = _flat([_simplified(item) for item in form.items])
    first = flat[0]
    if _is_equation(first) and len(flat) > 1 and all(isinstance(f, Value) for f in flat[1:]):
        assert isinstance(first, Relation)  # x = 5, 7
        flat = (first, *(Relation(("=",), (first.sides[0], f)) for f in flat[1:]))
    return flat[0] if len(flat) == 1 else Row("list", flat)


def _flat(items: Sequence[Form]) -> tuple[Form, ...]:
    found: list[Form] = []
    for item in items:
        found += item.items if isinstance(item, Row) and item.kind == "list" else [item]
    return tuple(found)


def _is_equation(form: Form) -> bool:
    return isinstance(form, Relation) and form.operators == ("=",)


def _constant(form: Form) -> Tree | None:
    if isinstance(form, Value) and not symbols(form.tree):
        return form.tree
    return None


def _same(one: Form, other: Form) -> bool | None:
    return decide(one, other).same


# ---------------------------------------------------------------- the rules


def text_rule(one: Form, other: Form) -> Decision | None:
    """What cannot be read agrees with nothing that is spelled otherwise."""
    if not isinstance(one, Unread):
        return None
    if isinstance(other, Unread) and one.text == other.text:
        return Decision(True, "same spelling")
    if one.text.startswith("a contradiction"):
        return Decision(False, "an equation that is not true")
    return Decision(None, "not read as mathematics")


def kinds_rule(one: Form, other: Form) -> Decision | None:
    """Days, times of day, remainders and numbers in a base agree only with their like."""
    for kind, name in ((Day, "days"), (Residues, "remainders"), (Based, "numbers in a base")):
        if isinstance(one, kind):
            same = _same_kind(one, other)
            return Decision(same, f"same {name}" if same else f"different {name}")
    if isinstance(one, Clock) and isinstance(other, Clock):
        same = (one.minutes, bool(one.half)) == (other.minutes, bool(other.half))
        return Decision(same, "same time" if same else "different times")
    if isinstance(one, Clock):
        if one.ratio is None:
            return Decision(False, "a time is no number")
        return decide(one.ratio, other)
    return None


def _same_kind(one: Form, other: Form) -> bool:
    if isinstance(one, Residues) and isinstance(other, Residues) and not (one.of and other.of):
        return (one.remainders, one.modulus) == (other.remainders, other.modulus)
    return one == other


def words_rule(one: Form, other: Form) -> Decision | None:
    """Words agree with the same words, in the same order."""
    if not isinstance(one, Words):
        return None
    same = isinstance(other, Words) and one.words == other.words
    if isinstance(other, Words) and one.of and other.of:
        same = same and one.of == other.of
    if isinstance(other, Words | Value):
        return Decision(same, "same words" if same else "different words")
    return None


def value_rule(one: Form, other: Form) -> Decision | None:
    """Two values: their units, then their numbers."""
    if not (isinstance(one, Value) and isinstance(other, Value)):
        return None
    return same_quantity(one, other)


def ratio_rule(one: Form, other: Form) -> Decision | None:
    """2:3 is 4:6 and 2/3."""
    if not (isinstance(one, Row) and one.kind == "ratio"):
        return None
    terms = [item.tree for item in one.items if isinstance(item, Value)]
    if isinstance(other, Value) and len(terms) == 2:
        return decide(Value(("divide", terms[0], terms[1])), other)
    if not (isinstance(other, Row) and other.kind == "ratio"):
        return None
    others = [item.tree for item in other.items if isinstance(item, Value)]
    if len(terms) != len(others):
        return Decision(False, "different ratios")
    pairs = zip(terms[1:], others[1:], strict=True)
    crossed = [
        values.equal(("multiply", terms[0], b), ("multiply", others[0], a)) for a, b in pairs
    ]
    same = all_of(crossed)
    return Decision(same, "same ratio" if same else "different ratios")


def compound_rule(one: Form, other: Form) -> Decision | None:
    """5 feet 9 inches: the sum where the units are of one kind, else part by part."""
    if not (isinstance(one, Row) and one.kind == "compound"):
        return None
    parts = [item for item in one.items if isinstance(item, Value)]
    if isinstance(other, Row) and other.kind == "compound" and len(parts) == len(other.items):
        same = all_of([_same(a, b) for a, b in zip(parts, other.items, strict=True)])
        if same:
            return Decision(True, "same quantities")
    total = _total(one)
    other_total = _total(other) if isinstance(other, Row) and other.kind == "compound" else other
    if total is None or not isinstance(other_total, Value) or other_total.unit.is_empty:
        return Decision(False, "a compound quantity is not one number")
    return same_quantity(total, other_total)


def _total(form: Row) -> Value | None:
    parts = [item for item in form.items if isinstance(item, Value)]
    kinds = {part.unit.dimensions for part in parts}
    if len(parts) < len(form.items) or len(kinds) > 1 or any(p.unit.words for p in parts):
        return None
    if kinds == {()}:
        return None
    tree: Tree = number(0)
    for part in parts:
        tree = ("add", tree, ("multiply", number(part.unit.scale * part.unit.factor), part.tree))
    return Value(tree, Unit(dimensions=kinds.pop()))


def region_rule(one: Form, other: Form) -> Decision | None:
    """Parts of the real line, as intervals, unions or inequalities in one symbol."""
    if not (isinstance(one, Region) or is_order(one) or _is_membership(one)):
        return None
    first = as_region(one)
    second = as_region(other) or as_interval(other)
    if first is None or second is None or not _may_have_one_symbol(one, other):
        return None
    same = same_region(first, second)
    return Decision(same, "same interval" if same else "different intervals")


def _is_membership(form: Form) -> bool:
    return isinstance(form, Relation) and form.operators in (("\\in",), ("\\neq",))


def _may_have_one_symbol(one: Form, other: Form) -> bool:
    names = [_symbols_of(form) for form in (one, other) if isinstance(form, Relation)]
    return len(names) < 2 or names[0] == names[1]


def _symbols_of(form: Form) -> frozenset[str]:
    sides = form.sides if isinstance(form, Relation) else (form,)
    return frozenset().union(*(symbols(s.tree) for s in sides if isinstance(s, Value)))


def order_rule(one: Form, other: Form) -> Decision | None:
    """Chains of inequalities, read from either end."""
    if not (is_order(one) and is_order(other)):
        return None
    assert isinstance(one, Relation) and isinstance(other, Relation)
    for candidate in (other, _reversed(other)):
        if candidate.operators == one.operators and len(candidate.sides) == len(one.sides):
            pairs = zip(one.sides, candidate.sides, strict=True)
            if all_of([_same(a, b) for a, b in pairs]):
                return Decision(True, "same inequality")
    return Decision(False, "different inequalities")


def _reversed(form: Relation) -> Relation:
    operators = tuple(FLIPPED.get(o, o) for o in form.operators[::-1])
    return Relation(operators, form.sides[::-1])


def equation_rule(one: Form, other: Form) -> Decision | None:
    """Two equations: the same name with the same value, or one a multiple of the other."""
    if not (_is_equation(one) and _is_equation(other)):
        return None
    assert isinstance(one, Relation) and isinstance(other, Relation)
    sides = [_same(a, b) for a, b in zip(one.sides, other.sides, strict=True)]
    if all_of(sides):
        return Decision(True, "same equation")
    if _is_solved(one) != _is_solved(other):
        return Decision(False, "an equation is not its solution")
    trees = [side.tree for side in (*one.sides, *other.sides) if isinstance(side, Value)]
    if len(trees) < 4 or _is_solved(one):
        return Decision(False, "different equations")
    gaps: list[Tree] = [("add", a, ("negative", b)) for a, b in (trees[:2], trees[2:])]
    same = values.proportional(gaps[0], gaps[1]) and values.proportional(gaps[1], gaps[0])
    return Decision(same, "equivalent equations" if same else "different equations")


def _is_solved(form: Relation) -> bool:
    """Whether it gives one name a value without other symbols."""
    name, value = form.sides[0], form.sides[-1]
    is_name = isinstance(name, Value) and name.tree[0] == "symbol"
    return is_name and _constant(value) is not None


def relation_rule(one: Form, other: Form) -> Decision | None:
    """Other relations: the same one between the same sides."""
    if not (isinstance(one, Relation) and isinstance(other, Relation)):
        return None
    same = one.operators == other.operators and all_of(
        [_same(a, b) for a, b in zip(one.sides, other.sides, strict=True)]
    )
    return Decision(same, "same relation" if same else "different relations")


def name_rule(one: Form, other: Form) -> Decision | None:
    """x = 5 is 5, and `Area: 5` too, where the other answer has no name."""
    if isinstance(one, Labelled) and isinstance(other, Labelled):
        same = one.label == other.label and _same(one.form, other.form)
        return Decision(same, "same label and value" if same else "different labels or values")
    if isinstance(one, Labelled):
        return decide(one.form, other)
    if not _is_equation(one) or isinstance(other, Relation):
        return None
    assert isinstance(one, Relation)
    if isinstance(other, Row) and any(isinstance(i, Relation) for i in other.items):
        return None
    name, value = one.sides[0], one.sides[-1]
    if not _names_its_value(name, value):
        return Decision(False, "an equation is not a value")
    return decide(value, other)


def _names_its_value(name: Form, value: Form) -> bool:
    if not isinstance(name, Value):
        return isinstance(name, Words | Unread) or (
            isinstance(name, Row) and name.kind == "tuple" and isinstance(value, Row)
        )
    tree = name.tree
    if tree[0] == "symbol":
        return True
    if tree[0] == "multiply" and isinstance(tree[1], tuple):
        function = tree[1]
        if function[0] == "symbol" or (function[0] == "power" and function[2] == _MINUS_ONE):
            return True  # f(x), f^{-1}(x)
    is_simple = operations(tree) <= _SUM_LIKE or tree[0] in _FUNCTIONS
    return is_simple and _constant(value) is not None


def assignments_rule(one: Form, other: Form) -> Decision | None:
    """x = 1, y = 2 by names; (1, 2) in the order of the names; x = 5 or x = 7 as a list."""
    pairs = _assignments(one)
    if pairs is None:
        return None
    names = [name for name, _ in pairs]
    found = [value for _, value in pairs]
    theirs = _assignments(other)
    if theirs is not None:
        return _same_assignments(pairs, theirs)
    if isinstance(other, Relation):
        return None
    if len(set(names)) == 1:
        return decide(Row("list", tuple(found)), other)
    if not isinstance(other, Row) or other.kind not in ("tuple", "list"):
        return Decision(False, "several named values are not one answer")
    if names != sorted(set(names)):
        return Decision(False, "named values in another order")
    return decide(Row("tuple", tuple(found)), Row("tuple", other.items))


def _assignments(form: Form) -> list[tuple[str, Form]] | None:
    if _is_equation(form) and isinstance(form, Relation):
        rows = [side for side in form.sides if isinstance(side, Row) and side.kind == "tuple"]
        if len(rows) == 2 and len(rows[0].items) == len(rows[1].items):
            pairs = zip(rows[0].items, rows[1].items, strict=True)
            form = Row("list", tuple(Relation(("=",), pair) for pair in pairs))
    if isinstance(form, Relation) and form.operators == ("\\in",):
        name, members = form.sides
        if isinstance(members, Row) and members.kind == "set":
            form = Row("list", tuple(Relation(("=",), (name, item)) for item in members.items))
    if not isinstance(form, Row) or form.kind != "list":
        return None
    found: list[tuple[str, Form]] = []
    for item in form.items:
        if not isinstance(item, Relation) or not _is_equation(item):
            return None
        name = item.sides[0]
        if not isinstance(name, Value) or name.tree[0] != "symbol":
            return None
        value = signs_expanded(item.sides[-1])
        several = value.items if isinstance(value, Row) and value.kind == "list" else (value,)
        found += [(str(name.tree[1]), part) for part in several]
    return found


def _same_assignments(one: list[tuple[str, Form]], other: list[tuple[str, Form]]) -> Decision:
    names = {name for name, _ in one}
    if names != {name for name, _ in other}:
        return Decision(False, "different names")
    results = []
    for name in names:
        rows = [Row("list", tuple(v for n, v in pairs if n == name)) for pairs in (one, other)]
        results.append(_same_items(*rows))
    same = all_of(results)
    return Decision(same, "same named values" if same else "different named values")


def rows_rule(one: Form, other: Form) -> Decision | None:
    """Lists and sets in any order, tuples and matrices in theirs; no set is a pair."""
    if not (isinstance(one, Row) and isinstance(other, Row)):
        return None
    if one.kind == other.kind and " joined by " in one.kind:
        return Decision(_same_items(one, other), f"compared as {one.kind}")
    if one.kind in _UNORDERED and other.kind in _UNORDERED:
        same = _same_items(one, other)
        return Decision(same, "same list" if same else "different lists")
    first, second = _as_vector(one, other), _as_vector(other, one)
    if first.kind != second.kind:
        return Decision(False, f"a {one.kind} is no {other.kind}")
    same = len(first.items) == len(second.items) and all_of(
        [_same(a, b) for a, b in zip(first.items, second.items, strict=True)]
    )
    return Decision(same, f"same {first.kind}" if same else f"different {first.kind}s")


def _as_vector(row: Row, beside: Row) -> Row:
    """A matrix of one column or one row, where the other answer is a tuple."""
    if row.kind != "matrix" or beside.kind not in ("tuple", "bracket"):
        return row
    rows = [item for item in row.items if isinstance(item, Row)]
    if len(rows) == 1:
        return Row(beside.kind, rows[0].items)
    if all(len(item.items) == 1 for item in rows):
        return Row(beside.kind, tuple(item.items[0] for item in rows))
    return row


def _same_items(one: Row, other: Row) -> bool | None:
    if any(isinstance(item, Words) for item in (*one.items, *other.items)):
        # words in a row are an order of finish as often as a set
        return len(one.items) == len(other.items) and all_of(
            [_same(a, b) for a, b in zip(one.items, other.items, strict=True)]
        )
    exact = [_exact_values(row) for row in (one, other)]
    if exact[0] is not None and exact[1] is not None and exact[0] == exact[1]:
        return True
    if len(one.items) * len(other.items) > _MOST_PAIRS:
        return False if exact[0] is not None and exact[1] is not None else None
    table = [[_same(a, b) for b in other.items] for a in one.items]
    lines = [*table, *([row[i] for row in table] for i in range(len(other.items)))]
    return all_of([True if True in line else None if None in line else False for line in lines])


def _exact_values(row: Row) -> set[Fraction | None] | None:
    plain = [i.tree for i in row.items if isinstance(i, Value) and i.unit == NOTHING]
    found = {values.exact_value(tree) for tree in plain}
    return None if None in found or len(plain) < len(row.items) else found


def one_of_many_rule(one: Form, other: Form) -> Decision | None:
    """A list is not one value."""
    if isinstance(one, Row) and one.kind in _UNORDERED and isinstance(other, Value | Words):
        if one.kind == "list" and all_of([_same(item, other) for item in one.items]):
            return Decision(True, "the same value again and again")
        return Decision(False, "a list is not one value")
    return None


RULES: tuple[Callable[[Form, Form], Decision | None], ...] = (
    text_rule,
    kinds_rule,
    words_rule,
    value_rule,
    ratio_rule,
    compound_rule,
    region_rule,
    order_rule,
    assignments_rule,
    equation_rule,
    relation_rule,
    name_rule,
    rows_rule,
    one_of_many_rule,
)
