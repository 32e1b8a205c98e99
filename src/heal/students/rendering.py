"""Training text: what the student reads, and which of it it is taught to write.

In: examples and the student's tokenizer. Out: token ids, split where the assistant's part begins.
The prompt is the student's chat template up to the opened assistant turn, exactly as when it is
evaluated; the assistant's text follows word for word, its thinking in the student's own delimiters
(`forms`), then the token that ends a turn. A template never sees the assistant's text, so none can
delete or reformat its thinking.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from heal.engines import read_tokenizer as opened_tokenizer
from heal.engines import resolve_model
from heal.engines.local.delimiters import form_of
from heal.engines.local.loading import Declared, declared_of
from heal.engines.local.templates import apply_template, remedy, require_words
from heal.engines.text import undated
from heal.errors import UserError
from heal.method.thinking import Malformed, read_thought
from heal.records import Drop, Example
from heal.stages.candidates import Seen
from heal.students.forms import StudentForm, student_form
from heal.wording import plural

IGNORED = -100
"""Label of a token that bears no loss."""

_ASKED, _SENTINEL = "HEAL-USER-TEXT", "HEAL-ASSISTANT-TEXT"


class Refusal(StrEnum):
    """Why an example cannot be trained on."""

    TOO_LONG = "too_long"
    """Longer than the context; it is never truncated."""
    LOSSY = "lossy"
    """The student's tokenizer does not give the text back, or reads its own signs (an end of turn,
    say) within it. Unicode's composed spelling counts as the text: some tokenizers write no other.
    """
    THINKING = "thinking"
    """Its thinking is not one closed section, or the student's prompt has closed it already."""


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
    """Renders examples for one student.

    rows: rows of the student's embedding; None where nobody knows. Raises: UserError when the
    student cannot be taught: no usable chat template, no end, tokens without a row.
    """

    def __init__(self, tokenizer: Any, max_length: int, rows: int | None = None) -> None:
        self.tokenizer = tokenizer
        self._max_length, self._rows = max_length, rows
        self.end_id = end_of_turn(tokenizer)
        self._special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self.form = _form(tokenizer)
        _require_pad(tokenizer)
        self._require_rows()

    def render(self, example: Example) -> Rendered | Refusal:
        """The example as ids, or why not."""
        thought = read_thought(example.assistant)
        if isinstance(thought, Malformed):
            return Refusal.THINKING
        text = self.form.taught(thought)
        if text is None:
            return Refusal.THINKING
        messages = [{"role": "system", "content": example.system}] if example.system else []
        messages.append({"role": "user", "content": example.user})
        prompt = _apply_template(self.tokenizer, messages, add_generation_prompt=True)
        prompt_ids, text_ids = self.ids_of(prompt), self.ids_of(text)
        rendered = Rendered((*prompt_ids, *text_ids, self.end_id), len(prompt_ids))
        words = f"{thought.thinking or ''}{thought.answer}"
        if self._has_signs(words) or not self._teaches(rendered, text):
            return Refusal.LOSSY
        return Refusal.TOO_LONG if len(rendered.ids) > self._max_length else rendered

    def ids_of(self, text: str) -> list[int]:
        """Ids of bare text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _has_signs(self, words: str) -> bool:
        """Whether the student would read a control token where the teacher wrote words."""
        return not self._special.isdisjoint(self.ids_of(words))

    def _teaches(self, rendered: Rendered, text: str) -> bool:
        """Whether the labels spell exactly `text`, ended once, at its end, with a row for each."""
        *body, last = [label for label in rendered.labels if label != IGNORED]
        spelt = self.tokenizer.decode(
            body, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        known = self._rows is None or max(rendered.ids) < self._rows
        whole = spelt == text or _composed(spelt) == _composed(text)
        return known and last == self.end_id and self.end_id not in body and whole

    def _require_rows(self) -> None:
        """Tokens that were added to a tokenizer alone have no weights. Raises: UserError."""
        if self._rows is None:
            return
        turn = [{"role": "user", "content": "?"}]
        prompt = _apply_template(self.tokenizer, turn, add_generation_prompt=True)
        form = self.form.form
        delimiters = self.ids_of(form.opens + form.closes) if form else []
        used = {*self.ids_of(prompt), *delimiters, self.end_id}
        beyond = sorted(i for i in used if i >= self._rows)
        if beyond:
            names = ", ".join(self.tokenizer.convert_ids_to_tokens(beyond[:3]))
            raise UserError(
                f"the student's embedding has {plural(self._rows, 'row')}, and none for {names}, "
                "which its chat template writes",
                hint="save the model after model.resize_token_embeddings(len(tokenizer))",
            )


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _form(tokenizer: Any) -> StudentForm:
    require = undated(_template(tokenizer))
    try:
        require_words(tokenizer, require, system=False)
    except ValueError as error:
        raise _refused(error) from None
    asked = [{"role": "user", "content": _ASKED}]
    answered = [*asked, {"role": "assistant", "content": _SENTINEL}]
    opening = _apply_template(tokenizer, asked, add_generation_prompt=True)
    whole = _apply_template(tokenizer, answered, add_generation_prompt=False)
    return student_form(
        form_of(tokenizer),
        opening.rpartition(_ASKED)[2],
        whole.rpartition(_SENTINEL)[0].rpartition(_ASKED)[2],
    )


def _require_pad(tokenizer: Any) -> None:
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise UserError(
            "the student's tokenizer has neither a token to pad with nor one that ends a text",
            hint="set eos_token in its tokenizer_config.json",
        )


def reader(renderer: Renderer) -> Callable[[Example], Seen]:
    """What a student makes of examples, for `select`: their tokens, or why it refuses them."""

    def see(example: Example) -> Seen:
        found = renderer.render(example)
        if isinstance(found, Refusal):
            return Seen(None, Drop(found.value))
        return Seen(len(found.ids))

    return see


def open_renderer(model: str, max_length: int) -> Renderer:
    """Renders for the student a recipe names. Raises: UserError when it cannot be taught."""
    path = resolve_model(model)
    declared = declared_of(path)
    renderer = Renderer(opened_tokenizer(path), max_length, declared.rows)
    require_parity(renderer, declared)
    return renderer


def require_parity(renderer: Renderer, declared: Declared) -> None:
    """Whether serving the student would stop before its answer. Raises: UserError."""
    form = renderer.form.form
    within = renderer.ids_of(form.opens + form.closes) if form else []
    early = sorted(declared.ends.intersection(within))
    if early:
        name = renderer.tokenizer.convert_ids_to_tokens(early[0])
        raise UserError(
            f"generation of the student stops at {name}, which stands between its thinking and "
            "its answer",
            hint="take it out of eos_token_id in its generation_config.json",
        )


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


def _template(tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise UserError(
            "the student has no chat template",
            hint="choose an instruction-tuned student.model, or add chat_template.jinja to it",
        )
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise _refused(error) from None


def _apply_template(
    tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    try:
        return apply_template(
            tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            template=undated(_template(tokenizer)),
        )
    except ValueError as error:
        raise _refused(error) from None


def _refused(error: ValueError) -> UserError:
    words = f"the student's chat template refuses the conversation: {error}"
    return UserError(words, hint=remedy(error))
