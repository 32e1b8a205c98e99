"""Text to ids and back, and the exact bytes of each token.

In: a transformers tokenizer. Out: ids, text, bytes, and the ids that end an assistant turn. Bytes
are exact for byte-level BPE and for SentencePiece vocabularies with byte fallback; any other
vocabulary's tokens are taken literally. Thinking is read and written in canonical form, `<think>`
and `</think>`, whatever tokens the model has for it; a rendered prompt is the template's own text.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from heal.engines.local.delimiters import Delimiters
from heal.engines.local.templates import TemplateError, apply_template, remedy, require_words
from heal.engines.text import undated
from heal.errors import UserError

_SPACE = "\u2581"  # SentencePiece's visible space


class Tokens:
    """A tokenizer, as an engine needs it."""

    def __init__(self, tokenizer: Any, source: str, end_ids: Iterable[int]) -> None:
        self.tokenizer, self.source = tokenizer, source
        self.special = _special_ids(tokenizer)
        self.literal = _literal_tokens(tokenizer, self.special)
        self.byte_level = _is_byte_level(tokenizer)
        self.end_ids = frozenset(end_ids) | _turn_ends(tokenizer, self.special)
        self.delimiters = Delimiters(tokenizer, self.special)
        self._bytes: dict[int, bytes] = {}
        self._tried: set[bool] = set()

    def render(self, user: str, system: str | None) -> tuple[int, ...]:
        """Ids up to the opened assistant turn. Raises: UserError if the template refuses."""
        messages = [{"role": "user", "content": user}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        try:
            template = undated(self.tokenizer.get_chat_template())
            if (system is None) not in self._tried:
                require_words(self.tokenizer, template, system=system is not None)
                self._tried.add(system is None)
            text = apply_template(
                self.tokenizer, messages, add_generation_prompt=True, template=template
            )
        except ValueError as error:
            raise UserError(
                f"{self.source}: the chat template refused the conversation: {error}",
                hint=remedy(error),
            ) from None
        return self._ids(text)

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of bare text, thinking tags as the model's own."""
        return self._ids(self.delimiters.native(text))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(int(i) for i in self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens, but for those that stand for thinking tags."""
        parts, at = [], 0
        for start, end, words in self.delimiters.find(ids):
            parts += [self._text(ids[at:start]), words]
            at = end
        return "".join([*parts, self._text(ids[at:])])

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """Each id's bytes; joined, they are the text's UTF-8 wherever that is valid."""
        pieces = [self._piece(int(i)) for i in ids]
        for start, end, words in self.delimiters.find(ids):
            pieces[start:end] = [words.encode(), *[b""] * (end - start - 1)]
        if self.byte_level or not any(pieces):
            return pieces
        # Some SentencePiece decoders drop the very first space.
        first = next(index for index, piece in enumerate(pieces) if piece)
        if pieces[first].startswith(b" ") and not self.decode(ids).startswith(" "):
            pieces[first] = pieces[first][1:]
        return pieces

    def _piece(self, token: int) -> bytes:
        if token not in self._bytes:
            self._bytes[token] = self._computed(token)
        return self._bytes[token]

    def _computed(self, token: int) -> bytes:
        if token in self.special:
            return b""
        if token in self.literal:
            return self.literal[token].encode()
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None:  # padding rows of an embedding matrix have no token
            return b""
        if self.byte_level:
            table = byte_alphabet()
            return bytes(table[c] for c in name)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        return str(name).replace(_SPACE, " ").encode()


@cache
def byte_alphabet() -> dict[str, int]:
    """The visible character byte-level BPE writes for each byte (GPT-2's table), inverted."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(visible)]
    table = {chr(b): b for b in visible}
    table.update({chr(256 + n): b for n, b in enumerate(hidden)})
    return table


def fix_gguf_pre_tokenizer(tokenizer: Any, pre: str | None) -> None:
    """Give a GGUF's tokenizer the splits its merges were learned with, where transformers has none.

    transformers does not know `smollm` and falls back to GPT-2's splits, so that "\\n\\n5" becomes
    three tokens instead of two.
    """
    if pre != "smollm":
        return
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = {int(i) for i, token in added.items() if token.special}
    return frozenset(marked | {int(i) for i in tokenizer.all_special_ids})


def _literal_tokens(tokenizer: Any, special: frozenset[int]) -> dict[int, str]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {int(i): token.content for i, token in added.items() if int(i) not in special}


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)


def _turn_ends(tokenizer: Any, special: frozenset[int]) -> frozenset[int]:
    """The special token the chat template writes right after an assistant's words."""
    if not tokenizer.chat_template:
        return frozenset()
    words = "HEAL-END-OF-TURN"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": words}]
    try:
        text = apply_template(tokenizer, messages, add_generation_prompt=False)
    except TemplateError:  # a template may insist on other roles; the declared ends still hold
        return frozenset()
    tail = text.rpartition(words)[2]
    ids = tokenizer.encode(tail, add_special_tokens=False)
    return frozenset([i for i in ids if i in special][:1])
