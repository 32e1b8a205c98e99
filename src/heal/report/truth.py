"""What is known of the steps of a trace, where anything is: the lab's truth, or a step checker.

In: a store and its config. Out: a `Witness`, which reads steps one trace at a time, and how the
repairs that PURE kept and dropped fare with it. It opens at most `MOST` traces of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heal.functions import KNOWS_THE_TRUTH, code_is_allowed
from heal.records import Outcome, Problem, PureScore, StepWord, Trace
from heal.report.steps import step_texts
from heal.steps import NAMES, StepChecker, open_checker
from heal.store import DamagedError, Store

MOST = 400
"""Repairs of each fate that are opened to be judged; by key, which is by chance."""


@dataclass(frozen=True)
class Judged:
    """Repairs past the gates, by whether all of their steps hold."""

    by: str
    """Who says so."""
    kept: int
    """Of those that PURE kept, how many could be told."""
    kept_sound: int
    dropped: int
    dropped_sound: int
    cannot_tell: int
    sampled: bool
    """Not all were opened."""


@dataclass(frozen=True)
class Witness:
    """Somebody who can tell the first wrong step of a trace."""

    name: str
    """As sentences call it."""
    checker: StepChecker
    gates: bool
    """Whether the run has refused what it finds wrong."""


def witness(config: Mapping[str, Any]) -> Witness | None:
    """Whoever knows most about a run's steps; None where nobody does, or it may not run here."""
    source = config.get("problems", {}).get("source") or ""
    steps = config.get("steps", {})
    spec = steps.get("checker")
    if source in KNOWS_THE_TRUTH:
        return Witness("the lab", _opened(KNOWS_THE_TRUTH[source]), gates=False)
    if spec in NAMES or (spec and code_is_allowed()):
        return Witness(f"the step checker ({spec})", _opened(spec), bool(steps.get("gate", True)))
    return None


def _opened(spec: str) -> StepChecker:
    found = open_checker(spec)
    assert found is not None, "a spec was named"
    return found


def judge_repairs(store: Store, arm: str | None, breakpoint: str, who: Witness) -> Judged | None:
    """The repairs that PURE kept and dropped, by whether all their steps hold.

    None where the run itself has refused what this witness finds wrong: nothing is left to find.
    """
    if who.gates:
        return None
    words = {fate: _words(store, arm, breakpoint, who, fate) for fate in ("<>", "=")}
    kept, dropped = words["<>"], words["="]
    unsure = sum(word.outcome is Outcome.CANNOT_TELL for word in (*kept, *dropped))
    return Judged(
        who.name, *_told(kept), *_told(dropped), unsure, MOST in (len(kept), len(dropped))
    )


def _told(words: list[StepWord]) -> tuple[int, int]:
    """How many could be told, and of how many all steps hold."""
    told = [word for word in words if word.outcome is not Outcome.CANNOT_TELL]
    return len(told), sum(word.outcome is Outcome.NONE_FOUND for word in told)


def _words(
    store: Store, arm: str | None, breakpoint: str, who: Witness, fate: str
) -> list[StepWord]:
    rows = store.query(
        f"""SELECT s.problem, s.trace, p.key FROM selected s
        CROSS JOIN scores p ON p.problem = s.problem AND p.stage = 'pure' AND p.tag = ?
        AND p.trace = s.trace AND NOT p.failed
        WHERE s.arm = ? AND s.pool = 'D3' AND s."drop" {fate} 'pure'
        ORDER BY s.trace LIMIT {MOST}""",
        (breakpoint, arm),
    )
    return [word for row in list(rows) if (word := _word(store, who, *row)) is not None]


def _word(store: Store, who: Witness, problem: str, key: str, score: str) -> StepWord | None:
    try:
        asked = store.get("problem", problem, problem, Problem)
        trace = store.get("repair", key, problem, Trace)
        pure = store.get("pure", score, problem, PureScore)
    except DamagedError:
        return None
    if asked is None or trace is None or pure is None:
        return None
    ends, end = [], 0
    for tokens in pure.step_tokens:
        end += tokens
        ends.append(end)
    pieces = step_texts(trace.text, ends, len(trace.ids))[: len(ends)]
    return who.checker(asked.problem, asked.answer, [piece.strip() for piece in pieces])
