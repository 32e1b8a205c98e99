"""Thinking: one form for what a model thought and what it answered then.

Models set their thinking apart in different ways: by tags, by channels, by tokens that decoding
drops. A trace here is `<think>`, its thinking, `</think>` and its answer, whatever its model
writes, and `FORMS` says how that is. Pure text: knows nothing of tokens, models or disk.
"""

from dataclasses import dataclass
from enum import StrEnum

OPEN, CLOSE = "<think>", "</think>"
"""The tags of the canonical form."""


@dataclass(frozen=True)
class Form:
    """How one kind of model sets its thinking apart."""

    name: str
    opens: str
    closes: str
    """What ends the thinking and begins the answer."""
    marks: tuple[str, ...]
    """Tokens of its vocabulary by which a model of this kind is known; its text holds none."""
    inside: str = ""
    """Space its makers write at either end of the thinking."""
    after: str = ""
    """Space before the answer."""
    bare: str = ""
    """What stands before an answer without thinking; canonically nothing."""


TAGS = Form("<think> tags", OPEN, CLOSE, (OPEN, CLOSE), inside="\n", after="\n\n")
BRACKETS = Form("[THINK] tokens", "[THINK]", "[/THINK]", ("[THINK]", "[/THINK]"))
CHANNELS = Form(
    "channels",
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    ("<|channel|>", "<|message|>"),
    bare="<|channel|>final<|message|>",
)
FORMS = (CHANNELS, BRACKETS, TAGS)
"""Any other tags are words of the answer."""


class Malformed(StrEnum):
    """Why a text is not thinking and an answer."""

    UNCLOSED = "its thinking never ends"
    SEVERAL = "it has more than one thinking section, or one inside its answer"


@dataclass(frozen=True)
class Thought:
    """A trace's two parts."""

    thinking: str | None
    """None: there was none, or nothing in it."""
    answer: str


def read_thought(text: str) -> Thought | Malformed:
    """Thinking and answer of a trace in canonical form.

    Without a tag all of it is the answer, word for word. A closing tag alone ends what the prompt
    has opened. Else there is one pair and the trace begins with it, or it is malformed.
    """
    if any(mark in text for form in FORMS if form is not TAGS for mark in form.marks):
        return Malformed.SEVERAL
    if OPEN not in text and CLOSE not in text:
        return Thought(None, text)
    before, closed, answer = text.partition(CLOSE)
    thinking = before.lstrip().removeprefix(OPEN)
    if OPEN in thinking or OPEN in answer or CLOSE in answer:
        return Malformed.SEVERAL
    if not closed:
        return Malformed.UNCLOSED
    return Thought(thinking.strip() or None, answer.lstrip())


def canonical(thought: Thought) -> str:
    """A trace's text in canonical form: one pair if it thought, none if it did not."""
    if thought.thinking is None:
        return thought.answer
    return spelt(thought.thinking, thought.answer, TAGS)


def spelt(thinking: str, answer: str, form: Form) -> str:
    """Thinking and answer as a model of this form writes them."""
    before = form.opens + form.inside + thinking
    return before + form.inside + form.closes + form.after + answer


def opened_by(prompt: str, form: Form = TAGS) -> str:
    """What a prompt's end has opened already, from the tag on; empty if nothing."""
    _, opened, space = prompt.rpartition(form.opens)
    return opened + space if opened and not space.strip() else ""


def is_closed_by(prompt: str, form: Form = TAGS) -> bool:
    """Whether a prompt's end has closed the thinking before it began: it is switched off."""
    return prompt.rstrip().endswith(form.bare or form.closes)
