"""What a report is made of: one run, as plain records and counts.

The pipeline fills a `RunView` from the store; nothing here reads disk or runs a model. Every field
has an empty value that means "this run has none", so that a run stopped early still has a report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from heal.method.summary import EvalSummary
from heal.records import (
    Ceiling,
    Check,
    Cut,
    GateResult,
    Hint,
    Problem,
    PureScore,
    Selected,
    ServerFacts,
    Split,
    Trace,
    TrainResult,
    Verdict,
)


@dataclass(frozen=True)
class LedgerRow:
    """What one stage (or one whole arm) cost in teacher tokens."""

    name: str
    sampled: int
    scored: int = 0
    wasted: int = 0
    """Sampled tokens of traces that nothing came of: failed, truncated, refused by a gate."""
    accepted: int | None = None
    """Traces it gave to a training set; None where that is not this stage's business."""
    billed: bool = True
    """Whether it counts in an arm's bill."""

    @property
    def per_accepted(self) -> float | None:
        """Sampled tokens per accepted trace; None where nothing was accepted."""
        return self.sampled / self.accepted if self.accepted else None


@dataclass(frozen=True)
class PlanRow:
    """One training stage of one arm, before anything was trained."""

    arm: str
    stage: int
    steps: int
    presentations: int
    distinct: int
    shares: Mapping[str, int] = field(default_factory=dict)
    """Presentations by set: `D1`, `D2`, `D3`."""


@dataclass(frozen=True)
class Fact:
    """Something counted that a reader should know: a fallback, a drop, a missing capability."""

    text: str
    count: int
    of: int | None = None
    """Out of how many; None where there is no such number."""


@dataclass(frozen=True)
class RunView:
    """One run, ready to be reported."""

    name: str
    date: str
    """ISO 8601, when the run was last worked on."""
    seed: int
    teacher: str
    config_yaml: str
    """The resolved configuration."""
    student: str | None = None
    """None: the run produces data only."""
    main_arm: str | None = "heal"
    """The arm whose data is shown in full; None: no arm is trained."""
    versions: Mapping[str, str] = field(default_factory=dict)
    stopped: str | None = None
    """Why the run is not complete, in words; None when it is."""

    problems: tuple[Problem, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    """Of training and held-out problems alike; `Problem.split` tells them apart."""
    verdicts: Mapping[Split, Mapping[Verdict, int]] = field(default_factory=dict)
    """Unaided traces by verdict."""
    unaided: tuple[Trace, ...] = ()
    """Unaided traces whose text the report may need: parents of cuts, and those selected."""
    cuts: tuple[Cut, ...] = ()
    hints: tuple[Hint, ...] = ()
    repaired: tuple[Trace, ...] = ()
    hinted: tuple[Trace, ...] = ()
    checks: tuple[Check, ...] = ()
    """Of any of the traces above."""
    gates: tuple[GateResult, ...] = ()
    """Of hinted and repaired traces."""
    pure: tuple[PureScore, ...] = ()
    commitments: Mapping[str, int | None] = field(default_factory=dict)
    """Trace key → k_c, the step at which it settled on its answer; None: it never did."""
    selected: tuple[Selected, ...] = ()

    plan: tuple[PlanRow, ...] = ()
    training: tuple[TrainResult, ...] = ()
    evaluation: EvalSummary | None = None

    stage_ledger: tuple[LedgerRow, ...] = ()
    """In the order the stages ran."""
    arm_ledger: tuple[LedgerRow, ...] = ()
    """Each arm's whole bill."""
    facts: tuple[Fact, ...] = ()
    """What the records above do not already tell: preflight, refused problems, engine failures."""
    servers: tuple[ServerFacts, ...] = ()
    """How each server fared, over all processes of the run."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""

    @property
    def shows_heal(self) -> bool:
        """Whether the arm shown is HEAL or a control of it."""
        return is_heal(self.main_arm)


def is_heal(arm: str | None) -> bool:
    """Whether an arm is HEAL or a control of it; no other is given repairs."""
    return arm is not None and arm.startswith("heal")
