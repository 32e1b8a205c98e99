"""Step checkers: the first wrong step of a trace, or that it cannot be told.

`open_checker` is the way in: `arithmetic`, a user's `module:function`, or none. A checker's word is
one of three outcomes with what it rests on, never a bare number. A user's function runs in this
process, without a time limit.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Protocol

from heal.errors import UserError
from heal.functions import edition, load_function
from heal.records import Outcome, StepWord
from heal.steps import arithmetic, excuses
from heal.steps.judge import Truth

NAMES = ("arithmetic",)
SETTING = "steps.checker"


class StepChecker(Protocol):
    """A way to find the first wrong step."""

    edition: str
    """Part of the key of its every word: its name, and a hash of a user's module."""

    def __call__(self, problem: str, answer: str, steps: Sequence[str]) -> StepWord:
        """The first wrong one of a trace's steps."""
        ...


def open_checker(spec: str | None) -> StepChecker | None:
    """The checker a setting names; None where it names none. Raises: UserError."""
    if spec is None:
        return None
    if spec == "arithmetic":
        return ArithmeticChecker()
    if ":" in spec:
        return FunctionChecker(spec)
    near = difflib.get_close_matches(spec, NAMES, n=1)
    raise UserError(
        f"{SETTING}: no checker {spec!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        hint=f"choose {', '.join(NAMES)} or null, or give your own as module:function",
    )


def checker_edition(spec: str | None) -> str | None:
    """Names a checker as it is now; None for none. Raises: UserError where there is none such."""
    checker = open_checker(spec)
    return checker.edition if checker else None


def first_wrong_step(steps: Sequence[str], problem: str = "") -> StepWord:
    """The first step that asserts a false equation and does not take it back.

    A problem may tell what a letter is, or that its numbers are no usual ones.
    """
    if excuses.counts_otherwise(problem):
        return StepWord(Outcome.CANNOT_TELL, checked=0, detail="its numbers may mean otherwise")
    given = arithmetic.unknown_of(problem)
    told = [
        (number, equation)
        for number, step in enumerate(steps, 1)
        for equation in excuses.outside_code(step, arithmetic.check_text(step, given))
    ]
    mended = {_left(e): place for place, (_, e) in enumerate(told) if e.truth is Truth.TRUE}
    checked = 0
    for place, (number, equation) in enumerate(told):
        checked += equation.truth is not Truth.CANNOT_TELL
        is_mended = equation.gives_number and mended.get(_left(equation), -1) > place
        if equation.truth is not Truth.FALSE or is_mended:
            continue
        beside = "\n\n".join(steps[number - 1 : number + 1])
        if not excuses.is_taken_back(beside, equation.start, equation.end):
            said = equation.text, equation.correction
            return StepWord(Outcome.WRONG_STEP, number, checked, *said)
    return StepWord(Outcome.NONE_FOUND if checked else Outcome.CANNOT_TELL, checked=checked)


def _left(equation: arithmetic.Asserted) -> str:
    return "".join(equation.sides[0].split())


class ArithmeticChecker:
    """Equations alone; the problem tells its unknown, the answer is not looked at."""

    edition = f"arithmetic-{arithmetic.RULES}"

    def __call__(self, problem: str, answer: str, steps: Sequence[str]) -> StepWord:
        """The first step that asserts a false equation."""
        return first_wrong_step(steps, problem)


class FunctionChecker:
    """A user's function: (problem, answer, steps) → first wrong step from 1, 0 for none, or None.

    Anything else it returns, and any `Exception` it raises, is `CANNOT_TELL` with the reason.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._function: Callable[[str, str, list[str]], object] = load_function(spec, SETTING)
        self.edition = edition(spec)

    def __call__(self, problem: str, answer: str, steps: Sequence[str]) -> StepWord:
        """What the function says of these steps."""
        try:
            said = self._function(problem, answer, list(steps))
        except Exception as error:
            return StepWord(Outcome.CANNOT_TELL, detail=f"{type(error).__name__}: {error}")
        if said is None:
            return StepWord(Outcome.CANNOT_TELL)
        # bool is an int, and True would be step 1.
        if not isinstance(said, int) or isinstance(said, bool) or not 0 <= said <= len(steps):
            detail = f"{self._spec} returned {said!r}; expected 0 to {len(steps)}, or None"
            return StepWord(Outcome.CANNOT_TELL, detail=detail)
        return StepWord(Outcome.WRONG_STEP, said) if said else StepWord(Outcome.NONE_FOUND)
