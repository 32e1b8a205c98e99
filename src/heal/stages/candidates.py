"""Candidates: one problem's correct traces, opened as they are needed.

What PACE is told of each for an arm, and what the student makes of it as an example.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from heal.config import Config
from heal.method.arms import Arm
from heal.method.metrics import doubt_rate
from heal.method.pace import POOL_OF, PoolCandidate
from heal.method.thinking import CLOSE, Malformed, read_thought
from heal.prompts import Prompts, fill
from heal.records import (
    Drop,
    Example,
    Gate,
    Origin,
    Outcome,
    Problem,
    Selected,
    Trace,
)
from heal.stages import match_budget, repair, sample
from heal.stages.filter import Filter
from heal.store import SelectedRow, Store, decode, step_words

ORIGIN_OF = {
    sample.STAGE: Origin.UNAIDED,
    repair.HINTED: Origin.HINTED,
    repair.REPAIRED: Origin.REPAIRED,
}


class Seen(NamedTuple):
    """What a student makes of an example."""

    tokens: int | None
    """Prompt and end included; None where it must refuse, or there is no student."""
    refused: Drop | None = None


See = Callable[[Example], Seen]


def unseen(shown: Example) -> Seen:
    """Without a student only what none could be taught is refused."""
    malformed = isinstance(read_thought(shown.assistant), Malformed)
    return Seen(None, Drop.THINKING if malformed else None)


class CorrectTrace(NamedTuple):
    """One correct trace of a training problem."""

    problem: str
    stage: str
    tag: str
    key: str
    gate: str | None
    cut: str | None
    tokens: int


class Opened:
    """One problem's correct traces, opened as they are needed."""

    def __init__(
        self,
        store: Store,
        problem: Problem,
        prompts: Prompts,
        rows: Sequence[CorrectTrace],
        see: See,
    ) -> None:
        self._problem, self._prompts, self._rows, self._see = problem, prompts, rows, see
        self._bodies = store.bodies(problem.id)
        self._said = dict(step_words(store, problem.id))
        self._stages = {row.key: row.stage for row in rows}
        self._tokens = {row.key: row.tokens for row in rows}
        self._traces: dict[str, Trace] = {}
        self._seen: dict[str, Seen] = {}

    def candidates(
        self, config: Config, name: str, arm: Arm, found: Filter, marked: Collection[str]
    ) -> list[PoolCandidate]:
        """An arm's candidates, as PACE sees them."""
        repairs = str(arm.breakpoint or config.gear.breakpoint)
        tags = {repair.REPAIRED: repairs, match_budget.STAGE: name}
        return [
            PoolCandidate(
                trace=row.key,
                problem_id=row.problem,
                pool=pool,
                text=self._trace(row.key).text,
                parent=row.cut,
                score=found.suspicion.get(row.key),
                pure_dropped=row.key in found.dropped,
                marked_bad=row.key in marked,
            )
            for row in self._rows
            if row.tag == tags.get(row.stage, "")
            and (pool := self._pool(row.key)) in arm.pools
            and (not arm.gated or row.gate in (None, Gate.PASSED))
        ]

    def stage(self, trace: str) -> str:
        """Where a trace's body is stored."""
        return self._stages[trace]

    def refusal(self, trace: str) -> Drop | None:
        """Why the student cannot be shown a trace."""
        return self._seen_as(trace).refused

    def words(self, x: Selected) -> list[Outcome]:
        """The step checker's word on an assisted trace, if it has one."""
        if x.pool == "D1" or x.trace not in self._said:
            return []
        return [self._said[x.trace].outcome]

    @property
    def refused(self) -> list[Drop]:
        """Why the student could not be shown some of the traces."""
        return [seen.refused for seen in self._seen.values() if seen.refused is not None]

    @property
    def thinking(self) -> int:
        """How many of the traces looked at have a thinking section."""
        return sum(CLOSE in self._trace(key).text for key in self._seen)

    def example(self, trace: str) -> Example:
        """The training pair: the problem without any hint, and the whole trace."""
        return example(self._trace(trace), self._problem, self._prompts)

    def row(self, arm: str, x: Selected) -> SelectedRow:
        """What the columns say of a decision."""
        kept = x.drop is Drop.KEPT
        shown = kept or x.drop is Drop.ALTERNATE
        return SelectedRow(
            arm,
            x.problem_id,
            x.trace,
            x.pool,
            x.drop,
            x.score,
            self._tokens[x.trace],
            self._seen_as(x.trace).tokens if shown else None,
            doubt_rate(self._trace(x.trace).text) if kept else None,
            self._stages[x.trace],
        )

    def _pool(self, key: str) -> str:
        stage = self._stages[key]
        return POOL_OF[ORIGIN_OF.get(stage) or self._trace(key).origin]

    def _seen_as(self, trace: str) -> Seen:
        if trace not in self._seen:
            self._seen[trace] = self._see(self.example(trace))
        return self._seen[trace]

    def _trace(self, key: str) -> Trace:
        if key not in self._traces:
            self._traces[key] = decode(Trace, self._bodies[self._stages[key], key])
        return self._traces[key]


def example(trace: Trace, problem: Problem, prompts: Prompts) -> Example:
    """The training pair of one trace."""
    user = fill(prompts.solve, problem=problem.problem)
    pool = POOL_OF[trace.origin]
    return Example(trace.key, problem.id, pool, user, trace.text, prompts.system)


def correct(store: Store) -> Iterator[CorrectTrace]:
    """Correct traces of training problems, problem by problem."""
    rows = store.query(
        "SELECT t.problem, t.stage, t.tag, t.key, t.gate, t.cut, t.tokens FROM traces t"
        " JOIN problems p ON p.problem = t.problem"
        " WHERE t.verdict='correct' AND p.split='train' ORDER BY t.problem, t.stage, t.tag, t.key"
    )
    return map(CorrectTrace._make, rows)
