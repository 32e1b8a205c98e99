"""Evaluate: what a student makes of the held-out problems (METHOD §6).

In: held-out problems, a student behind an engine, a verifier. Out: one verified `EvalTrace` per
attempt, in any order; only what is owed is asked for. The dice of an attempt depend on the problem,
the training seed and the attempt's number, so that arms are compared under equal luck.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from heal.engines.base import Engine, Generated, GenRequest, Sampling
from heal.keys import content_key, owed, seed_for, trace_key
from heal.prompts import Prompts, fill
from heal.records import Check, EvalTrace, Problem
from heal.stages.draw import Claim
from heal.stages.sample import solve_ids
from heal.verifiers import Item, Verifier


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


@dataclass(frozen=True)
class _Attempt:
    problem: Problem
    seed_index: int
    generated: Generated
    text: str


def eval_keys(exam: Exam, problems: Iterable[Problem]) -> list[str]:
    """Keys of all attempts, done or not; needs no engine."""
    keys = [_request_key(exam, problem) for problem in problems]
    return [trace_key(key, index) for key in keys for index in range(exam.samples)]


def evaluate(
    exam: Exam,
    problems: Iterable[Problem],
    engine: Engine,
    verifier: Verifier,
    done: Collection[str],
    claim: Claim,
) -> Iterator[EvalTrace]:
    """Attempts still owed, verified as they finish; one the engine failed on says why."""
    attempts: dict[str, _Attempt] = {}

    def items() -> Iterator[Item]:
        for key, attempt in _attempts(exam, problems, engine, done, claim):
            attempts[key] = attempt
            yield key, attempt.text, attempt.generated.finish, attempt.problem

    for check in verifier.verify_all(items()):
        yield _eval_trace(exam, attempts.pop(check.trace), check)


def _request_key(exam: Exam, problem: Problem) -> str:
    """Everything an attempt's record depends on, but not how many there are."""
    user = fill(exam.prompts.solve, problem=problem.problem)
    asked = (problem.id, problem.answer, user, exam.prompts.system, exam.sampling, exam.run_seed)
    return content_key("attempt", exam.arm, exam.seed, exam.model, exam.verifier, asked)


def _attempts(
    exam: Exam,
    problems: Iterable[Problem],
    engine: Engine,
    done: Collection[str],
    claim: Claim,
) -> Iterator[tuple[str, _Attempt]]:
    asked: dict[str, tuple[Problem, tuple[int, ...]]] = {}

    def requests() -> Iterator[GenRequest]:
        for problem in problems:
            key = _request_key(exam, problem)
            indices = owed(key, range(exam.samples), done)
            if not indices:
                continue
            asked[key] = (problem, indices)
            claim([trace_key(key, index) for index in indices])
            dice = f"eval-{exam.seed}-{problem.id}"
            seeds = tuple(seed_for(exam.run_seed, dice, i) for i in indices)
            yield GenRequest(key, solve_ids(problem, exam.prompts, engine), seeds, exam.sampling)

    for generated in engine.generate(requests()):
        problem, indices = asked[generated.request]
        index = indices[generated.index]
        text = engine.decode(generated.ids.tolist())
        yield trace_key(generated.request, index), _Attempt(problem, index, generated, text)


def _eval_trace(exam: Exam, attempt: _Attempt, check: Check) -> EvalTrace:
    return EvalTrace(
        key=check.trace,
        problem_id=attempt.problem.id,
        arm=exam.arm,
        seed=exam.seed,
        seed_index=attempt.seed_index,
        verdict=check.verdict,
        answer=check.answer,
        finish=attempt.generated.finish,
        tokens=len(attempt.generated.ids),
        text=attempt.text,
        error=attempt.generated.error,
    )
