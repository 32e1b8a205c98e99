"""Answer swap: hint a wrong answer, and see what PURE says of the traces that reach it.

A stage like those of a run (`heal.stages.found`), of one problem: it continues the same kept
prefixes once under a wrong answer and once under the gold one, has both verified, passed through
the gates and scored, and says what became of each. What the run has drawn or scored itself is taken
over; all else lies in stages of the audit's own, so that what the run trains on stays as it was.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from heal.lab import sampled_answers
from heal.lab.swap_plan import DRAWS, Case
from heal.records import (
    AuditItem,
    AuditOutcome,
    AuditSide,
    Check,
    Gate,
    HintedScore,
    Origin,
    Problem,
    PureScore,
    SampledUncertainty,
    Trace,
    Verdict,
)
from heal.stages import repair, score, verify
from heal.stages.draw import Wanted, make_draw, owed_draws, traces_of
from heal.stages.found import Answerable, Found, Record, Request, Setup, Value

OWN = {
    repair.HINTED: "audit_trace",
    repair.REPAIRED: "audit_trace",
    "check": "audit_check",
    score.STAGE: "audit_pure",
    score.RELIANCE: "audit_reliance",
}
"""Where an audit stores what the run would store elsewhere."""


class Told(Found):
    """One problem of a run as an audit sees it, with the answer that it is told."""

    def __init__(self, found: Found, problem: Problem) -> None:
        self._found, self.problem = found, problem

    def get(self, stage: str, key: str, kind: type[Record]) -> Record | None:
        """A record, the run's if it has one."""
        its = self._found.get(stage, key, kind)
        return its if its is not None else self._found.get(OWN.get(stage, stage), key, kind)

    def add(self, stage: str, key: str, record: object) -> None:
        """Take in what is the audit's own."""
        self._found.add(OWN.get(stage, stage), key, record)

    def once(self, name: Hashable, work: Callable[[], Value]) -> Value:
        """As for the run; what depends on the answer is another thing under each."""
        return self._found.once((self.problem.answer, name), work)

    def is_taken_over(self, stage: str, key: str, kind: type[Record]) -> bool:
        """Whether a record is the run's."""
        return self._found.get(stage, key, kind) is not None


def as_own(requests: Iterable[Request]) -> Iterator[Request]:
    """The requests of a run's stage, their answers to be the audit's own."""
    return (replace(request, stage=OWN.get(request.stage, request.stage)) for request in requests)


@dataclass(frozen=True)
class Swap:
    """What is asked of every problem."""

    setup: Setup
    cases: Mapping[str, Case]
    by_text: Callable[[Answerable], Check] | None = None
    """Judges swapped answers where the run's verifier only knows its own; None: it can."""
    sampled_u: bool = False
    """Whether answers are sampled after every step of what was scored."""


@dataclass(frozen=True)
class Continued:
    """What became of one continuation."""

    item: AuditItem
    profile: PureScore | None
    """None unless it was scored."""
    sampled: SampledUncertainty | None
    new_tokens: int
    """Sampled for the audit: none of a trace that was taken over."""
    scored_tokens: int
    taken_over: bool


def owes(found: Found, swap: Swap) -> Iterator[Request]:
    """Continuations, then their verdicts, then profiles of what is scorable, then answers."""
    sides, setup = _sides(found, swap), swap.setup
    owed = [r for side in sides for r in owed_draws(side.told, setup, side.wanted())]
    owed = owed or list(_owed_checks(sides, swap))
    scorable = [] if owed else [(s.told, c) for s in sides for c in s.scorable()]
    owed = owed or [r for told, c in scorable for r in score.owed_scores(told, setup, c)]
    if owed or not swap.sampled_u:
        yield from as_own(owed)
        return
    for told, candidate in scorable:
        if score.measured(told, setup, candidate) is not None:
            yield from sampled_answers.owes(told, setup, candidate)


def conclude(found: Found, swap: Swap) -> Iterator[Continued]:
    """What became of each continuation, side by side; asked once nothing is owed."""
    for side in _sides(found, swap):
        candidates = {candidate.trace.key: candidate for candidate in side.scorable()}
        for stage, draw, places in side.wanted():
            for trace in traces_of(side.told, stage, draw, places):
                taken = side.told.is_taken_over(stage, trace.key, Trace)
                yield _continued(side, swap, trace, candidates.get(trace.key), taken)


