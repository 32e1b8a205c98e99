"""From tokens to exact values: what one side of an equation says.

In: the tokens of one side. Out: a `Side`: its value as a fraction, how else it may be read, and
what makes it doubtful; None where anything in it cannot be read. Numbers are bounded, so an
exponent cannot hang a run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from heal.steps.lexer import Kind, Token

MAX_BITS = 512
"""A larger numerator or denominator is not computed."""
_MAX_EXPONENT = 64
_MAX_DEPTH = 30
_HUNDRED = Fraction(1, 100)


@dataclass(frozen=True)
class Side:
    """One side of an equation, read."""

    value: Fraction
    loose: Fraction
    """The value when `%` is a unit and not a hundredth, as in `5/20 × 100 = 25%`."""
    minus: Fraction | None
    """The value if the list marker before it is a sign; None: there is no such marker."""
    lead: Fraction | None
    """The first number, where more follows: in `8 + 2` the 8 of a running total."""
    lead_decimals: int
    text: tuple[str, ...]
    """Its tokens without units."""
    units: tuple[str, ...]
    """Words that stand as units, one entry per place."""
    decimals: int
    """Digits after the point of its most precise number."""
    is_sum: bool
    doubtful: bool
    """It has another reading that was not computed."""

    @property
    def is_number(self) -> bool:
        """A number alone, perhaps with a sign, a unit or `%`."""
        return self.lead is None


class _UnreadableError(Exception):
    """Something on this side has no value here."""


def read_side(tokens: Sequence[Token], marker: bool = False, doubtful: bool = False) -> Side | None:
    """The side these tokens spell; None where it cannot be read.

    marker: a `- ` that may be a list marker stands before it.
    """
    plain = [t for t in tokens if t.kind is not Kind.WORD]
    if not plain or any(t.kind is Kind.UNKNOWN for t in plain):
        return None
    strict = _Parser(plain, _HUNDRED)
    try:
        value = strict.whole()
        loose = _Parser(plain, Fraction(1)).whole()
        minus = _Parser([_MINUS, *plain], _HUNDRED).whole() if marker else None
    except _UnreadableError:
        return None
    numbers = [t for t in plain if t.kind is Kind.NUMBER]
    alone = not any(t.kind in (Kind.OPERATOR, Kind.FRACTION, Kind.ROOT) for t in plain[1:])
    named = any(t.text.isalpha() for t in numbers)  # `k = 51` is more than two numbers alone
    is_sum = any(t.kind is Kind.OPERATOR and t.text in "+-" for t in plain[1:])
    percents = sum(t.kind is Kind.PERCENT for t in plain)
    mixed = is_sum and 0 < percents < len(numbers)  # `160 − 30%` may mean 30% of 160
    return Side(
        value=value,
        loose=loose,
        minus=minus,
        lead=None if alone and len(numbers) == 1 and not named else _lead(plain),
        lead_decimals=numbers[0].decimals if numbers else 0,
        text=tuple(t.text for t in plain),
        units=tuple(t.text for t in tokens if t.kind is Kind.WORD),
        decimals=max(t.decimals for t in numbers) if numbers else 0,
        is_sum=is_sum,
        doubtful=doubtful or strict.doubtful or mixed,
    )


_MINUS = Token(Kind.OPERATOR, "-", 0, 0)


def _lead(tokens: Sequence[Token]) -> Fraction:
    sign = 1
    for token in tokens:
        if token.kind is Kind.NUMBER:
            return sign * token.value
        if token.kind is Kind.OPERATOR and token.text == "-":
            sign = -sign
    raise _UnreadableError


class _Parser:
    """Recursive descent over one side; `doubtful` once a reading was a choice."""

    def __init__(self, tokens: Sequence[Token], percent: Fraction) -> None:
        self.tokens = tokens
        self.percent = percent
        self.at = 0
        self.depth = 0
        self.doubtful = False

    def whole(self) -> Fraction:
        value = self.sum()
        if self.at < len(self.tokens):
            raise _UnreadableError
        return value

    def sum(self) -> Fraction:
        value = self.product()
        while operator := self.operator("+-"):
            other = self.product()
            value = _bounded(value + other if operator == "+" else value - other)
        return value

    def product(self) -> Fraction:
        value, divided = self.signed(), False
        while True:
            if operator := self.operator("*/"):
                other = self.signed()
                self.doubtful |= divided and operator == "/"  # 10 ÷ 2/5
                divided |= operator == "/"
                if operator == "/" and not other:
                    raise _UnreadableError
                value = _bounded(value * other if operator == "*" else value / other)
            elif self.touches_bracket():
                self.doubtful |= divided  # 6/2(1+2)
                value = _bounded(value * self.power())
            else:
                return value

    def signed(self) -> Fraction:
        signs = 0
        negative = False
        while sign := self.operator("+-"):
            negative ^= sign == "-"
            signs += 1
        start = self.at
        value = self.power()
        if signs:  # −2² is 4 to some
            powers = (
                t.kind is Kind.OPERATOR and t.text == "^" for t in self.tokens[start : self.at]
            )
            self.doubtful |= any(powers)
        return -value if negative else value

    def power(self) -> Fraction:
        base = self.measured()
        if not self.operator("^"):
            return base
        exponent = self.signed_exponent()
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.denominator != 1 or abs(exponent) > _MAX_EXPONENT:
            raise _UnreadableError
        if bits * abs(exponent) > MAX_BITS or (not base and exponent < 0):
            raise _UnreadableError
        if self.peek("^"):
            raise _UnreadableError
        return Fraction(base ** int(exponent))

    def signed_exponent(self) -> Fraction:
        sign = -1 if self.operator("-") else 1
        return sign * self.primary()

    def measured(self) -> Fraction:
        value = self.primary()
        if self.kind() is Kind.PERCENT:
            self.at += 1
            value *= self.percent
        return value

    def primary(self) -> Fraction:
        token = self.take()
        if token.kind is Kind.NUMBER:
            return token.value
        if token.kind is Kind.OPEN:
            return self.inside(token)
        if token.kind is Kind.FRACTION:
            above = self.group()
            below = self.group()
            if not below:
                raise _UnreadableError
            return _bounded(above / below)
        if token.kind is Kind.ROOT:
            self.deeper()
            return _root(self.primary())
        raise _UnreadableError

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _UnreadableError

    def group(self) -> Fraction:
        token = self.take()
        if token.kind is not Kind.OPEN or token.text != "{":
            raise _UnreadableError
        return self.inside(token)

    def inside(self, opening: Token) -> Fraction:
        self.deeper()
        value = self.sum()
        closing = self.take()
        if closing.kind is not Kind.CLOSE or closing.text != _CLOSING[opening.text]:
            raise _UnreadableError
        self.depth -= 1
        return abs(value) if opening.text == "|" else value

    def take(self) -> Token:
        if self.at >= len(self.tokens):
            raise _UnreadableError
        self.at += 1
        return self.tokens[self.at - 1]

    def kind(self) -> Kind | None:
        return self.tokens[self.at].kind if self.at < len(self.tokens) else None

    def peek(self, operators: str) -> bool:
        return self.kind() is Kind.OPERATOR and self.tokens[self.at].text in operators

    def operator(self, operators: str) -> str:
        """The operator that comes next, if it is one of these."""
        if not self.peek(operators):
            return ""
        self.at += 1
        return self.tokens[self.at - 1].text

    def touches_bracket(self) -> bool:
        return self.kind() is Kind.OPEN and self.at > 0


_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|"}


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _UnreadableError
    return value


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise _UnreadableError
    above, below = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if above**2 != value.numerator or below**2 != value.denominator:
        raise _UnreadableError
    return Fraction(above, below)
