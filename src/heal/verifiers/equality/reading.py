r"""Reading: the form of an answer, from its tokens.

In: tokens. Out: a form. Looks for the largest structure first: what is recognised as a whole, then
lists, relations, set operations, brackets, and last a quantity. What fits nothing is `Unread`.
"""

import re
from collections.abc import Sequence

from heal.verifiers.equality.conditions import ORDERS, as_interval, as_region, is_order
from heal.verifiers.equality.expressions import UnreadableError
from heal.verifiers.equality.forms import (
    NOTHING_SOLVES,
    Form,
    Labelled,
    Relation,
    Row,
    Unread,
    Value,
)
from heal.verifiers.equality.outline import deepest, encloses, spelled, split, split_at, tidied
from heal.verifiers.equality.quantities import FILLERS, is_copula, is_word, quantity, words_alone
from heal.verifiers.equality.regions import REALS, Interval, Region, apply, combine
from heal.verifiers.equality.special import based, clock, day, formula, residues
from heal.verifiers.equality.spelling import Token
from heal.verifiers.equality.trees import SIGN, number, substitute, symbols

# fmt: off
_RELATIONS = ORDERS | {
    "=", "\\neq", "\\approx", "\\equiv", "\\cong", "\\in", "\\notin", "\\subset", "\\subseteq",
    "\\to", "\\implies", "\\iff", "\\parallel", "\\perp", "\\propto",
}
_UNREAD = frozenset(["\\neg", "\\forall", "\\exists"])
_APPROXIMATE = frozenset([
    "about", "approximately", "approx", "roughly", "around", "nearly", "almost",
])
_MINUS, _PLUS = frozenset(["negative", "minus"]), frozenset(["positive", "plus"])
_NEGATIONS = frozenset(["not", "no", "never", "neither", "nor", "less", "more"])
_EXCEPT = frozenset(["except", "but"])
_NOTHING = frozenset([
    ("\\emptyset",), ("empty", "set"), ("no", "solution"), ("no", "solutions"),
    ("no", "real", "solution"), ("no", "real", "solutions"),
])
_REALS = frozenset([
    ("\\mathbbr",), ("all", "real", "numbers"), ("all", "reals"), ("real", "numbers"),
])
_ENVIRONMENT = re.compile(r"[pbvBV]?matrix|smallmatrix|array")
_SET_ENDS = frozenset(["\\mathbbR", ")", "]", "\\}"])
_LINES = frozenset(["aligned", "align", "gathered", "split", "cases"])
_BRACKETS = {"{": "set", "(": "tuple", "[": "bracket", "\\{": "set", "\\langle": "tuple"}
# fmt: on
_DEEPEST = 100


def read_form(tokens: Sequence[Token]) -> Form:
    """The form of an answer."""
    try:
        # each level is read again inside the next
        if deepest(tokens) > _DEEPEST:
            raise UnreadableError("too deep")
        return _read(tidied(tokens))
    except (ValueError, RecursionError, ArithmeticError):
        return Unread(spelled(tokens))


def signs_expanded(form: Form) -> Form:
    """An answer with ± as the list of both."""
    if not isinstance(form, Value) or SIGN[1] not in symbols(form.tree):
        return form
    both = (Value(substitute(form.tree, "±", number(sign)), form.unit) for sign in (1, -1))
    return Row("list", tuple(both))


def _read(tokens: list[Token]) -> Form:
    if not tokens:
        raise UnreadableError("nothing there")
    for reader in (day, clock, based, residues, formula):
        if (form := reader(tokens)) is not None:
            return form
    parts, connectives = split(tokens)
    if len(parts) == 1 and not connectives:
        return _read_one(parts[0])
    if not all(parts):
        raise UnreadableError("an empty part")
    return _joined([_read_one(part) for part in parts], connectives)


def _joined(forms: list[Form], connectives: list[str]) -> Form:
    if (compound := _compound(forms)) is not None:
        return compound
    regions = [as_region(form) if isinstance(form, Relation) else None for form in forms]
    if all(region is not None for region in regions) and _of_one_symbol(forms):
        how = _how(connectives)
        return combine([region for region in regions if region is not None], how)
    if any(is_order(form) for form in forms):
        how = _how(connectives).replace(",", "and")
        return Row(f"conditions joined by {how}", tuple(forms))
    if "land" in connectives or "lor" in connectives:
        return Row(f"statements joined by {connectives[0]}", tuple(forms))
    return Row("list", tuple(forms))


def _of_one_symbol(forms: list[Form]) -> bool:
    sides = [side for form in forms if isinstance(form, Relation) for side in form.sides]
    trees = [side.tree for side in sides if isinstance(side, Value)]
    return len(frozenset().union(*map(symbols, trees))) == 1


