r"""A user's own checker: `module:function`, called as function(trace text, gold answer).

One that takes a third argument, `row`, is also given the problem's whole row: `id`, `problem`,
`answer`, the columns carried along, and `verifier_data` (parsed where it is JSON), so that tests
need not stand in the answer column. It returns True or False, or a `Verdict` or its name. Anything
else, and any exception, is `UNVERIFIABLE` with the reason. It runs in a worker process under the
time limit, its output goes to standard error, and it must be deterministic: equal questions, rows
included, are asked once.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any

from heal.functions import allow_code, load_function
from heal.method.final_answers import extract_answer
from heal.records import Problem, Verdict
from heal.verifiers.base import Question
from heal.verifiers.worker import Judge

OPENER = "heal.verifiers.custom:open_judge"


def read(text: str, problem: Problem) -> Question:
    """Ask the function about the whole trace."""
    return Question(extract_answer(text), candidate=text, reference=json.dumps(row_of(problem)))


def read_gold(problem: Problem) -> Question:
    r"""Doubt a gold answer that the function refuses even inside a `\boxed{}`."""
    boxed = f"\\boxed{{{problem.answer}}}"
    return Question(None, candidate=boxed, reference=json.dumps(row_of(problem)))


def row_of(problem: Problem) -> dict[str, Any]:
    """What a checker is told of a problem."""
    row: dict[str, Any] = dict(problem.meta)
    row |= {"id": problem.id, "problem": problem.problem, "answer": problem.answer}
    if problem.verifier_data is not None:
        row["verifier_data"] = _parsed(problem.verifier_data)
    return row


def open_judge(spec: str, allowed: bool) -> Judge:
    """Load the function. Raises: UserError when there is none of that name, or it may not run.

    allowed: whether the user of the run has allowed code, which this process cannot know.
    """
    if allowed:
        allow_code()
    function = load_function(spec, "problems.verifier")
    asks_for_row = _asks_for_row(function)

    def judge(candidate: str | None, reference: str) -> tuple[str, str | None]:
        row = json.loads(reference)
        given = (candidate, row["answer"], row) if asks_for_row else (candidate, row["answer"])
        said = function(*given)
        if isinstance(said, bool):
            return Verdict.CORRECT if said else Verdict.WRONG, f"{spec} returned {said}"
        if isinstance(said, str) and said in set(Verdict):
            return Verdict(said), f"{spec} returned {str(said)!r}"
        return Verdict.UNVERIFIABLE, f"{spec} returned {said!r}; expected True, False or a Verdict"

    return judge


def _asks_for_row(function: Callable[..., Any]) -> bool:
    """Whether there is a third argument that must be given, or that is named `row`."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    if len(parameters) < 3:
        return False
    third = parameters[2]
    if third.kind not in (third.POSITIONAL_ONLY, third.POSITIONAL_OR_KEYWORD):
        return False
    return third.name == "row" or third.default is third.empty


def _parsed(data: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data
