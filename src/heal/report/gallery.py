"""Broken traces worth looking at: which to show, and their steps side by side.

In: a `RunView`. Out: up to a few `BrokenTrace`s, chosen by rule so that the same run always shows
the same ones: one repaired and kept, one that PURE dropped, one that stayed unsolved, each of
another problem where there are enough. Draws nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from heal.records import Cut, Drop, Gate, Hint, Problem, PureScore, Selected, Trace, Verdict
from heal.report.steps import step_texts
from heal.report.view import RunView


class Outcome(StrEnum):
    """What became of a broken trace."""

    KEPT = "Repaired and kept"
    DROPPED = "Repaired, then dropped by PURE"
    UNSOLVED = "Not repaired"
    UNTRIED = "Cut, but no repair was drawn"
    SPARE = "Repaired, but others of this problem were chosen"
    UNUSED = "Repaired, but the arm shown takes no repairs"


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
    selected: Selected | None
    pure: PureScore | None
    commitment: int | None
    """k_c; None also where nothing was scored."""


@dataclass(frozen=True)
class BrokenTrace:
    """A failed trace, its cut, its hint, and one of its repairs."""

    outcome: Outcome
    problem: Problem
    failed: Trace
    steps: tuple[Step, ...]
    answer: str | None
    cut: Cut
    hint: Hint | None
    repair: Repair | None
    tries: tuple[tuple[str, int], ...]
    """Every continuation of this cut, by the gate that refused it (or `passed`)."""

    @property
    def drawn(self) -> int:
        """Continuations of this cut."""
        return sum(n for _, n in self.tries)


def broken_traces(view: RunView, limit: int = 3) -> tuple[BrokenTrace, ...]:
    """The gallery: one of each outcome in `Outcome`'s order, then more of any until `limit`."""
    desk = _Desk(view)
    chosen: list[tuple[Outcome, Cut]] = []
    seen: set[str] = set()
    for outcome, cut in _candidates(desk):
        if len(chosen) < limit and cut.problem_id not in seen:
            chosen.append((outcome, cut))
            seen.add(cut.problem_id)
    return tuple(desk.lay_out(outcome, cut) for outcome, cut in chosen)


def _candidates(desk: "_Desk") -> Iterator[tuple[Outcome, Cut]]:
    """The first of each outcome, then the second of each, and so on."""
    queues: dict[Outcome, list[Cut]] = {outcome: [] for outcome in Outcome}
    for cut in sorted(desk.cuts, key=desk.plainness):
        queues[desk.outcome_of(cut)].append(cut)
    seen: set[str] = set()
    while any(queues.values()):
        for outcome, queue in queues.items():
            # a problem already shown would only push another outcome out of the gallery
            fresh = next((c for c in queue if c.problem_id not in seen), None)
            if fresh is None:
                queue.clear()
                continue
            queue.remove(fresh)
            seen.add(fresh.problem_id)
            yield outcome, fresh


