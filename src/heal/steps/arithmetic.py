"""Arithmetic: which equations a text asserts, and which of them are false.

In: the text of a trace or a step. Out: each equation with its place and whether it holds. It looks
at equations alone: a wrong fact or a wrong set-up whose sums are right is not seen. Precision comes
first, so an equation that may be meant otherwise is `CANNOT_TELL`; the rules are in
`heal.steps.judge`, and `tests/cases/arithmetic_steps.jsonl` has a row for each. Takes time linear
in the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from heal.steps.expressions import Side, read_side
from heal.steps.judge import Truth, Why, judge
from heal.steps.lexer import Kind, Token, tokens
from heal.steps.runs import CHANGES_MEANING, Run, runs

RULES = 1
"""Edition of the rules: stored words are asked for again when it rises."""
_AHEAD = 60
"""Characters behind an equation in which a remainder or a question mark is looked for."""
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


def check_text(text: str) -> list[Asserted]:
    """Every equation the text asserts, in order; a chain a = b = c asserts two."""
    found: list[Asserted] = []
    for run in runs(tokens(text)):
        found += _equations(run, text)
    return found


def first_false(text: str) -> Asserted | None:
    """The first equation that does not hold."""
    return next((e for e in check_text(text) if e.truth is Truth.FALSE), None)


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
        values = (s.value if s else None for s in (left.side, right.side))
        where = slice(left.start, right.end)
        found.append(Asserted(text[where], left.start, right.end, truth, why, *values))
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
    prose = before is not None and before.kind not in _PUNCTUATION
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
