"""The curriculum for trainers of others: each stage's rows in the order they are to be shown.

In: the rows of an arm and the run's settings. Out: three lists of trace keys, as HEAL's own
training shows them (docs/method.md §4), and the numbers a trainer needs: learning rates, batch
sizes, steps. A run without a student has no plan; then one is made of the teacher's token lengths.
A rehearsal is of what HEAL's own student wrote, so it is in no list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heal.config import Config
from heal.keys import seed_for
from heal.method.arms import trained
from heal.method.pace import POOLS
from heal.records import StagePlan
from heal.store import Store
from heal.students.arms import arm_plan, matched_budget
from heal.students.export import STAGE_NAMES


@dataclass(frozen=True)
class Stage:
    """One training stage."""

    name: str
    shown: tuple[str, ...]
    """Trace keys in order; one may come several times."""
    steps: int
    learning_rate: float
    """Its peak."""

    @property
    def rows_per_step(self) -> int:
        """The mean of the plan's batches, which are sized in tokens, to the nearest row."""
        return max(1, round(len(self.shown) / max(self.steps, 1)))


@dataclass(frozen=True)
class Curriculum:
    """Three stages, each from the weights of the one before."""

    stages: tuple[Stage, ...]


def curriculum(
    store: Store, config: Config, arm: str, tokens: Mapping[str, Mapping[str, int]]
) -> Curriculum:
    """The stages of an arm under the first training seed. tokens: set → trace → length."""
    plans = _stored(store, config, arm, tokens) or _made(config, arm, tokens)
    rate = config.train.learning_rate
    stages = [
        Stage(
            STAGE_NAMES[plan.index - 1],
            tuple(trace for batch in plan.batches for trace in batch),
            len(plan.batches),
            rate * plan.lr_scale,
        )
        for plan in plans
    ]
    return Curriculum(tuple(stages))


def _stored(
    store: Store, config: Config, arm: str, tokens: Mapping[str, Mapping[str, int]]
) -> Sequence[StagePlan]:
    """The run's own plan, if it is of these rows; else nothing."""
    name = f"{arm}-seed{config.seeds[0]}-"
    found = [plan for key, plan in store.live("plan", StagePlan) if key.startswith(name)]
    plans = [plan for plan in found if plan.index <= len(STAGE_NAMES)]
    known = {trace for traces in tokens.values() for trace in traces}
    shown = {trace for plan in plans for batch in plan.batches for trace in batch}
    if not plans or not shown <= known:
        return ()
    return sorted(plans, key=lambda plan: plan.index)


def _made(config: Config, arm: str, tokens: Mapping[str, Mapping[str, int]]) -> Sequence[StagePlan]:
    lengths = {pool: dict(tokens.get(pool, {})) for pool in POOLS}
    longest = max((n for traces in lengths.values() for n in traces.values()), default=0)
    budget = matched_budget(lengths, config.pace, config.train.batch_size, longest)
    assert budget is not None, "an arm without rows is refused before"
    dice = seed_for(config.seed, "plan", config.seeds[0])
    return arm_plan(trained(config)[arm], lengths, budget, config.pace, dice)
