"""Audit: hint a wrong answer, and see what PURE says of the traces that reach it.

In: what a run found (problems, unaided traces, verdicts, cuts). Out: cases, draws that continue
the same kept prefixes once under a swapped answer and once under the gold one, and what became of
each continuation. Reads a run and adds nothing to what it trains on.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from heal.config import Pure
from heal.engines.base import Engine
from heal.method.audit import HIGH, LOW, answer_form, choose_problems, swapped_answer
from heal.prompts import Prompts
from heal.records import (
    AuditItem,
    AuditOutcome,
    AuditSide,
    Ceiling,
    Check,
    Cut,
    Gate,
    Hint,
    Origin,
    Problem,
    Split,
    Trace,
    Verdict,
)
from heal.stages.draw import Draw
from heal.stages.guide import answer_hint
from heal.stages.repair import hinted_ids
from heal.stages.score import Candidate
from heal.stages.score import honest as mastered

DRAWS = 4
"""Continuations of each problem under each of the two answers, spread over its prefixes."""


@dataclass(frozen=True)
class Material:
    """What an audit reads of a run."""

    problems: Mapping[str, Problem]
    unaided: Mapping[str, Trace]
    """Those that have a verdict."""
    unjudged: int
    """Unaided traces without one."""
    checks: Mapping[str, Check]
    """By trace."""
    ceilings: Mapping[str, Ceiling]
    """By problem."""
    cuts: Collection[Cut]
    hinted: Collection[str]
    """Problems that have hinted or repaired traces."""


@dataclass(frozen=True)
class Start:
    """A prefix to continue; empty for a whole trace."""

    ids: tuple[int, ...] = ()
    parent: str | None = None
    cut: str | None = None


@dataclass(frozen=True)
class Case:
    """One problem, the wrong answer that is hinted, and the prefixes to continue."""

    problem: Problem
    swapped: str
    starts: tuple[Start, ...]

    def told(self, side: AuditSide) -> Problem:
        """The problem with the answer that one side is hinted."""
        swap = side is AuditSide.SWAPPED
        return replace(self.problem, answer=self.swapped) if swap else self.problem


@dataclass(frozen=True)
class Plan:
    """What an audit asks, and what it left out."""

    cases: tuple[Case, ...]
    inside: int
    """Cases whose pass rate lies inside the band."""
    facts: Mapping[str, int]


@dataclass(frozen=True)
class Asked:
    """One case on one side: the draws, and the hint they were given."""

    case: Case
    side: AuditSide
    hint: Hint
    draws: tuple[Draw, ...]

    @property
    def problem(self) -> Problem:
        """The problem with the answer that was hinted."""
        return self.case.told(self.side)


@dataclass(frozen=True)
class Continued:
    """One continuation and what was found on it."""

    trace: Trace
    asked: Asked
    check: Check
    """The verdict against the answer that was hinted."""
    gold: Check
    """The verdict against the gold answer."""
    gate: Gate

    @property
    def reached(self) -> bool:
        """Whether it ended on the hinted answer; what counts as both ended on the gold one."""
        swap = self.asked.side is AuditSide.SWAPPED
        denied = swap and self.gold.verdict is Verdict.CORRECT
        return self.check.verdict is Verdict.CORRECT and not denied

    @property
    def scorable(self) -> bool:
        """Whether PURE is asked about it."""
        return self.reached and self.gate is Gate.PASSED


def plan(material: Material, n: int, seed: int) -> Plan:
    """Up to n training problems to audit, each with a wrong answer and the prefixes it has."""
    train = {k: p for k, p in material.problems.items() if p.split is Split.TRAIN}
    golds: dict[str, set[str]] = defaultdict(set)
    for problem in train.values():
        golds[answer_form(problem.answer)].add(problem.answer)
    seen, failed = _answers(material)
    facts = Counter({"unaided traces without a verdict, left out": material.unjudged})
    swaps: dict[str, str] = {}

    def can_swap(key: str) -> bool:
        answer = train[key].answer
        swap = swapped_answer(key, answer, golds[answer_form(answer)], seen[key], seed)
        if swap is None:
            facts["problems without another answer of the same form"] += 1
            return False
        swaps[key] = swap
        return True

    rho = _pass_rates(train, failed, material, facts)
    choice = choose_problems(rho, n, seed, can_swap)
    starts = _starts(material)
    cases = tuple(
        Case(train[key], swaps[key], starts.get(key, (Start(),))) for key in choice.problems
    )
    widened = f"audited problems outside {LOW} < ρ < {HIGH}, for want of others"
    facts[widened] = len(cases) - choice.inside
    facts["audited problems without a kept prefix, continued from nothing"] = sum(
        case.starts == (Start(),) for case in cases
    )
    return Plan(cases, choice.inside, {fact: count for fact, count in facts.items() if count})


def ask(cases: Iterable[Case], prompts: Prompts, engine: Engine) -> Iterator[Asked]:
    """Both sides of every case: `DRAWS` continuations each, of the same prefixes."""
    for case in cases:
        for side in AuditSide:
            problem = case.told(side)
            hint = answer_hint(problem, prompts)
            ids = hinted_ids(problem, hint, prompts, engine)
            draws = tuple(_draws(case, ids, hint))
            yield Asked(case, side, hint, draws)


def honest(material: Material, settings: Pure) -> list[Candidate]:
    """The unaided correct traces a run calibrates PURE on."""
    problems, checks = material.problems, material.checks
    correct = [
        trace
        for key, trace in material.unaided.items()
        if checks[key].verdict is Verdict.CORRECT
        and problems[trace.problem_id].split is Split.TRAIN
    ]
    return [
        Candidate(
            problems[trace.problem_id],
            trace,
            checks[trace.key].answer or problems[trace.problem_id].answer,
        )
        for trace in mastered(correct, material.ceilings, settings)[0]
    ]


def item(found: Continued, *, scored: bool) -> AuditItem:
    """What became of one continuation; `scored`: whether it has a profile."""
    outcome = _outcome(found, scored)
    return AuditItem(
        key=found.trace.key,
        problem_id=found.trace.problem_id,
        side=found.asked.side,
        answer=found.asked.problem.answer,
        outcome=outcome,
        gate=found.gate if outcome is AuditOutcome.GATED else None,
    )


def candidate(found: Continued) -> Candidate:
    """What PURE is asked: the trace with the answer it reached."""
    answer = found.check.answer or found.asked.problem.answer
    return Candidate(found.asked.case.problem, found.trace, answer, found.asked.hint)


def _outcome(found: Continued, scored: bool) -> AuditOutcome:
    if found.trace.error is not None:
        return AuditOutcome.FAILED
    if found.reached:
        if found.gate is not Gate.PASSED:
            return AuditOutcome.GATED
        return AuditOutcome.SCORED if scored else AuditOutcome.UNSCORED
    if found.gold.verdict is Verdict.CORRECT:
        return AuditOutcome.KEPT_TO_GOLD
    wrong = Verdict.WRONG in (found.check.verdict, found.gold.verdict)
    return AuditOutcome.OTHER_ANSWER if wrong else AuditOutcome.NO_ANSWER


def _pass_rates(
    train: Collection[str], failed: Collection[str], material: Material, facts: Counter[str]
) -> dict[str, float]:
    """ρ of the problems that may be audited; the others are counted in `facts`."""
    rho: dict[str, float] = {}
    for key in train:
        ceiling = material.ceilings.get(key)
        if ceiling is None or ceiling.rho is None:
            facts["problems whose traces could not be judged"] += 1
        elif key not in failed and key not in material.hinted:
            facts["problems without a failed or hinted trace"] += 1
        else:
            rho[key] = ceiling.rho
    return rho


def _answers(material: Material) -> tuple[Mapping[str, set[str]], set[str]]:
    """Unaided answers by problem, and the problems with a failed trace."""
    seen: dict[str, set[str]] = defaultdict(set)
    failed = set()
    for key, trace in material.unaided.items():
        check = material.checks[key]
        if check.answer is not None:
            seen[trace.problem_id].add(check.answer)
        if check.verdict is Verdict.WRONG:
            failed.add(trace.problem_id)
    return seen, failed


def _starts(material: Material) -> dict[str, tuple[Start, ...]]:
    """Up to `DRAWS` different kept prefixes of each problem that has cuts."""
    found: dict[str, dict[tuple[int, ...], Start]] = defaultdict(dict)
    for cut in sorted(material.cuts, key=lambda c: c.key):
        trace = material.unaided.get(cut.trace)
        if trace is None:
            continue
        ids = tuple(trace.ids[: cut.prefix_tokens].tolist())
        start = Start(ids, trace.key, cut.key) if ids else Start()
        found[cut.problem_id].setdefault(ids, start)
    return {key: tuple(starts.values())[:DRAWS] for key, starts in found.items()}


def _draws(case: Case, prompt_ids: Sequence[int], hint: Hint) -> Iterator[Draw]:
    for place, start in enumerate(case.starts):
        count = len(range(place, DRAWS, len(case.starts)))
        yield Draw(
            problem_id=case.problem.id,
            origin=Origin.REPAIRED if start.ids else Origin.HINTED,
            prompt_ids=tuple(prompt_ids),
            indices=tuple(range(count)),
            prefix_ids=start.ids,
            parent=start.parent,
            cut=start.cut,
            hint=hint.key,
        )
