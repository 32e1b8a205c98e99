"""The method on one screen: the stages in order, each asking only for what is owed.

A `Run` holds what the stages so far have found; every stage reads it, does its part and adds to
it. All results live in the store under content keys, so running again continues, and a changed
setting redoes what it reaches and nothing else.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from heal.engines.base import Sampling
from heal.method.ceiling import ceiling
from heal.prompts import Prompts
from heal.records import (
    Ceiling,
    Check,
    Cut,
    Example,
    Finish,
    Gate,
    GateResult,
    Hint,
    Problem,
    PureScore,
    Selected,
    Split,
    StagePlan,
    Stratum,
    TokenScores,
    Trace,
    Verdict,
)
from heal.session import Session
from heal.stages import guide as guiding
from heal.stages import locate as locating
from heal.stages import repair as repairing
from heal.stages import score as scoring
from heal.stages.draw import Draw, draw_keys, draw_traces
from heal.stages.sample import unaided


@dataclass
class Run:
    """What the stages have found so far; keys are content keys unless a comment says otherwise."""

    session: Session
    unaided: dict[str, Trace] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    """By trace."""
    ceilings: dict[str, Ceiling] = field(default_factory=dict)
    """By problem."""
    paths: list[guiding.Path] = field(default_factory=list)
    hints: dict[str, Hint] = field(default_factory=dict)
    hint_of: dict[str, Hint] = field(default_factory=dict)
    """By cut."""
    assisted: dict[str, Trace] = field(default_factory=dict)
    """Hinted whole traces and repairs."""
    gates: dict[str, Gate] = field(default_factory=dict)
    """By trace."""
    pure: dict[str, PureScore] = field(default_factory=dict)
    """By trace."""
    selected: list[Selected] = field(default_factory=list)
    examples: dict[str, Example] = field(default_factory=dict)
    """By trace."""
    plans: dict[str, tuple[StagePlan, ...]] = field(default_factory=dict)
    """By arm."""

    @property
    def prompts(self) -> Prompts:
        """The run's templates."""
        return self.session.config.prompts

    def problems(self, split: Split) -> list[Problem]:
        """One side of the split."""
        return [p for p in self.session.problems.values() if p.split is split]

    def in_strata(self, *strata: Stratum) -> list[Problem]:
        """Training problems of these strata."""
        return [
            p for p in self.problems(Split.TRAIN) if self.ceilings[p.id].stratum in strata
        ]

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
        self.assisted |= traces
        self.checks |= s.check(traces.values())
        passed = []
        for trace in traces.values():
            problem, hint = s.problems[trace.problem_id], self.hints[trace.hint or ""]
            gear, check = s.config.gear, self.checks[trace.key]
            found = repairing.gate(trace, check, problem, hint, gear, s.teacher)
            self.gates[trace.key] = found.gate
            if found.gate is Gate.PASSED:
                passed.append(trace.problem_id)
        return passed

    def draw(self, table: str, draws: Iterable[Draw]) -> dict[str, Trace]:
        """Traces the draws ask for, by key; only what is owed is sampled."""
        s = self.session
        wanted, sampling, seed = list(draws), teacher_sampling(s), s.config.seed
        keys = draw_keys(wanted, s.teacher, sampling, seed)
        return s.collect(
            table,
            Trace,
            keys,
            lambda done, claim: draw_traces(wanted, s.teacher, sampling, seed, done, claim),
        )


def teacher_sampling(session: Session) -> Sampling:
    """How the teacher writes, aided or not."""
    c = session.config.sampling
    return Sampling(c.temperature, c.top_p, c.top_k, c.min_p, c.max_new_tokens)


def sample(run: Run) -> None:
    """§1: n unaided traces per training problem; held-out ones get theirs for their stratum."""
    config = run.session.config
    train, held_out = run.problems(Split.TRAIN), run.problems(Split.HELD_OUT)
    if config.student is None:
        held_out = []
    plan = [(train, config.sampling.n), (held_out, config.evaluate.teacher_n)]
    run.session.observer.begin("sample", sum(len(problems) * n for problems, n in plan))
    for problems, n in plan:
        run.unaided |= run.draw("sample", unaided(problems, run.prompts, run.session.teacher, n))


