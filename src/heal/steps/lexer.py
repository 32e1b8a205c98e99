r"""From a text to the tokens an equation is made of: numbers, operators, relations, words, breaks.

In: text as models write it: plain, Markdown or LaTeX. Out: tokens with character spans. One pass;
no pattern backtracks over more than one number or word. A sign that is not understood becomes
`UNKNOWN`, which makes the expression around it unreadable: nothing is guessed.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from fractions import Fraction

MAX_DIGITS = 40
"""A number with more is `UNKNOWN`."""
_LONGEST_GROUP = 200
"""Characters of a `\\text{…}`."""


class Kind(Enum):
    """What a token is to an equation."""

    NUMBER = auto()
    OPERATOR = auto()
    RELATION = auto()
    """`=` or `≈`."""
    OPEN = auto()
    CLOSE = auto()
    PERCENT = auto()
    WORD = auto()
    FRACTION = auto()
    """LaTeX's `\\frac`: two groups follow."""
    ROOT = auto()
    UNKNOWN = auto()
    """A variable, or a sign with a meaning that is not read here."""
    BREAK = auto()
    """Punctuation: no expression reaches across it."""
    LINE = auto()
    BULLET = auto()
    """A list marker that looks like a sign: `- ` or `+ ` where a line begins."""


@dataclass(frozen=True)
class Token:
    """A token, its characters [start, end), and whether white space stands before it."""

    kind: Kind
    text: str
    start: int
    end: int
    spaced: bool = False
    value: Fraction = Fraction(0)
    decimals: int = 0
    """Digits written after the decimal point."""


