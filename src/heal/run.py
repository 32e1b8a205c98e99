"""One pass after another over the problems of a run: what `heal.pipeline` is written in.

Asks each problem through the stages given, concludes it in the columns when it owes nothing, and
leaves out those that are settled under the present settings.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from heal.config import Config
from heal.engines.base import Engine
from heal.keys import content_key
from heal.method.arms import Extra
from heal.method.pure import Calibration
from heal.records import (
    Cut,
    Gate,
    Hint,
    HintKind,
    Problem,
    Split,
    StepWords,
    Stratum,
    TrainResult,
    Verdict,
)
from heal.runner import Ask, Done, Limits, Runner, lanes
from heal.session import SERVERS, Observer, Session
from heal.stages import locate, match_budget, repair, sample
from heal.stages.candidates import example
from heal.stages.found import Found, Request, Setup
from heal.store import AttemptRow, ProblemRow, Row, Store, Stored, TraceRow
from heal.students import arms as students
from heal.students.exam import Exam
from heal.students.exam import conclude as conclude_exam
from heal.students.exam import owes as owes_attempts
from heal.students.export import row_of
from heal.wording import plural

SO_FAR = "data/repaired_so_far.jsonl"
"""Repairs past the gates, problem by problem, until PURE and PACE have seen all of them."""
NOTE_S = 2.0
"""How often a running process says how far it is."""


class Stage(NamedTuple):
    """A stage that sees one problem at a time."""

    name: str
    owes: Callable[[Found, Setup], Iterable[Request]]
    conclude: Callable[[Found, Setup], Iterable[Any]] = lambda found, setup: ()


class Noting:
    """An observer that also notes in the store, every few seconds, how far a running process is."""

    def __init__(self, watching: Observer, store: Store) -> None:
        self._watching, self._store = watching, store
        self._stage, self._done, self._owed, self._noted = "", 0, 0, 0.0

    def begin(self, stage: str, total: int, unit: str = "items") -> None:
        """A part of the work that has `total` units starts."""
        self._watching.begin(stage, total, unit)
        # A stage that tells no number is one piece of work.
        self._stage, self._done, self._owed = stage, 0, total or 1
        self._note()

    def stored(self, count: int) -> None:
        """So many units of it were there already."""
        self._watching.stored(count)
        self._done += count
        self._note()

    def advance(self, count: int = 1) -> None:
        """So many units of it are finished."""
        self._watching.advance(count)
        self._done += count
        if time.monotonic() - self._noted > NOTE_S:
            self._note()

    def arrived(self, outcome: str, tokens: int) -> None:
        """One answer came, of the many a unit may take."""
        self._watching.arrived(outcome, tokens)

    def waiting(self, count: int) -> None:
        """So many answers are under way, and none came just now."""
        self._watching.waiting(count)

    def end(self, stage: str, line: str) -> None:
        """A stage is over."""
        self._watching.end(stage, line)

    def say(self, text: str) -> None:
        """Something a person should know."""
        self._watching.say(text)

    def _note(self) -> None:
        self._noted = time.monotonic()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        told = {"stage": self._stage, "done": self._done, "owed": self._owed, "at": now}
        self._store.set_meta("progress", told)


@dataclass
class Run:
    """A session at work, and what the stages that see all problems hand on."""

    session: Session
    calibration: Calibration | None = None
    plans: students.Plans = field(default_factory=dict)
    names: dict[tuple[str, int], str] = field(default_factory=dict)
    """Of trained weights, by arm and training seed."""
    steps: int = 0
    """Of the student in training, as the observer was told."""
    all_steps: int = 0
    """Of all students."""
    steps_over: int = 0
    """Of all students, trained here or earlier."""

    @cached_property
    def setup(self) -> Setup:
        """The run as its stages see it."""
        return Setup(self.session.config, self.session, self.session.probed)

    def go_on_with(self, kind: HintKind | None, probed: Collection[str]) -> None:
        """Probe these problems from now on and tell all this kind of hint; None: not chosen yet."""
        s = self.session
        s.probed = frozenset(probed)
        if kind is not None:
            gear = s.config.gear.model_copy(update={"hint": kind})
            s.config = s.config.model_copy(update={"gear": gear})
        self.__dict__.pop("setup", None)

    @cached_property
    def runner(self) -> Runner:
        """Keeps teacher, scorer and verifier busy."""
        s, limits = self.session, self.session.config.limits
        streams = lanes(lambda: s.teacher, lambda: s.scorer, lambda: s.verifier)
        caps = Limits(limits.failed_share, limits.teacher_tokens)
        return Runner(s.store, s.observer, streams, caps, s.note_servers)

    def problems(self, split: Split) -> list[Problem]:
        """One side of the split."""
        return [p for p in self.session.problems.values() if p.split is split]

    def to_ask(self) -> list[Problem]:
        """Problems the teacher is asked; without a student nobody needs the held-out ones."""
        asked = self.problems(Split.TRAIN)
        return asked + (self.problems(Split.HELD_OUT) if self.session.config.student else [])

    def ask(self, problems: Iterable[Problem], owes: Ask, done: Done) -> None:
        """One pass with the run's own engines; what it took is added to what was taken before."""
        try:
            self.runner.run(problems, owes, done)
        finally:
            self._note_work()

    def matched(self, plan: match_budget.Plan, arm: str, kind: Extra) -> list[TraceRow]:
        """Draw a round of what an arm is owed for HEAL's tokens."""
        rows: list[TraceRow] = []
        self.ask(
            [self.session.problems[problem] for problem in plan],
            lambda found: match_budget.owes(found, self.setup, kind, plan),
            lambda found: rows.extend(match_budget.conclude(found, self.setup, arm, kind, plan)),
        )
        return rows

    def scored_token_cost(self) -> float:
        """What a scored token counts beside a written one.

        As `evaluate.scored_token_cost` says, else as timed on these engines, once, and kept, so
        that a rerun asks for the same.
        """
        store, cost = self.session.store, self.session.config.evaluate.scored_token_cost
        if cost is None:
            cost = store.meta("scored_token_cost")
        if cost is None:
            cost = match_budget.relative_cost(store.meta("work") or {})
            store.set_meta("scored_token_cost", cost)
        return float(cost)

    def keep_plans(self, plans: students.Plans, steps: int) -> None:
        """Store every arm's presentations; each student's training takes so many steps in all."""
        self.plans = plans
        planned = [(arm, n, p) for (arm, n), own in plans.items() for p in own]
        store = self.session.store
        store.record("plan", ((f"{arm}-seed{n}-{p.index}", "", p) for arm, n, p in planned))
        self.all_steps, self.steps_over = len(plans) * steps, 0
        self.session.observer.begin("train", self.all_steps, "steps")

    def trained(self, step: int, total: int, loss: float) -> None:
        """A student's optimizer step was made; those before it that no one told of are old."""
        self._reached(step - 1)
        self.steps = step
        self.steps_over += 1
        self.session.observer.advance()

    def stage_over(self, result: TrainResult) -> None:
        """A student's stage is trained, here or earlier."""
        plans = self.plans[result.arm, result.seed]
        self._reached(sum(len(plan.batches) for plan in plans if plan.index <= result.stage))
        if result.stage == self.session.config.pace.stages:
            self.steps = 0

    def _reached(self, step: int) -> None:
        if step > self.steps:
            self.session.observer.stored(step - self.steps)
            self.steps_over += step - self.steps
            self.steps = step

    def ask_in_training(
        self, student: students.Student, problems: Sequence[Problem]
    ) -> list[AttemptRow]:
        """The verified attempts of a student that is to be trained on; training is told on."""
        observer, samples = self.session.observer, self.session.config.evaluate.samples
        observer.begin("rehearse", len(problems) * samples, "attempts")
        rows = self.attempts(student, problems, observer.advance)
        observer.begin("train", self.all_steps, "steps")
        observer.stored(self.steps_over)
        return rows

    def examine(self, student: students.Student, problems: Sequence[Problem]) -> list[AttemptRow]:
        """One student's verified attempts, for the columns too."""
        rows = self.attempts(student, problems, self.session.observer.advance)
        self.session.store.insert(rows)
        return rows

    def attempts(
        self,
        student: students.Student,
        problems: Sequence[Problem],
        advance: Callable[[int], None],
        exam: Exam | None = None,
    ) -> list[AttemptRow]:
        """One student's verified attempts; its model is opened only when some are owed.

        exam: None asks what students are asked on held-out problems.
        """
        asked = exam or students.exam_of(self.session.config, student)
        rows: list[AttemptRow] = []

        def done(found: Found) -> None:
            rows.extend(conclude_exam(found, asked))
            advance(asked.samples)

        self.ask_student(
            student, problems, lambda found, model: owes_attempts(found, asked, model), done
        )
        return rows

    def ask_student(
        self,
        student: students.Student,
        problems: Iterable[Problem],
        owes: Callable[[Found, Callable[[], Engine]], Iterable[Request]],
        done: Done,
    ) -> None:
        """One pass with a student's model, which `owes` opens when something is owed."""
        s = self.session
        opened: list[Engine] = []

        def model() -> Engine:
            if not opened:
                opened.append(students.open_student(s.config, student, s.store.folder / SERVERS))
            return opened[0]

        streams = lanes(model, model, lambda: s.verifier)
        runner = Runner(s.store, s.observer, streams, Limits(s.config.limits.failed_share))
        try:
            runner.run(problems, lambda found: owes(found, model), done)
        finally:
            for engine in opened:
                engine.close()

    def _note_work(self) -> None:
        store = self.session.store
        before: Mapping[str, Sequence[float]] = store.meta("work") or {}
        now = {
            str(lane): (tokens + before.get(lane, (0, 0.0))[0], s + before.get(lane, (0, 0.0))[1])
            for lane, (tokens, s) in self.runner.work.items()
        }
        store.set_meta("work", {**before, **now})
        self.runner.work.clear()


