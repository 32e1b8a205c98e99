"""The outline of an answer: brackets, separators and spelling of a row of tokens.

In and out: tokens. Knows brackets and connectives, and nothing of what stands between them.
"""

from collections.abc import Collection, Sequence
from itertools import accumulate

from heal.verifiers.equality.spelling import Token

OPENING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
_ENDS = frozenset(OPENING.values())
_FLOORS = {"\\lfloor": 1, "\\lceil": 1, "\\rfloor": -1, "\\rceil": -1}
_CONNECTIVES = {"and": "and", "or": "or", "\\land": "land", "\\lor": "lor"}


def tidied(tokens: Sequence[Token]) -> list[Token]:
    """Degrees and commas as one token each; no full stop at the end."""
    found: list[Token] = []
    for token in tokens:
        found.append(token)
        texts = [t.text for t in found[-4:]]
        if texts[-2:] == ["^", "\\circ"]:
            found[-2:] = [Token("command", "\\degree", found[-2].gap)]
        elif texts == ["^", "{", "\\circ", "}"]:
            found[-4:] = [Token("command", "\\degree", found[-4].gap)]
        elif texts[-3:] in (["{", "\\degree", "}"], ["{", ",", "}"]):
            found[-3:] = [found[-2]]
    while found and found[-1].text in (".", ",", ";"):
        found.pop()
    return found


def spelled(tokens: Sequence[Token]) -> str:
    """The tokens as one text: a gap only where running together would change them, no braces
    around a single sign."""
    text = ""
    for token in _without_needless_braces(tidied(tokens)):
        piece = token.text
        both_wordy = text[-1:].isalnum() and piece[0].isalnum()
        if both_wordy and (token.gap or not (text[-1].isdigit() or piece[0].isdigit())):
            text += " "
        text += piece
    return text


def _without_needless_braces(tokens: list[Token]) -> list[Token]:
    found: list[Token] = []
    for token in tokens:
        found.append(token)
        if (
            token.text == "}"
            and len(found) > 2
            and found[-3].text == "{"
            and len(found[-2].text) == 1
        ):
            found[-3:] = [Token(found[-2].kind, found[-2].text, found[-3].gap, found[-2].is_text)]
    return found


def split_at(tokens: list[Token], signs: Collection[str]) -> tuple[list[list[Token]], list[str]]:
    """Parts between any of some signs outside brackets, and the signs."""
    parts: list[list[Token]] = [[]]
    found: list[str] = []
    depth = 0
    for token in tokens:
        depth += depth_change(token)
        if depth == 0 and token.text in signs:
            found.append(token.text)
            parts.append([])
        else:
            parts[-1].append(token)
    return parts, found


def split(tokens: list[Token]) -> tuple[list[list[Token]], list[str]]:
    """Parts between commas, semicolons, line breaks, "and" and "or" outside brackets."""
    parts: list[list[Token]] = [[]]
    connectives: list[str] = []
    depth = 0
    for token in tokens:
        depth += depth_change(token)
        word = token.text.casefold() if token.kind in ("word", "letters") else token.text
        joint = _CONNECTIVES.get(word) or ("," if token.text in (",", ";", "\\\\") else None)
        if joint is None or depth > 0:
            parts[-1].append(token)
        elif not parts[-1] and connectives:
            # ", and" is one joint
            connectives[-1] = joint if connectives[-1] == "," else connectives[-1]
        else:
            connectives.append(joint)
            parts.append([])
    return parts, connectives


def depth_change(token: Token) -> int:
    """How much deeper into brackets a token leads."""
    if token.text in OPENING or token.text == "\\begin":
        return 1
    if token.text in _ENDS or token.text == "\\end":
        return -1
    return _FLOORS.get(token.text, 0)


def deepest(tokens: Sequence[Token]) -> int:
    """How many brackets are open at once, at most."""
    return max(accumulate(map(depth_change, tokens), initial=0))


def encloses(tokens: list[Token]) -> bool:
    """Whether the first bracket closes at the last token; (1, 2] closes too."""
    if len(tokens) < 2 or tokens[-1].text not in _ENDS:
        return False
    expected, closing = OPENING.get(tokens[0].text), tokens[-1].text
    if closing != expected and {expected, closing} != {")", "]"}:
        return False
    depth = 0
    for i, token in enumerate(tokens):
        depth += depth_change(token)
        if depth <= 0:
            return i == len(tokens) - 1
    return False
