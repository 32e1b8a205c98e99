"""What a report is made of: one run, as counts and the few texts that are shown.

`load.py` fills a `RunView` from the store; nothing here reads disk or runs a model, and nothing
grows with the run but the counts themselves. Every field has an empty value that means "this run
has none", so that a run stopped early still has a report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from heal.config import Pure
from heal.method.hint_choice import HintChoice
from heal.method.lines import AtLine
from heal.method.retention import Retained
from heal.method.summary import EvalSummary
from heal.records import Drop, Gate, HintKind, ServerFacts, Split, Stratum, TrainResult, Verdict
from heal.report.choice_words import TraceChoice
from heal.report.gallery import BrokenTrace
from heal.report.truth import Judged


@dataclass(frozen=True)
class Progress:
    """How far a run is that is still going; without a stage it has not said so yet."""

    stage: str = ""
    done: int = 0
    owed: int = 0
    at: str = ""
    """ISO 8601, when it was last noted."""


class StratumCount(NamedTuple):
    """Problems of one stratum."""

    problems: int
    solved: int
    """Problems with at least one correct unaided trace."""
    attempts: int
    """Unaided traces of the problem that has most."""


@dataclass(frozen=True)
class ExtremeCount:
    """Training problems at the teacher's ceiling, and who shows the student a trace of them."""

    problems: int = 0
    before: int = 0
    """Problems with a correct unaided trace."""
    after: int = 0
    """Those, and problems with a trace in a training set of the arm shown."""
    repaired: int = 0
    """Problems with a repair that PURE kept."""


class TraceCount(NamedTuple):
    """How many traces of a stage share a fate, and what sampling them cost."""

    stage: str
    """As in the store: `sample`, `hinted` or `repair`."""
    split: Split
    failed: bool
    """The engine failed on them."""
    verdict: Verdict | None
    """None: not verified yet."""
    gate: Gate | None
    """None: no gate has looked at them."""
    drop: Drop | None
    """None: no candidates of the arm shown."""
    traces: int
    new_tokens: int = 0


class Reach(NamedTuple):
    """Problems that a stage's traces are of, at each step of their funnel."""

    written: int
    passed: int
    pure: int
    chosen: int


@dataclass(frozen=True)
class CutCount:
    """Failed traces cut for the arm shown."""

    cuts: int = 0
    problems: int = 0
    hinted: int = 0
    """Cuts that a hint was written for."""
    hinted_problems: int = 0
    undecided: int = 0
    fallbacks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HintCount:
    """Hints, those of whole traces among them."""

    hints: int = 0
    other_kind: int = 0
    """Not of the kind asked for."""
    leaks: int = 0
    """Draws refused because they contained the answer."""
    failed: int = 0


class YieldCount(NamedTuple):
    """What became of one kind of hint."""

    kind: HintKind
    hints: int
    traces: int
    passed: int
    """Traces that passed every gate."""
    kept: int
    """Of those, traces that PURE kept."""
    problems: int
    reached: int
    """Problems with such a trace."""


@dataclass(frozen=True)
class ProfileCount:
    """Hinted and repaired traces scored for PURE."""

    profiles: int = 0
    failed: int = 0
    with_uncertainty: int = 0
    never_committed: int = 0
    """Of those, traces that never settled on their answer."""
    unmentioned: int = 0
    """Traces whose new steps never write their answer."""


@dataclass(frozen=True)
class PoolCount:
    """One of PACE's sets: its candidates and what is in it."""

    candidates: int
    problems: int
    """Of the candidates."""
    drops: Mapping[Drop, int]
    kept_problems: int
    mean_tokens: float
    """Of the traces in it; NaN without any."""
    mean_doubt: float
    """Words of doubt per word, over the traces in it; NaN without any."""


@dataclass(frozen=True)
class Filtering:
    """How PURE filtered the arm shown."""

    selection: str | None
    """None: this arm is not filtered."""
    line: float | None = None
    """Above it a trace goes; None where too few traces could draw one."""
    honest: int = 0
    """Unaided correct traces that were scored to draw it."""
    cut_at_line: tuple[str, ...] = ()
    """Groups of traces cut at it: `hinted`, a breakpoint. Of the others a share went."""
    by_share: bool = False
    """Drawn by the step checker's word, as `pure.line` asks; else by honest traces."""
    at_line: AtLine | None = None
    """What the line does to traces of which the checker has a word."""


@dataclass(frozen=True)
class ExtremeRow:
    """One problem at the ceiling, and how far its repair got."""

    problem: str
    """Its id."""
    text: str
    """The beginning of its text."""
    correct: int
    n: int
    cuts: int
    drawn: int
    passed: int
    kept: int
    """Repairs in D3."""


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
    in_budget: bool = True
    """Whether it counts toward the matched token budget."""

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
    """Empty: there is none."""
    config_yaml: str
    """The resolved configuration."""
    student: str | None = None
    """None: the run produces data only."""
    imported: bool = False
    """Whether all unaided traces were sampled elsewhere."""
    main_arm: str | None = "heal"
    """The arm whose data is shown in full; None: no arm is trained."""
    versions: Mapping[str, str] = field(default_factory=dict)
    running: Progress | None = None
    """None: no other process is working on it."""
    stopped: str | None = None
    """Why the run is not complete, in words; None when it is, or is still going."""

    problems: Mapping[Split, int] = field(default_factory=dict)
    """All that the run has, sampled or not."""
    strata: Mapping[Split, Mapping[Stratum, StratumCount]] = field(default_factory=dict)
    """Of problems with an unaided trace."""
    extreme: ExtremeCount = ExtremeCount()
    traces: tuple[TraceCount, ...] = ()
    reach: Mapping[str, Reach] = field(default_factory=dict)
    """By stage: `hinted` and `repair`."""
    cuts: CutCount = CutCount()
    hints: HintCount = HintCount()
    hint_choice: HintChoice | None = None
    """Of `gear.hint: auto`; None where the recipe names the kind."""
    yields: tuple[YieldCount, ...] = ()
    profiles: ProfileCount = ProfileCount()
    pure_settings: Pure = field(default_factory=Pure)
    filtering: Filtering | None = None
    """None: nothing was selected yet, or by a version that did not say how."""
    judged: Judged | None = None
    """None: nobody knows of this run's steps."""
    pools: Mapping[str, PoolCount] = field(default_factory=dict)
    """`D1`, `D2`, `D3`, those with candidates."""
    extreme_rows: tuple[ExtremeRow, ...] = ()
    """Those furthest from a repair first; no more than the page shows."""
    gallery: tuple[BrokenTrace, ...] = ()

    plan: tuple[PlanRow, ...] = ()
    training: tuple[TrainResult, ...] = ()
    evaluation: EvalSummary | None = None
    choice: TraceChoice | None = None
    """Of traces, where a set could not take all; None: every arm took the least alike."""
    retention: tuple[Retained, ...] = ()
    """Against the untouched student, after each watched stage and after training."""

    stage_ledger: tuple[LedgerRow, ...] = ()
    """In the order the stages ran."""
    arm_ledger: tuple[LedgerRow, ...] = ()
    """Each arm's whole cost."""
    facts: tuple[Fact, ...] = ()
    """What the counts above do not already tell: preflight, refused problems, engine failures."""
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
