"""What the stages of one run have found so far, and how they add to it.

A stage reads a `Run`, draws traces or scores through it, and leaves its results in it; what was
worked out without a model is recorded too, so that a report needs none.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from heal.config import Gear, ModelRef
from heal.engines import model_files, open_engine
from heal.engines.base import Sampling
from heal.errors import UserError
from heal.method.arms import TRAINED, Arm
from heal.method.pace import cap
from heal.method.pure import Calibration, calibrate
from heal.prompts import Prompts
from heal.records import (
    Breakpoint,
    Ceiling,
    Check,
    Drop,
    EvalTrace,
    Example,
    Gate,
    Hint,
    Origin,
    Problem,
    PureScore,
    Selected,
    Selection,
    Split,
    StagePlan,
    Stratum,
    TokenScores,
    Trace,
    Verdict,
)
from heal.session import Session
from heal.stages.draw import Claim, Draw, draw_keys, draw_traces
from heal.stages.evaluate import Exam, eval_keys, evaluate
from heal.stages.guide import Path, answer_hint
from heal.stages.repair import gate as ask_gates
from heal.stages.repair import hinted_ids
from heal.stages.sample import solve_ids


@dataclass
class Lift:
    """One way of cutting failed traces, and everything that followed from it."""

    gear: Gear
    paths: list[Path] = field(default_factory=list)
    hint_of: dict[str, Hint] = field(default_factory=dict)
    """By cut."""
    repaired: dict[str, Trace] = field(default_factory=dict)


@dataclass
class Run:
    """What the stages have found so far; keys are content keys unless a comment says otherwise."""

    session: Session
    unaided: dict[str, Trace] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    """By trace."""
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
    plans: dict[str, tuple[StagePlan, ...]] = field(default_factory=dict)
    """By arm."""
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

    def calibration_traces(self) -> list[Trace]:
        """Unaided correct traces to calibrate PURE on; none unless it is to be calibrated."""
        settings = self.session.config.pure
        if settings.selection is not Selection.CALIBRATED:
            return []
        problems = self.session.problems
        correct = (t for t in self.correct(self.unaided))
        train = [t for t in correct if problems[t.problem_id].split is Split.TRAIN]
        return sorted(train, key=lambda t: t.key)[: settings.calibration_traces]

    def calibrate(self, honest: Sequence[PureScore]) -> None:
        """Fit PURE's calibration. Raises: UserError when too few honest traces are there."""
        settings = self.session.config.pure
        if settings.selection is not Selection.CALIBRATED:
            return
        try:
            self.calibration = calibrate(honest, settings)
        except ValueError as error:
            raise UserError(
                f"pure.selection: {error}; there are {len(honest)}",
                hint="raise sampling.n, or use --set pure.selection=fraction",
            ) from None

    def usable(self, traces: Mapping[str, Trace], arm: Arm) -> list[Trace]:
        """Correct training traces; assisted ones past the gates too, where an arm has gates."""
        problems = self.session.problems
        return [
            trace
            for trace in self.correct(traces)
            if problems[trace.problem_id].split is Split.TRAIN
            and (not arm.gated or self.gates.get(trace.key, Gate.PASSED) is Gate.PASSED)
        ]

    def bill(self) -> int:
        """What HEAL spends after sampling, in sampled teacher tokens (RESOLUTIONS 1).

        A scored token counts as much as it takes in time beside a sampled one on this engine, as
        measured once and then kept, so that a rerun asks for the same.
        """
        store, main = self.session.store, self.main_lift
        cost = store.meta("scored_token_cost")
        if cost is None:
            cost = relative_cost(store.meta("work") or {})
            store.set_meta("scored_token_cost", cost)
        sampled = sum(t.new_tokens for t in (self.hinted | main.repaired).values())
        hints = sum(hint.new_tokens for hint in {h.key: h for h in main.hint_of.values()}.values())
        scored = sum(s.scored_tokens for s in store.live("scores", TokenScores).values())
        scored += sum(s.scored_tokens for s in store.live("pure", PureScore).values())
        return round(sampled + hints + cost * scored)

    def typical_tokens(self) -> float:
        """Mean length of an unaided trace; 1 if none was drawn."""
        return sum(t.new_tokens for t in self.unaided.values()) / max(1, len(self.unaided)) or 1.0

    def wants_unaided(self, bought: Mapping[str, Trace]) -> set[str]:
        """Problems whose D1 still has room, with what was bought."""
        return self._below_cap("D1", {**self.unaided, **bought})

    def wants_rationales(self, bought: Mapping[str, Trace]) -> set[str]:
        """Problems whose D2 still has room, with what was bought."""
        return self._below_cap("D2", {**self.hinted, **bought})

    def _below_cap(self, pool: str, traces: Mapping[str, Trace]) -> set[str]:
        have = Counter(trace.problem_id for trace in self.correct(traces))
        pace = self.session.config.pace
        ceilings = self.ceilings.items()
        return {p for p, found in ceilings if have[p] < cap(pool, found.stratum, pace)}

    def buy_unaided(self, plan: Sequence[tuple[Problem, tuple[int, ...]]]) -> dict[str, Trace]:
        """More unaided traces, verified."""
        teacher = self.session.teacher
        drawn = self.draw(
            "bought",
            (
                Draw(p.id, Origin.UNAIDED, solve_ids(p, self.prompts, teacher), indices)
                for p, indices in plan
            ),
        )
        self.checks |= self.session.check(drawn.values())
        return drawn

    def buy_rationales(self, plan: Sequence[tuple[Problem, tuple[int, ...]]]) -> dict[str, Trace]:
        """More whole traces under the answer, verified."""
        teacher = self.session.teacher
        draws = []
        for problem, indices in plan:
            hint = answer_hint(problem, self.prompts)
            ids = hinted_ids(problem, hint, self.prompts, teacher)
            draws.append(Draw(problem.id, Origin.HINTED, ids, indices, hint=hint.key))
        drawn = self.draw("bought", draws)
        self.checks |= self.session.check(drawn.values())
        return drawn

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

    def kept(self, among: Collection[str]) -> dict[str, list[Selected]]:
        """Each arm's selected traces, those that are in `among`."""
        return {
            name: [x for x in chosen if x.drop is Drop.KEPT and x.trace in among]
            for name, chosen in self.chosen.items()
        }

    def trained_arms(self) -> list[tuple[str, int]]:
        """Every (arm, training seed) that has a plan."""
        return [(arm, seed) for seed in self.session.config.seeds for arm in self.plans]

    @staticmethod
    def student_folder(arm: str, seed: int) -> str:
        """Where an arm's students live, relative to the run folder."""
        return f"students/{arm}-seed{seed}"

    def students(self) -> list[tuple[str, int, str, str]]:
        """(arm, training seed, name of the weights, folder) of every student to examine."""
        c, home = self.session.config, self.session.store.folder
        found = []
        if c.student is not None and "base" in c.arms:
            found.append(("base", 0, model_files(c.student.model), c.student.model))
        for (arm, seed), model in self.models.items():
            folder = home / self.student_folder(arm, seed) / f"stage{len(self.plans[arm])}"
            found.append((arm, seed, model, str(folder)))
        return found

    def exam(self, arm: str, seed: int, model: str) -> Exam:
        """What one student is asked."""
        c = self.session.config
        room = c.evaluate.max_new_tokens or c.sampling.max_new_tokens
        sampling = Sampling(c.evaluate.temperature, c.evaluate.top_p, max_new_tokens=room)
        return Exam(
            arm, seed, model, c.evaluate.samples, sampling, c.prompts, c.problems.verifier, c.seed
        )

    def examine(self, exam: Exam, folder: str, problems: list[Problem]) -> dict[str, EvalTrace]:
        """One student's attempts; its model is opened only when some are owed."""
        s = self.session

        def attempts(done: Collection[str], claim: Claim) -> Iterator[EvalTrace]:
            engine = open_engine(ModelRef(model=folder), s.config.engine)
            try:
                yield from evaluate(exam, problems, engine, s.verifier, done, claim)
            finally:
                engine.close()

        return s.collect("evaluate", EvalTrace, eval_keys(exam, problems), attempts)

    def keep(self, table: str, keys: Iterable[str], tag: str = "") -> None:
        """These stored rows are what the run, as configured now, consists of."""
        self.session.store.set_live(table, keys, tag)

    def record(self, table: str, rows: Iterable[tuple[str, str, object]], tag: str = "") -> None:
        """Store what was worked out without a model, so that a report needs none either."""
        listed = list(rows)
        self.session.store.put_many(table, listed)
        self.keep(table, [key for key, _, _ in listed], tag)

    def draw(self, table: str, draws: Iterable[Draw]) -> dict[str, Trace]:
        """Traces the draws ask for, by key; only what is owed is sampled."""
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
        )
        # Under other settings a hint has another name but may say the same, and give the same key.
        renamed = {
            key: replace(trace, hint=hint_of[key])
            for key, trace in drawn.items()
            if trace.hint != hint_of[key]
        }
        s.store.put_many(table, ((t.key, t.problem_id, t) for t in renamed.values()))
        return drawn | renamed


def teacher_sampling(session: Session) -> Sampling:
    """How the teacher writes, aided or not."""
    c = session.config.sampling
    return Sampling(c.temperature, c.top_p, c.top_k, c.min_p, c.max_new_tokens)


def relative_cost(work: Mapping[str, Sequence[float]]) -> float:
    """Time of a scored token over that of a sampled one; 1 where either was never timed."""
    tokens, seconds = work.get("sample", (0, 0))
    scans, profiles = work.get("scores", (0, 0)), work.get("pure", (0, 0))
    scored_tokens, scored_seconds = scans[0] + profiles[0], scans[1] + profiles[1]
    if not (scored_tokens and scored_seconds and tokens and seconds):
        return 1.0
    return (scored_seconds / scored_tokens) / (seconds / tokens)
