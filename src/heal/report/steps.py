"""A trace's text, step by step, without its tokenizer.

In: the text and where its steps end, counted in tokens. Out: the text of each step. Blank lines
are where steps end, so they are matched to the token counts by length; where a step was split
inside a paragraph, sentence and line ends serve. The joined pieces are always the whole text.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_BLANK = re.compile(r"\n(?:[ \t\r]*\n)+")
_SOFT = re.compile(r"(?:[.!?。！？]\s+|\n\s*)")

_MAX_PLACES = 20_000
"""Where a text without any line or sentence may be split, at most."""
_MOST_PAIRS = 4_000_000
_NEIGHBOURS = 16


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
    """One mark per share, in order, with the least squared distance overall.

    Where that would compare more than `_MOST_PAIRS`, each share looks only at the `_NEIGHBOURS`
    marks around its own, so that time and memory grow with the text and not with its square.
    """
    if not shares or len(marks) < len(shares):
        return list(marks)
    at = np.asarray(marks, np.float64) / length
    firsts, width = _windows(at, np.asarray(shares, np.float64))
    back: list[NDArray[np.int32]] = []
    reach = np.zeros(0)  # least cost with the latest share's mark at or before each place
    before = 0
    for number, (first, share) in enumerate(zip(firsts, shares, strict=True)):
        places = np.arange(first, first + width)
        # the mark before must be an earlier one
        earlier = places - 1 - before
        prior = (
            np.where(earlier < 0, np.inf, reach[np.minimum(earlier, width - 1)]) if number else 0
        )
        cost = prior + (at[places] - share) ** 2
        reach = np.minimum.accumulate(cost)
        holds = np.where(cost == reach, places, first).astype(np.int32)
        back.append(np.maximum.accumulate(holds))
        before = first
    last = len(marks) - 1
    chosen = []
    for first, holder in zip(firsts[::-1], reversed(back), strict=True):
        last = int(holder[min(last - first, width - 1)])
        chosen.append(marks[last])
        last -= 1
    return chosen[::-1]


def _windows(at: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[list[int], int]:
    """First mark that each share looks at, and how many it looks at."""
    n, k = len(at), len(shares)
    if n * k <= _MOST_PAIRS:
        return [0] * k, n
    width = min(n, 2 * _NEIGHBOURS + 1)
    order = np.arange(k)
    # the nearest marks, moved apart so that no two shares have the same: one choice always exists
    nearest = np.maximum.accumulate(np.searchsorted(at, shares) - order) + order
    centres = np.minimum(nearest, n - k + order)
    return [int(i) for i in np.clip(centres - _NEIGHBOURS, 0, n - width)], width
