"""One trace opened: its text by steps, what was measured of it, and what was decided and why.

In: a store and a row of the index. Out: a `Story`. Reads bodies by their key, so that it takes as
long in a large run as in a small one; what is not stored, or damaged, is said and left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from heal.config import Pure
from heal.method.pure import telling_step
from heal.records import (
    Check,
    Cut,
    Hint,
    HintedScore,
    Outcome,
    Problem,
    PureScore,
    Selection,
    StepWord,
    StepWords,
    TokenScores,
    Trace,
)
from heal.report.exhibits import cut_note
from heal.store import CutRow, DamagedError, Store, decode, step_words
from heal.view.curves import Curve, curve
from heal.view.differences import Row, side_by_side
from heal.view.heat import Bar, strip
from heal.view.index import Entry
from heal.view.steps import MAX_CHARS, StepLine, lay_out

Record = TypeVar("Record")


class Decision(NamedTuple):
    """What one arm's selection did with a trace."""

    arm: str
    pool: str
    drop: str
    score: float | None
    selection: str | None
    """What PURE scored it by; None: this arm is not filtered."""
    line: float | None
    """None: none was drawn; the most suspicious share went."""
    tokens: int
    """Of the trace."""
    step: int | None = None
    """From 1, the step that PURE's score was read from; None: no one step, or not scored."""
    vouched: bool = False
    """PURE left it to the step checker, which found nothing wrong."""


class Relative(NamedTuple):
    """Another trace this one hangs together with."""

    said: str
    entry: Entry


@dataclass(frozen=True)
class Story:
    """Everything a page says of one trace."""

    entry: Entry
    problem: Problem | None
    trace: Trace | None
    check: Check | None
    hint: Hint | None
    cuts: tuple[CutRow, ...]
    cut: Cut | None
    """The body of the cut that the steps are shown by."""
    parent: Trace | None
    pure: PureScore | None
    reliance: HintedScore | None
    """Scored with the hint in view."""
    word: StepWord | None
    commitment: int | None
    steps: tuple[StepLine, ...]
    steps_by: str
    """Where the step ends come from."""
    shaded_by: str
    """What the shades mean; '': there are none."""
    bars: tuple[Bar, ...]
    ends: tuple[int, ...]
    """In tokens, of the steps."""
    curves: tuple[Curve, ...]
    decisions: tuple[Decision, ...]
    changes: tuple[Row, ...]
    relatives: tuple[Relative, ...]
    missing: tuple[str, ...]
    """What could not be read."""
    more_chars: int = 0
    """Of the text, that are not shown."""

    @property
    def cut_tokens(self) -> int | None:
        """Where the kept prefix ends, in tokens."""
        if self.trace is not None and self.trace.prefix_tokens:
            return self.trace.prefix_tokens
        return self.cut.prefix_tokens if self.cut is not None else None

    @property
    def cut_why(self) -> str:
        """Why the cut is where it is; '': there is none."""
        if self.cut is None:
            return ""
        tags = [row.tag for row in self.cuts if row.key == self.cut.key]
        return cut_note(self.cut, next(iter(tags), self.entry.tag))

    @property
    def delta(self) -> float | None:
        """Δ = ln p without the hint − ln p with it, mean over the new steps' tokens, nats.

        Below 0: the hint makes them likelier. None: not measured.
        """
        told, pure = self.reliance, self.pure
        if pure is None:
            return None
        hinted = told.log_ppl if told is not None else pure.hinted_log_ppl
        weights = np.asarray(pure.step_tokens[pure.first_step - 1 :], np.float64)
        if hinted is None or not weights.sum():
            return None
        plain = np.asarray(pure.log_ppl[pure.first_step - 1 :], np.float64)
        return float(hinted - (plain * weights).sum() / weights.sum())


def open_story(store: Store, entry: Entry, siblings: Sequence[Entry]) -> Story:
    """Read all there is of a trace; `siblings` are the rows of its problem."""
    return _Reader(store, entry, siblings).story()


