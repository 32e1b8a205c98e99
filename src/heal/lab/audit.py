"""Audit a run: do the method's parts do what they say? So far: PURE, by answer swap.

In: the config of a run folder that has verified traces. Out: counts, and how far each detector's
scores stand apart. What is drawn and scored lies in the same folder under stages of its own
(`audit…`), so an audit can be resumed, a second one costs nothing, and what `select` and `train`
see stays as it is. In memory: one profile per continuation.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from heal.config import Config
from heal.engines.base import answers
from heal.errors import UserError
from heal.execute import count_lost
from heal.lab import answer_swap, sampled_answers, swap_plan
from heal.lab.answer_swap import Continued, Swap, Told
from heal.lab.checked import separate_pure
from heal.method.audit import PureAudit, SampledU, Separation, rank_correlation, separation
from heal.method.pure import BY_RELIANCE, Calibration, commitment, drop_scores
from heal.reach import IDENTITY, first_stage, flatten
from heal.records import AuditSide, Check, Gate, Problem, PureScore, Selection
from heal.report.lines import tally
from heal.runner import Limits, Runner, lanes
from heal.session import Observer, Session
from heal.stages import calibrate as calibrating
from heal.stages.filter import readable
from heal.stages.found import Answerable, Found, Setup
from heal.store import Store, Stored
from heal.verifiers import open_verifier
from heal.wording import plural

RESAMPLES = 2_000
CORRELATION_RESAMPLES = 500
DETECTORS = (
    Selection.FRACTION,
    Selection.SURPRISAL,
    Selection.MEAN_NLL,
    Selection.MAX_PPL,
    Selection.LENGTH,
    Selection.RANDOM,
)
"""PURE's scores and the trivial ones; `calibrated` and `reliance` join them where a run is set to
measure what they need."""
SHARED = frozenset({"sample", "verify", "locate", "guide", "repair", "score"})
"""Stages whose settings should be those of the run that is read."""


def audit_pure(config: Config, n: int, observer: Observer, *, sampled_u: bool = False) -> PureAudit:
    """Audit PURE on up to n problems of a run.

    sampled_u: also sample short answers after every step of the traces that are scored.
    Raises: UserError where there is nothing to audit, CapabilityError where nobody can score.
    """
    folder = Path(config.run)
    with Store.open(folder, write=False):
        pass  # opened to write, a mistyped name would become an empty run
    with Store.open(folder) as store:
        _same_run(store, config, observer)
        count_lost(store, observer)
        session = Session(config, store, observer)
        try:
            session.require_scores()
            return _Audit(session, n, sampled_u).figures()
        finally:
            session.close()


def _same_run(store: Store, config: Config, observer: Observer) -> None:
    """Refuse another run's config, and say which settings differ from the run's."""
    before = flatten(store.meta("config") or {})
    now = flatten(config.model_dump(mode="json"))
    if not list(store.query("SELECT 1 FROM traces WHERE verdict IS NOT NULL LIMIT 1")):
        raise UserError(
            f"{config.run}: nothing is verified yet, so there is nothing to audit",
            hint="heal repair -c FILE goes far enough",
        )
    for key in IDENTITY:
        if before.get(key) != now.get(key):
            raise UserError(
                f"{config.run}: belongs to another config"
                f" ({key} was {before.get(key)}, is {now.get(key)})",
                hint="audit it with the recipe that made it, or name another with --set run=DIR",
            )
    shared = [k for k in now if before.get(k) != now[k] and first_stage(k) in SHARED]
    if shared:
        observer.say(f"settings that differ from the run's: {', '.join(shared)}")


class _Audit:
    """One audit: a pass over the audited problems, one over those that lines are drawn by."""

    def __init__(self, session: Session, n: int, sampled_u: bool) -> None:
        s, c = session, session.config
        self._store, self._observer, self._config = s.store, s.observer, c
        # U is what PURE's ratio is of: an audit asks for it, whatever the run selects by.
        pure = c.pure.model_copy(update={"measure_uncertainty": True})
        self._setup = Setup(c.model_copy(update={"pure": pure}), s)
        self._runner = Runner(
            s.store,
            s.observer,
            lanes(lambda: s.teacher, lambda: s.scorer, lambda: s.verifier),
            Limits(c.limits.failed_share, c.limits.teacher_tokens),
            s.note_servers,
        )
        self._plan = swap_plan.plan(s.store, c, n)
        cases = {case.problem.id: case for case in self._plan.cases}
        self._swap = Swap(self._setup, cases, _by_text(c), sampled_u)
        self._scored_tokens = 0

    def figures(self) -> PureAudit:
        """Ask what is owed, and count."""
        calibration, found = self._calibrate(), self._continue()
        items = [each.item for each in found]
        self._store.record("audit", ((item.key, item.problem_id, item) for item in items))
        swaps = sum(item.side is AuditSide.SWAPPED for item in items)
        facts = {
            "continuations the run had drawn already": sum(each.taken_over for each in found),
            "swapped answers compared as text, for no gym task can judge them": swaps
            * (self._swap.by_text is not None),
            "the run's own traces over a wrong step that the gate refused, so that no reading of"
            " them is below; heal score --set steps.gate=false has them read": self._refused(),
        }
        return PureAudit(
            run=str(self._store.folder),
            problems=len(self._plan.cases),
            inside=self._plan.inside,
            outcomes=_by_side((item.side, item.outcome) for item in items),
            gates=_by_side((item.side, item.gate) for item in items if item.gate is not None),
            never_committed=self._never_committed(found),
            detectors=self._detectors(found, calibration),
            facts={**self._plan.facts, **{fact: count for fact, count in facts.items() if count}},
            sampled_tokens=sum(each.new_tokens for each in found),
            scored_tokens=self._scored_tokens + sum(each.scored_tokens for each in found),
            sampled_u=self._sampled_u(found) if self._swap.sampled_u else None,
            checked=separate_pure(self._store, self._config, self._kinds(calibration)),
        )

    def _continue(self) -> list[Continued]:
        """Every continuation, side by side, in the order of the plan."""
        by_problem: dict[str, list[Continued]] = {}

        def done(found: Found) -> None:
            own = by_problem[found.problem.id] = list(answer_swap.conclude(found, self._swap))
            drawn = (each.sampled for each in own if each.sampled is not None)
            self._store.commit(Stored(sampled_answers.STAGE, u.key, u.problem_id, u) for u in drawn)
            self._observer.advance()

        problems = [case.problem for case in self._plan.cases]
        self._observer.begin("audit", len(problems), "problems")
        self._runner.run(problems, lambda found: answer_swap.owes(found, self._swap), done)
        every = [each for problem in problems for each in by_problem[problem.id]]
        outcomes = Counter(str(each.item.outcome) for each in every)
        self._observer.end(
            "audit", tally(plural(len(problems), "problem"), "continuation", outcomes)
        )
        return [each for side in AuditSide for each in every if each.item.side is side]

    def _calibrate(self) -> Calibration | None:
        """PURE's lines, by the run's own honest traces."""
        honest = calibrating.choose(self._store, self._setup)

        def done(found: Found) -> None:
            told = Told(found, found.problem)
            calibrating.conclude(told, self._setup, honest)
            for candidate in calibrating.candidates(told, self._setup, honest):
                self._scored_tokens += answer_swap.own_scored_tokens(told, self._setup, candidate)
            self._observer.advance()

        self._observer.begin("calibrate", len(honest.by_problem), "problems")
        self._runner.run(
            _problems(self._store, honest.by_problem),
            lambda found: answer_swap.as_own(
                calibrating.owes(Told(found, found.problem), self._setup, honest)
            ),
            done,
        )
        calibration, _ = calibrating.draw_lines(self._setup, honest)
        return calibration

    def _refused(self) -> int:
        refused = "SELECT COUNT(DISTINCT key) FROM traces WHERE gate=?"
        ((count,),) = self._store.query(refused, (Gate.WRONG_STEP,))
        return int(count)

    def _never_committed(self, found: Sequence[Continued]) -> dict[str, int]:
        pure = self._config.pure
        sides = (
            str(each.item.side)
            for each in found
            if each.profile is not None and commitment(each.profile, pure) is None
        )
        return dict(Counter(sides))

    def _detectors(
        self, found: Sequence[Continued], calibration: Calibration | None
    ) -> dict[str, Separation]:
        kinds = self._kinds(calibration)
        profiles = [each.profile for each in found if each.profile is not None]
        return {
            str(kind): self._separation(found, kind, _readable(profiles, kind), calibration)
            for kind in kinds
        }

    def _kinds(self, calibration: Calibration | None) -> list[Selection]:
        kinds = list(DETECTORS)
        lines = calibration.lines if calibration else {}
        kinds[1:1] = [Selection.CALIBRATED] if Selection.CALIBRATED in lines else []
        return kinds + (sorted(BY_RELIANCE) if self._setup.wants_reliance else [])

    def _separation(
        self,
        found: Sequence[Continued],
        kind: Selection,
        profiles: Sequence[PureScore],
        calibration: Calibration | None = None,
    ) -> Separation:
        """How far one detector's readings of the two sides stand apart."""
        pure, seed = self._config.pure, self._config.seed
        scores = drop_scores(profiles, kind, pure, seed=seed, calibration=calibration)
        groups: dict[AuditSide, dict[str, list[float]]] = {side: {} for side in AuditSide}
        for item in (each.item for each in found):
            if item.key in scores:
                groups[item.side].setdefault(item.problem_id, []).append(scores[item.key])
        return separation(*groups.values(), resamples=RESAMPLES, seed=seed)

    def _sampled_u(self, found: Sequence[Continued]) -> SampledU:
        """U by sampled answers: how like the known answer's, and how good a detector."""
        drawn = [
            (each.profile, each.sampled)
            for each in found
            if each.profile is not None and each.sampled is not None
        ]
        read = [(profile, u) for profile, u in drawn if u.error is None]
        pairs: dict[str, list[tuple[float, float]]] = {}
        for profile, u in read:
            both = np.stack([profile.uncertainty, u.entropy], axis=1)
            both = both[np.isfinite(both).all(axis=1)]
            pairs.setdefault(u.problem_id, []).extend(map(tuple, both.tolist()))
        swapped_in = [replace(profile, uncertainty=u.entropy) for profile, u in read]
        outcomes = {"asked": len(read), "failed": len(drawn) - len(read)}
        self._observer.end("sampled U", tally("", "traces", outcomes))
        seed = self._config.seed
        return SampledU(
            traces=len(read),
            steps=sum(map(len, pairs.values())),
            samples=sampled_answers.SAMPLES,
            correlation=rank_correlation(pairs, resamples=CORRELATION_RESAMPLES, seed=seed),
            ratio=self._separation(found, Selection.FRACTION, swapped_in),
            failed=len(drawn) - len(read),
            unclosed=sum(u.unclosed for _, u in read),
            sampled_tokens=sum(u.new_tokens for _, u in drawn),
        )


def _readable(profiles: Sequence[PureScore], kind: Selection) -> list[PureScore]:
    return [p for p in profiles if readable(p, kind)]


def _by_text(config: Config) -> Callable[[Answerable], Check] | None:
    """Compares swapped answers as text where a gym entry only knows its own answer."""
    if config.problems.verifier != "gym":
        return None
    exact = open_verifier(config.problems.model_copy(update={"verifier": "exact"}))

    def judge(ask: Answerable) -> Check:
        (check,) = answers(exact.verify_all([("", ask.text, ask.finish, ask.problem)]))
        return check

    return judge


def _problems(store: Store, problem_ids: Iterable[str]) -> Iterator[Problem]:
    for problem_id in problem_ids:
        problem = store.get("problem", problem_id, problem_id, Problem)
        assert problem is not None, "columns name only what is stored"
        yield problem


def _by_side(pairs: Iterable[tuple[AuditSide, str]]) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = {side: Counter() for side in AuditSide}
    for side, name in pairs:
        counted[side][str(name)] += 1
    return {side: dict(counts) for side, counts in counted.items()}