def ask_each(run: Run, stages: Sequence[Stage], settings: str, whole: bool) -> tuple[int, int]:
    """Ask every problem through these stages; how many were asked, and how many left out.

    Left out are those settled under `settings`. `whole`: these are all stages of a problem, so that
    one that owes nothing is settled.
    """
    s = run.session
    settled = dict(s.store.query("SELECT problem, settled FROM problems"))
    everyone = run.to_ask()
    _forget_unasked(run, everyone)
    again = to_judge_again(s.store, s.config)
    open_ones = [p for p in everyone if settled.get(p.id) != _named(p, settings) or p.id in again]
    s.observer.begin("problems", len(everyone), "problems")
    s.observer.stored(len(everyone) - len(open_ones))
    with _SoFar(run, [p.id for p in open_ones]) as so_far:
        places = {problem: place for place, problem in enumerate(s.problems)}

        def owes(found: Found) -> Iterable[Request]:
            for stage in stages:
                owed = list(stage.owes(found, run.setup))
                if owed:
                    return owed
            return ()

        def done(found: Found) -> None:
            rows: list[Row] = []
            records: list[Stored] = []
            for stage in stages:
                for made in stage.conclude(found, run.setup):
                    if isinstance(made, Cut | Hint | StepWords):
                        records.append(
                            Stored(type(made).__name__.lower(), made.key, made.problem_id, made)
                        )
                    else:
                        rows.append(made)
            failed = any(getattr(row, "failed", False) for row in rows)
            name = _named(found.problem, settings) if whole and not failed else None
            judged = any(stage.name == "verify" for stage in stages)
            row = _problem_row(found, run.setup, places[found.problem.id], name, judged)
            # First: killed in between, the problem is asked again and its lines are replaced.
            so_far.add(found, row, whole)
            s.store.conclude(row, rows, records)
            s.observer.advance()

        run.ask(open_ones, owes, done)
    return len(open_ones), len(everyone) - len(open_ones)


