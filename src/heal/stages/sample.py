"""Sample: what the teacher writes unaided (METHOD §1).

In: problems. Out: draws of so many traces each, from the bare solve prompt.
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
    problems: Iterable[Problem], prompts: Prompts, engine: Engine, indices: Iterable[int]
) -> Iterator[Draw]:
    """The unaided traces of every problem that have these places in its plan."""
    places = tuple(indices)
    for problem in problems:
        ids = solve_ids(problem, prompts, engine)
        yield Draw(problem.id, Origin.UNAIDED, ids, places)
