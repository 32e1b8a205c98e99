r"""Text behind numbers: units, currencies, nouns, multipliers and what may not be ignored.

In: the tokens that follow a number. Out: a `Unit`: a scale, dimensions and the words that are no
unit. `12 cm^2`, `12 square centimetres` and `12\,\mathrm{cm^2}` are one unit; 1 km is 1000 m.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from heal.verifiers.equality.spelling import Token


@dataclass(frozen=True)
class Unit:
    """What stands behind a number."""

    scale: Fraction = Fraction(1)
    """How many base units one of it is."""
    factor: Fraction = Fraction(1)
    """What "million" and the like multiply the number by."""
    dimensions: tuple[tuple[str, int], ...] = ()
    """Base units and their powers, in order."""
    words: tuple[str, ...] = ()
    """Words that are no known unit, without fillers, in the singular."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands there."""
        return not self.dimensions and not self.words

    @property
    def is_harmless(self) -> bool:
        """Whether it may be missing from the other answer: it says of what, not how many."""
        return len(self.words) <= 3 and not _MEANINGFUL.intersection(self.words)


NOTHING = Unit()

# fmt: off
_PREFIXES = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000),
    "c": Fraction(1, 100), "d": Fraction(1, 10), "k": Fraction(1000), "M": Fraction(10**6),
    "G": Fraction(10**9), "T": Fraction(10**12), "p": Fraction(1, 10**12),
}
_PREFIX_NAMES = {
    "nano": "n", "micro": "u", "milli": "m", "centi": "c", "deci": "d", "kilo": "k", "mega": "M",
    "giga": "G", "pico": "p",
}
_PREFIXED = {  # symbol: (names, dimensions)
    "m": (("meter", "metre"), {"m": 1}), "g": (("gram", "gramme"), {"g": 1}),
    "s": (("second",), {"s": 1}), "J": (("joule",), {"J": 1}), "N": (("newton",), {"N": 1}),
    "W": (("watt",), {"W": 1}), "V": (("volt",), {"V": 1}), "A": (("ampere", "amp"), {"A": 1}),
    "Hz": (("hertz",), {"s": -1}), "Pa": (("pascal",), {"Pa": 1}),
    "eV": (("electronvolt",), {"eV": 1}),
    "mol": (("mole",), {"mol": 1}), "L": (("liter", "litre"), {"L": 1}), "l": ((), {"L": 1}),
    "C": (("coulomb",), {"C": 1}), "F": (("farad",), {"F": 1}), "T": (("tesla",), {"T": 1}),
    "cal": (("calorie",), {"cal": 1}), "bar": ((), {"bar": 1}), "B": (("byte",), {"byte": 1}),
    "K": (("kelvin",), {"K": 1}), "H": (("henry",), {"H": 1}), "ohm": (("ohm",), {"ohm": 1}),
}
_LONE: dict[str, tuple[int | Fraction, dict[str, int]]] = {
    "min": (60, {"s": 1}), "minute": (60, {"s": 1}), "h": (3600, {"s": 1}), "hr": (3600, {"s": 1}),
    "hour": (3600, {"s": 1}), "sec": (1, {"s": 1}), "day": (86400, {"s": 1}),
    "week": (7 * 86400, {"s": 1}), "month": (1, {"month": 1}), "year": (12, {"month": 1}),
    "yr": (12, {"month": 1}), "decade": (120, {"month": 1}), "century": (1200, {"month": 1}),
    "in": (1, {"inch": 1}), "inch": (1, {"inch": 1}), "ft": (12, {"inch": 1}),
    "foot": (12, {"inch": 1}), "yd": (36, {"inch": 1}), "yard": (36, {"inch": 1}),
    "mi": (63360, {"inch": 1}), "mile": (63360, {"inch": 1}),
    "mph": (Fraction(63360, 3600), {"inch": 1, "s": -1}),
    "kph": (Fraction(1000, 3600), {"m": 1, "s": -1}),
    "lb": (16, {"ounce": 1}), "pound": (16, {"ounce": 1}),
    "oz": (1, {"ounce": 1}), "ounce": (1, {"ounce": 1}), "ton": (10**6, {"g": 1}),
    "tonne": (10**6, {"g": 1}), "acre": (1, {"acre": 1}), "hectare": (10**4, {"m": 2}),
    "gallon": (1, {"gallon": 1}), "dollar": (100, {"cent": 1}), "usd": (100, {"cent": 1}),
    "buck": (100, {"cent": 1}), "cent": (1, {"cent": 1}), "euro": (100, {"eurocent": 1}),
    "eur": (100, {"eurocent": 1}), "gbp": (16, {"ounce": 1}),
    "penny": (1, {"penny": 1}), "yen": (1, {"yen": 1}), "rupee": (1, {"rupee": 1}),
    "rs": (1, {"rupee": 1}), "degree": (1, {"degree": 1}), "deg": (1, {"degree": 1}),
    "rad": (1, {"radian": 1}), "radian": (1, {"radian": 1}), "percent": (1, {"percent": 1}),
    "%": (1, {"percent": 1}), "celsius": (1, {"celsius": 1}), "fahrenheit": (1, {"fahrenheit": 1}),
    "atm": (1, {"atm": 1}), "bit": (1, {"bit": 1}), "rpm": (1, {"rpm": 1}), "ppm": (1, {"ppm": 1}),
}
_MULTIPLIERS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "ten": 10, "dozen": 12, "lakh": 10**5, "crore": 10**7,
}
_IRREGULAR = {
    "feet": "foot", "inches": "inch", "pence": "penny", "centuries": "century", "people": "person",
    "persons": "person", "men": "man", "women": "woman", "children": "child", "dice": "die",
    "mice": "mouse", "halves": "half", "vertices": "vertex", "ways": "way", "hertz": "hertz",
    "celsius": "celsius", "radius": "radius", "axis": "axis", "pennies": "penny",
}
_FILLERS = frozenset([
    "the", "a", "an", "of", "in", "old", "total", "altogether", "approximately", "approx", "about",
    "around", "roughly", "exactly", "nearly", "almost", "only", "respectively", "unit", "is", "are",
    "it", "there", "be", "per", "each", "long", "tall", "wide", "away", "possible", "different",
    "distinct", "overall", "st", "nd", "rd", "th", "ago", "later", "every", "which", "value",
])
# they say how many, which way, when or whether: a number with one is not the number alone
_MEANINGFUL = frozenset([
    "not", "no", "non", "to", "or", "and", "than", "increase", "decrease", "increased", "decreased",
    "more", "less", "fewer", "least", "most", "loss", "gain", "profit", "north", "south", "east",
    "west", "n", "s", "e", "w", "am", "pm", "up", "down", "left", "right", "above", "below", "over",
    "under", "before", "after", "clockwise", "counterclockwise", "anticlockwise", "forward",
    "backward", "backwards", "positive", "negative", "base", "mod", "modulo", "remainder", "power",
    "squared", "cubed", "half", "double", "twice", "thrice", "plus", "minus", "divided",
    "pair", "couple", "score", "gross", "between", "except", "without", "bc", "ad", "bce",
    "ce", "deep", "high", "hot", "cold", "even", "odd", "third", "quarter", "percent", "percentage",
    "faster", "slower", "larger", "smaller", "higher", "lower", "longer", "shorter", "older",
    "younger", "rise", "fall", "if", "when", "unless", "else", "otherwise", "infinity", "factorial",
    "hex", "binary", "octal", "decimal", "ever", "never", "false", "true",
])
# fmt: on
_ORDINALS = frozenset(["st", "nd", "rd", "th"])
_AREA = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_UNIT_SIGNS = frozenset(
    ["/", "^", "{", "}", "(", ")", "-", "\\cdot", "\\times", "*", ".", "%", "\\%", "$"]
)


