"""Every string a model is shown, and the version that is part of each content key.

Templates use `{name}` placeholders; a config may override any of them under `prompts`, because a
small model needs the words it was trained on. Filling a template never interprets braces that
come from a problem or an answer.
"""

import re

from pydantic import BaseModel, ConfigDict

VERSION = 1

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

SOLVE = (
    "{problem}\n\nReason step by step, with a blank line between steps, and put your final answer "
    "within \\boxed{}."
)
SOLVE_HINTED = (
    "{problem}\n\nReason step by step, with a blank line between steps, and put your final answer "
    "within \\boxed{}.\n\nHint: {hint}"
)
ANSWER_HINT = "The final answer is {answer}."
WRITE_HINT = (
    "A student is solving a problem and has just gone wrong.\n\nProblem:\n{problem}\n\n"
    "Correct final answer (for your eyes only): {answer}\n\nThe work so far:\n{prefix}\n\n"
    "The step that went wrong:\n{failed_step}\n\n"
    "Write a hint of one to three sentences that names the missing idea or the next sub-goal. "
    "Do not state the final answer and do not give computed values."
)
WRITE_PLAN = (
    "{problem}\n\nThe work so far:\n{prefix}\n\n"
    "List the steps that are still needed to solve the problem, in order, one short line each. "
    "Say what each step works out and from what. Compute nothing and state no result."
)
WRITE_DIAGNOSIS = (
    "A student's solution has just gone wrong.\n\nProblem:\n{problem}\n\n"
    "Correct final answer (for your eyes only): {answer}\n\nThe work so far:\n{prefix}\n\n"
    "The step that went wrong:\n{failed_step}\n\n"
    "Say in one or two sentences what is wrong in that step and what has to be done instead. "
    "Do not state the final answer."
)
CHECKER_HINT = "An earlier attempt went wrong where it said: {said}. {truth}"
PROBE = "The final answer is \\boxed{"
PROBE_CLOSE = "}"


class Prompts(BaseModel):
    """The templates of one run. Placeholders of each are named beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    solve: str = SOLVE
    """`{problem}`"""
    solve_hinted: str = SOLVE_HINTED
    """`{problem}` `{hint}`"""
    answer_hint: str = ANSWER_HINT
    """`{answer}`: the text of an `answer` hint."""
    write_hint: str = WRITE_HINT
    """`{problem}` `{answer}` `{prefix}` `{failed_step}`: asks the teacher for a guided hint."""
    write_plan: str = WRITE_PLAN
    """`{problem}` `{prefix}`: asks the teacher for a `plan` hint."""
    write_diagnosis: str = WRITE_DIAGNOSIS
    """`{problem}` `{answer}` `{prefix}` `{failed_step}`: asks for a `diagnosis` hint."""
    checker_hint: str = CHECKER_HINT
    """`{said}` `{truth}`: the text of a `checker` hint."""
    probe: str = PROBE
    """Opens the final answer, placed after a step; PURE's U is the answer's NLL behind it."""
    probe_close: str = PROBE_CLOSE
    """Closes the answer, so that `1` cannot pass for the start of `17`."""
    think_close: str | None = None
    """Closes a thinking section before the probe (`</think>` for think-models); None: there is
    none, and the whole trace is reasoning."""
    system: str | None = None
    """System message of every conversation; None sends none."""


def fill(template: str, **values: str) -> str:
    """Replace `{name}` by its value, in one pass; braces without a known name stay as they are."""
    return _PLACEHOLDER.sub(lambda m: values.get(m[1], m[0]), template)
