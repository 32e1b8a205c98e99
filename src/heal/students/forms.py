"""How a student writes its thinking, and what becomes of a teacher's.

In: a student's tokenizer and its chat template's end of prompt. Out: the text it is taught, with
exactly one closed pair of its own delimiters, or a refusal. docs/thinking.md has the table.
"""

from dataclasses import dataclass
from enum import StrEnum

from heal.method.thinking import CHANNELS, TAGS, Form, Thought, is_closed_by, opened_by, spelt


class Rule(StrEnum):
    """What a training row looks like, given whether the trace thinks and the student's form."""

    REWRITTEN = "one closed pair, in the student's own delimiters"
    CONTINUED = "the student's prompt opens the pair; the row goes on in it and closes it"
    AS_TEXT = "one closed pair of <think> tags, as plain text: the student has no tokens for it"
    REFUSED = "refused: the student's prompt has closed its thinking already"
    PLAIN = "the text word for word"
    OWN_BARE = "the answer, as the student's template writes one without thinking"
    CLOSED_AT_ONCE = "the student's prompt opens the pair; the row closes it at once, and answers"
    BEHIND = "the text word for word, behind the pair that the student's prompt has closed"


@dataclass(frozen=True)
class StudentForm:
    """A student's own way, as its tokenizer and its chat template have it."""

    form: Form | None
    """None: it knows no thinking."""
    opened: str = ""
    """What its prompt has opened, from the delimiter on."""
    closed: bool = False
    """Its prompt ends in a closed thinking section: thinking is switched off."""
    bare: str = ""
    """What its template writes before an answer without thinking."""

    def rule(self, thinks: bool) -> Rule:
        """What becomes of a trace."""
        if self.closed:
            return Rule.REFUSED if thinks else Rule.BEHIND
        if self.opened:
            return Rule.CONTINUED if thinks else Rule.CLOSED_AT_ONCE
        if thinks:
            return Rule.REWRITTEN if self.form else Rule.AS_TEXT
        return Rule.OWN_BARE if self.bare else Rule.PLAIN

    def taught(self, thought: Thought) -> str | None:
        """The text behind the student's prompt; None where it must be refused."""
        form, said = self.form or TAGS, f"{thought.thinking or ''}{thought.answer}"
        if any(mark in said for mark in form.marks):
            return None
        match self.rule(thought.thinking is not None):
            case Rule.REFUSED:
                return None
            case Rule.PLAIN | Rule.BEHIND:
                return thought.answer
            case Rule.OWN_BARE:
                return self.bare + thought.answer
            case _:
                return self._behind(spelt(thought.thinking or "", thought.answer, form))

    def describe(self) -> str:
        """In a few words."""
        if self.form is None:
            return "it knows no thinking"
        if self.closed:
            return f"{self.form.name}; its prompt closes the thinking: it is switched off"
        where = "its prompt opens the thinking" if self.opened else "it opens the thinking itself"
        return f"{self.form.name}; {where}"

    def _behind(self, text: str) -> str:
        """Without what the prompt has opened; its space may differ from the form's own."""
        if not self.opened:
            return text
        if text.startswith(self.opened):
            return text.removeprefix(self.opened)
        return text.removeprefix((self.form or TAGS).opens).lstrip("\n")


def student_form(form: Form | None, opening: str, answered: str) -> StudentForm:
    """A student's form from its template's own words.

    opening: what the template writes behind a user turn to open the assistant's; answered: what it
    writes there when the assistant's words follow.
    """
    known = form or TAGS
    closed = is_closed_by(opening, known)
    opened = "" if closed else opened_by(opening, known)
    # a template that mentions the tags only to drop them from earlier turns writes none here
    bare = answered.removeprefix(opening) if answered.startswith(opening) else ""
    if not any(mark in bare for mark in known.marks) or opened or closed:
        bare = ""
    if form is CHANNELS and not bare and not closed:
        bare = CHANNELS.bare
    return StudentForm(form if form or not (opened or closed) else TAGS, opened, closed, bare)
