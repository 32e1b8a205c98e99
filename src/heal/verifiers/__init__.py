"""Verifiers: five verdicts on a trace, never two.

`open_verifier` is the way in, `verify_answer` that of a single answer. Importing this package
loads neither math-verify nor reasoning-gym: those live in the worker processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from heal.errors import UserError
from heal.functions import code_is_allowed
from heal.functions import edition as function_edition
from heal.method.final_answers import extract_answer
from heal.records import Problem
from heal.verifiers.base import Finding, Item, Preflight, Question, Verifier
from heal.verifiers.readings import Disagreements, second_reading
from heal.verifiers.worker import WorkerPool

if TYPE_CHECKING:
    from heal.config import Problems

__all__ = [
    "NAMES",
    "Disagreements",
    "Finding",
    "Item",
    "Preflight",
    "Verifier",
    "edition",
    "open_verifier",
    "second_reading",
    "verify_answer",
]

NAMES = ("math", "exact", "choice", "gym", "code")
RULES = 3
"""Raised when a verifier of ours may decide otherwise than before: what it decided is then owed
again."""

_TIMEOUT_S = 20.0


def edition(spec: str) -> str:
    """Names a verifier as it is now: our own rules, or the source of a user's function."""
    return function_edition(spec) if ":" in spec else f"{spec}@{RULES}"


def open_verifier(settings: Problems) -> Verifier:
    """The verifier a config asks for; close it when done. Raises: UserError if there is none."""
    name = settings.verifier
    if name == "exact":
        from heal.verifiers import exact

        return Verifier(name, exact.read, exact.read_gold)
    if name == "choice":
        from heal.verifiers import choice

        return Verifier(name, choice.read, choice.read_gold)
    return _open_with_workers(name, settings.verify_workers, settings.verify_timeout_s)


def verify_answer(answer_text: str, gold: str, verifier: str = "math") -> Finding:
    """The verdict on one answer, or on a text that states one, with the rule that decided.

    Raises: UserError if there is no such verifier, or if it needs more than two answers.
    """
    opened = _open_for_answers(verifier)
    try:
        return opened.check(answer_text, Problem("answer", "", gold))
    finally:
        opened.close()


def _open_for_answers(name: str) -> Verifier:
    from heal.verifiers import choice, exact, math

    if name == "gym":
        raise UserError(
            "gym needs a task's entry beside the answer",
            hint=f"choose one of {', '.join(n for n in NAMES if n != 'gym')}, or module:function",
        )
    if name == "exact":
        return Verifier(name, _reader(exact.compare_now), exact.read_gold)
    if name == "choice":
        return Verifier(name, _reader(choice.compare_now), choice.read_gold)
    if name == "math":
        pool = WorkerPool(1, _TIMEOUT_S, math.OPENER)
        return Verifier(name, _reader(math.compare_now), math.read_gold, pool)
    return _open_with_workers(name, 1, _TIMEOUT_S)


def _reader(
    compare: Callable[[str, str], Finding | Question],
) -> Callable[[str, Problem], Finding | Question]:
    """Reads a text that states an answer, or that is one."""

    def read(text: str, problem: Problem) -> Finding | Question:
        return compare(extract_answer(text) or text.strip(), problem.answer)

    return read


def _open_with_workers(name: str, workers: int, timeout_s: float) -> Verifier:
    from heal.verifiers import code, custom, gym, math

    modules: dict[str, Any] = {"math": math, "gym": gym, "code": code}
    if ":" not in name and name not in modules:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise UserError(
            f"problems.verifier: no verifier {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"choose one of {', '.join(NAMES)}, or give your own as module:function",
        )
    module = modules.get(name, custom)
    args: list[Any] = [name, code_is_allowed()] if module is custom else []
    if module is code:
        code.warn_of_open_doors()
        args = [timeout_s]
    pool = WorkerPool(workers, timeout_s, module.OPENER, args)
    return Verifier(name, module.read, module.read_gold, pool)
