"""Broken traces worth looking at: which to show, and their steps side by side.

In: a store. Out: up to a few `BrokenTrace`s, chosen by rule so that the same run always shows the
same ones: one repaired and kept, one that PURE dropped, one that stayed unsolved, each of another
problem where there are enough. The columns decide; only what is shown is opened. Draws nothing.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import numpy as np

from heal.records import (
    Cut,
    Drop,
    Fallback,
    Gate,
    Hint,
    Problem,
    PureScore,
    StepWord,
    Trace,
    Verdict,
)
from heal.report.steps import step_texts
from heal.report.truth import Witness
from heal.store import DamagedError, Store

Record = TypeVar("Record")

_SPARE = 3
"""Cases of each outcome beyond those asked for, in case some cannot be read."""


class Outcome(StrEnum):
    """What became of a broken trace."""

    KEPT = "Repaired and kept"
    DROPPED = "Repaired, then dropped by PURE"
    UNSOLVED = "Not repaired"
    UNTRIED = "Cut, but no repair was drawn"
    SPARE = "Repaired, but others of this problem were chosen"
    UNUSED = "Repaired, but not for the arm shown"


@dataclass(frozen=True)
class Step:
    """One step of a trace; numbers start at 1, and 0 is what follows the last step."""

    number: int
    text: str
    kept: bool
    """Part of the prefix that failed trace and repair share."""


@dataclass(frozen=True)
class Repair:
    """One continuation of a kept prefix, with what the checks made of it."""

    trace: Trace
    steps: tuple[Step, ...]
    answer: str | None
    verdict: Verdict | None
    gate: Gate | None
    drop: Drop | None
    """What became of it in D3; None: it is no candidate."""
    score: float | None
    """PURE's."""
    pure: PureScore | None
    commitment: int | None
    """k_c; None also where nothing was scored."""
    word: StepWord | None = None
    """What a witness says of its steps; None: there is none."""


@dataclass(frozen=True)
class BrokenTrace:
    """A failed trace, its cut, its hint, and one of its repairs."""

    outcome: Outcome
    problem: Problem
    failed: Trace
    steps: tuple[Step, ...]
    answer: str | None
    cut: Cut
    breakpoint: str
    """The rule that cut it."""
    hint: Hint | None
    repair: Repair | None
    tries: tuple[tuple[str, int], ...]
    """Every continuation of this cut, by the gate that refused it (or `passed`)."""
    word: StepWord | None = None
    """What a witness says of the failed trace's steps; None: there is none."""
    witness: str | None = None

    @property
    def drawn(self) -> int:
        """Continuations of this cut."""
        return sum(n for _, n in self.tries)


class UnreadableError(Exception):
    """A body that the columns name is not in the store, or is damaged."""


class _Case(NamedTuple):
    """A cut that may be shown, as the columns know it."""

    outcome: Outcome
    problem: str
    cut: str
    trace: str
    step: int
    margin: float
    fallback: str | None
    undecided: bool


class _Try(NamedTuple):
    """One continuation of a cut, as the columns know it."""

    key: str
    answer: str | None
    verdict: str | None
    gate: str | None
    hint: str | None
    drop: str | None
    score: float | None
    pure: str | None
    """Key of its profile."""
    commitment: int | None


