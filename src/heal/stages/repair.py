"""Repair: try again with a hint, then ask the gates (METHOD §2, injection, budget, gates).

In: hinted paths. Out: draws. The hint stands in the user turn, the assistant turn opens with the
kept prefix, and the training pair later leaves the hint out. In which order they are drawn, and
when a problem has enough, is decided in `heal.rounds`.
"""

from collections.abc import Iterable, Iterator, Sequence

from heal.config import Gear
from heal.engines.base import Engine
from heal.method.gates import passes_gates
from heal.prompts import Prompts, fill
from heal.records import Check, Gate, GateResult, Hint, Origin, Problem, Trace
from heal.stages.draw import Draw
from heal.stages.guide import Path


def hinted_ids(problem: Problem, hint: Hint, prompts: Prompts, engine: Engine) -> tuple[int, ...]:
    """The prompt with the hint in the user turn."""
    user = fill(prompts.solve_hinted, problem=problem.problem, hint=hint.text)
    return engine.render(user, system=prompts.system)


def whole_traces(
    pairs: Iterable[tuple[Problem, Hint]], prompts: Prompts, engine: Engine, n: int
) -> Iterator[Draw]:
    """n whole traces per problem under its answer hint: PACE's D2."""
    for problem, hint in pairs:
        ids = hinted_ids(problem, hint, prompts, engine)
        yield Draw(problem.id, Origin.HINTED, ids, tuple(range(n)), hint=hint.key)


def repair_round(
    paths: Iterable[tuple[Path, Hint]], prompts: Prompts, engine: Engine, candidate: int
) -> Iterator[Draw]:
    """The candidate-th continuation of every path given."""
    for path, hint in paths:
        yield repair_draw(path, hint, prompts, engine, (candidate,))


def repair_draw(
    path: Path, hint: Hint, prompts: Prompts, engine: Engine, indices: Sequence[int]
) -> Draw:
    """These continuations of one path."""
    return Draw(
        problem_id=path.problem.id,
        origin=Origin.REPAIRED,
        prompt_ids=hinted_ids(path.problem, hint, prompts, engine),
        indices=tuple(indices),
        prefix_ids=tuple(path.trace.ids[: path.cut.prefix_tokens].tolist()),
        parent=path.trace.key,
        cut=path.cut.key,
        hint=hint.key,
    )


def gate(
    trace: Trace, check: Check, problem: Problem, hint: Hint, gear: Gear, engine: Engine
) -> GateResult:
    """The first gate that refuses a hinted or repaired trace, or `PASSED`."""
    prefix = engine.decode(trace.ids[: trace.prefix_tokens].tolist())
    found: Gate = passes_gates(
        problem=problem.problem,
        answer=problem.answer,
        hint=hint.text,
        prefix=prefix,
        continuation=engine.decode(trace.ids[trace.prefix_tokens :].tolist()),
        verdict=check.verdict,
        finish=trace.finish,
        settings=gear,
    )
    return GateResult(trace.key, found)
