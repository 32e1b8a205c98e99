"""What the stages of one run have found so far, and how they add to it.

A stage reads a `Run`, draws traces or scores through it, and leaves its results in it; what was
worked out without a model is recorded too, so that a report needs none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from heal.config import Gear
from heal.engines.base import Sampling
from heal.method.arms import TRAINED, Arm, selections, wants_uncertainty
from heal.method.pure import LINED, MIN_CALIBRATION, Calibration, calibrate
from heal.prompts import Prompts
from heal.records import (
    Breakpoint,
    Ceiling,
    Check,
    Drop,
    Example,
    Gate,
    Hint,
    HintKind,
    Problem,
    PureScore,
    Selected,
    Selection,
    Split,
    StagePlan,
    Stratum,
    Trace,
    Verdict,
)
from heal.session import Session
from heal.stages.draw import Draw, draw_keys, draw_traces
from heal.stages.guide import Path
from heal.stages.repair import gate as ask_gates
from heal.stages.score import Candidate, honest, pure_key
from heal.students.rendering import Lengths


@dataclass
class Lift:
    """One way of cutting failed traces, and everything that followed from it."""

    gear: Gear
    paths: list[Path] = field(default_factory=list)
    hints: dict[tuple[str, HintKind], Hint] = field(default_factory=dict)
    """By cut and the kind asked for."""
    repaired: dict[str, Trace] = field(default_factory=dict)


@dataclass
class Run:
    """What the stages have found so far; keys are content keys unless a comment says otherwise."""

    session: Session
    unaided: dict[str, Trace] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    """By trace."""
    decided: dict[str, Stratum] = field(default_factory=dict)
    """By problem: strata that adaptive sampling settled before all traces were drawn."""
    ceilings: dict[str, Ceiling] = field(default_factory=dict)
    """By problem."""
    hints: dict[str, Hint] = field(default_factory=dict)
    hinted: dict[str, Trace] = field(default_factory=dict)
    """Whole traces under an answer hint."""
    lifts: dict[Breakpoint, Lift] = field(default_factory=dict)
    bought: dict[str, dict[str, Trace]] = field(default_factory=dict)
    """By arm: what it drew for HEAL's bill."""
    gates: dict[str, Gate] = field(default_factory=dict)
    """By trace, hinted or repaired."""
    pure: dict[str, PureScore] = field(default_factory=dict)
    """By trace."""
    calibration: Calibration | None = None
    """What honest steps look like; None unless a selection asks for it and there are enough."""
    chosen: dict[str, list[Selected]] = field(default_factory=dict)
    """By arm."""
    examples: dict[str, Example] = field(default_factory=dict)
    """By trace."""
    lengths: Lengths | None = None
    """What the student's tokenizer makes of the examples; None without a student."""
    plans: dict[tuple[str, int], tuple[StagePlan, ...]] = field(default_factory=dict)
    """By arm and training seed."""
    models: dict[tuple[str, int], str] = field(default_factory=dict)
    """Name of the trained weights, by arm and training seed."""

    @property
    def prompts(self) -> Prompts:
        """The run's templates."""
        return self.session.config.prompts

    def problems(self, split: Split) -> list[Problem]:
        """One side of the split."""
        return [p for p in self.session.problems.values() if p.split is split]

    def in_strata(self, *strata: Stratum) -> list[Problem]:
        """Training problems of these strata."""
        return [p for p in self.problems(Split.TRAIN) if self.ceilings[p.id].stratum in strata]

    def traces_by_problem(self) -> dict[str, list[Trace]]:
        """Unaided traces of each problem."""
        grouped: dict[str, list[Trace]] = {}
        for trace in self.unaided.values():
            grouped.setdefault(trace.problem_id, []).append(trace)
        return grouped

    def only_correct(self, traces: Iterable[Trace]) -> Trace | None:
        """The one correct trace among these, when there is exactly one."""
        correct = [t for t in traces if self.checks[t.key].verdict is Verdict.CORRECT]
        return correct[0] if len(correct) == 1 else None

    def admit(self, traces: dict[str, Trace]) -> list[str]:
        """Verify and gate assisted traces; the problem ids of those that passed."""
        s = self.session
        self.checks |= s.check(traces.values())
        passed = []
        for trace in traces.values():
            problem, hint = s.problems[trace.problem_id], self.hints[trace.hint or ""]
            gear, check = s.config.gear, self.checks[trace.key]
            found = ask_gates(trace, check, problem, hint, gear, s.teacher)
            self.gates[trace.key] = found.gate
            if found.gate is Gate.PASSED:
                passed.append(trace.problem_id)
        return passed

    def passed(self, traces: Mapping[str, Trace]) -> list[Trace]:
        """Those of the hinted or repaired traces that passed every gate."""
        return [trace for key, trace in traces.items() if self.gates[key] is Gate.PASSED]

    def honest_traces(self) -> list[Trace]:
        """Unaided correct training traces, at most as many as PURE is calibrated on."""
        problems = self.session.problems
        correct = self.correct(self.unaided)
        train = [t for t in correct if problems[t.problem_id].split is Split.TRAIN]
        chosen, mastered = honest(train, self.ceilings, self.session.config.pure)
        if chosen and not mastered:
            fact = "PURE's honest traces are of all problems, for too few are of easy ones"
            self.session.facts[fact] = len(chosen)
        return chosen

    def calibration_traces(self) -> list[Trace]:
        """Those worth scoring: none unless PURE is to be calibrated and there are enough."""
        honest = self.honest_traces() if self.wants_calibration() else []
        return honest if len(honest) >= MIN_CALIBRATION else []

    def wants_reliance(self) -> bool:
        """Whether candidates are scored with their hint in view too."""
        config = self.session.config
        return config.pure.measure_reliance or Selection.RELIANCE in selections(config)

    def wants_calibration(self) -> bool:
        """Whether honest traces are scored too."""
        config = self.session.config
        return config.pure.measure_calibrated or not selections(config).isdisjoint(LINED)

    def wants_uncertainty(self) -> bool:
        """Whether U is asked for after each step."""
        return wants_uncertainty(self.session.config)

    def profile_keys(self, candidates: Sequence[Candidate]) -> dict[str, Candidate]:
        """The profile each candidate is to have; one with U will do where none is asked for."""
        s, probes = self.session, self.wants_uncertainty()

        def key(candidate: Candidate, with_u: bool) -> str:
            return pure_key(candidate, self.prompts, s.config.gear, s.scorer, with_u)

        full = {key(candidate, True): candidate for candidate in candidates}
        stored = {} if probes else s.store.read("pure", PureScore, full)
        held = {k for k in full if probes or (k in stored and stored[k].error is None)}
        return {k if k in held else key(c, False): c for k, c in full.items()}

    def calibrate(self, honest: Sequence[PureScore]) -> None:
        """Draw PURE's lines; without enough honest traces for one a share goes instead: a fact."""
        if not self.wants_calibration():
            return
        self.calibration = calibrate(honest, self.session.config.pure)
        unlined = (
            selections(self.session.config).intersection(LINED) - self.calibration.lines.keys()
        )
        for kind in sorted(unlined):
            instead = " by the plain ratio" if kind is Selection.CALIBRATED else ""
            self.session.fact(
                f"PURE dropped a fixed share{instead}: '{kind}' needs {MIN_CALIBRATION} unaided "
                f"correct traces that it can read, and there are too few among {len(honest)}",
                1,
            )

    def usable(self, traces: Mapping[str, Trace], arm: Arm) -> list[Trace]:
        """Correct training traces; assisted ones past the gates too, where an arm has gates."""
        problems = self.session.problems
        return [
            trace
            for trace in self.correct(traces)
            if problems[trace.problem_id].split is Split.TRAIN
            and (not arm.gated or self.gates.get(trace.key, Gate.PASSED) is Gate.PASSED)
        ]

    def correct(self, traces: Mapping[str, Trace]) -> list[Trace]:
        """Those of the traces that are correct."""
        return [t for key, t in traces.items() if self.checks[key].verdict is Verdict.CORRECT]

    def lift(self, arm: Arm) -> Lift:
        """The repairs an arm is given."""
        return self.lifts[arm.breakpoint or self.session.config.gear.breakpoint]

    @property
    def main_lift(self) -> Lift:
        """HEAL's own: cut where `gear.breakpoint` says."""
        return self.lifts[self.session.config.gear.breakpoint]

    def trained(self) -> dict[str, Arm]:
        """The arms of this run that have a student to train, HEAL's own data first."""
        names = sorted(set(self.session.config.arms) & TRAINED.keys(), key=lambda n: n != "heal")
        return {name: TRAINED[name] for name in names}

    def cut_kinds(self) -> list[Breakpoint]:
        """HEAL's own breakpoint, then those its controls ask for."""
        main = self.session.config.gear.breakpoint
        return list(
            dict.fromkeys([main, *(arm.breakpoint or main for arm in self.trained().values())])
        )

    def kept(self) -> dict[str, list[Selected]]:
        """Each arm's selected traces."""
        return {n: [x for x in all_ if x.drop is Drop.KEPT] for n, all_ in self.chosen.items()}

    def keep(self, table: str, keys: Iterable[str], tag: str = "") -> None:
        """These stored rows are what the run, as configured now, consists of."""
        self.session.store.set_live(table, keys, tag)

    def record(self, table: str, rows: Iterable[tuple[str, str, object]], tag: str = "") -> None:
        """Store what was worked out without a model, so that a report needs none either."""
        listed = list(rows)
        self.session.store.put_many(table, listed)
        self.keep(table, [key for key, _, _ in listed], tag)

    def draw(self, table: str, draws: Iterable[Draw]) -> dict[str, Trace]:
        """Traces the draws ask for, by key; only what is owed is sampled, and judged meanwhile."""
        s = self.session
        wanted, sampling, seed = list(draws), teacher_sampling(s), s.config.seed
        hint_of = {
            key: draw.hint
            for draw in wanted
            for key in draw_keys([draw], s.teacher, sampling, seed)
        }
        drawn = s.collect(
            table,
            Trace,
            list(hint_of),
            lambda done, claim: draw_traces(wanted, s.teacher, sampling, seed, done, claim),
            s.judge,
        )
        # Under other settings a hint has another name but may say the same, and give the same key.
        renamed = {
            key: replace(trace, hint=hint_of[key])
            for key, trace in drawn.items()
            if trace.hint != hint_of[key]
        }
        if renamed:
            s.store.put_many(table, ((t.key, t.problem_id, t) for t in renamed.values()))
        return drawn | renamed


def teacher_sampling(session: Session) -> Sampling:
    """How the teacher writes, aided or not."""
    c = session.config.sampling
    return Sampling(c.temperature, c.top_p, c.top_k, c.min_p, c.max_new_tokens)