def find_unit(tokens: Sequence[Token], at: int) -> bool:
    """Whether what stands behind a number may begin at this token."""
    token = tokens[at]
    if token.text in ("\\%", "%", "\\degree", "$"):
        return True
    if token.kind == "word":
        return token.text not in ("e", "i")
    if token.kind == "letters":
        if len(token.text) == 1:
            return token.gap and all(_is_part_of_unit(t) for t in tokens[at:])
        if token.text in _ORDINALS:
            return not token.gap
        is_known = _is_unit(token.text) or token.text in _AREA
        return is_known or (len(token.text) > 2 and token.gap)
    if token.text in ("\\Omega", "\\mu"):
        return token.gap and all(_is_part_of_unit(t) for t in tokens[at + 1 :])
    if token.text == "(":
        return _is_remark(tokens[at:])
    return token.text == "\\frac" and any(t.kind == "word" for t in tokens[at : at + 3])


def _is_part_of_unit(token: Token) -> bool:
    if token.kind in ("letters", "word"):
        return _is_unit(token.text)
    return token.text in _UNIT_SIGNS or (token.kind == "number" and len(token.text) == 1)


def _is_remark(tokens: Sequence[Token]) -> bool:
    """Whether brackets hold words or a unit: 180 (days), 5 (five)."""
    inside = [t for t in tokens if t.text not in _UNIT_SIGNS]
    return all(t.kind in ("word", "letters", "number") for t in inside) and any(
        t.kind == "word" or (tokens[0].gap and (len(t.text) > 2 or _is_unit(t.text)))
        for t in inside
        if t.kind != "number"
    )


