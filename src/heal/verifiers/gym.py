"""reasoning-gym's own scoring, by task; only a full score is correct.

In: the final answer and the task's entry, which the problem carries as JSON in `verifier_data`.
JSON turns tuples into lists, which the tasks `arc_agi` and `rearc` do not score: `preflight`
counts such entries. Runs in a worker process.
"""

import json
from typing import Any

from heal.errors import UserError
from heal.method.final_answers import extract_answer
from heal.records import Problem, Verdict
from heal.verifiers.base import Finding, Question
from heal.verifiers.worker import Judge

OPENER = "heal.verifiers.gym:open_judge"

_FULL_SCORE = 1.0 - 1e-9


def read(text: str, problem: Problem) -> Finding | Question:
    """Ask the task about a trace's final answer."""
    answer = extract_answer(text)
    if answer is None:
        return Finding(Verdict.NO_ANSWER, detail="no final answer is stated")
    if problem.verifier_data is None:
        return Finding(Verdict.UNVERIFIABLE, answer, "the problem carries no reasoning-gym entry")
    return Question(answer, candidate=answer, reference=problem.verifier_data)


def read_gold(problem: Problem) -> Finding | Question:
    """Doubt an entry whose own answer does not score fully."""
    if problem.verifier_data is None:
        detail = "the problem carries no reasoning-gym entry"
        return Finding(Verdict.UNVERIFIABLE, detail=detail)
    return Question(None, candidate=None, reference=problem.verifier_data)


def open_judge() -> Judge:
    """Import reasoning-gym and return the judge. Raises: UserError when it is not installed."""
    try:
        from reasoning_gym import get_score_answer_fn
    except ImportError:
        raise UserError(
            "problems.verifier: gym needs reasoning-gym, which is not installed",
            hint="pip install reasoning-gym",
        ) from None

    def judge(candidate: str | None, reference: str) -> tuple[str, str | None]:
        entry: dict[str, Any] = json.loads(reference)
        answer = entry["answer"] if candidate is None else candidate
        score = float(get_score_answer_fn(entry["metadata"]["source_dataset"])(answer, entry))
        if score >= _FULL_SCORE:
            return Verdict.CORRECT, f"score {score:g}"
        detail = f"score {score:g}" if candidate is not None else f"scores itself {score:g}"
        return Verdict.WRONG, detail

    return judge
