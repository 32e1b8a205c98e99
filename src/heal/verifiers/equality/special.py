r"""Answers that are recognised as a whole: days, times, bases, remainders, chemical formulas.

In: tokens. Out: a form, or None where it is something else.
"""

import re
from fractions import Fraction

from heal.verifiers.equality.expressions import Tree, UnreadableError, number, parse
from heal.verifiers.equality.forms import (
    Based,
    Clock,
    Day,
    Form,
    Residues,
    Row,
    Unread,
    Value,
    Words,
)
from heal.verifiers.equality.outline import split
from heal.verifiers.equality.spelling import Token
from heal.verifiers.equality.values import exact_value

# fmt: off
_MONTHS = {name: i % 12 + 1 for i, name in enumerate([
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug",
    "sep", "oct", "nov", "dec",
])} | {"sept": 9}
_ELEMENTS = frozenset([
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl",
    "Ar", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As",
    "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In",
    "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce", "Nd", "Sm", "Eu", "Gd", "Dy", "Er", "Yb",
    "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr",
    "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am",
])
# fmt: on
_ISO = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})")
_OTHER_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")
_BESIDE_DAY = frozenset(["the", "of", "th", "st", "nd", "rd", ",", "."])
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?(am|pm|noon|oclock)?(?:oclock)?")
_BASED = re.compile(r"\(?([0-9A-F]+)\)?(?:_\{?(?:base)?|\(?base)(\d+|[a-z]+)[})]?")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
          "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip
_ATOMS = re.compile(r"([A-Z][a-z]?)(\d*)")
_CHARGE = re.compile(r"\^\{?(\d*[+-])\}?")


def day(tokens: list[Token]) -> Form | None:
    """2024-01-31, or the 31st of January, 2024; 1/2/2024 is one of two days, and text."""
    text = "".join(t.text for t in tokens)
    if match := _ISO.fullmatch(text):
        return _checked_day(int(match[1]), int(match[2]), int(match[3]))
    if _OTHER_DATE.fullmatch(text):
        return Unread(text)
    words = [t.text.casefold().strip(".") for t in tokens if t.text.casefold() not in _BESIDE_DAY]
    months = [_MONTHS[w] for w in words if w in _MONTHS and len(words) > 1]
    numbers = [int(w) for w in words if w.isdecimal() and len(w) < 5]
    if len(months) != 1 or len(numbers) + 1 != len(words) or len(numbers) > 2:
        return None
    days = [n for n in numbers if n <= 31]
    years = [n for n in numbers if n > 31]
    if len(days) != 1 or len(years) > 1:
        return None
    return _checked_day(years[0] if years else None, months[0], days[0])


def _checked_day(year: int | None, month: int, of_month: int) -> Day | None:
    return Day(year, month, of_month) if 1 <= month <= 12 and 1 <= of_month <= 31 else None


def clock(tokens: list[Token]) -> Form | None:
    """3:45 pm; without am or pm it may be a ratio as well."""
    text = "".join(t.text for t in tokens).casefold()
    if any(t.kind == "number" and "." in t.text for t in tokens):
        return None
    match = _CLOCK.fullmatch(text.replace(".", ""))
    if match is None or not (match[2] or match[4]):
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    named = match[4] if match[4] != "oclock" else None
    half = named or ("pm" if hour > 12 else "")
    if hour > 24 or minute > 59 or second > 59 or (named and hour > 12):
        return None
    if named:
        hour = hour % 12 + (0 if half == "am" else 12)
    minutes = Fraction(60 * hour + minute) + Fraction(second, 60)
    parts = [Value(number(int(part))) for part in match.groups()[:3] if part]
    return Clock(minutes, half, None if match[4] else Row("ratio", tuple(parts)))


def based(tokens: list[Token]) -> Form | None:
    """52_8, 1F_{16}, 0x1F."""
    if len(tokens) == 1 and tokens[0].kind == "based":
        text = tokens[0].text
        return Based(int(text, 0), 16 if text[1] == "x" else 2)
    match = _BASED.fullmatch("".join(t.text for t in tokens))
    if match is None:
        return None
    digits, named = match[1], match[2]
    base = int(named[:3]) if named.isdecimal() else _BASES.get(named, 0)
    if not 2 <= base <= 36:
        return None
    if digits.isalpha() and (base != 16 or len(digits) < 2):
        return None  # a symbol with an index
    if any(int(digit, 36) >= base for digit in digits):
        raise UnreadableError("digits that the base does not have")
    return Based(int(digits, base), base)


def residues(tokens: list[Token]) -> Form | None:
    r"""`n \equiv 1, 3 \pmod 6`"""
    texts = [t.text for t in tokens]
    at = next((i for i, t in enumerate(texts) if t in ("\\pmod", "\\bmod", "mod")), None)
    if at is None:
        return None
    modulus = [t for t in texts[at + 1 :] if t not in ("(", ")", "{", "}")]
    equal_at = texts.index("\\equiv") if "\\equiv" in texts else -1
    if len(modulus) != 1 or not modulus[0].isdecimal() or not int(modulus[0]):
        raise UnreadableError("a modulus")
    of = tuple(texts[:equal_at]) if equal_at > 0 else ()
    between = tokens[equal_at + 1 : at]
    if between and between[-1].text == "(":
        between = between[:-1]
    parts, _ = split(between)
    found = frozenset(int(_whole(parse(part))) % int(modulus[0]) for part in parts)
    return Residues(of, found, int(modulus[0]))


def _whole(tree: Tree) -> Fraction:
    value = exact_value(tree)
    if value is None or value.denominator != 1:
        raise UnreadableError("a remainder that is no whole number")
    return value


def formula(tokens: list[Token]) -> Form | None:
    """H_2O, CO2, Fe^{2+}: atoms in a row, with a count or a charge; never a product."""
    text = "".join(t.text for t in tokens)
    if any(t.gap for t in tokens[1:]) or not text[:1].isupper():
        return None
    charge = _CHARGE.search(text)
    body = text[: charge.start()] if charge else text
    if charge and charge.end() < len(text):
        return None
    flat = re.sub(r"[_{}]", "", body)
    atoms = _ATOMS.findall(flat)
    is_whole = "".join(a + n for a, n in atoms) == flat
    if not is_whole or not all(a in _ELEMENTS for a, _ in atoms):
        return None
    has_count = len(atoms) > 1 and any(n for _, n in atoms)
    is_molecule = len(atoms) == 1 and atoms[0][1] and "_" not in body  # O2
    if not (has_count or is_molecule or charge):
        return None
    return Words((flat + (f"^{charge[1]}" if charge else ""),))
