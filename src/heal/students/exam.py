"""Exams: what a student makes of the held-out problems (docs/method.md §6).

A stage like those of the teacher: pure functions of one problem's records. The dice of an attempt
depend on the problem, the training seed and the attempt's number, so that arms are compared under
equal luck.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from heal.engines.base import Generated, GenRequest, Sampling
from heal.keys import content_key, seed_for, trace_key
from heal.prompts import Prompts, fill
from heal.records import Check, EvalTrace, Problem
from heal.stages.found import Answerable, Found, Lane, Request, TextModel
from heal.stages.sample import solve_ids
from heal.store.columns import AttemptRow

STAGE = "evaluate"

Student = Callable[[], TextModel]
"""Opens the student, once, when an attempt is owed."""


@dataclass(frozen=True)
class Exam:
    """Whose attempts, how many, and all they depend on."""

    arm: str
    seed: int
    """Training seed; 0 for a student that is not trained."""
    model: str
    """Names the student's weights: the key of its last `TrainResult`, or a fingerprint."""
    samples: int
    """Attempts per problem."""
    sampling: Sampling
    prompts: Prompts
    verifier: str
    run_seed: int
    judge: str
    """Names the verifier as it is now; unlike the rest it changes verdicts, not attempts."""
    timeout_s: float

    def key(self, problem: Problem) -> str:
        """Everything an attempt's record depends on, but not how many there are."""
        user = fill(self.prompts.solve, problem=problem.problem)
        told = (problem.id, problem.answer, user, self.prompts.system)
        asked = (*told, self.sampling, self.run_seed)
        return content_key("attempt", self.arm, self.seed, self.model, self.verifier, asked)


def owes(found: Found, exam: Exam, student: Student) -> Iterator[Request]:
    """Attempts that are not made, then verdicts on those that are."""
    made = [_attempt(found, exam, index) for index in range(exam.samples)]
    owed = tuple(index for index, attempt in enumerate(made) if attempt is None)
    if owed:
        yield _writing(found, exam, owed, student)
        return
    for attempt in made:
        if attempt is not None and _check(found, exam, attempt) is None:
            yield _judging(found, exam, attempt)


def lacks_attempts(found: Found, exam: Exam) -> bool:
    """Whether the student must be opened: an attempt is not made, or failed."""
    return any(_attempt(found, exam, index) is None for index in range(exam.samples))


def conclude(found: Found, exam: Exam) -> Iterator[AttemptRow]:
    """Rows of the verified attempts."""
    for index in range(exam.samples):
        attempt = _attempt(found, exam, index)
        check = _check(found, exam, attempt) if attempt is not None else None
        if attempt is None or check is None:
            continue
        yield AttemptRow(
            found.problem.id,
            exam.arm,
            exam.seed,
            index,
            attempt.key,
            check.verdict,
            check.answer,
            attempt.finish,
            attempt.tokens,
            attempt.error,
        )


def _attempt(found: Found, exam: Exam, index: int) -> EvalTrace | None:
    return found.get(STAGE, trace_key(_key(found, exam), index), EvalTrace)


def _key(found: Found, exam: Exam) -> str:
    return found.once("attempts", lambda: exam.key(found.problem))


def _check(found: Found, exam: Exam, attempt: EvalTrace) -> Check | None:
    return found.get("check", _check_key(exam, attempt), Check)


def _check_key(exam: Exam, attempt: EvalTrace) -> str:
    # The attempt's own key names problem and gold answer already.
    return content_key("check", attempt.key, attempt.error is not None, exam.judge, exam.timeout_s)


def _writing(found: Found, exam: Exam, indices: tuple[int, ...], student: Student) -> Request:
    problem, key = found.problem, _key(found, exam)
    dice = f"eval-{exam.seed}-{problem.id}"
    seeds = tuple(seed_for(exam.run_seed, dice, index) for index in indices)

    def read(generated: Generated) -> EvalTrace:
        index = indices[generated.index]
        return EvalTrace(
            trace_key(key, index),
            problem.id,
            exam.arm,
            exam.seed,
            index,
            generated.finish,
            len(generated.ids),
            student().decode(generated.ids.tolist()),
            generated.error,
        )

    ask = GenRequest(key, solve_ids(problem, exam.prompts, student()), seeds, exam.sampling)
    keys = tuple(trace_key(key, index) for index in indices)
    return Request(Lane.WRITE, STAGE, keys, ask, read)


def _judging(found: Found, exam: Exam, attempt: EvalTrace) -> Request:
    ask = Answerable(attempt.text, attempt.finish, found.problem)
    return Request(
        Lane.VERIFY,
        "check",
        (_check_key(exam, attempt),),
        ask,
        lambda check: replace(check, trace=attempt.key),
    )
