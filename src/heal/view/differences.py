"""Two texts side by side, paragraph by paragraph.

In: a text before and after. Out: rows of both, with the words that changed. Paragraphs are matched
first, and words only within a pair that is alike, up to a limit: of very long texts the rest is
compared by whole paragraphs.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

_ALIKE = 0.5
"""Paragraphs that share fewer of their words are shown as one taken out and one put in."""
_MOST_PAIRS = 400_000
"""Of words, compared in all."""
_MOST_PARAGRAPHS = 3_000
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


class Part(NamedTuple):
    """Some words; whether the other side lacks them."""

    text: str
    is_changed: bool


class Row(NamedTuple):
    """A paragraph of each side; an empty side has none there."""

    before: tuple[Part, ...]
    after: tuple[Part, ...]

    @property
    def is_equal(self) -> bool:
        """Whether both sides read alike."""
        return self.before == self.after


def side_by_side(before: str, after: str) -> list[Row]:
    """Both texts in rows; joined, each side's paragraphs are the whole text."""
    old, new = _paragraphs(before), _paragraphs(after)
    if len(old) + len(new) > _MOST_PARAGRAPHS:
        same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
        head = [Row(_whole(text, False), _whole(text, False)) for text in old[:same]]
        return [*head, *_replaced(old[same:], new[same:], _Pairs(0))]
    rows, pairs = list[Row](), _Pairs(_MOST_PAIRS)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            rows += [Row(_whole(text, False), _whole(text, False)) for text in old[a:b]]
        else:
            rows += _replaced(old[a:b], new[c:d], pairs)
    return rows


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def _whole(text: str, is_changed: bool) -> tuple[Part, ...]:
    return (Part(text, is_changed),)


class _Pairs:
    """How many pairs of words may still be compared."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, pairs: int) -> bool:
        """Whether so many may."""
        if pairs > self._left:
            return False
        self._left -= pairs
        return True


def _replaced(old: Sequence[str], new: Sequence[str], pairs: _Pairs) -> Iterator[Row]:
    both = min(len(old), len(new))
    for before, after in zip(old[:both], new[:both], strict=True):
        whole = Row(_whole(before, True), _whole(after, True))
        yield _within(before, after, pairs) or whole
    yield from (Row(_whole(text, True), ()) for text in old[both:])
    yield from (Row((), _whole(text, True)) for text in new[both:])


def _within(before: str, after: str, pairs: _Pairs) -> Row | None:
    """The words that differ; None where little is alike, or there are too many."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    # the bound is cheap, and most paragraphs that are not alike fail it
    if matcher.quick_ratio() < _ALIKE or not pairs.take(len(old) * len(new)):
        return None
    if matcher.ratio() < _ALIKE:
        return None
    left, right = list[Part](), list[Part]()
    for kind, a, b, c, d in matcher.get_opcodes():
        left += [Part("".join(old[a:b]), kind != "equal")] if a < b else []
        right += [Part("".join(new[c:d]), kind != "equal")] if c < d else []
    return Row(tuple(left), tuple(right))