def _how(connectives: list[str]) -> str:
    if {"or", "lor"}.intersection(connectives):
        return "or"
    return "and" if {"and", "land"}.intersection(connectives) else ","


def _compound(forms: list[Form]) -> Form | None:
    """3 hours and 15 minutes: units of one kind, each smaller than the one before."""
    units = [form.unit for form in forms if isinstance(form, Value) and form.unit.dimensions]
    if len(units) < len(forms) or len({unit.dimensions for unit in units}) > 1:
        return None
    scales = [unit.scale for unit in units]
    return Row("compound", tuple(forms)) if scales == sorted(set(scales))[::-1] else None


def _read_one(tokens: list[Token]) -> Form:
    tokens = _with_sign(_without_opening(_without_approximation(tokens)))
    for reader in (_labelled, _set_operation, _relation, _bracketed, _matrix, _ratio, _named_set):
        if (form := reader(tokens)) is not None:
            return form
    return words_alone(tokens) or quantity(tokens)


def _without_approximation(tokens: list[Token]) -> list[Token]:
    """Neither "about 3.14" nor "\\approx 3.14" nor "5 (approximately)" differs from the number."""
    while tokens and (tokens[0].text == "\\approx" or is_word(tokens[0], _APPROXIMATE)):
        tokens = tokens[1:]
    if len(tokens) > 3 and tokens[-3].text == "(" and is_word(tokens[-2], _APPROXIMATE):
        tokens = tokens[:-3]
    if not tokens:
        raise UnreadableError("nothing there")
    return tokens


def _without_opening(tokens: list[Token]) -> list[Token]:
    """ "The value is 12" and "the slope is 12" are 12."""
    start = 0
    said = next((i + 1 for i, token in enumerate(tokens) if is_copula(token)), 0)
    if 0 < said < len(tokens) and all(t.kind in ("word", "letters") for t in tokens[:said]):
        start = 0 if any(is_word(t, _NEGATIONS) for t in tokens) else said
    while start < len(tokens) and is_word(tokens[start], FILLERS):
        if len(tokens[start].text) == 1 and not _is_long_word(tokens[start + 1 : start + 2]):
            break  # the letter a, not an article
        start += 1
    follows = tokens[start].kind if start < len(tokens) else "word"
    return tokens[start:] if follows not in ("word", "letters") or start == 0 else tokens


def _with_sign(tokens: list[Token]) -> list[Token]:
    """ "Negative 7" and "minus infinity" have a sign; a positive number needs none."""
    if len(tokens) < 2 or tokens[1].kind in ("word", "letters"):
        return tokens
    if is_word(tokens[0], _MINUS):
        return [Token("sign", "-"), *tokens[1:]]
    return tokens[1:] if is_word(tokens[0], _PLUS) else tokens


def _is_long_word(tokens: list[Token]) -> bool:
    return any(t.kind in ("word", "letters") and len(t.text) > 1 for t in tokens)


def _labelled(tokens: list[Token]) -> Form | None:
    places = [i for i, token in enumerate(tokens) if token.text == ":"]
    if not places or not all(
        t.kind == "word" or (len(t.text) > 2 and t.kind == "letters") for t in tokens[: places[0]]
    ):
        return None
    label = tuple(t.text for t in tokens[: places[0]])
    return Labelled(label, _read(tokens[places[0] + 1 :])) if label else None


def _relation(tokens: list[Token]) -> Form | None:
    if any(token.text in _UNREAD for token in tokens):
        raise UnreadableError("logic")
    sides, operators = split_at(tokens, _RELATIONS)
    if not operators:
        return None
    if not all(sides):
        raise UnreadableError("a relation with an empty side")
    return Relation(tuple(operators), tuple(_read_side(side) for side in sides))


def _read_side(tokens: list[Token]) -> Form:
    """One side of a relation; a name such as an angle's is kept as it is written."""
    try:
        return _read(tokens)
    except UnreadableError:
        if any(token.kind == "word" or token.text == "\\ldots" for token in tokens):
            raise
        return Unread(spelled(tokens))


def _set_operation(tokens: list[Token]) -> Form | None:
    parts, signs = split_at(_with_set_minus(tokens), ("\\cup", "\\cap", "\\setminus"))
    if not signs:
        return None
    related = [any(token.text in _RELATIONS for token in part) for part in parts]
    if any(related) and not all(related):
        return None
    read = [_read(_as_set(part)) for part in parts]
    regions = [as_region(f) if isinstance(f, Relation) else as_interval(f) for f in read]
    known = [region for region in regions if region is not None]
    if len(known) < len(regions):
        raise UnreadableError("a set that is no interval")
    return apply(known, signs)


