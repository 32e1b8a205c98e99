"""Arithmetic: which equations a text asserts, and which of them are false.

In: the text of a trace or a step. Out: each equation with its place and whether it holds. It looks
at equations alone: a wrong fact or a wrong set-up whose sums are right is not seen. A letter has a
value only where the problem is one linear equation in it (`unknown_of`). Precision comes
first, so an equation that may be meant otherwise is `CANNOT_TELL`; the rules are in
`heal.steps.judge`, and `tests/cases/arithmetic_steps.jsonl` has a row for each. Takes time linear
in the text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType

from heal.steps.expressions import Side, read_side
from heal.steps.judge import Truth, Why, judge
from heal.steps.lexer import Kind, Token, may_relate, tokens
from heal.steps.runs import CHANGES_MEANING, Run, runs

RULES = 4
"""Edition of the rules: stored words are asked for again when it rises."""
_AHEAD = 60
"""Characters behind an equation in which a remainder or a question mark is looked for."""
_BARE = re.compile(r"[-−+$€£]?\s*[\d.,]*\d\s*%?")
"""A number alone, of which nothing has to be worked out."""
_MOST_DECIMALS = 6
_PUNCTUATION = (Kind.BREAK, Kind.LINE, Kind.BULLET, Kind.OPEN)


@dataclass(frozen=True)
class Asserted:
    """One equation of a text: characters [start, end), and whether it holds."""

    text: str
    start: int
    end: int
    truth: Truth
    why: Why
    left: Fraction | None = None
    right: Fraction | None = None
    sides: tuple[str, str] = ("", "")
    """Their texts."""

    @property
    def gives_number(self) -> bool:
        """Whether its right side is a number alone."""
        return bool(_BARE.fullmatch(self.sides[1]))

    @property
    def correction(self) -> str | None:
        """What is so instead, `4 × 387 is 1548`; None where a side has no value."""
        if self.left is None or self.right is None:
            return None
        told = [
            f"{text} is {_spelled(value)}"
            for text, value in zip(self.sides, (self.left, self.right), strict=True)
            if not _BARE.fullmatch(text)
        ]
        return " and ".join(told) or None


Given = Mapping[str, Fraction]
"""What letters stand for; any other letter is a variable that is not read."""
NOTHING: Given = MappingProxyType({})


def check_text(text: str, given: Given = NOTHING) -> list[Asserted]:
    """Every equation the text asserts, in order; a chain a = b = c asserts two."""
    if not may_relate(text):
        return []
    found: list[Asserted] = []
    for run in runs(_with_values(tokens(text), given)):
        found += _equations(run, text)
    return found


def _spelled(value: Fraction) -> str:
    """In decimals where few are enough, else as a fraction."""
    scaled = value * 10**_MOST_DECIMALS
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"


@lru_cache(maxsize=64)
def unknown_of(problem: str) -> Given:
    """What a problem asks for, where it states one linear equation in one letter.

    `Solve for k: 5*k + 106 = 361` gives {k: 51}: every equation in k that follows from it holds
    there. Nothing, where there are more letters, more equations, or another kind. Remembered, for
    the traces of a problem are read one after the other.
    """
    if not may_relate(problem):
        return NOTHING
    letters = {t.text for t in tokens(problem) if t.kind is Kind.UNKNOWN and _is_letter(t.text)}
    roots = {letter: root for letter in letters if (root := _root_of(problem, letter)) is not None}
    return MappingProxyType(roots) if len(roots) == 1 else NOTHING


_POINTS = (Fraction(10_007), Fraction(20_011), Fraction(50_021))
"""Values of an unknown at which an equation is read to see whether it is linear in it."""


def _root_of(problem: str, letter: str) -> Fraction | None:
    """Where the one equation in this letter holds; None unless it is linear and alone."""
    plain = check_text(problem)
    tried = [check_text(problem, {letter: x}) for x in _POINTS]
    gaps = [
        [e.left - e.right for e in at if e.left is not None and e.right is not None]
        for before, *at in zip(plain, *tried, strict=True)
        if before.left is None or before.right is None
    ]
    read = [gap for gap in gaps if len(gap) == len(_POINTS)]
    if len(read) != 1:
        return None
    (first, second, third), (x, y, z) = read[0], _POINTS
    slope = (second - first) / (y - x)
    if not slope or first + slope * (z - x) != third:
        return None
    return x - first / slope


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isalpha()


def _with_values(found: Iterable[Token], given: Given) -> list[Token]:
    """Letters with a value become a number in brackets, so that `26h` is a product."""
    read: list[Token] = []
    for token in found:
        value = given.get(token.text) if token.kind is Kind.UNKNOWN else None
        if value is None:
            read.append(token)
            continue
        read += [
            replace(token, kind=Kind.OPEN, text="("),
            replace(token, kind=Kind.NUMBER, value=value, spaced=False),
            replace(token, kind=Kind.CLOSE, text=")", spaced=False),
        ]
    return read


@dataclass(frozen=True)
class _Piece:
    """What stands between two relations, with its side where it can be read."""

    start: int
    end: int
    side: Side | None


def _equations(run: Run, text: str) -> list[Asserted]:
    pieces, relations = _pieces(run)
    after = text[pieces[-1].end : pieces[-1].end + _AHEAD].partition("\n")[0]
    found = []
    for left, right, relation in zip(pieces, pieces[1:], relations, strict=False):
        if left.start == left.end or right.start == right.end:
            continue
        is_last = right is pieces[-1]
        truth, why = judge(left.side, right.side, relation, after if is_last else "")
        known = [piece.side.value if piece.side else None for piece in (left, right)]
        said = text[left.start : left.end], text[right.start : right.end]
        whole = text[left.start : right.end]
        found.append(Asserted(whole, left.start, right.end, truth, why, known[0], known[1], said))
    return found


def _pieces(run: Run) -> tuple[list[_Piece], list[str]]:
    groups: list[list[Token]] = [[]]
    relations = []
    for token in run.tokens:
        if token.kind is Kind.RELATION:
            relations.append(token.text)
            groups.append([])
        else:
            groups[-1].append(token)
    pieces = []
    for number, group in enumerate(groups):
        is_first, is_last = number == 0, number == len(groups) - 1
        doubtful = is_last and _tail_is_doubtful(run.after)
        if is_last and group and group[-1].kind is Kind.OPERATOR:
            group, doubtful = group[:-1], True  # `= 8 - so …`
        if is_last and run.after is not None and run.after.kind is Kind.WORD:
            unit = replace(run.after, text=_first_word(run.after))
            group = [*group, unit]  # `= 8 pens in all`
        if is_first:
            side = _first_side(group, run.before, doubtful)
        else:
            side = read_side(group, doubtful=doubtful)
        said = [t for t in group if t is not run.after and t.end <= run.tokens[-1].end]
        start = said[0].start if said else run.tokens[0].start
        pieces.append(_Piece(start, said[-1].end if said else start, side))
    return pieces, relations


def _tail_is_doubtful(after: Token | None) -> bool:
    if after is None:
        return False
    if after.kind is Kind.WORD:
        return _first_word(after) in CHANGES_MEANING
    return after.kind in (Kind.NUMBER, Kind.OPEN, Kind.FRACTION, Kind.ROOT, Kind.UNKNOWN)


def _first_side(group: Sequence[Token], before: Token | None, doubtful: bool) -> Side | None:
    """The side that opens an equation; what stands before it may belong to it."""
    if not group:
        return None
    marker = before is not None and before.kind is Kind.BULLET and "-" in before.text
    # A bar that opens no absolute value parts the cells of a table.
    prose = before is not None and before.kind not in _PUNCTUATION and before.text != "|"
    if group[0].kind is Kind.OPERATOR and prose:
        attached = group[0].text == "-" and group[0].spaced
        if not attached or len(group) < 2 or group[1].spaced or _is_operand(before):
            return None
    if before is not None and prose:
        doubtful |= before.kind is not Kind.WORD or _last_word(before) in CHANGES_MEANING
    side = read_side(group, marker, doubtful)
    if side is None or not side.is_number:
        return side
    # `legs of 13 = 13 × 14`, `30, 27 = 270`: the number is the end of something else.
    alone = not prose and not (before is not None and before.text == ",")
    return side if alone and not side.units else None


def _is_operand(before: Token | None) -> bool:
    """Whether a sign after this token would be an operator."""
    return before is not None and before.kind in (Kind.NUMBER, Kind.CLOSE, Kind.PERCENT)


def _first_word(token: Token) -> str:
    return (token.text.lower().split() or [""])[0]


def _last_word(token: Token) -> str:
    return (token.text.lower().split() or [""])[-1]