def read_unit(tokens: Sequence[Token]) -> Unit | None:
    """The unit that these tokens spell; None if they hold a number or anything but a unit."""
    pieces = _in_one_line(tokens)
    scale, factor, dimensions, words = Fraction(1), Fraction(1), dict[str, int](), list[str]()
    sign, area, i = 1, 1, 0
    while i < len(pieces):
        piece = pieces[i].text
        i += 1
        if piece in ("/", "per"):
            sign = -1
        elif piece in _AREA:
            area = _AREA[piece]
        elif piece in _UNIT_SIGNS and piece not in ("%", "\\%", "$"):
            if piece == "^":
                return None
        elif pieces[i - 1].kind == "number":
            return None
        else:
            exponent, i = _exponent(pieces, i)
            power = sign * area * exponent
            part = None if piece == "in" and i < len(pieces) else _known_unit(piece)
            if part is None:
                if _singular(piece) in _MULTIPLIERS:
                    factor *= _MULTIPLIERS[_singular(piece)]
                elif not _is_filler(piece):
                    words.append(_singular(piece) + (f"^{power}" if power != 1 else ""))
            else:
                scale *= part[0] ** power
                for name, count in part[1].items():
                    dimensions[name] = dimensions.get(name, 0) + count * power
            area = 1
    known = tuple(sorted((name, count) for name, count in dimensions.items() if count))
    return Unit(scale, factor, _temperature(known), tuple(words))


def _in_one_line(tokens: Sequence[Token]) -> list[Token]:
    r"""\frac{km}{h} as km/h; hyphenated and dotted words apart."""
    found: list[Token] = []
    after_fraction = 0
    for i, token in enumerate(tokens):
        if token.text == "\\frac":
            after_fraction = 1
        elif after_fraction and token.text == "{" and i and tokens[i - 1].text == "}":
            found.append(Token("sign", "/"))
            after_fraction = 0
        elif token.text in ("\\degree", "\\circ"):
            found.append(Token("word", "degree"))
        elif token.kind == "word":
            text = token.text.replace(".", "")
            found += [Token("word", part) for part in text.split("-") if part]
        elif token.kind == "command" and token.text not in _UNIT_SIGNS:
            name = {"\\mu": "u", "\\Omega": "ohm"}.get(token.text, token.text.strip("\\"))
            found.append(Token("word", name))
        else:
            found.append(token)
    return _micro_joined(found)


def _micro_joined(tokens: list[Token]) -> list[Token]:
    found: list[Token] = []
    for token in tokens:
        if found and found[-1].text == "u" and token.kind in ("letters", "word"):
            found[-1] = Token("word", "u" + token.text)
        else:
            found.append(token)
    return found


def _exponent(pieces: Sequence[Token], at: int) -> tuple[int, int]:
    """The power that follows a unit, and the place after it."""
    texts = [piece.text for piece in pieces[at : at + 5]]
    for length in (2, 3, 4, 5):
        match = re.fullmatch(r"\^(?:\{(-?\d)\}|(-?\d))", "".join(texts[:length]))
        if match:
            return int(match[1] or match[2]), at + length
    return 1, at


def _known_unit(piece: str) -> tuple[Fraction, dict[str, int]] | None:
    if piece in ("\\%", "%"):
        return Fraction(1), {"percent": 1}
    if piece == "$":
        return Fraction(100), {"cent": 1}
    if piece in _PREFIXED:
        return Fraction(1), _PREFIXED[piece][1]
    prefix, rest = piece[:1], piece[1:]
    if prefix in _PREFIXES and rest in _PREFIXED and piece not in _LONE:
        return _PREFIXES[prefix], _PREFIXED[rest][1]
    name = _singular(piece)
    if name in _LONE:
        scale, dimensions = _LONE[name]
        return Fraction(scale), dimensions
    return _named_unit(name)


def _named_unit(name: str) -> tuple[Fraction, dict[str, int]] | None:
    for long, short in (("", ""), *_PREFIX_NAMES.items()):
        if name.startswith(long):
            for names, dimensions in _PREFIXED.values():
                if name[len(long) :] in names:
                    return _PREFIXES[short] if short else Fraction(1), dimensions
    return None


def _is_unit(text: str) -> bool:
    return _known_unit(text) is not None or _singular(text) in _MULTIPLIERS


def _singular(word: str) -> str:
    # the case of a short word may be its meaning: kJ, Co, N
    if word.endswith("s") and word[:-1].casefold() in _LONE and word.casefold() not in _LONE:
        return word[:-1].casefold()
    low = word.casefold() if len(word) > 3 or word.casefold() in _LONE else word
    if low.casefold() in _IRREGULAR:
        return _IRREGULAR[low.casefold()]
    for ending, instead in (
        ("ies", "y"),
        ("xes", "x"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("sses", "ss"),
    ):
        if len(low) > 4 and low.endswith(ending):
            return low[: -len(ending)] + instead
    if len(low) > 3 and low.endswith("s") and not low.endswith(("ss", "us", "is")):
        return low[:-1]
    return low.casefold() if low.casefold() in ("am", "pm", "is", "no", "to", "or", "mph") else low


def _is_filler(word: str) -> bool:
    return _singular(word).casefold() in _FILLERS


def _temperature(dimensions: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """A degree with C or F behind it is one of temperature."""
    names = dict(dimensions)
    for letter, name in (
        ("C", "celsius"),
        ("F", "fahrenheit"),
        ("celsius", "celsius"),
        ("fahrenheit", "fahrenheit"),
    ):
        if names.get("degree") == 1 and letter in names and len(names) == 2:
            return ((name, 1),)
    return dimensions
