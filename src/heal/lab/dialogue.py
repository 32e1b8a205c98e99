"""Every string the lab's models were trained on, in one place.

User turns:
    solve         `{problem}`
    solve hinted  `{problem}\\nHint: {hint}`, where an answer hint is `the answer is {answer}`
    write-hint    `{problem}\\nAnswer: {answer}\\nSo far:\\n{prefix}\\n` and then
                  `Failed step: {failed_step}\\nWrite a hint.`
                  (prefix may be empty; failed_step is stripped)
    drill         `{problem}\\nRule: {idea}` (students only)
Probe: `The answer is \\boxed{` right after a step's closing blank line; closed by `}`.

A kept prefix stands right after the assistant header and ends with its blank line.
"""

from __future__ import annotations

STEP_BREAK = "\n\n"
PROBE = "The answer is \\boxed{"
PROBE_CLOSE = "}"

SOLVE = "{problem}"
SOLVE_HINTED = "{problem}\nHint: {hint}"
ANSWER_HINT = "the answer is {answer}"
WRITE_HINT = (
    "{problem}\nAnswer: {answer}\nSo far:\n{prefix}\nFailed step: {failed_step}\nWrite a hint."
)
DRILL = "{problem}\nRule: {idea}"
HINT_LEADS = ("Try this:", "Here is an idea:", "Think of this:")


def solve(problem: str, hint: str | None = None) -> str:
    """The user turn that asks for a trace."""
    return problem if hint is None else SOLVE_HINTED.format(problem=problem, hint=hint)


def answer_hint(answer: str) -> str:
    """The hint that gives the bare answer away."""
    return ANSWER_HINT.format(answer=answer)


def write_hint(problem: str, answer: str, prefix: str, failed_step: str) -> str:
    """The user turn that asks for a guided hint."""
    return WRITE_HINT.format(
        problem=problem, answer=answer, prefix=prefix, failed_step=failed_step.strip()
    )


def drill(problem: str, idea: str) -> str:
    """The user turn that names the idea to use."""
    return DRILL.format(problem=problem, idea=idea)
