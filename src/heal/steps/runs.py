"""Runs: the stretches of a text that an equation can be, between words and punctuation.

In: a text's tokens. Out: runs that hold a relation, with what stands on either side of each.
Decides which words are units, and which brackets hold no expression. Reads no values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from heal.steps.lexer import Kind, Token

MAX_UNIT_WORDS = 5
"""More words between a number and an operator are a sentence, not a unit."""

CHANGES_MEANING = frozenset(
    {
        "plus", "minus", "times", "multiplied", "divided", "by", "over", "of", "twice", "thrice",
        "half", "double", "triple", "square", "squared", "cube", "cubed", "root", "sum",
        "difference", "product", "quotient", "less", "more", "than", "mod", "modulo", "remainder",
        "negative", "third", "thirds", "quarter", "quarters", "dozen", "dozens", "hundred",
        "hundreds", "thousand", "thousands", "million", "millions", "billion", "billions", "tens",
        "ones", "pair", "pairs", "percent", "step", "day", "week", "month", "year", "part",
        "question", "case", "number", "no", "option", "example", "equation", "line", "figure",
        "not", "if", "between", "from", "let", "try", "suppose", "assume", "guess", "when",
    }
)  # fmt: skip
"""Words that change what the number beside them says."""


@dataclass(frozen=True)
class Run:
    """Tokens that no break parts, and what stands on either side of them."""

    tokens: list[Token]
    before: Token | None
    after: Token | None


def runs(found: Sequence[Token]) -> Iterator[Run]:
    """Runs that hold a relation; the rest of the text asserts nothing."""
    marked = _without_prose(found)
    run: list[Token] = []
    before: Token | None = None
    for token, is_inside in marked:
        if is_inside and not (run and _parts(run[-1], token)):
            run.append(token)
            continue
        if any(t.kind is Kind.RELATION for t in run):
            yield Run(run, before, token)
        if is_inside:
            before, run = run[-1], [token]
        else:
            before, run = token, []
    if any(t.kind is Kind.RELATION for t in run):
        yield Run(run, before, None)


def _parts(last: Token, token: Token) -> bool:
    """Whether an expression cannot go on from `last` to `token`, as in `5 3` or `3 ½`."""
    ends = last.kind in (Kind.NUMBER, Kind.CLOSE, Kind.PERCENT, Kind.WORD)
    if token.kind is Kind.OPEN:
        return ends and token.spaced and last.kind is not Kind.CLOSE
    return ends and token.kind in (Kind.NUMBER, Kind.FRACTION, Kind.ROOT)


def _without_prose(found: Sequence[Token]) -> list[tuple[Token, bool]]:
    """Each token, and whether it can be part of an expression.

    Words count as units where they follow an operand and an operator, relation or bracket follows
    them. A bracket with a relation, a break or prose in it is punctuation.
    """
    inside = [t.kind not in (Kind.BREAK, Kind.LINE, Kind.BULLET) for t in found]
    found = list(found)
    at = 0
    while at < len(found):
        end = _words_end(found, at)
        if end == at:
            at += 1
            continue
        if _is_of(found, at, end):
            found[at] = Token(Kind.OPERATOR, "*", found[at].start, found[at].end, True)
        elif not _is_unit(found, at, end):
            inside[at:end] = [False] * (end - at)
        else:
            found[at:end] = [replace(t, kind=Kind.WORD) for t in found[at:end]]
        at = end
    _unbracket(found, inside)
    return list(zip(found, inside, strict=True))


def _words_end(found: Sequence[Token], at: int) -> int:
    """One past the words that begin here; `dollars/hour` and `/hour` are words."""
    end = at
    while end < len(found):
        slash = found[end].kind is Kind.OPERATOR and found[end].text == "/"
        if slash and end + 1 < len(found) and found[end + 1].kind is Kind.WORD:
            end += 2
        elif found[end].kind is Kind.WORD:
            end += 1
        else:
            break
    return end


def _is_unit(found: Sequence[Token], at: int, end: int) -> bool:
    operand = at > 0 and found[at - 1].kind in (Kind.NUMBER, Kind.CLOSE, Kind.PERCENT)
    if not operand or end == len(found) or end - at > MAX_UNIT_WORDS:
        return False
    return found[end].kind in (Kind.OPERATOR, Kind.RELATION, Kind.CLOSE)


def _is_of(found: Sequence[Token], at: int, end: int) -> bool:
    """`20% of 50`, `1/2 of 10`."""
    if end - at != 1 or found[at].text != "of" or at < 1 or end == len(found):
        return False
    share = found[at - 1].kind is Kind.PERCENT or (
        at > 2 and found[at - 1].kind is Kind.NUMBER and found[at - 2].text == "/"
    )
    return share and found[end].kind in (Kind.NUMBER, Kind.OPEN)


def _unbracket(found: Sequence[Token], inside: list[bool]) -> None:
    """Brackets without a partner in their own expression become punctuation."""
    opened: list[int] = []
    for at, token in enumerate(found):
        if token.kind is Kind.RELATION or not inside[at]:
            for earlier in opened:
                inside[earlier] = False
            opened.clear()
        elif token.kind is Kind.OPEN:
            opened.append(at)
        elif token.kind is Kind.CLOSE:
            if opened:
                opened.pop()
            else:
                inside[at] = False
    for earlier in opened:
        inside[earlier] = False
