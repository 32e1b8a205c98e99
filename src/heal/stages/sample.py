"""Sample: what the teacher writes unaided (METHOD §1).

In: problems. Out: draws of n traces each, from the bare solve prompt.
"""

from collections.abc import Iterable, Iterator

from heal.engines.base import Engine
from heal.prompts import Prompts, fill
from heal.records import Origin, Problem
from heal.stages.draw import Draw


def solve_ids(problem: Problem, prompts: Prompts, engine: Engine) -> tuple[int, ...]:
    """The unhinted prompt: what the student will be trained on and all scoring is done under."""
    return engine.render(fill(prompts.solve, problem=problem.problem), system=prompts.system)


def unaided(
    problems: Iterable[Problem], prompts: Prompts, engine: Engine, n: int
) -> Iterator[Draw]:
    """n unaided traces of every problem."""
    for problem in problems:
        ids = solve_ids(problem, prompts, engine)
        yield Draw(problem.id, Origin.UNAIDED, ids, tuple(range(n)))
