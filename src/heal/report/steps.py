"""A trace's text, step by step, without its tokenizer.

In: the text and where its steps end, counted in tokens. Out: the text of each step. Blank lines
are where steps end, so they are matched to the token counts by length; where a step was split
inside a paragraph, sentence and line ends serve. The joined pieces are always the whole text.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

_BLANK = re.compile(r"\n(?:[ \t\r]*\n)+")
_SOFT = re.compile(r"(?:[.!?。！？]\s+|\n\s*)")

_MAX_PLACES = 20_000
"""Where a text without any line or sentence may be split, at most."""


def step_texts(text: str, step_ends: Sequence[int], tokens: int) -> list[str]:
    """Text of each step, and of what follows the last one where `tokens` reaches further.

    Exact where the steps are the paragraphs; otherwise the boundaries whose share of the text
    comes closest to the steps' share of the tokens.
    """
    if not step_ends:
        return [text]
    inner = [end for end in step_ends[:-1] if 0 < end < tokens]
    # an end-of-sequence token or two after the last step leave no text behind them
    tail = [step_ends[-1]] if tokens - step_ends[-1] > 2 else []
    shares = [end / max(tokens, 1) for end in (*inner, *tail)]
    cuts = _choose(_boundaries(text, len(shares)), shares, len(text))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    return pieces + [""] * (len(shares) + 1 - len(pieces))


def _boundaries(text: str, needed: int) -> list[int]:
    """Character positions where a step may end: paragraphs, then sentences, then anywhere."""
    blank = {m.end() for m in _BLANK.finditer(text)}
    soft = blank | {m.end() for m in _SOFT.finditer(text)}
    anywhere = range(1, len(text), max(1, len(text) // _MAX_PLACES))
    for marks in (blank, soft, set(anywhere)):
        inside = sorted(m for m in marks if 0 < m < len(text))
        if len(inside) >= needed:
            return inside
    return []


def _choose(marks: Sequence[int], shares: Sequence[float], length: int) -> list[int]:
    """One mark per share, in order, with the least squared distance overall."""
    if not shares or len(marks) < len(shares):
        return list(marks)
    at = np.asarray(marks, np.float64) / length
    best = np.zeros(len(marks))
    back: list[np.ndarray[tuple[int], np.dtype[np.intp]]] = []
    for number, share in enumerate(shares):
        cost = best + (at - share) ** 2
        cost[:number] = np.inf
        # the mark before must be an earlier one: the best so far, one place on
        reach = np.minimum.accumulate(cost)
        holds = np.where(cost == reach, np.arange(len(marks)), 0)
        back.append(np.maximum.accumulate(holds))
        best = np.concatenate([[np.inf], reach[:-1]])
    last = len(marks) - 1
    chosen = []
    for holder in reversed(back):
        last = int(holder[last])
        chosen.append(marks[last])
        last -= 1
    return chosen[::-1]