@dataclass(frozen=True)
class Gallery:
    """Chooses and lays out the broken traces of one store."""

    store: Store
    arm: str | None
    """The arm shown."""
    breakpoint: str
    takes_repairs: bool
    """Whether that arm is given these repairs."""
    witness: Witness | None = None
    """Who knows the truth of steps."""

    def show(self, limit: int = 3) -> tuple[tuple[BrokenTrace, ...], int]:
        """One of each outcome in `Outcome`'s order, then more of any until `limit`.

        Also how many were passed over because a text of theirs cannot be read.
        """
        queues: dict[Outcome, list[_Case]] = {outcome: [] for outcome in Outcome}
        for case in self._clearest(limit + _SPARE if limit else 0):
            queues[case.outcome].append(case)
        shown: list[BrokenTrace] = []
        seen: set[str] = set()
        unreadable = 0
        while len(shown) < limit and any(queues.values()):
            for queue in queues.values():
                if len(shown) < limit:
                    found, failed = self._next(queue, seen)
                    shown += found
                    unreadable += failed
        return tuple(shown), unreadable

    def _next(self, queue: list[_Case], seen: set[str]) -> tuple[list[BrokenTrace], int]:
        """The first of a queue that is of a new problem and can be read; how many cannot."""
        unreadable = 0
        while queue:
            case = queue.pop(0)
            # a problem already shown would only push another outcome out of the gallery
            if case.problem in seen:
                continue
            seen.add(case.problem)
            try:
                return [self._lay_out(self._named(case))], unreadable
            except (UnreadableError, DamagedError):
                unreadable += 1
        return [], unreadable

    def _named(self, case: _Case) -> _Case:
        unused = case.outcome is Outcome.SPARE and not self.takes_repairs
        return case._replace(outcome=Outcome.UNUSED) if unused else case

    def _clearest(self, most: int) -> list[_Case]:
        """Of each outcome the clearest cuts, one of a problem, the clearest first.

        Clear is: no fallback, decided, by the widest margin. An unsolved trace says most where its
        whole problem stayed unsolved.
        """
        rows = self._ask(
            """WITH tried AS (
                SELECT t.problem, t.cut, MAX(s."drop" = 'kept') AS kept,
                MAX(s."drop" = 'pure') AS dropped, MAX(t.gate = 'passed') AS passed
                FROM traces t LEFT JOIN selected s ON s.arm = :arm AND s.problem = t.problem
                AND s.trace = t.key AND s.pool = 'D3'
                WHERE t.stage = 'repair' AND t.tag = :breakpoint AND NOT t.failed
                AND t.cut IS NOT NULL GROUP BY t.problem, t.cut
            ), cases AS (
                SELECT CASE WHEN r.cut IS NULL THEN :untried WHEN r.kept THEN :kept
                WHEN r.dropped THEN :dropped WHEN r.passed THEN :spare ELSE :unsolved END
                AS outcome, c.* FROM cuts c
                LEFT JOIN tried r ON r.problem = c.problem AND r.cut = c.key
                WHERE c.tag = :breakpoint
            ), judged AS (
                SELECT *, outcome = :unsolved AND problem IN (
                    SELECT problem FROM selected
                    WHERE arm = :arm AND pool = 'D3' AND "drop" <> 'pure'
                ) AS elsewhere FROM cases
            ), of_problem AS (
                SELECT *, ROW_NUMBER() OVER (PARTITION BY outcome, problem ORDER BY elsewhere,
                fallback IS NOT NULL, undecided, margin DESC, key) AS place FROM judged
            ), ranked AS (
                SELECT *, ROW_NUMBER() OVER (PARTITION BY outcome ORDER BY elsewhere,
                fallback IS NOT NULL, undecided, margin DESC, key) AS rank
                FROM of_problem WHERE place = 1
            )
            SELECT outcome, problem, key, trace, step, margin, fallback, undecided
            FROM ranked WHERE rank <= :most ORDER BY outcome, rank""",
            most=most,
            **{outcome.name.lower(): outcome.value for outcome in Outcome},
        )
        return [_Case(Outcome(outcome), *rest) for outcome, *rest in rows]

    def _lay_out(self, case: _Case) -> BrokenTrace:
        """Everything about one cut. Raises: UnreadableError, DamagedError."""
        failed = self._open("sample", case.trace, case.problem, Trace)
        # Controls that cut at the same place share the body; the columns have each one's own.
        cut = replace(
            self._open("cut", case.cut, case.problem, Cut),
            step=case.step,
            margin=case.margin,
            fallback=Fallback(case.fallback) if case.fallback is not None else None,
            undecided=bool(case.undecided),
        )
        tries = self._tries(case)
        chosen = _try_to_show(case.outcome, tries)
        gates = Counter((t.gate or "not checked").replace("_", " ") for t in tries)
        problem = self._open("problem", case.problem, case.problem, Problem)
        steps = _steps(failed, cut.step_ends, cut.prefix_tokens)
        repair = self._repair(chosen, cut, failed) if chosen else None
        if repair is not None:
            repair = replace(repair, word=self._word(problem, repair.steps))
        return BrokenTrace(
            outcome=case.outcome,
            problem=problem,
            failed=failed,
            steps=steps,
            word=self._word(problem, steps),
            witness=self.witness.name if self.witness else None,
            answer=self._answer(case),
            cut=cut,
            breakpoint=self.breakpoint,
            hint=self._hint(case, chosen),
            repair=repair,
            tries=tuple(gates.most_common()),
        )

    def _tries(self, case: _Case) -> list[_Try]:
        rows = self._ask(
            """SELECT t.key, t.answer, t.verdict, t.gate, t.hint, s."drop", s.score, p.key,
            p.commitment FROM traces t
            LEFT JOIN selected s ON s.arm = :arm AND s.problem = t.problem AND s.trace = t.key
            AND s.pool = 'D3'
            LEFT JOIN scores p ON p.problem = t.problem AND p.stage = 'pure' AND p.tag = t.tag
            AND p.trace = t.key AND NOT p.failed
            WHERE t.problem = :problem AND t.stage = 'repair' AND t.tag = :breakpoint
            AND t.cut = :cut AND NOT t.failed ORDER BY t.key""",
            problem=case.problem,
            cut=case.cut,
        )
        return [_Try(*row) for row in rows]

    def _word(self, problem: Problem, steps: Iterable[Step]) -> StepWord | None:
        if self.witness is None:
            return None
        texts = [step.text.strip() for step in steps if step.number]
        return self.witness.checker(problem.problem, problem.answer, texts)

    def _answer(self, case: _Case) -> str | None:
        rows = self._ask(
            """SELECT answer FROM traces
            WHERE problem = :problem AND stage = 'sample' AND key = :trace""",
            problem=case.problem,
            trace=case.trace,
        )
        return next((answer for (answer,) in rows), None)

    def _hint(self, case: _Case, chosen: _Try | None) -> Hint | None:
        """What the repair shown was told, else the first that was written for the cut."""
        rows = self._ask(
            """SELECT key FROM hints WHERE problem = :problem AND tag = :breakpoint
            AND (key = :told OR cut = :cut) ORDER BY key <> :told, key LIMIT 1""",
            problem=case.problem,
            cut=case.cut,
            told=(chosen.hint if chosen else None) or "",
        )
        keys = [key for (key,) in rows]
        return self._open("hint", keys[0], case.problem, Hint) if keys else None

    def _repair(self, chosen: _Try, cut: Cut, failed: Trace) -> Repair:
        trace = self._open("repair", chosen.key, cut.problem_id, Trace)
        pure = None
        if chosen.pure is not None:
            pure = self._open("pure", chosen.pure, cut.problem_id, PureScore)
        return Repair(
            trace=trace,
            steps=_scored_steps(trace, pure) if pure else _unscored_steps(trace, cut, failed),
            answer=chosen.answer,
            verdict=Verdict(chosen.verdict) if chosen.verdict is not None else None,
            gate=Gate(chosen.gate) if chosen.gate is not None else None,
            drop=Drop(chosen.drop) if chosen.drop is not None else None,
            score=chosen.score,
            pure=pure,
            commitment=chosen.commitment or None,
        )

    def _open(self, stage: str, key: str, problem: str, kind: type[Record]) -> Record:
        found = self.store.get(stage, key, problem, kind)
        if found is None:
            raise UnreadableError(f"{stage} {key}")
        return found

    def _ask(self, sql: str, **more: Any) -> list[Any]:
        known = {"arm": self.arm, "breakpoint": self.breakpoint}
        return list(self.store.query(sql, {**known, **more}))


