"""Two texts side by side, paragraph by paragraph.

In: a text before and after. Out: rows of both, with the words that changed. Paragraphs are matched
first, and words only within a pair that is alike, so that time grows with the text.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

_ALIKE = 0.5
"""Paragraphs that share fewer of their words are shown as one taken out and one put in."""
_MOST_WORDS = 400
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
        return [*head, *_replaced(old[same:], new[same:], in_pairs=False)]
    rows: list[Row] = []
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            rows += [Row(_whole(text, False), _whole(text, False)) for text in old[a:b]]
        else:
            rows += _replaced(old[a:b], new[c:d], in_pairs=True)
    return rows


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def _whole(text: str, is_changed: bool) -> tuple[Part, ...]:
    return (Part(text, is_changed),)


def _replaced(old: Sequence[str], new: Sequence[str], *, in_pairs: bool) -> Iterator[Row]:
    both = min(len(old), len(new))
    for before, after in zip(old[:both], new[:both], strict=True):
        yield (_within(before, after) if in_pairs else None) or Row(
            _whole(before, True), _whole(after, True)
        )
    yield from (Row(_whole(text, True), ()) for text in old[both:])
    yield from (Row((), _whole(text, True)) for text in new[both:])


def _within(before: str, after: str) -> Row | None:
    """The words that differ; None where little is alike, or there are too many."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    if len(old) > _MOST_WORDS or len(new) > _MOST_WORDS:
        return None
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return None
    left, right = list[Part](), list[Part]()
    for kind, a, b, c, d in matcher.get_opcodes():
        left += [Part("".join(old[a:b]), kind != "equal")] if a < b else []
        right += [Part("".join(new[c:d]), kind != "equal")] if c < d else []
    return Row(tuple(left), tuple(right))
