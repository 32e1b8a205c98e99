"""Arms: what every comparison trains, and in what each differs from HEAL (docs/method.md §5).

An arm is data: which sets its student sees, how they were cut and chosen, in which order they are
shown. Everything else (steps, tokens, learning rates, seeds) is the same for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from heal.config import Config
from heal.method.curriculum import Order
from heal.method.gear import UNSCORED
from heal.method.pace import POOLS
from heal.method.pure import BY_RELIANCE, LINED
from heal.records import Breakpoint, Choice, Selection


class Extra(StrEnum):
    """What an arm samples for the matched token budget, instead of repairs."""

    NOTHING = "nothing"
    SAMPLES = "samples"
    """More unaided traces of problems below their cap, all of them in turn."""
    RATIONALES = "rationales"
    """More whole traces under the answer, of the same problems, kept when correct."""


@dataclass(frozen=True)
class Arm:
    """How one student's data comes about; the defaults are HEAL itself."""

    pools: tuple[str, ...] = POOLS
    breakpoint: Breakpoint | None = None
    """None takes `gear.breakpoint`."""
    selection: Selection | None = None
    """None takes `pure.selection`."""
    filtered: bool = True
    """False lets every gated trace through: no PURE."""
    gated: bool = True
    """False keeps hinted traces for being correct alone."""
    order: Order = Order.CURRICULUM
    extra: Extra = Extra.NOTHING
    choice: Choice | None = None
    """None takes `pace.choice`."""


TRAINED: Mapping[str, Arm] = {
    "rft": Arm(pools=("D1",)),
    "rft_more": Arm(pools=("D1",), extra=Extra.SAMPLES),
    "star": Arm(pools=("D1", "D2"), filtered=False, gated=False, extra=Extra.RATIONALES),
    "heal": Arm(),
    "heal-shuffled": Arm(order=Order.SHUFFLED),
    "heal-reverse": Arm(order=Order.REVERSE),
    "heal-random-cut": Arm(breakpoint=Breakpoint.RANDOM),
    "heal-restart": Arm(breakpoint=Breakpoint.RESTART),
    "heal-no-pure": Arm(filtered=False),
    "heal-random-drop": Arm(selection=Selection.RANDOM),
    "heal-ratio": Arm(selection=Selection.FRACTION),
    "heal-calibrated": Arm(selection=Selection.CALIBRATED),
    "heal-random-choice": Arm(choice=Choice.RANDOM),
    "heal-rank-surprisal": Arm(choice=Choice.RANK_SURPRISAL),
    "heal-logprob": Arm(choice=Choice.LOGPROB),
    "heal-middle": Arm(choice=Choice.MIDDLE),
}
"""Every arm but `base`, the untouched student."""


def selections(config: Config) -> frozenset[Selection]:
    """Every reading of PURE that a run, or a trained arm of it, selects by."""
    arms = (TRAINED[name] for name in config.arms if name in TRAINED)
    own = (arm.selection or config.pure.selection for arm in arms if arm.filtered)
    return frozenset({config.pure.selection, *own})


def breakpoints(config: Config) -> tuple[Breakpoint, ...]:
    """HEAL's own breakpoint, then those that its controls among the run's arms ask for."""
    main = config.gear.breakpoint
    arms = trained(config).values()
    return tuple(dict.fromkeys([main, *(arm.breakpoint or main for arm in arms)]))


def wants_scores(config: Config) -> bool:
    """Whether failed traces are scored: where a cut depends on more than where steps end."""
    return not UNSCORED.issuperset(breakpoints(config))


def trained(config: Config) -> dict[str, Arm]:
    """The arms of a run that have a student to train, HEAL's own data first."""
    names = [name for name in dict.fromkeys(config.arms) if name in TRAINED]
    return {name: TRAINED[name] for name in sorted(names, key=lambda name: name != "heal")}


def wants_reliance(config: Config) -> bool:
    """Whether assisted traces are scored with their hint in view too."""
    return config.pure.measure_reliance or not selections(config).isdisjoint(BY_RELIANCE)


def spares_checked(config: Config) -> bool:
    """Whether PURE leaves alone what the step checker has read and found nothing wrong in."""
    gated = config.steps.gate and config.steps.checker is not None
    return gated and config.pure.spare_checked


def wants_worst_result(config: Config) -> bool:
    """Whether profiles scored before the worst result was measured are owed again."""
    return Selection.WORST_RESULT in selections(config)


def wants_calibration(config: Config) -> bool:
    """Whether honest traces are scored, for lines to be drawn by."""
    return config.pure.measure_calibrated or not selections(config).isdisjoint(LINED)


def wants_uncertainty(config: Config) -> bool:
    """Whether U is asked for after each step: measured anyway, or selected by."""
    by_u = {Selection.FRACTION, Selection.CALIBRATED}
    measured = config.pure.measure_uncertainty or config.pure.measure_calibrated
    return measured or not by_u.isdisjoint(selections(config))