_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\u00a0\u2009\u202f]+)
    | (?P<line>\n)
    | (?P<group>\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)(?:\.\d+)?)
    | (?P<number>\d+(?:\.\d+)?|\.\d+)
    | (?P<break_sign>=>|->|<=|>=|!=|:=|[-+*/]=(?!=))
    | (?P<equals>={1,3}|(?:is|are)[ ]equal[ ]to\b|equals\b)
    | (?P<approx>≈|≃|≅)
    | (?P<display>\\\[|\\\]|\$\$)
    | (?P<inline>\\\(|\\\))
    | (?P<rows>\\\\)
    | (?P<thin>\\[,;:!\ ])
    | (?P<escaped>\\[%$&\#_{}])
    | (?P<command>\\[A-Za-z]+\*?)
    | (?P<power>\*\*|[²³⁴⁵⁶⁷⁸⁹])
    | (?P<word>[^\W\d_][\w'’]*(?:-[^\W\d_][\w'’]*)*)
    | (?P<dots>\.\.+|…)
    | (?P<floor>//)
    | (?P<other>.)
    """,
    re.VERBOSE,
)
_RELATES = re.compile("[=≈≃≅]|equal|approx|simeq")
"""Found in whatever a relation can be read from."""
_MARKER = re.compile(r"[ \t]*(?:>[ \t]*)?(?:(?P<sign>[-+])|[*•]|\d{1,3}[.)]|\#+)[ \t]+")
_CONTINUES = re.compile(r"[ \t]*&?[ \t]*(?:=(?![>=])|≈|\\approx\b)")

_SPACES = {
    "quad", "qquad", "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr",
    "displaystyle", "boxed", "mathbf", "textbf", "underline", "bm", "boldsymbol", "limits", "hline",
}  # fmt: skip
"""Commands that change the look alone."""
_NAMED = {"text", "mathrm", "textbf", "textit", "mathbf", "operatorname", "mbox", "textrm"}
_OPERATORS = {"times": "*", "cdot": "*", "ast": "*", "div": "/"}
_SIGNS = {
    "+": "+", "-": "-", "−": "-", "–": "-", "‐": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*",
    "∗": "*", "÷": "/", "/": "/", "^": "^",
}  # fmt: skip
_SPOKEN = {"plus": "+", "minus": "-", "times": "*"}
_BREAKS = {
    "implies", "Rightarrow", "rightarrow", "Longrightarrow", "to", "therefore", "because", "neq",
    "ne", "leq", "le", "geq", "ge", "lt", "gt", "newline", "item", "tag",
}  # fmt: skip
_CURRENCY = "€£¥₹"
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
UNITS_IN_ONE_WORD = {
    "kg", "mg", "cm", "mm", "km", "ml", "mL", "min", "mins", "hr", "hrs", "sec", "secs", "lb",
    "lbs", "oz", "ft", "mph", "kmh", "cents", "USD", "kWh", "GB", "MB", "TB",
}  # fmt: skip
"""Units that may touch their number (`5kg`); other letters that touch one are variables."""
_ENDS_OPERAND = (Kind.NUMBER, Kind.CLOSE, Kind.PERCENT, Kind.UNKNOWN)


def tokens(text: str) -> list[Token]:
    """All tokens of a text, in order."""
    return list(_Reader(text).read())


def may_relate(text: str) -> bool:
    """Whether a relation may stand in a text: most steps hold none, and need not be read."""
    return _RELATES.search(text) is not None


class _Reader:
    """One pass over a text; `last` is the token before, which decides what a star means."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.last: Token | None = None
        self.spaced = False

    def read(self) -> Iterator[Token]:
        yield from self._marker()
        while self.at < len(self.text):
            match = _TOKEN.match(self.text, self.at)
            assert match is not None and match.lastgroup is not None, "`other` takes anything"
            start, self.at = self.at, match.end()
            for token in _READ[match.lastgroup](self, match.group(), start):
                self.last, self.spaced = token, False
                yield token
                if token.kind is Kind.LINE:
                    yield from self._marker()

    def _token(self, kind: Kind, text: str, start: int, **more: object) -> Iterator[Token]:
        yield Token(kind, text, start, self.at, self.spaced, **more)  # type: ignore[arg-type]

    def _marker(self) -> Iterator[Token]:
        """A list marker where a line begins."""
        found = _MARKER.match(self.text, self.at)
        if found is None:
            return
        start, self.at = self.at, found.end()
        kind = Kind.BULLET if found["sign"] else Kind.BREAK
        self.last = Token(kind, found.group(), start, self.at)
        yield self.last

    def _space(self, text: str, start: int) -> Iterator[Token]:
        self.spaced = True
        return iter(())

    def _line(self, text: str, start: int) -> Iterator[Token]:
        self.spaced = True
        # A relation opens the next line, not the one after a blank line: that ends a step.
        if _CONTINUES.match(self.text, self.at):
            return iter(())
        return self._token(Kind.LINE, text, start)

    def _rows(self, text: str, start: int) -> Iterator[Token]:
        """LaTeX's end of a row, and the end of the line behind it."""
        while self.text[self.at : self.at + 1] in (" ", "\n"):
            self.at += 1
            if self.text[self.at - 1] == "\n":
                break
        return self._line(text, start)

    def _number(self, text: str, start: int) -> Iterator[Token]:
        digits = text.replace("{,}", "").replace("\\,", "").replace(",", "")
        touching = self.text[self.at : self.at + 2]
        listed = touching[:1] in ",:" and touching[1:].isdigit()
        before = self.text[start - 1] if start else ""
        if len(digits) > MAX_DIGITS or listed or before == "_":
            if listed:
                self.at += 1
            return self._token(Kind.UNKNOWN, text, start)
        point = digits.find(".")
        decimals = len(digits) - point - 1 if point >= 0 else 0
        return self._token(Kind.NUMBER, text, start, value=Fraction(digits), decimals=decimals)

    def _relation(self, text: str, start: int) -> Iterator[Token]:
        return self._token(Kind.RELATION, "=", start)

    def _approx(self, text: str, start: int) -> Iterator[Token]:
        return self._token(Kind.RELATION, "≈", start)

    def _break(self, text: str, start: int) -> Iterator[Token]:
        return self._token(Kind.BREAK, text, start)

    def _unknown(self, text: str, start: int) -> Iterator[Token]:
        return self._token(Kind.UNKNOWN, text, start)

    def _escaped(self, text: str, start: int) -> Iterator[Token]:
        sign = text[1]
        if sign == "%":
            return self._percent(start)
        if sign in "{}":
            return self._token(Kind.OPEN if sign == "{" else Kind.CLOSE, sign, start)
        if sign in "$&":
            self.spaced = True
            return iter(())
        return self._unknown(text, start)

    def _percent(self, start: int) -> Iterator[Token]:
        # Before a number it is a remainder operator.
        kind = Kind.UNKNOWN if self._next()[:1].isdigit() else Kind.PERCENT
        return self._token(kind, "%", start)

    def _next(self) -> str:
        """The next few characters that are not blank, on this line."""
        return self.text[self.at : self.at + 8].lstrip(" ")

    def _command(self, text: str, start: int) -> Iterator[Token]:
        name = text[1:].rstrip("*")
        if name in _NAMED and (words := self._words_in_braces()) is not None:
            called = self.text[self.at : self.at + 1] in ("(", "_")
            return self._token(Kind.UNKNOWN if called else Kind.WORD, words.strip(), start)
        if name in _SPACES | _NAMED:
            self.spaced = True
            return iter(())
        if name in _OPERATORS:
            return self._token(Kind.OPERATOR, _OPERATORS[name], start)
        if name in ("approx", "simeq"):
            return self._approx(text, start)
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return self._token(Kind.FRACTION, name, start)
        if name == "sqrt":
            return self._token(Kind.ROOT, name, start)
        if name in ("begin", "end"):
            self._words_in_braces()
            return self._token(Kind.LINE, text, start)
        return self._break(text, start) if name in _BREAKS else self._unknown(text, start)

    def _words_in_braces(self) -> str | None:
        """The text of `{…}` that follows, if it holds letters; it is then passed over."""
        if self.text[self.at : self.at + 1] != "{":
            return None
        end = self.text.find("}", self.at, self.at + _LONGEST_GROUP)
        inside = self.text[self.at + 1 : end]
        if end < 0 or "{" in inside or not any(c.isalpha() for c in inside):
            return None
        self.at = end + 1
        return inside

    def _word(self, text: str, start: int) -> Iterator[Token]:
        operand = self.last is not None and self.last.kind in _ENDS_OPERAND
        following = self._next()
        touches = operand and start == self.last.end if self.last else False
        if (
            text in "xX"
            and operand
            and following[:1]
            and following[0] in "0123456789($\\" + _CURRENCY
        ):
            return self._token(Kind.OPERATOR, "*", start)
        if operand and text.lower() in _SPOKEN and following[:1].isdigit():
            return self._token(Kind.OPERATOR, _SPOKEN[text.lower()], start)
        if text.lower() == "percent":
            return self._percent(start)
        if operand and text[0] in "rR" and (text[1:] or following[:1]).isdigit():
            return self._token(Kind.WORD, "remainder", start)
        called = self.text[self.at : self.at + 1] in ("(", "_")
        variable = len(text) == 1 and not (text in "aAI" and following[:1].isalnum())
        named = any(c.isdigit() or c == "_" for c in text)
        if variable or called or named or (touches and text not in UNITS_IN_ONE_WORD):
            return self._unknown(text, start)
        return self._token(Kind.WORD, text, start)

    def _power(self, text: str, start: int) -> Iterator[Token]:
        if text != "**":
            value = Fraction(_SUPERSCRIPTS.index(text))
            operator = Token(Kind.OPERATOR, "^", start, start)
            return iter((operator, Token(Kind.NUMBER, text, start, self.at, value=value)))
        operand = self.last is not None and self.last.kind in _ENDS_OPERAND
        following = self.text[self.at : self.at + 1]
        if operand and not self.spaced and (following.isdigit() or following == "("):
            return self._token(Kind.OPERATOR, "^", start)
        self.spaced = True  # bold type
        return iter(())

    def _star(self, start: int) -> Iterator[Token]:
        operand = self.last is not None and self.last.kind in (*_ENDS_OPERAND, Kind.WORD)
        following = self._next()[:1]
        if operand and following and (following.isalnum() or following in "($\\-." + _CURRENCY):
            return self._token(Kind.OPERATOR, "*", start)
        self.spaced = True  # slanted type
        return iter(())

    def _other(self, text: str, start: int) -> Iterator[Token]:
        if text == "*":
            return self._star(start)
        if text in _SIGNS:
            return self._token(Kind.OPERATOR, _SIGNS[text], start)
        if text == "%":
            return self._percent(start)
        if text in "([{":
            return self._token(Kind.OPEN, text, start)
        if text in ")]}":
            return self._token(Kind.CLOSE, text, start)
        if text == "|":
            closes = self.last is not None and self.last.kind in (*_ENDS_OPERAND, Kind.WORD)
            return self._token(Kind.CLOSE if closes else Kind.OPEN, text, start)
        if text in "$&`" + _CURRENCY:
            self.spaced = True
            return iter(())
        if text in "°¢":
            return self._token(Kind.WORD, "degrees" if text == "°" else "cents", start)
        if text == "√":
            return self._token(Kind.ROOT, text, start)
        known = text in ",.;:!?<>≤≥≠→⇒—#\"“”'‘’\\•"
        return self._break(text, start) if known else self._unknown(text, start)


_READ: dict[str, Callable[[_Reader, str, int], Iterator[Token]]] = {
    "space": _Reader._space, "line": _Reader._line, "group": _Reader._number,
    "number": _Reader._number, "break_sign": _Reader._break, "equals": _Reader._relation,
    "approx": _Reader._approx, "display": _Reader._break, "inline": _Reader._space,
    "rows": _Reader._rows, "thin": _Reader._space, "escaped": _Reader._escaped,
    "command": _Reader._command, "word": _Reader._word, "dots": _Reader._unknown,
    "power": _Reader._power, "floor": _Reader._unknown, "other": _Reader._other,
}  # fmt: skip
