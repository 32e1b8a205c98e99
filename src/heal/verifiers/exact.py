"""Exact answers: the same number, or the same text but for layout and the case of words.

`42`, `42.0`, `$42` and `\\boxed{42}` agree; `42 apples` and `42` do not, nor `0.33` and `1/3`, nor
`R/r` and `r/R`.
Multiple answers must stand in the same order. Decides in the caller's process: nothing can hang.
"""

from heal.method.final_answers import extract_answer, normalise, number, same_text
from heal.records import Problem, Verdict
from heal.verifiers.base import Finding


def read(text: str, problem: Problem) -> Finding:
    """Compare a trace's final answer with the gold answer."""
    answer = extract_answer(text)
    if answer is None:
        return Finding(Verdict.NO_ANSWER, detail="no final answer is stated")
    return compare_now(answer, problem.answer)


def compare_now(answer: str, gold: str) -> Finding:
    """Compare two answers."""
    kind = "text" if number(answer) is None or number(gold) is None else "number"
    if same_text(answer, gold):
        return Finding(Verdict.CORRECT, answer, f"same {kind}")
    return Finding(Verdict.WRONG, answer, f"different {kind}s")


def read_gold(problem: Problem) -> Finding:
    """Doubt a gold answer that is nothing once its layout is gone."""
    if not normalise(problem.answer):
        return Finding(Verdict.UNVERIFIABLE, detail="nothing but punctuation")
    return Finding(Verdict.CORRECT)
