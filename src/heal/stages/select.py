"""Select: what goes into the student's three sets, and each arm's schedule (METHOD §3–§5).

In: verified traces, their profiles, and lengths. Out: candidates with PURE's word on them, the
examples a student is shown, and explicit presentations per arm.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heal.config import Pace, Pure
from heal.method.arms import Arm
from heal.method.pace import POOL_OF, POOLS, PoolCandidate, budget_tokens, schedule
from heal.method.pure import Calibration, drop_at_random, drop_scores, fits, select
from heal.prompts import Prompts, fill
from heal.records import Drop, Example, Origin, Problem, PureScore, Selection, StagePlan, Trace
from heal.students.rendering import Lengths

STAGE_NAMES = ("foundation", "bridge", "frontier")


def candidates(
    traces: Sequence[Trace],
    profiles: Mapping[str, PureScore],
    arm: Arm,
    settings: Pure,
    seed: int,
    calibration: Calibration | None = None,
) -> list[PoolCandidate]:
    """Usable traces as PACE sees them; PURE judges hinted and repaired ones, each set by itself.

    A trace that could not be scored is dropped: nothing speaks for it. An arm without PURE keeps
    everything.
    """
    suspicion: dict[str, float] = {}
    dropped: set[str] = set()
    kind = _feasible(arm.selection or settings.selection, calibration)
    for origin in (Origin.HINTED, Origin.REPAIRED) if arm.filtered else ():
        own = [t for t in traces if t.origin is origin]
        scored = [profiles[t.key] for t in own if t.key in profiles]
        suspicion |= drop_scores(scored, kind, settings, seed=seed, calibration=calibration)
        if arm.selection is Selection.RANDOM:
            main = _feasible(settings.selection, calibration)
            as_many = len(select(scored, main, settings, seed=seed, calibration=calibration))
            dropped |= drop_at_random(scored, as_many, settings, seed=seed)
        else:
            dropped |= select(scored, kind, settings, seed=seed, calibration=calibration)
        dropped |= {t.key for t in own if t.key not in profiles}
    found = (
        PoolCandidate(
            trace=t.key,
            problem_id=t.problem_id,
            pool=POOL_OF[t.origin],
            text=t.text,
            parent=t.cut,
            score=suspicion.get(t.key),
            pure_dropped=t.key in dropped,
        )
        for t in traces
    )
    return [candidate for candidate in found if candidate.pool in arm.pools]


def _feasible(kind: Selection, calibration: Calibration | None) -> Selection:
    """`calibrated` reads by the plain ratio where too few honest traces drew its line."""
    undrawn = calibration is None or kind not in calibration.lines
    return Selection.FRACTION if kind is Selection.CALIBRATED and undrawn else kind


def misfits(
    traces: Sequence[Trace],
    profiles: Mapping[str, PureScore],
    arm: Arm,
    settings: Pure,
    calibration: Calibration | None,
) -> int:
    """Sets of an arm that were to be cut at a line, and honest traces are no measure for."""
    kind, found = arm.selection or settings.selection, 0
    line = calibration.lines.get(kind) if calibration is not None else None
    if line is None or not arm.filtered:
        return 0
    for origin in (Origin.HINTED, Origin.REPAIRED):
        if POOL_OF[origin] not in arm.pools:
            continue
        scored = [profiles[t.key] for t in traces if t.origin is origin and t.key in profiles]
        scores = drop_scores(scored, kind, settings, calibration=calibration)
        found += not fits(scores, line, settings)
    return found


def example(trace: Trace, problem: Problem, prompts: Prompts) -> Example:
    """The training pair: the problem without any hint, and the whole trace."""
    user = fill(prompts.solve, problem=problem.problem)
    pool = POOL_OF[trace.origin]
    return Example(trace.key, problem.id, pool, user, trace.text, prompts.system)


def refusals(shown: Mapping[str, Example], lengths: Lengths | None) -> Callable[[str], Drop | None]:
    """Why the student cannot be shown a trace; without a student nothing is refused."""

    def refusal(trace: str) -> Drop | None:
        reason = lengths.refusal(shown[trace]) if lengths is not None else None
        return Drop(reason.value) if reason is not None else None

    return refusal


def stage_rows(examples: Iterable[Example], stage: int) -> list[dict[str, Any]]:
    """The cumulative set of a stage (1–3) as chat rows."""
    return [
        {"messages": messages(e), "problem_id": e.problem_id, "trace": e.trace, "set": e.pool}
        for e in sorted(examples, key=lambda e: (e.pool, e.problem_id, e.trace))
        if e.pool in POOLS[:stage]
    ]


def messages(shown: Example) -> list[dict[str, str]]:
    """An example as chat messages."""
    system = [{"role": "system", "content": shown.system}] if shown.system else []
    return [
        *system,
        {"role": "user", "content": shown.user},
        {"role": "assistant", "content": shown.assistant},
    ]


@dataclass(frozen=True)
class Budget:
    """What every arm is trained for, alike: optimizer steps come from nothing else."""

    tokens: int
    batch_tokens: int


def budget(
    sizes: Mapping[str, Mapping[str, int]], pace: Pace, batch_size: int, longest: int = 0
) -> Budget | None:
    """From one arm's sets (pool → trace → tokens): epochs of its D1, batches of its mean trace.

    A batch holds at least the `longest` trace that any arm may show, or some steps would stay
    empty. None when there is nothing to train on. Without a D1 all there is stands in for it.
    """
    every = [n for traces in sizes.values() for n in traces.values()]
    if not every:
        return None
    basis = sum(sizes.get("D1", {}).values()) or sum(every)
    batch = max(round(batch_size * sum(every) / len(every)), longest)
    return Budget(budget_tokens(basis, pace), batch)


def arm_plan(
    arm: Arm, sizes: Mapping[str, Mapping[str, int]], spend: Budget, pace: Pace, seed: int
) -> tuple[StagePlan, ...]:
    """An arm's three stages. A training seed is this seed: all arms take the same.

    It decides which traces are shown more often, and in what order; the optimizer has no dice.
    """
    return schedule(
        sizes,
        pace,
        batch_tokens=spend.batch_tokens,
        budget=spend.tokens,
        seed=seed,
        order=arm.order,
    )