def _with_set_minus(tokens: list[Token]) -> list[Token]:
    r"""\mathbb{R} - \{2\}: between sets, a minus takes away."""
    found: list[Token] = []
    for i, token in enumerate(tokens):
        is_between = token.text == "-" and 0 < i < len(tokens) - 1
        if is_between and tokens[i + 1].text == "\\{" and tokens[i - 1].text in _SET_ENDS:
            found.append(Token("command", "\\setminus", token.gap))
        else:
            found.append(token)
    return found


def _as_set(tokens: list[Token]) -> list[Token]:
    """Braces without their backslash, as they are typed: {2}."""
    if len(tokens) < 3 or tokens[0].text != "{" or tokens[-1].text != "}":
        return tokens
    return [Token("sign", "\\{"), *tokens[1:-1], Token("sign", "\\}")]


def _bracketed(tokens: list[Token]) -> Form | None:
    opening, closing = tokens[0].text, tokens[-1].text
    if opening not in _BRACKETS or not encloses(tokens):
        return None
    inner = tokens[1:-1]
    if not inner and opening == "\\{":
        return NOTHING_SOLVES
    if opening == "\\{" and (condition := _set_builder(inner)):
        return condition
    parts, connectives = split(inner)
    if set(connectives) - {","} or not all(parts):
        raise UnreadableError("words or nothing between brackets")
    if len(parts) == 1 and opening in ("(", "[", "{"):
        is_binomial = any(token.text == "\\choose" for token in inner)
        is_bracket = opening == "[" and inner[0].text != "\\begin"
        return None if is_bracket or is_binomial else _read(inner)
    items = tuple(_read(part) for part in parts)
    if opening + closing in ("(]", "[)"):
        return _half_open(items, opening == "[")
    if opening == "[" and all(isinstance(i, Row) and i.kind == "bracket" for i in items):
        return Row("matrix", tuple(Row("tuple", i.items) for i in items if isinstance(i, Row)))
    return Row(_BRACKETS[opening], items)


def _half_open(items: tuple[Form, ...], low_closed: bool) -> Region:
    ends = [item.tree for item in items if isinstance(item, Value)]
    if len(ends) != 2 or len(items) != 2:
        raise UnreadableError("a half-open interval of other than two numbers")
    return Region((Interval(ends[0], ends[1], low_closed, not low_closed),))


def _set_builder(tokens: list[Token]) -> Form | None:
    """`x : x > 2`, between braces."""
    places = [i for i, token in enumerate(tokens) if token.text in (":", "|")]
    if not places or places[0] == 0:
        return None
    condition = _read(tokens[places[0] + 1 :])
    region = as_region(condition)
    if region is None:
        raise UnreadableError("a set by a condition")
    return region


def _matrix(tokens: list[Token]) -> Form | None:
    if tokens[0].text != "\\begin" or len(tokens) < 8:
        return None
    name, inner = tokens[2].text, tokens[4:-4]
    if name in _LINES:
        return _lines(inner)
    if not _ENVIRONMENT.fullmatch(name) or tokens[-4].text != "\\end":
        raise UnreadableError(name)
    if name == "array" and inner and inner[0].text == "{":
        inner = inner[[t.text for t in inner].index("}") + 1 :]
    rows, _ = split_at([t for t in inner if t.text != "\\hline"], ("\\\\",))
    rows = rows if rows[-1] else rows[:-1]
    cells = [split_at(row, ("&",))[0] for row in rows]
    read = tuple(Row("tuple", tuple(_read(cell) for cell in row)) for row in cells)
    return Row("determinant" if name[0] in "vV" else "matrix", read)


def _lines(inner: list[Token]) -> Form:
    """Equations below each other are a list of them; a definition by cases is not read."""
    rows, _ = split_at(inner, ("\\\\",))
    joined: list[Token] = []
    for row in rows:
        cells, _ = split_at(row, ("&",))
        follows = cells[1][0].text if len(cells) > 1 and cells[1] else "="
        if len(cells) > 2 or follows not in _RELATIONS:
            raise UnreadableError("cases")
        joined += [Token("sign", ","), *(token for cell in cells for token in cell)]
    return _read(tidied(joined[1:]))


def _ratio(tokens: list[Token]) -> Form | None:
    parts, signs = split_at(tokens, (":",))
    return Row("ratio", tuple(quantity(part) for part in parts)) if signs else None


def _named_set(tokens: list[Token]) -> Form | None:
    except_at = next((i for i, t in enumerate(tokens) if is_word(t, _EXCEPT)), len(tokens))
    named = tokens[:except_at]
    texts = tuple(t.text.casefold() for t in named if not is_word(t, FILLERS))
    if texts in _REALS and except_at < len(tokens) - 1:
        left_out = as_interval(Row("set", (_read(tokens[except_at + 1 :]),)))
        if left_out is None:
            raise UnreadableError("an exception that is no number")
        return apply([REALS, left_out], ["\\setminus"])
    if texts in _REALS:
        return REALS
    return NOTHING_SOLVES if texts in _NOTHING else None