class _Desk:
    """The run's records by key, so that one broken trace can be laid out with all that is its."""

    def __init__(self, view: RunView) -> None:
        self.problems = {p.id: p for p in view.problems}
        self.traces = {t.key: t for t in view.unaided}
        self.checks = {c.trace: c for c in view.checks}
        self.gates = {g.trace: g.gate for g in view.gates}
        self.selected = {s.trace: s for s in view.selected if s.pool == "D3"}
        self.solved = {s.problem_id for s in self.selected.values() if s.drop is not Drop.PURE}
        self.pure = {p.trace: p for p in view.pure if p.error is None}
        self.commitments = view.commitments
        self.takes_repairs = view.shows_heal
        self.hints = {h.key: h for h in view.hints}
        self.hint_of_cut = {h.cut: h for h in reversed(view.hints) if h.cut is not None}
        self.repairs: dict[str, list[Trace]] = {}
        for trace in sorted(view.repaired, key=lambda t: t.key):
            if trace.cut is not None and trace.error is None:
                self.repairs.setdefault(trace.cut, []).append(trace)
        self.cuts = [
            c for c in view.cuts if c.trace in self.traces and c.problem_id in self.problems
        ]

    def plainness(self, cut: Cut) -> tuple[bool, bool, bool, float, str]:
        """Clear cases first: no fallback, decided, by the widest margin.

        An unsolved trace says most where its whole problem stayed unsolved.
        """
        elsewhere = self.outcome_of(cut) is Outcome.UNSOLVED and cut.problem_id in self.solved
        return elsewhere, cut.fallback is not None, cut.undecided, -cut.margin, cut.key

    def outcome_of(self, cut: Cut) -> Outcome:
        """The best that came of a cut."""
        repairs = self.repairs.get(cut.key, [])
        if not repairs:
            return Outcome.UNTRIED
        drops = {self.selected[t.key].drop for t in repairs if t.key in self.selected}
        if Drop.KEPT in drops:
            return Outcome.KEPT
        if Drop.PURE in drops:
            return Outcome.DROPPED
        passed = any(self.gates.get(t.key) is Gate.PASSED for t in repairs)
        if not passed:
            return Outcome.UNSOLVED
        return Outcome.SPARE if self.takes_repairs else Outcome.UNUSED

    def lay_out(self, outcome: Outcome, cut: Cut) -> BrokenTrace:
        """Everything about one cut."""
        failed, check = self.traces[cut.trace], self.checks.get(cut.trace)
        repairs = self.repairs.get(cut.key, [])
        trace = self._repair_to_show(outcome, repairs)
        told = self.hints.get(trace.hint or "") if trace else None
        gates = (str(self.gates.get(t.key, "not checked")) for t in repairs)
        tries = Counter(gate.replace("_", " ") for gate in gates)
        return BrokenTrace(
            outcome=outcome,
            problem=self.problems[cut.problem_id],
            failed=failed,
            steps=_steps(failed, cut.step_ends, cut.prefix_tokens),
            answer=check.answer if check else None,
            cut=cut,
            hint=told or self.hint_of_cut.get(cut.key),
            repair=self._repair(trace, cut) if trace else None,
            tries=tuple(tries.most_common()),
        )

    def _repair_to_show(self, outcome: Outcome, repairs: list[Trace]) -> Trace | None:
        """The kept repair with the lowest score, the dropped one with the highest, or the first."""
        wanted = {Outcome.KEPT: Drop.KEPT, Outcome.DROPPED: Drop.PURE}.get(outcome)
        found = [t for t in repairs if t.key in self.selected]
        found = [t for t in found if self.selected[t.key].drop is wanted]
        if not found:
            passed = [t for t in repairs if self.gates.get(t.key) is Gate.PASSED]
            return next(iter(passed or repairs), None)
        sign = 1 if wanted is Drop.KEPT else -1
        return min(found, key=lambda t: (t.key not in self.pure, sign * self._score(t), t.key))

    def _score(self, trace: Trace) -> float:
        score = self.selected[trace.key].score
        return 0.0 if score is None or np.isnan(score) else score

    def _repair(self, trace: Trace, cut: Cut) -> Repair:
        check, pure = self.checks.get(trace.key), self.pure.get(trace.key)
        return Repair(
            trace=trace,
            steps=_scored_steps(trace, pure) if pure else self._unscored_steps(trace, cut),
            answer=check.answer if check else None,
            verdict=check.verdict if check else None,
            gate=self.gates.get(trace.key),
            selected=self.selected.get(trace.key),
            pure=pure,
            commitment=self.commitments.get(trace.key),
        )

    def _unscored_steps(self, trace: Trace, cut: Cut) -> tuple[Step, ...]:
        """The parent's kept steps, then the paragraphs of what is new: nobody counted its steps."""
        parent = self.traces[cut.trace]
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