def count_early(session: Session) -> int | None:
    """Problems decided before their plan's end; None where sampling is not adaptive.

    What that left undrawn is counted, with its error beside it.
    """
    settings = session.config.sampling
    if not settings.adaptive:
        return None
    found = list(
        session.store.query(
            "SELECT p.n, AVG(t.new_tokens) FROM problems p JOIN traces t ON t.problem = p.problem"
            " AND t.stage = 'sample' WHERE p.split = 'train' AND p.n < ? GROUP BY p.problem",
            (settings.n,),
        )
    )
    left = [settings.n - drawn for drawn, _ in found]
    tokens = sum(n * mean for n, (_, mean) in zip(left, found, strict=True))
    risk = f"each stratum differs from that of {plural(settings.n, 'trace')} with probability"
    fact = session.fact
    fact(f"problems sampled until decided: {risk} ≤ {settings.adaptive_error:g}", len(found))
    fact("traces not drawn because their problem was decided", sum(left))
    fact("teacher tokens saved by that, by the mean length of each problem's", round(tokens))
    return len(found)


def count_unrepaired(session: Session) -> None:
    """Count what a teacher could have repaired, where there is none."""
    if session.config.teacher is not None:
        return
    ((failed,),) = session.store.query(
        "SELECT COUNT(*) FROM traces t JOIN problems p ON p.problem = t.problem WHERE"
        " p.split='train' AND p.stratum='extreme' AND t.stage='sample' AND t.verdict='wrong'"
    )
    session.fact("failed traces of extreme problems not repaired: there is no teacher", failed)


