"""Steps: a trace's tokens, cut at blank lines (docs/method.md §2).

In: the bytes of each token. Out: token indices, one past each step's end. Token ids are never
joined and tokenised again, so a step may end a few bytes late, where a token straddles the
boundary. Knows nothing of models; sees only bytes, so any script and half a character will do.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLANK_LINE = re.compile(rb"\n(?:[ \t\r]*\n)+")
SENTENCE_END = re.compile(
    rb"(?:[.!?][\"')\]*]*(?=\s)|\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f|\n)\s*"  # 。！？ in UTF-8
)
_FENCE_END = rb"(?m)^[ \t]*(?P<mark>%s{3,})[ \t\r]*$"
_CLOSER = {
    b"`": re.compile(_FENCE_END % b"`"),
    b"~": re.compile(_FENCE_END % b"~"),
    b"$": re.compile(rb"(?P<mark>\$\$)"),
}
_OPENER = re.compile(rb"(?m)^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*$|(?P<math>\$\$)")

Offsets = NDArray[np.int64]


def split_steps(
    token_bytes: Sequence[bytes],
    *,
    min_tokens: int,
    max_tokens: int,
) -> list[int]:
    """Token index one past each step's end; steps follow one another from token 0.

    Blank lines end a step and belong to it. A step under `min_tokens` joins the next one, a short
    last one the step before. A step over `max_tokens` is split at sentence or line ends where
    that leaves no short piece. Code fences and `$$…$$` are never split; unclosed, they are text.
    Empty tokens (end of sequence) close the last step. No tokens make no steps.
    """
    if not token_bytes:
        return []
    ends = np.cumsum([len(piece) for piece in token_bytes], dtype=np.int64)
    text = b"".join(token_bytes)
    closed = _protected(text)
    steps = _merge_short(_cuts(BLANK_LINE, text, closed, ends), len(token_bytes), min_tokens)
    sentences = _cuts(SENTENCE_END, text, closed, ends)
    return _split_long(steps, sentences, min_tokens, max_tokens)


def reasoning_span(token_bytes: Sequence[bytes], think_close: str | None) -> tuple[int, int]:
    """First token of the reasoning and one past its last.

    Without `think_close` that is everything. With `</think>`, say, it is what lies between
    `<think>`, if the trace opens with it (a chat template may have written it already), and the
    first `</think>`; without a closing tag the thinking never ended, and reaches to the end.
    """
    if not think_close:
        return 0, len(token_bytes)
    ends = np.cumsum([len(piece) for piece in token_bytes], dtype=np.int64)
    text = b"".join(token_bytes)
    close = think_close.strip().encode()
    opening = re.match(rb"\s*" + re.escape(close.replace(b"/", b"", 1)), text)
    start = int(np.searchsorted(ends, opening.end(), side="left")) + 1 if opening else 0
    at = text.find(close, opening.end() if opening else 0)
    end = len(token_bytes) if at < 0 else int(np.searchsorted(ends, at, side="right"))
    return min(start, end), end


def _protected(text: bytes) -> list[tuple[int, int]]:
    """Byte spans of closed code fences and display formulas, in order."""
    spans: list[tuple[int, int]] = []
    closers = {mark: _Closers(text, mark) for mark in (b"`", b"~", b"$")}
    at = 0
    while opener := _OPENER.search(text, at):
        mark = opener["fence"] or opener["math"]
        at = opener.end()
        end = closers[mark[:1]].next_end(at, len(mark))
        if end is not None:
            spans.append((opener.start(), end))
            at = end
    return spans


class _Closers:
    """Where a block of one kind may end; asked from left to right, each mark is passed once."""

    def __init__(self, text: bytes, mark: bytes) -> None:
        found = [(m.start(), m.end(), len(m["mark"])) for m in _CLOSER[mark].finditer(text)]
        self._found = found
        # the longest mark from each place on: an opener longer than that is never closed
        self._longest = [0] * (len(found) + 1)
        for i in range(len(found) - 1, -1, -1):
            self._longest[i] = max(found[i][2], self._longest[i + 1])
        self._next = 0

    def next_end(self, at: int, length: int) -> int | None:
        """End of the first mark of at least `length` that starts at `at` or later."""
        while self._next < len(self._found) and self._found[self._next][0] < at:
            self._next += 1
        if self._longest[self._next] < length:
            return None
        while self._found[self._next][2] < length:
            self._next += 1
        return self._found[self._next][1]


def _cuts(
    mark: re.Pattern[bytes], text: bytes, closed: Sequence[tuple[int, int]], ends: Offsets
) -> list[int]:
    """Token indices after each mark outside the closed spans; a straddling token goes before."""
    marks = np.array([m.end() for m in mark.finditer(text)], dtype=np.int64)
    marks = marks[marks < len(text)]
    if closed:
        firsts, lasts = np.array(closed, dtype=np.int64).T
        before = np.searchsorted(firsts, marks, side="left") - 1  # the span that opened last
        marks = marks[(before < 0) | (marks >= lasts[before])]
    after = np.searchsorted(ends, marks, side="left") + 1
    return [int(i) for i in np.unique(after) if i < len(ends)]


def _merge_short(cuts: Sequence[int], total: int, min_tokens: int) -> list[int]:
    steps: list[int] = []
    start = 0
    for cut in (*cuts, total):
        if cut - start >= min_tokens:
            steps.append(cut)
            start = cut
    if not steps:
        return [total]
    steps[-1] = total
    return steps


def _split_long(
    steps: Sequence[int], sentences: Sequence[int], min_tokens: int, max_tokens: int
) -> list[int]:
    """Each piece as long as `max_tokens` allows; longer only where no sentence ends in time."""
    pieces: list[int] = []
    start = 0
    for end in steps:
        while end - start > max_tokens:
            first = bisect_left(sentences, max(start + 1, start + min_tokens))
            beyond = bisect_right(sentences, end - min_tokens)
            if first >= beyond:
                break
            in_time = bisect_right(sentences, start + max_tokens, first, beyond) - 1
            start = sentences[max(first, in_time)]
            pieces.append(start)
        pieces.append(end)
        start = end
    return pieces