@dataclass(frozen=True)
class _Side:
    """One problem under one of the two answers."""

    side: AuditSide
    case: Case
    told: Told
    gold: Told
    setup: Setup

    def wanted(self) -> list[Wanted]:
        """`DRAWS` continuations, spread over the prefixes."""
        return self.told.once("wanted", lambda: list(self._wanted()))

    def traces(self) -> list[Trace]:
        """The continuations there are."""
        return [
            t for stage, d, places in self.wanted() for t in traces_of(self.told, stage, d, places)
        ]

    def reached(self, trace: Trace) -> bool:
        """Whether it ended on the hinted answer; what counts as both ended on the gold one."""
        swap = self.side is AuditSide.SWAPPED
        return self._is_correct(self.told, trace) and not (swap and self.is_gold(trace))

    def is_gold(self, trace: Trace) -> bool:
        """Whether it ended on the gold answer."""
        return self._is_correct(self.gold, trace)

    def gate(self, trace: Trace) -> Gate | None:
        """What a run's gates say of it, its hint being what it was told."""
        return repair.gate_of(self.told, self.setup, trace, repair.answer_of(self.told, self.setup))

    def scorable(self) -> list[score.Candidate]:
        """What PURE is asked: traces past the gates, with the answer they reached."""
        hint = repair.answer_of(self.told, self.setup)
        return [
            score.candidate_of(self.told, self.setup, trace, hint)
            for trace in self.traces()
            if self.reached(trace) and self.gate(trace) is Gate.PASSED
        ]

    def _is_correct(self, told: Told, trace: Trace) -> bool:
        check = verify.check_of(told, self.setup, trace)
        return check is not None and check.verdict is Verdict.CORRECT

    def _wanted(self) -> Iterator[Wanted]:
        for place, start in enumerate(self.case.starts):
            count = len(range(place, DRAWS, len(self.case.starts)))
            if not start.ids:
                yield repair.HINTED, repair.hinted_draw(self.told, self.setup), range(count)
                continue
            hint = repair.answer_of(self.told, self.setup)
            problem, setup = self.told.problem, self.setup
            draw = make_draw(
                setup,
                problem.id,
                Origin.REPAIRED,
                repair.hinted_ids(problem, hint, setup.prompts, setup.teacher),
                prefix_ids=start.ids,
                parent=start.parent,
                cut=start.cut,
                hint=hint.key,
            )
            yield repair.REPAIRED, draw, range(count)


def _sides(found: Found, swap: Swap) -> list[_Side]:
    case = swap.cases[found.problem.id]
    gold = Told(found, case.problem)
    return [_Side(side, case, Told(found, case.told(side)), gold, swap.setup) for side in AuditSide]


def _owed_checks(sides: list[_Side], swap: Swap) -> Iterator[Request]:
    """Verdicts against the answer that was hinted, and against the gold one."""
    for side in sides:
        yield from verify.owed_checks(side.gold, swap.setup, side.traces())
        if side.side is AuditSide.GOLD:
            continue
        for request in verify.owed_checks(side.told, swap.setup, side.traces()):
            if swap.by_text is None:
                yield request
                continue
            assert isinstance(request.ask, Answerable)
            side.told.add(request.stage, request.keys[0], request.read(swap.by_text(request.ask)))


def _continued(
    side: _Side, swap: Swap, trace: Trace, candidate: score.Candidate | None, taken_over: bool
) -> Continued:
    setup, told, profile, sampled, scored_tokens = swap.setup, side.told, None, None, 0
    if candidate is not None:
        profile = score.measured(told, setup, candidate)
        scored_tokens = own_scored_tokens(told, setup, candidate)
        if swap.sampled_u and profile is not None:
            sampled = sampled_answers.uncertainty(told, setup, candidate)
    outcome = _outcome(side, trace, profile is not None)
    gate = side.gate(trace) if outcome is AuditOutcome.GATED else None
    return Continued(
        AuditItem(trace.key, trace.problem_id, side.side, told.problem.answer, outcome, gate),
        profile,
        sampled,
        0 if taken_over else trace.new_tokens,
        scored_tokens,
        taken_over,
    )


def own_scored_tokens(told: Told, setup: Setup, candidate: score.Candidate) -> int:
    """Tokens that were scored for the audit, and not for the run."""
    kinds = {score.STAGE: PureScore, score.RELIANCE: HintedScore}
    return sum(
        row.scored_tokens
        for row in score.score_rows(told, setup, candidate, "")
        if not told.is_taken_over(row.stage, row.key, kinds[row.stage])
    )


def _outcome(side: _Side, trace: Trace, scored: bool) -> AuditOutcome:
    if trace.error is not None:
        return AuditOutcome.FAILED
    if side.reached(trace):
        if side.gate(trace) is not Gate.PASSED:
            return AuditOutcome.GATED
        return AuditOutcome.SCORED if scored else AuditOutcome.UNSCORED
    if side.is_gold(trace):
        return AuditOutcome.KEPT_TO_GOLD
    checks = [verify.check_of(told, side.setup, trace) for told in (side.told, side.gold)]
    wrong = any(check is not None and check.verdict is Verdict.WRONG for check in checks)
    return AuditOutcome.OTHER_ANSWER if wrong else AuditOutcome.NO_ANSWER