class _Reader:
    """Opens bodies and notes what is not there."""

    def __init__(self, store: Store, entry: Entry, siblings: Sequence[Entry]) -> None:
        self._store, self._entry, self._siblings = store, entry, siblings
        self._missing: list[str] = []

    def story(self) -> Story:
        entry = self._entry
        trace = self._get(entry.stage, entry.key, Trace)
        cuts = self._cuts(entry.key)
        cut = self._cut_of(trace, cuts)
        parent = self._parent(trace)
        pure, commitment = self._pure()
        scores = self._scores()
        word = self._word()
        laid = lay_out(trace, parent, cut, pure, scores, commitment, word)
        return Story(
            entry=entry,
            problem=self._get("problem", entry.problem, Problem),
            trace=trace,
            check=self._check(),
            hint=self._get("hint", trace.hint, Hint) if trace is not None and trace.hint else None,
            cuts=cuts,
            cut=cut,
            parent=parent,
            pure=pure,
            reliance=self._reliance(),
            word=word,
            commitment=commitment,
            steps=laid.steps,
            steps_by=laid.steps_by,
            shaded_by=laid.shaded_by,
            bars=tuple(strip(scores.entropy_hi)) if scores is not None else (),
            ends=tuple(laid.ends),
            curves=tuple(_curves(cut if parent is None else None, pure, commitment)),
            decisions=tuple(self._decisions(pure, word)),
            changes=_changes(parent, trace),
            relatives=tuple(self._relatives(trace)),
            missing=tuple(self._missing),
            more_chars=max(0, len(trace.text) - MAX_CHARS) if trace is not None else 0,
        )

    def _get(self, stage: str, key: str, kind: type[Record]) -> Record | None:
        try:
            found = self._store.get(stage, key, self._entry.problem, kind)
        except DamagedError:
            self._missing.append(f"{stage} {key}: damaged")
            return None
        if found is None:
            self._missing.append(f"{stage} {key}: not stored")
        return found

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return list(self._store.query(sql, values))

    def _cuts(self, trace: str) -> tuple[CutRow, ...]:
        where = "problem=? AND trace=?"
        return tuple(self._store.rows(CutRow, where, self._entry.problem, trace))

    def _cut_of(self, trace: Trace | None, cuts: Sequence[CutRow]) -> Cut | None:
        """A repair's own, or that of HEAL's breakpoint on a failed trace."""
        if trace is None:
            return None
        if trace.cut is not None:
            return self._get("cut", trace.cut, Cut)
        own = str((self._store.meta("config") or {}).get("gear", {}).get("breakpoint", ""))
        keys = [row.key for row in sorted(cuts, key=lambda row: row.tag != own)]
        return self._get("cut", keys[0], Cut) if keys else None

    def _parent(self, trace: Trace | None) -> Trace | None:
        return (
            self._get("sample", trace.parent, Trace) if trace is not None and trace.parent else None
        )

    def _check(self) -> Check | None:
        """The check that the row's verdict is from: of several verifiers', the last that agrees."""
        sql = "SELECT body FROM records WHERE problem=? AND stage='check' ORDER BY rowid DESC"
        for (body,) in self._rows(sql, self._entry.problem):
            try:
                check = decode(Check, body)
            except DamagedError:
                continue
            if check.trace == self._entry.key and check.verdict == self._entry.verdict:
                return check
        return None

    def _pure(self) -> tuple[PureScore | None, int | None]:
        rows = self._rows(
            "SELECT key, commitment FROM scores WHERE problem=? AND stage='pure' AND trace=?"
            " AND NOT failed ORDER BY tag<>?, tag",
            self._entry.problem,
            self._entry.key,
            self._entry.tag,
        )
        if not rows:
            return None, None
        return self._get("pure", rows[0][0], PureScore), rows[0][1] or None

    def _reliance(self) -> HintedScore | None:
        rows = self._rows(
            "SELECT key FROM scores WHERE problem=? AND stage='reliance' AND trace=?"
            " AND NOT failed",
            self._entry.problem,
            self._entry.key,
        )
        return self._get("reliance", rows[0][0], HintedScore) if rows else None

    def _scores(self) -> TokenScores | None:
        rows = self._rows(
            "SELECT key FROM scores WHERE problem=? AND stage='scores' AND trace=? AND NOT failed",
            self._entry.problem,
            self._entry.key,
        )
        return self._get("scores", rows[0][0], TokenScores) if rows else None

    def _word(self) -> StepWord | None:
        try:
            return dict(step_words(self._store, self._entry.problem)).get(self._entry.key)
        except DamagedError:
            self._missing.append(f"stepwords {StepWords.KEY}: damaged")
            return None

    def _decisions(self, pure: PureScore | None, word: StepWord | None) -> Iterator[Decision]:
        told: Mapping[str, Any] = self._store.meta("pure") or {}
        config = self._store.meta("config") or {}
        settings = Pure.model_validate(config.get("pure", {}))
        read = word is not None and word.outcome is Outcome.NONE_FOUND
        vouched = read and pure is None and settings.spare_checked
        sql = (
            'SELECT arm, pool, "drop", score, tokens FROM selected WHERE arm=? AND problem=?'
            " AND trace=?"
        )
        for arm in config.get("arms", ()):
            for _, pool, drop, score, tokens in self._rows(
                sql, arm, self._entry.problem, self._entry.key
            ):
                how = told.get(arm, {})
                group = "hinted" if pool == "D2" else self._entry.tag
                line = how.get("line") if group in how.get("cut_at_line", ()) else None
                kind = how.get("selection") if pool != "D1" else None
                step = telling_step(pure, Selection(kind), settings) if pure and kind else None
                left = vouched and kind is not None
                yield Decision(arm, pool, drop, score, kind, line, tokens, step, left)

    def _relatives(self, trace: Trace | None) -> Iterator[Relative]:
        """The failed trace, or its repairs; of a repair, the others of its cut."""
        if trace is None:
            return
        rows = self._rows(
            "SELECT DISTINCT t.key, t.cut FROM traces t WHERE t.problem=? AND t.stage='repair'",
            self._entry.problem,
        )
        cut_of = dict(rows)
        own = {row.key for row in self._cuts(trace.key)}
        for other in self._siblings:
            if other.stage == "sample" and other.key == trace.parent:
                yield Relative("The failed trace it repairs", other)
            elif other.stage == "repair" and cut_of.get(other.key) in own:
                yield Relative("A repair of it", other)
            elif trace.cut and other.key != trace.key and cut_of.get(other.key) == trace.cut:
                yield Relative("Another repair from the same cut", other)


def _curves(cut: Cut | None, pure: PureScore | None, commitment: int | None) -> Iterator[Curve]:
    drawn: list[Curve | None] = []
    if cut is not None:
        low, high = cut.entropy_lo.tolist(), cut.entropy_hi.tolist()
        middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
        title = "Entropy of each step, nats"
        drawn.append(curve(title, middle, low=low, high=high, cut=cut.step))
    if pure is not None:
        kept = pure.first_step - 1
        new = pure.first_step if kept else None
        draw = partial(curve, kept=kept, commits=commitment, cut=new)
        drawn.append(draw("ln PPL of each step, nats", pure.log_ppl.tolist()))
        title = "U after each step: how unsure of the answer, nats"
        drawn.append(draw(title, pure.uncertainty.tolist(), first=0))
        if pure.answer_surprisal is not None:
            title = "Surprisal of the answer where a step writes it, nats"
            drawn.append(draw(title, pure.answer_surprisal.tolist()))
    return (found for found in drawn if found is not None)


def _changes(parent: Trace | None, trace: Trace | None) -> tuple[Row, ...]:
    if parent is None or trace is None:
        return ()
    return tuple(side_by_side(parent.text[:MAX_CHARS], trace.text[:MAX_CHARS]))
