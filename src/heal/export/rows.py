"""Training rows of one arm with where each came from, one at a time.

In: a run folder. Out: `Row`s in a fixed order, and counts of what no other trainer can be given. A
row's text holds one closed `<think>` block or none: what the teacher's prompt had opened is opened
again, and anything else is refused.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from heal.before.offline import CHARACTERS
from heal.errors import UserError
from heal.method.pace import POOLS
from heal.method.thinking import Malformed, canonical, read_thought
from heal.prompts import Prompts
from heal.records import Cut, Drop, Hint, Problem, Trace
from heal.stages.candidates import example
from heal.store import Store
from heal.students.export import STAGE_NAMES

STAGE_OF = dict(zip(POOLS, STAGE_NAMES, strict=True))
"""The stage that shows a set first."""


@dataclass(frozen=True)
class Lineage:
    """Where a row came from: every name finds its record in the run folder."""

    problem_id: str
    trace: str
    set: str
    stage: str
    """`foundation`, `bridge` or `frontier`: the first that shows it."""
    origin: str
    parent: str | None
    """The failed trace a repair continues."""
    cut_step: int | None
    """The first step of that trace that was not kept."""
    hint_kind: str | None
    pure_score: float | None
    family: str | None
    stratum: str


@dataclass(frozen=True)
class Row:
    """One training text."""

    system: str | None
    user: str
    assistant: str
    lineage: Lineage
    answer: str
    hint: str | None
    """What the teacher was told; the student is not."""
    parent: Trace | None
    tokens: int
    """As the student reads it; without a student, as the teacher does; with neither, estimated."""

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages before the assistant's."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    @property
    def completion(self) -> list[dict[str, str]]:
        """The assistant's message."""
        return [{"role": "assistant", "content": self.assistant}]


@dataclass
class Rows:
    """The rows of one arm; `refused` is complete once all were read."""

    store: Store
    arm: str
    refused: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Row]:
        """Problem by problem, set by set. Raises: UserError where nothing was selected."""
        self.refused.clear()
        found = False
        for kept in self._kept(""):
            found = True
            if (row := self._row(*kept)) is not None:
                yield row
        if not found:
            raise UserError(
                f"{self.store.folder}: nothing is selected for arm {self.arm!r} yet",
                hint=f"heal select -c {self.store.folder / 'config.yaml'}; arms with rows: "
                + (", ".join(arms_of(self.store)) or "none"),
            )

    def one(self, problem_id: str, trace: str) -> Row | None:
        """A single row; None for one that is refused."""
        (kept,) = self._kept("AND s.problem = ? AND s.trace = ?", problem_id, trace)
        return self._row(*kept)

    def _kept(self, which: str, *parameters: str) -> Iterator[Any]:
        query = (
            "SELECT s.problem, s.trace, s.stage, s.score, COALESCE(s.student_tokens, s.tokens),"
            " p.stratum FROM selected s JOIN problems p ON p.problem = s.problem"
            f' WHERE s.arm = ? AND s."drop" = ? {which} ORDER BY s.problem, s.pool, s.trace'
        )
        return self.store.query(query, (self.arm, Drop.KEPT, *parameters))

    @cached_property
    def _prompts(self) -> Prompts:
        return Prompts.model_validate((self.store.meta("config") or {}).get("prompts", {}))

    def _row(
        self, problem_id: str, key: str, stage: str, score: float | None, tokens: int, stratum: str
    ) -> Row | None:
        trace = self.store.get(stage, key, problem_id, Trace)
        problem = self.store.get("problem", problem_id, problem_id, Problem)
        assert trace is not None and problem is not None, "columns name only what is stored"
        shown = example(trace, problem, self._prompts)
        text = one_think_block(shown.assistant)
        if text is None:
            self.refused["more than one think block, or one that is not closed"] += 1
            return None
        get = self.store.get
        cut = get("cut", trace.cut, problem.id, Cut) if trace.cut else None
        hint = get("hint", trace.hint, problem.id, Hint) if trace.hint else None
        parent = get("sample", trace.parent, problem.id, Trace) if trace.parent else None
        step = cut.step if cut else self._cut_step(problem.id, trace.cut)
        lineage = Lineage(
            problem.id, trace.key, shown.pool, STAGE_OF[shown.pool], str(trace.origin),
            trace.parent, step, str(hint.kind) if hint else None, score,
            problem.meta.get("family"), stratum,
        )  # fmt: skip
        told = hint.text if hint else None
        tokens = int(tokens) or math.ceil(len(text) / CHARACTERS)
        return Row(shown.system, shown.user, text, lineage, problem.answer, told, parent, tokens)

    def _cut_step(self, problem: str, cut: str | None) -> int | None:
        query = "SELECT step FROM cuts WHERE problem = ? AND key = ?"
        return next((step for (step,) in self.store.query(query, (problem, cut))), None)


def arms_of(store: Store) -> list[str]:
    """Arms that something is selected for."""
    query = 'SELECT DISTINCT arm FROM selected WHERE "drop" = ? ORDER BY arm'
    return [arm for (arm,) in store.query(query, (Drop.KEPT,))]


def one_think_block(text: str) -> str | None:
    """The text with its thinking in one closed block; None where that cannot be said."""
    thought = read_thought(text)
    return None if isinstance(thought, Malformed) else canonical(thought)


def as_record(lineage: Lineage) -> dict[str, Any]:
    """Lineage as columns."""
    return dict(vars(lineage))
