"""The half of an engine that needs no model: ids to text and back.

In: a tokenizer with a chat template. Out: what every engine over one shares, wherever its model is.
"""

from collections.abc import Sequence
from typing import Protocol


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
