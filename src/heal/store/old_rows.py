"""Columns of a problem as schema 1 held it: from the records that were live.

In: one problem's records by their old stage, and which of them were live under which tag. Out: its
rows. Token scores, hints and repairs were live for the run's own breakpoint only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from heal.config import Gear, Pure
from heal.method.pure import commitment, surprisal
from heal.records import Check, HintKind, Problem, PureScore, Stratum, Trace
from heal.store.columns import (
    AttemptRow,
    CutRow,
    HintRow,
    ProblemRow,
    Row,
    ScoreRow,
    SelectedRow,
    TraceRow,
)

TRACES = {"sample": "sample", "hinted": "hinted", "repair": "repair", "bought": "matched"}
"""Stages that hold traces, as they were called and as they are."""
HONEST = "honest"
Tags = Callable[[str, str], Sequence[str]]
"""(stage, key) → the tags it was live under."""


@dataclass
class OldProblem:
    """One problem's old records: by stage and key, each as a record and as plain JSON."""

    id: str
    records: dict[str, dict[str, tuple[Any, dict[str, Any]]]]
    tags: Tags
    gear: Gear
    pure: Pure
    lost: int = 0
    """Selected traces whose own record is not there."""

    def rows(self, place: int) -> Iterator[Row]:
        """All rows; none where the problem is no longer one of the run's."""
        problem: Problem
        for _, (problem, _) in self._live("problem"):
            yield self._problem_row(problem, place)
        for old, stage in TRACES.items():
            for tag in self._tags_of(old):
                own = self._tag if old == "repair" else tag
                for key, (trace, _) in self._live(old, tag):
                    yield self._trace_row(key, trace, stage, own)
        yield from self._cut_rows()
        yield from self._hint_rows()
        yield from self._score_rows()
        yield from self._selected_rows()
        yield from self._attempt_rows()

    @property
    def counts(self) -> bool:
        """Whether it is one of the run's problems."""
        return any(self._live("problem"))

    def stored(self, stage: str) -> dict[str, tuple[Any, dict[str, Any]]]:
        """Everything of an old stage, live or not."""
        return self.records.get(stage, {})

    def spent(self) -> int:
        """Teacher tokens of its traces and hints; two arms may have shared a trace."""
        drawn = {k: r for old in (*TRACES, "hint") for k, (r, _) in self.stored(old).items()}
        return sum(record.new_tokens for record in drawn.values())

    def _live(self, stage: str, tag: str = "") -> Iterator[tuple[str, tuple[Any, dict[str, Any]]]]:
        for key, found in self.stored(stage).items():
            if tag in self.tags(stage, key):
                yield key, found

    def _tags_of(self, stage: str) -> list[str]:
        return sorted({tag for key in self.stored(stage) for tag in self.tags(stage, key)})

    @property
    def _tag(self) -> str:
        return self.gear.breakpoint.value

    @cached_property
    def _checks(self) -> dict[str, Check]:
        """By trace."""
        return {check.trace: check for _, (check, _) in self._live("check")}

    @cached_property
    def _gates(self) -> dict[str, str]:
        """By trace."""
        return {plain["trace"]: plain["gate"] for _, (_, plain) in self._live("gate")}

    def _problem_row(self, problem: Problem, place: int) -> ProblemRow:
        known = [plain for _, (_, plain) in self._live("ceiling")]
        unjudged: dict[str, Any] = {
            "n": len(list(self._live("sample"))), "correct": 0, "truncated": 0, "unverifiable": 0,
            "stratum": Stratum.UNDETERMINED.value, "rho": None,
        }  # fmt: skip
        c = known[0] if known else unjudged
        return ProblemRow(
            problem.id,
            place,
            problem.split,
            problem.meta.get("family"),
            c["n"],
            c["correct"],
            c["truncated"],
            c["unverifiable"],
            c["stratum"],
            c["rho"],
            len(list(self._live("scores"))),
            None,
        )

    def _trace_row(self, key: str, trace: Trace, stage: str, tag: str) -> TraceRow:
        check = self._checks.get(trace.key)
        return TraceRow(
            self.id,
            stage,
            tag,
            key,
            trace.seed_index,
            trace.finish,
            len(trace.ids),
            trace.new_tokens,
            check.verdict if check else None,
            check.answer if check else None,
            self._gates.get(trace.key) if stage in ("hinted", "repair") else None,
            trace.hint,
            trace.cut,
            trace.error is not None,
        )

    def _cut_rows(self) -> Iterator[CutRow]:
        for key, (cut, _) in self._live("cut"):
            blind = bool(np.isnan(cut.surge).all())
            yield CutRow(
                *(self.id, self._tag, key, cut.trace, cut.step, len(cut.step_ends), cut.margin),
                *(cut.fallback, cut.undecided, blind),
            )

    def _hint_rows(self) -> Iterator[HintRow]:
        for stage, tag in (("hint", self._tag), ("answer_hint", HintKind.ANSWER.value)):
            for key, (hint, _) in self._live(stage):
                yield HintRow(
                    *(self.id, tag, key, hint.cut, hint.kind, hint.asked, hint.leaks),
                    *(hint.new_tokens, hint.cut_off, not hint.text, hint.error is not None),
                )

    def _score_rows(self) -> Iterator[ScoreRow]:
        for key, (found, _) in self._live("scores"):
            yield self._score_row("scores", "", key, found)
        tag_of = {key: "hinted" for key, _ in self._live("hinted")}
        tag_of |= {key: self._tag for key, _ in self._live("repair")}
        for key, (found, _) in self._live("pure"):
            if found.trace in tag_of:
                yield self._score_row("pure", tag_of[found.trace], key, found)
        for key, (found, _) in self._live("pure", HONEST):
            yield self._score_row("pure", HONEST, key, found)
        for key, (found, _) in self._live("reliance"):
            if found.trace in tag_of:
                yield self._score_row("reliance", tag_of[found.trace], key, found)

    def _score_row(self, stage: str, tag: str, key: str, found: Any) -> ScoreRow:
        failed, settled, own = found.error is not None, None, None
        if isinstance(found, PureScore) and not failed:
            own = surprisal(found) if found.answer_surprisal is not None else None
            settled = (commitment(found, self.pure) or 0) if found.has_uncertainty else None
        tokens = found.scored_tokens
        return ScoreRow(self.id, stage, tag, key, found.trace, tokens, failed, settled, own)

    def _selected_rows(self) -> Iterator[SelectedRow]:
        for arm in self._tags_of("selected"):
            if not arm:  # the main arm's, once more
                continue
            for _, (_, plain) in self._live("selected", arm):
                stage = next((s for s in TRACES if plain["trace"] in self.stored(s)), None)
                if stage is None:
                    self.lost += 1
                    continue
                trace, _ = self.stored(stage)[plain["trace"]]
                yield SelectedRow(
                    *(arm, self.id, plain["trace"], plain["pool"], plain["drop"], plain["score"]),
                    *(len(trace.ids), None, None, TRACES[stage]),
                )

    def _attempt_rows(self) -> Iterator[AttemptRow]:
        for key, (_, plain) in self._live("evaluate"):
            yield AttemptRow(
                *(self.id, plain["arm"], plain["seed"], plain["seed_index"], key),
                *(plain["verdict"], plain["answer"], plain["finish"], plain["tokens"]),
                plain.get("error"),
            )