def to_judge_again(store: Store, config: Config) -> set[str]:
    """Problems with verdicts that decided nothing, where these are to be judged once more."""
    if not config.limits.retry_unverifiable:
        return set()
    found = store.query(
        "SELECT DISTINCT problem FROM traces WHERE verdict = ?", (Verdict.UNVERIFIABLE,)
    )
    return {problem for (problem,) in found}


def _forget_unasked(run: Run, asked: Sequence[Problem]) -> None:
    """Drop what the columns say of problems that are no longer asked, as without a student."""
    s, ids = run.session, {problem.id for problem in asked}
    known = s.store.query("SELECT * FROM problems WHERE n > 0 OR settled IS NOT NULL")
    for row in [found for found in map(ProblemRow._make, known) if found.problem not in ids]:
        unknown = ProblemRow(
            *row[:4], 0, 0, 0, 0, Stratum.UNDETERMINED, rho=None, paths=0, settled=None
        )
        s.store.conclude(unknown, (), ())


def _named(problem: Problem, settings: str) -> str:
    """What a problem is settled under: the settings, and all that a source says of it."""
    return content_key(settings, problem)


def _problem_row(
    found: Found, setup: Setup, place: int, settled: str | None, judged: bool
) -> ProblemRow:
    problem = found.problem
    family = problem.meta.get("family")
    if not judged:
        n = len(sample.unaided(found, setup))
        return ProblemRow(
            problem.id, place, problem.split, family, n, 0, 0, 0, Stratum.UNDETERMINED, None, 0,
            settled,
        )  # fmt: skip
    c = sample.ceiling_of(found, setup)
    paths = len(locate.failed_paths(found, setup))
    return ProblemRow(
        problem.id,
        place,
        problem.split,
        family,
        c.n,
        c.correct,
        c.truncated,
        c.unverifiable,
        c.stratum,
        c.rho,
        paths,
        settled,
    )


class _SoFar:
    """Repairs past the gates, to be read while the run goes on."""

    def __init__(self, run: Run, open_ones: Sequence[str]) -> None:
        self._run = run
        self._path = run.session.store.folder / SO_FAR
        self._cap = run.session.config.pace.cap_d3
        self._open = frozenset(open_ones)

    def __enter__(self) -> "_SoFar":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = self._finished_before()
        self._file = self._path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, found: Found, row: ProblemRow, whole: bool) -> None:
        """A problem's repairs, at most as many as D3 takes."""
        if not whole or not row.paths:
            return
        setup = self._run.setup
        made = repair.repairs(found, setup, setup.config.gear.breakpoint)
        passed = [t for t, h in made if repair.gate_of(found, setup, t, h) is Gate.PASSED]
        for trace in passed[: self._cap]:
            shown = row_of(example(trace, found.problem, setup.prompts))
            self._file.write(json.dumps(shown, ensure_ascii=False) + "\n")
        self._file.flush()

    def _finished_before(self) -> list[str]:
        if not self._path.is_file():
            return []
        with self._path.open(encoding="utf-8") as file:
            return [line for line in file if self._is_finished(line)]

    def _is_finished(self, line: str) -> bool:
        try:
            return json.loads(line)["problem_id"] not in self._open
        except (ValueError, KeyError):
            return False  # cut off when an earlier process was killed; its problem is asked again
