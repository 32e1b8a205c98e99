r"""A user's own checker: `module:function`, called as function(trace text, gold answer).

It returns True or False, or a `Verdict` or its name. Anything else, and any exception, is
`UNVERIFIABLE` with the reason. It runs in a worker process under the time limit, its output goes
to standard error, and it must be deterministic: equal questions are asked once.
"""

from heal.functions import load_function
from heal.method.final_answers import extract_answer
from heal.records import Problem, Verdict
from heal.verifiers.base import Question
from heal.verifiers.worker import Judge

OPENER = "heal.verifiers.custom:open_judge"


def read(text: str, problem: Problem) -> Question:
    """Ask the function about the whole trace."""
    return Question(extract_answer(text), candidate=text, reference=problem.answer)


def read_gold(problem: Problem) -> Question:
    r"""Doubt a gold answer that the function refuses even inside a `\boxed{}`."""
    return Question(None, candidate=f"\\boxed{{{problem.answer}}}", reference=problem.answer)


def open_judge(spec: str) -> Judge:
    """Load the function. Raises: UserError when there is none of that name."""
    function = load_function(spec, "problems.verifier")

    def judge(candidate: str | None, reference: str) -> tuple[str, str | None]:
        said = function(candidate, reference)
        if isinstance(said, bool):
            return Verdict.CORRECT if said else Verdict.WRONG, None
        if isinstance(said, str) and said in set(Verdict):
            return Verdict(said), None
        return Verdict.UNVERIFIABLE, f"{spec} returned {said!r}; expected True, False or a Verdict"

    return judge
