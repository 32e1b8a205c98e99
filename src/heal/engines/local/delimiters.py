"""Where a model's ids set its thinking apart: read as `<think>` and `</think>`, and written back.

In: a tokenizer. Out: which ids of a sequence stand for a tag, and the model's own spelling of a
tag. Tokens of a form that stand elsewhere are spelt out, so that nothing vanishes with them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from heal.method.thinking import CLOSE, FORMS, OPEN, TAGS, Form


def form_of(tokenizer: Any) -> Form | None:
    """The form a tokenizer's own tokens or its chat template are made for; None: no thinking."""
    added = {token.content for token in added_tokens(tokenizer).values()}
    for form in FORMS:
        if added.issuperset(form.marks):
            return form
    template = tokenizer.chat_template
    written = " ".join(template.values()) if isinstance(template, dict) else str(template or "")
    return TAGS if CLOSE in written or OPEN in written else None


def added_tokens(tokenizer: Any) -> dict[int, Any]:
    """The tokens that were added to a vocabulary, by id."""
    found: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return found


class Delimiters:
    """A model's own delimiters. Empty where its text holds the canonical tags as it is."""

    def __init__(self, tokenizer: Any, special: frozenset[int]) -> None:
        form = form_of(tokenizer)
        ids = {t.content: int(i) for i, t in added_tokens(tokenizer).items()}
        marks = [ids[mark] for mark in form.marks if mark in ids] if form else []
        self.form = form
        self._native: dict[str, str] = {}
        self._runs: list[tuple[list[int], str]] = []
        self._names: dict[int, str] = {}
        if form is None or (form is TAGS and not special.intersection(marks)):
            return
        self._native = {OPEN: form.opens, CLOSE: form.closes}
        told = ((form.closes, CLOSE), (form.opens, OPEN), (form.bare, ""))
        self._runs = [(_encoded(tokenizer, words), tag) for words, tag in told if words]
        spelt = {i for run, _ in self._runs for i in run} & special
        self._names = {i: name for name, i in ids.items() if i in spelt}

    def __bool__(self) -> bool:
        return bool(self._runs)

    def native(self, text: str) -> str:
        """Canonical text in the model's own spelling."""
        for tag, words in self._native.items():
            text = text.replace(tag, words)
        return text

    def find(self, ids: Sequence[int]) -> Iterator[tuple[int, int, str]]:
        """(first, one past the last, what it says) of all ids that do not speak for themselves."""
        if not self._runs:
            return
        at, ids = 0, [int(i) for i in ids]
        while at < len(ids):
            for run, tag in self._runs:
                if ids[at : at + len(run)] == run:
                    yield at, at + len(run), tag
                    at += len(run)
                    break
            else:
                if ids[at] in self._names:
                    yield at, at + 1, self._names[ids[at]]
                at += 1


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]