def _try_to_show(outcome: Outcome, tries: list[_Try]) -> _Try | None:
    """The kept repair with the lowest score, the dropped one with the highest, or the first."""
    wanted = {Outcome.KEPT: Drop.KEPT, Outcome.DROPPED: Drop.PURE}.get(outcome)
    found = [t for t in tries if wanted is not None and t.drop == wanted]
    if not found:
        passed = [t for t in tries if t.gate == Gate.PASSED]
        return next(iter(passed or tries), None)
    sign = 1 if wanted is Drop.KEPT else -1

    def order(t: _Try) -> tuple[bool, float, str]:
        score = 0.0 if t.score is None or math.isnan(t.score) else t.score
        return t.pure is None, sign * score, t.key

    return min(found, key=order)


def _unscored_steps(trace: Trace, cut: Cut, parent: Trace) -> tuple[Step, ...]:
    """The parent's kept steps, then the paragraphs of what is new: nobody counted its steps."""
    texts = step_texts(parent.text, cut.step_ends, len(parent.ids))
    kept = [t for t, end in zip(texts, cut.step_ends, strict=False) if end <= cut.prefix_tokens]
    if not trace.text.startswith("".join(kept)):
        kept = []
    new = trace.text[len("".join(kept)) :].split("\n\n")
    steps = (text.strip("\n") for text in (*kept, *new))
    numbered = enumerate((text for text in steps if text.strip()), start=1)
    return tuple(Step(number, text, number <= len(kept)) for number, text in numbered)


def _steps(trace: Trace, ends: Iterable[int], prefix_tokens: int) -> tuple[Step, ...]:
    bounds = list(ends)
    texts = step_texts(trace.text, bounds, len(trace.ids))
    steps = []
    for index, text in enumerate(texts):
        inside = index < len(bounds)
        kept = inside and bounds[index] <= prefix_tokens
        steps.append(Step(index + 1 if inside else 0, text.strip("\n"), kept))
    return tuple(step for step in steps if step.text)


def _scored_steps(trace: Trace, pure: PureScore) -> tuple[Step, ...]:
    return _steps(trace, np.cumsum(pure.step_tokens).tolist(), trace.prefix_tokens)
