"""Words, and numbers with what stands behind them.

In: tokens without separators. Out: `Words`, or a `Value`, or a compound of several quantities.
"""

import re

from heal.method.final_answers import folded_word
from heal.verifiers.equality.expressions import INFINITY, UnreadableError, number, parse
from heal.verifiers.equality.forms import Form, Row, Value, Words
from heal.verifiers.equality.numerals import numeral
from heal.verifiers.equality.outline import depth_change
from heal.verifiers.equality.spelling import Token
from heal.verifiers.equality.units import Unit, find_unit, read_unit

# fmt: off
FILLERS = frozenset([
    "the", "a", "an", "about", "approximately", "approx", "roughly", "around", "exactly", "nearly",
    "answer", "final", "option", "choice", "result", "is", "are", "it", "that", "value", "of",
    "has", "be", "there", "total", "sum", "number", "year", "equals", "amount", "was", "were",
])
_SHORT_WORDS = frozenset([
    "no", "on", "or", "if", "in", "at", "as", "of", "to", "an", "by", "up", "it", "is", "he", "we",
])
_COPULAS = frozenset(["is", "are", "was", "were"])
_CURRENCIES = frozenset(["euros", "pounds", "yen", "rupees", "cents", "USD", "EUR", "GBP", "Rs"])
_DOLLAR_PREFIXES = frozenset(["US", "A", "C", "HK", "NZ"])
_BESIDE_WORDS = frozenset("-'.()!?\"")
_OPERATORS = frozenset(["^", "_", "\\cdot", "\\times", "*", "/", "+", "-"])
_TRIGONOMETRIC = frozenset(["\\sin", "\\cos", "\\tan", "\\sec", "\\csc", "\\cot"])
# fmt: on


def is_word(token: Token, words: frozenset[str]) -> bool:
    """Whether a token is one of some words, in any case."""
    return token.kind in ("word", "letters") and token.text.casefold().strip(".") in words


def words_alone(tokens: list[Token]) -> Form | None:
    """Words and nothing else; numerals are numbers."""
    if not all(_could_be_word(t) or t.text in _BESIDE_WORDS for t in tokens):
        return None
    words = [part for t in tokens if _could_be_word(t) for part in t.text.split("-")]
    if not words or words == [words[0][:1]]:
        return None
    if len(tokens) == 1 and tokens[0].kind == "letters" and not _is_lone_word(tokens[0].text):
        return None
    if len(words) > 1 and not any(len(w) > 2 for w in words):
        return None
    folded = [folded_word(word.strip(".")) for word in words]
    low = [word.casefold() for word in folded]
    if (value := numeral(low)) is not None:
        return Value(number(value))
    if low in (["infinity"], ["infinite"]):
        return Value(INFINITY)
    return _sentence(folded)


def _sentence(words: list[str]) -> Words:
    """What a sentence says after its "is", and of what; without articles."""
    at = max((i for i, word in enumerate(words) if word.casefold() in _COPULAS), default=-1)
    said, of = words[at + 1 :], words[: max(at, 0)]
    if not said:
        said, of = words, []
    return Words(_without_fillers(said) or tuple(said), _without_fillers(of))


def _without_fillers(words: list[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word.casefold() not in FILLERS or len(word) == 1)


def is_copula(token: Token) -> bool:
    """Whether a token is "is" or the like."""
    return is_word(token, _COPULAS)


def _could_be_word(token: Token) -> bool:
    return token.kind in ("word", "letters")


def _is_lone_word(text: str) -> bool:
    """Whether letters alone are a word: CO and IV are no products whose order is free."""
    return len(text) > 2 or text.casefold() in _SHORT_WORDS or (len(text) > 1 and text.isupper())


def quantity(tokens: list[Token]) -> Form:
    """A number or an expression with its unit; several in a row are a compound."""
    tokens, currency = _currency(tokens)
    pairs: list[Value] = []
    rest = tokens
    while rest:
        value, rest = _one_quantity(rest, currency)
        pairs.append(value)
    return pairs[0] if len(pairs) == 1 else Row("compound", tuple(pairs))


def _currency(tokens: list[Token]) -> tuple[list[Token], list[Token]]:
    """A currency sign before the number, taken off; a minus sign may stand before it."""
    at = 1 if tokens and tokens[0].text == "-" else 0
    before = tokens[at : at + 2]
    if len(before) == 2 and before[0].text in _DOLLAR_PREFIXES and before[1].text == "$":
        return tokens[:at] + tokens[at + 2 :], [before[1]]
    is_currency = before and (before[0].text == "$" or before[0].text in _CURRENCIES)
    return (tokens[:at] + tokens[at + 1 :], before[:1]) if is_currency else (tokens, [])


def _one_quantity(tokens: list[Token], currency: list[Token]) -> tuple[Value, list[Token]]:
    start = _unit_start(tokens)
    amount = tokens[:start]
    end = next((i for i in range(start, len(tokens)) if _begins_next(tokens, i)), len(tokens))
    unit = read_unit([*tokens[start:end], *currency])
    if unit is None:
        raise UnreadableError("text that is no unit")
    unit = _without_gloss(unit, amount)
    tree = parse(amount)
    places, digits = _decimal(amount)
    has_decimals = any(t.kind == "number" and "." in t.text for t in amount)
    return Value(tree, unit, places, digits, has_decimals), tokens[end:]


def _unit_start(tokens: list[Token]) -> int:
    depth = 0
    for i, token in enumerate(tokens):
        if i and depth == 0 and tokens[i - 1].text not in _OPERATORS and find_unit(tokens, i):
            # the degrees of cos 60° are the angle's
            is_angle = any(t.text in _TRIGONOMETRIC for t in tokens[:i])
            if not (token.text == "\\degree" and is_angle):
                return i
        depth += depth_change(token)
    return len(tokens)


def _begins_next(tokens: list[Token], i: int) -> bool:
    """Whether a number inside a unit opens another quantity: 5 feet 9 inches."""
    if tokens[i].kind != "number" or i == 0:
        return False
    before = tokens[i - 1].text
    return before not in ("^", "{", "-", "_")


def _without_gloss(unit: Unit, amount: list[Token]) -> Unit:
    """5 (five) is 5."""
    if not unit.words or len(amount) != 1 or not amount[0].text.isdecimal():
        return unit
    said = numeral([word.casefold() for word in unit.words])
    is_gloss = said == int(amount[0].text[:9])
    return Unit(unit.scale, unit.factor, unit.dimensions) if is_gloss else unit


def _decimal(tokens: list[Token]) -> tuple[int | None, int]:
    """Places and significant digits of a bare decimal, scientific ones included."""
    texts = [t.text for t in tokens]
    if texts[:1] in (["-"], ["+"]):
        texts = texts[1:]
    if not texts or not re.fullmatch(r"\d*\.\d+(?:e[+-]?\d+)?", texts[0]):
        return None, 0
    mantissa, _, exponent = texts[0].partition("e")
    shift = int(exponent or 0)
    rest = re.fullmatch(r"(?:\\times|\\cdot|\*)10\^\{?(-?\d+)\}?", "".join(texts[1:]))
    if texts[1:] and rest is None:
        return None, 0
    shift += int(rest[1]) if rest and len(rest[1]) < 6 else 0
    digits = mantissa.replace(".", "").strip("0")
    return len(mantissa.partition(".")[2]) - shift, len(digits)
