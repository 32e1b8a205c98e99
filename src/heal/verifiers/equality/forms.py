r"""Forms: what kinds of answer there are.

`(2,5)` is a tuple that may be meant as an interval, `\{2,5\}` a set, `[2,5)` an interval, `2, 5` a
list; `x = 5` an equation that names its value; `3:45 pm` a time; `52_8` has a base. Only data:
`reading` makes them of tokens, `compare` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from heal.verifiers.equality.expressions import Tree
from heal.verifiers.equality.regions import Region
from heal.verifiers.equality.units import NOTHING, Unit


@dataclass(frozen=True)
class Value:
    """An expression, and what stands behind it."""

    tree: Tree
    unit: Unit = NOTHING
    places: int | None = None
    """Decimal places of a bare decimal, which may be a rounded value; None for all others."""
    digits: int = 0
    """Significant digits of such a decimal."""
    has_decimals: bool = False
    """Whether a decimal occurs anywhere in the expression."""


@dataclass(frozen=True)
class Words:
    """Words alone, without fillers, folded; a "not" stays."""

    words: tuple[str, ...]
    of: tuple[str, ...] = ()
    """What a sentence says them of: "n" in "n is even"."""


@dataclass(frozen=True)
class Row:
    """Several forms: kind `list`, `tuple`, `set`, `bracket`, `ratio`, `compound` or `matrix`."""

    kind: str
    items: tuple[Form, ...]


@dataclass(frozen=True)
class Relation:
    """`sides[0] operators[0] sides[1] …`; each side is a form."""

    operators: tuple[str, ...]
    sides: tuple[Form, ...]


@dataclass(frozen=True)
class Labelled:
    """`Ann: 3`"""

    label: tuple[str, ...]
    form: Form


@dataclass(frozen=True)
class Residues:
    """Whole numbers by their remainders."""

    of: tuple[str, ...]
    remainders: frozenset[int]
    modulus: int


@dataclass(frozen=True)
class Based:
    """A whole number written in a base other than ten."""

    value: int
    base: int


@dataclass(frozen=True)
class Day:
    """A calendar day."""

    year: int | None
    month: int
    day: int


@dataclass(frozen=True)
class Clock:
    """A time of day, in minutes; `half` is am, pm or nothing."""

    minutes: Fraction
    half: str
    ratio: Row | None = None
    """What it is if it is no time."""


@dataclass(frozen=True)
class Unread:
    """What is none of these."""

    text: str


Form = Value | Words | Row | Region | Relation | Labelled | Residues | Based | Day | Clock | Unread

NOTHING_SOLVES = Row("set", ())