def verify(run: Run) -> None:
    """§1: a verdict per trace, then each problem's ceiling: easy, hard, extreme."""
    run.session.observer.begin("verify", len(run.unaided))
    run.checks |= run.session.check(run.unaided.values())
    verdicts: dict[str, list[Verdict]] = {}
    for trace in run.unaided.values():
        verdicts.setdefault(trace.problem_id, []).append(run.checks[trace.key].verdict)
    config = run.session.config
    for problem_id, found in verdicts.items():
        split = run.session.problems[problem_id].split
        planned = config.sampling.n if split is Split.TRAIN else config.evaluate.teacher_n
        run.ceilings[problem_id] = ceiling(problem_id, found, planned)


def locate(run: Run) -> None:
    """§2: failed paths of extreme problems, their unhinted entropies, and where each one broke."""
    s, gear = run.session, run.session.config.gear
    by_problem = run.traces_by_problem()
    failed = [
        trace
        for problem in run.in_strata(Stratum.EXTREME)
        for trace in locating.failed_paths(by_problem[problem.id], run.checks, gear.paths)
    ]
    s.observer.begin("locate", len(failed))
    scores = s.collect(
        "scores",
        TokenScores,
        [locating.scores_key(trace, s.scorer) for trace in failed],
        lambda done, claim: locating.scan(
            failed, s.problems, run.prompts, s.scorer, done, claim
        ),
    )
    for trace in failed:
        found = scores[locating.scores_key(trace, s.scorer)]
        if found.error is None:
            cut = locating.cut(trace, found, s.teacher, gear, run.prompts, s.config.seed)
            sibling = run.only_correct(by_problem[trace.problem_id])
            run.paths.append(guiding.Path(s.problems[trace.problem_id], trace, cut, sibling))


def guide(run: Run) -> None:
    """§2: one hint per path, written by the teacher and past the leak gate."""
    s, gear = run.session, run.session.config.gear
    s.observer.begin("guide", len(run.paths))
    key_of = {
        path.cut.key: guiding.hint_key(path, run.prompts, s.teacher, gear, s.config.seed)
        for path in run.paths
    }
    hints = s.collect(
        "hint",
        Hint,
        list(key_of.values()),
        lambda done, claim: guiding.guide(
            run.paths, run.prompts, s.teacher, gear, s.config.seed, done, claim
        ),
    )
    run.hint_of = {cut: hints[key] for cut, key in key_of.items() if hints[key].text}


def repair(run: Run) -> None:
    """§2: whole traces under the answer (D2), then repairs of each path, breadth-first (D3)."""
    s, gear = run.session, run.session.config.gear
    below = run.in_strata(Stratum.HARD, Stratum.EXTREME)
    n = gear.hinted_samples
    s.observer.begin("repair", len(below) * n + len(run.paths) * gear.candidates)
    pairs = [(problem, guiding.answer_hint(problem, run.prompts)) for problem in below]
    run.hints = {hint.key: hint for _, hint in pairs} | {h.key: h for h in run.hint_of.values()}
    run.admit(run.draw("hinted", repairing.whole_traces(pairs, run.prompts, s.teacher, n)))

    accepted: Counter[str] = Counter()
    for candidate in range(gear.candidates):
        paths = [
            (path, run.hint_of[path.cut.key])
            for path in run.paths
            if path.cut.key in run.hint_of
            and (gear.target is None or accepted[path.problem.id] < gear.target)
        ]
        if not paths:
            break
        drawn = repairing.repair_round(paths, run.prompts, s.teacher, candidate)
        accepted.update(run.admit(run.draw("repair", drawn)))


def score(run: Run) -> None:
    """§3: perplexity and uncertainty, step by step, under the unhinted teacher."""
    s, gear = run.session, run.session.config.gear
    candidates = [
        scoring.Candidate(
            s.problems[trace.problem_id],
            trace,
            run.checks[trace.key].answer or s.problems[trace.problem_id].answer,
        )
        for trace in run.assisted.values()
        if run.gates[trace.key] is Gate.PASSED
    ]
    s.observer.begin("score", len(candidates))
    keys = [scoring.pure_key(c, run.prompts, gear, s.scorer) for c in candidates]
    scores = s.collect(
        "pure",
        PureScore,
        keys,
        lambda done, claim: scoring.score(candidates, run.prompts, gear, s.scorer, done, claim),
    )
    run.pure = {found.trace: found for found in scores.values()}
