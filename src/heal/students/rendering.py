"""Training text: what the student reads, and which of it it is taught to write.

In: examples and the student's tokenizer. Out: token ids, split where the assistant's part begins.
The prompt is the student's chat template up to the opened assistant turn, exactly as when it is
evaluated; the assistant's text follows word for word, then the token that ends a turn. A template
never sees the assistant's text, so none can delete or reformat its `<think>` part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from heal.engines.local.templates import apply_template
from heal.engines.text import undated
from heal.errors import UserError
from heal.records import Drop, Example
from heal.stages.select import Seen

IGNORED = -100
"""Label of a token that bears no loss."""

_OPENER = "<think>"
_SENTINEL = "HEAL-ASSISTANT-TEXT"


class Refusal(StrEnum):
    """Why an example cannot be trained on."""

    TOO_LONG = "too_long"
    """Longer than the context; it is never truncated."""
    LOSSY = "lossy"
    """The student's tokenizer does not give the text back, or reads an end of turn within it."""


@dataclass(frozen=True)
class Rendered:
    """One example as token ids; the first `prompt_tokens` of them bear no loss."""

    ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def labels(self) -> list[int]:
        """`ids` with the prompt ignored, aligned (trainers shift labels themselves)."""
        return [IGNORED] * self.prompt_tokens + list(self.ids[self.prompt_tokens :])


class Renderer:
    """Renders examples for one student. Raises: UserError when it has no usable chat template."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self.end_id = end_of_turn(tokenizer)

    def render(self, example: Example) -> Rendered | Refusal:
        """The example as ids, or why not."""
        messages = [{"role": "system", "content": example.system}] if example.system else []
        messages.append({"role": "user", "content": example.user})
        prompt = _apply_template(self._tokenizer, messages, add_generation_prompt=True)
        text = _after_opener(prompt, example.assistant)
        prompt_ids, text_ids = self._encode(prompt), self._encode(text)
        rendered = Rendered((*prompt_ids, *text_ids, self.end_id), len(prompt_ids))
        if not self._teaches(rendered, text):
            return Refusal.LOSSY
        return Refusal.TOO_LONG if len(rendered.ids) > self._max_length else rendered

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _teaches(self, rendered: Rendered, text: str) -> bool:
        """Whether the labels spell exactly `text`, ended once, at its end."""
        *body, last = [label for label in rendered.labels if label != IGNORED]
        spelt = self._tokenizer.decode(
            body, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return last == self.end_id and self.end_id not in body and spelt == text


def reader(renderer: Renderer) -> Callable[[Example], Seen]:
    """What a student makes of examples, for `select`: their tokens, or why it refuses them."""

    def see(example: Example) -> Seen:
        found = renderer.render(example)
        if isinstance(found, Refusal):
            return Seen(None, Drop(found.value))
        return Seen(len(found.ids))

    return see


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a transformers folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def end_of_turn(tokenizer: Any) -> int:
    """The token the chat template ends an assistant turn with; else the tokenizer's own end.

    Raises: UserError when there is neither.
    """
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
    text = _apply_template(tokenizer, turn, add_generation_prompt=False)
    _, found, tail = text.rpartition(_SENTINEL)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = tokenizer.encode(tail, add_special_tokens=False) if found else []
    end = next((i for i in ends if i in special), tokenizer.eos_token_id)
    if end is None:
        raise UserError(
            "the student's tokenizer has no token that ends a turn",
            hint="set eos_token in its tokenizer_config.json",
        )
    return int(end)


def _apply_template(
    tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            "the student has no chat template",
            hint="choose an instruction-tuned student.model, or add chat_template.jinja to it",
        )
    try:
        return apply_template(
            tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            template=undated(tokenizer.get_chat_template()),
        )
    except ValueError as error:
        raise UserError(
            f"the student's chat template refuses the conversation: {error}",
            hint="if it knows no system turn: --set prompts.system=null",
        ) from None


def _after_opener(prompt: str, text: str) -> str:
    """The text without a `<think>` that the prompt has opened already: never two in a row."""
    _, opened, space = prompt.rpartition(_OPENER)
    if not opened or space.strip() or not text.startswith(_OPENER):
        return text
    return text.removeprefix(_OPENER).removeprefix(space)
