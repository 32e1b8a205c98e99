"""The half of an engine that needs no model: ids to text and back.

In: a tokenizer with a chat template. Out: what every engine over one shares, wherever its model is.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

_TODAY = datetime(2025, 1, 1)
_DIRECTIVES = (
    "%A",
    "%a",
    "%B",
    "%b",
    "%d",
    "%e",
    "%H",
    "%I",
    "%j",
    "%M",
    "%m",
    "%p",
    "%S",
    "%Y",
    "%y",
)


def undated(template: str) -> str:
    """A chat template that is told one day for ever when it asks for today's date.

    Some write it into the system turn. A prompt that changed at midnight would be another prompt:
    everything drawn before would be owed again, and scored under words it never saw. transformers
    offers no such setting, so a macro stands before its function of that name.
    """
    if "strftime_now" not in template:
        return template
    told = "".join(f" | replace('{d}', '{_TODAY.strftime(d)}')" for d in _DIRECTIVES)
    macro = (
        "{% macro strftime_now(form) -%}{{ form | replace('%-', '%')" + told + " }}{%- endmacro %}"
    )
    return macro + template


class Text(Protocol):
    """The part of an engine that needs no model."""

    def render(self, user: str, system: str | None) -> tuple[int, ...]:
        """Ids up to the opened assistant turn."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of bare text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        ...

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """Each id's bytes."""
        ...


class Speaker:
    """An engine whose text goes through `tokens`."""

    tokens: Text

    def render(self, user: str, *, system: str | None = None) -> tuple[int, ...]:
        """Ids of a conversation up to the opened assistant turn."""
        return self.tokens.render(user, system)

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of bare text."""
        return self.tokens.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.tokens.decode(ids)

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """Each id's bytes."""
        return self.tokens.bytes_of(ids)
