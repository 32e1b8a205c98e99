"""What a report counts, asked of the store's columns in SQL: no trace is opened.

In: a store and whose data is shown. Out: the counts of a `RunView`. Every figure is of the arm
shown and of the breakpoint its repairs follow; unaided and hinted traces are the same for all.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from heal.records import Drop, Gate, HintKind, Problem, Split, Stratum, Verdict
from heal.report.view import (
    CutCount,
    ExtremeCount,
    ExtremeRow,
    HintCount,
    PoolCount,
    ProfileCount,
    Reach,
    StratumCount,
    TraceCount,
    YieldCount,
)
from heal.report.words import excerpt
from heal.store import DamagedError, Store

MAX_ROWS = 200
"""Extreme problems that are shown one by one."""

_EXTREME = "p.split = 'train' AND p.stratum = 'extreme'"
_CHOSEN = """LEFT JOIN selected s ON s.arm = :arm AND s.problem = t.problem AND s.trace = t.key"""
_SHOWN = """(t.stage IN ('sample', 'hinted') OR (t.stage = 'repair' AND t.tag = :breakpoint))"""


@dataclass(frozen=True)
class Counts:
    """One store, asked about one arm."""

    store: Store
    arm: str | None
    """The arm shown."""
    breakpoint: str
    """Which its repairs follow."""

    def problems(self) -> dict[Split, int]:
        """All problems of the run by split, those among them that nothing is known of yet."""
        found = self._ask("SELECT split, COUNT(*) FROM problems GROUP BY 1")
        return {Split(split): count for split, count in found}

    def strata(self) -> dict[Split, dict[Stratum, StratumCount]]:
        """Problems with an unaided trace by split and stratum."""
        found: dict[Split, dict[Stratum, StratumCount]] = {split: {} for split in Split}
        for split, stratum, *counts in self._ask(
            """SELECT split, stratum, COUNT(*), SUM(correct > 0), MAX(n) FROM problems
            WHERE n > 0 GROUP BY 1, 2"""
        ):
            found[Split(split)][Stratum(stratum)] = StratumCount(*counts)
        return found

    def extreme(self) -> ExtremeCount:
        """Training problems at the ceiling."""
        chosen = "SELECT 1 FROM selected s WHERE s.arm = :arm AND s.problem = p.problem"
        (row,) = self._ask(
            f"""SELECT COUNT(*), TOTAL(p.correct > 0),
            TOTAL(p.correct > 0 OR EXISTS({chosen} AND s."drop" = 'kept')),
            TOTAL(EXISTS({chosen} AND s.pool = 'D3' AND s."drop" <> 'pure'))
            FROM problems p WHERE {_EXTREME}"""
        )
        return ExtremeCount(*map(int, row))

    def traces(self) -> tuple[TraceCount, ...]:
        """Unaided and hinted traces, and repairs, by what became of them."""
        # By problem first, which is the order they lie in: sorting them all would take far longer.
        rows = self._ask(
            f"""SELECT stage, split, failed, verdict, gate, fate, SUM(traces), SUM(new) FROM (
            SELECT t.stage, p.split, t.failed, t.verdict, t.gate, s."drop" AS fate,
            COUNT(*) AS traces, SUM(t.new_tokens) AS new
            FROM traces t CROSS JOIN problems p ON p.problem = t.problem {_CHOSEN}
            WHERE {_SHOWN} GROUP BY t.problem, t.stage, t.failed, t.verdict, t.gate, s."drop"
            ) GROUP BY 1, 2, 3, 4, 5, 6"""
        )
        return tuple(
            TraceCount(
                stage,
                Split(split),
                bool(failed),
                Verdict(verdict) if verdict is not None else None,
                Gate(gate) if gate is not None else None,
                Drop(fate) if fate is not None else None,
                traces,
                new,
            )
            for stage, split, failed, verdict, gate, fate, traces, new in rows
        )

    def reach(self) -> dict[str, Reach]:
        """Problems that are left at each step of the funnels of hinted traces and repairs."""
        drawn, passed = "NOT t.failed", "NOT t.failed AND t.gate = 'passed'"
        rows = self._ask(
            f"""SELECT stage, SUM(drawn), SUM(passed), SUM(past), SUM(kept) FROM (
            SELECT t.stage, MAX({drawn}) AS drawn, TOTAL({passed}) > 0 AS passed,
            TOTAL({passed} AND s."drop" <> 'pure') > 0 AS past,
            TOTAL({passed} AND s."drop" = 'kept') > 0 AS kept
            FROM traces t {_CHOSEN} WHERE {_SHOWN} AND t.stage <> 'sample'
            GROUP BY t.problem, t.stage) GROUP BY stage"""
        )
        return {stage: Reach(*counts) for stage, *counts in rows}

    def pools(self) -> dict[str, PoolCount]:
        """The sets of the arm shown and their candidates."""
        drops: dict[str, dict[Drop, int]] = defaultdict(dict)
        means: dict[str, tuple[float | None, float | None]] = {}
        for pool, drop, count, tokens, doubt in self._ask(
            """SELECT pool, "drop", COUNT(*), AVG(tokens), AVG(doubt) FROM selected
            WHERE arm = :arm GROUP BY 1, 2"""
        ):
            drops[pool][Drop(drop)] = count
            if drop == Drop.KEPT:
                means[pool] = tokens, doubt
        problems = self._ask(
            """SELECT pool, COUNT(*), SUM(kept) FROM (
            SELECT pool, MAX("drop" = 'kept') AS kept FROM selected WHERE arm = :arm
            GROUP BY problem, pool) GROUP BY pool"""
        )
        return {
            pool: PoolCount(
                sum(drops[pool].values()),
                count,
                drops[pool],
                kept,
                *(math.nan if mean is None else mean for mean in means.get(pool, (None, None))),
            )
            for pool, count, kept in problems
        }

    def cuts(self) -> CutCount:
        """Cuts, and what is known of how sure they are."""
        (row,) = self._ask(
            """SELECT TOTAL(cuts), COUNT(*), TOTAL(hinted), TOTAL(hinted > 0), TOTAL(undecided)
            FROM (SELECT COUNT(*) AS cuts, SUM(undecided) AS undecided, SUM(EXISTS(
            SELECT 1 FROM hints h WHERE h.problem = c.problem AND h.tag = c.tag
            AND h.cut = c.key AND NOT h.empty)) AS hinted
            FROM cuts c WHERE tag = :breakpoint GROUP BY problem)"""
        )
        cuts, problems, hinted, hinted_problems, undecided = map(int, row)
        fallbacks = self._ask(
            """SELECT fallback, COUNT(*) FROM cuts WHERE tag = :breakpoint
            AND fallback IS NOT NULL GROUP BY 1"""
        )
        return CutCount(cuts, problems, hinted, hinted_problems, undecided, dict(fallbacks))

    def hints(self) -> HintCount:
        """Hints of the paths and of whole traces."""
        (row,) = self._ask(
            """SELECT COUNT(*), TOTAL(kind <> asked), TOTAL(leaks), TOTAL(failed) FROM hints
            WHERE tag IN (:breakpoint, 'answer')"""
        )
        return HintCount(*map(int, row))

    def yields(self) -> tuple[YieldCount, ...]:
        """What came of each kind of hint that a repair was drawn under."""
        passed = "t.gate = 'passed'"
        rows = self._ask(
            f"""SELECT kind, SUM(hints), SUM(traces), SUM(passed), SUM(kept), COUNT(*),
            SUM(kept > 0) FROM (
            SELECT h.kind, COUNT(DISTINCT h.key) AS hints, COUNT(*) AS traces,
            TOTAL({passed}) AS passed, TOTAL({passed} AND s."drop" <> 'pure') AS kept
            FROM traces t CROSS JOIN hints h
            ON h.problem = t.problem AND h.tag = t.tag AND h.key = t.hint {_CHOSEN}
            WHERE t.stage = 'repair' AND t.tag = :breakpoint AND NOT t.failed
            GROUP BY t.problem, h.kind) GROUP BY kind"""
        )
        found = {kind: counts for kind, *counts in rows}
        return tuple(YieldCount(k, *map(int, found[k])) for k in HintKind if k in found)

    def profiles(self) -> ProfileCount:
        """Traces scored for PURE, those that calibrate it left out."""
        (row,) = self._ask(
            """SELECT COUNT(*), TOTAL(failed), TOTAL(NOT failed AND commitment IS NOT NULL),
            TOTAL(NOT failed AND commitment = 0), TOTAL(NOT failed AND surprisal IS NULL)
            FROM scores WHERE stage = 'pure' AND tag IN (:breakpoint, 'hinted')"""
        )
        return ProfileCount(*map(int, row))

    def extreme_rows(self) -> tuple[ExtremeRow, ...]:
        """The extreme training problems furthest from a repair, with the beginning of each."""
        own = "t.problem = p.problem AND t.stage = 'repair' AND t.tag = :breakpoint"
        rows = self._ask(
            f"""SELECT p.problem, p.correct, p.n,
            (SELECT COUNT(*) FROM cuts c WHERE c.problem = p.problem AND c.tag = :breakpoint),
            (SELECT COUNT(*) FROM traces t WHERE {own}),
            (SELECT COUNT(*) FROM traces t WHERE {own} AND t.gate = 'passed') AS passed,
            (SELECT COUNT(*) FROM selected s WHERE s.arm = :arm AND s.problem = p.problem
            AND s.pool = 'D3' AND s."drop" = 'kept') AS kept
            FROM problems p WHERE {_EXTREME} ORDER BY kept, passed, p.problem LIMIT {MAX_ROWS}"""
        )
        return tuple(ExtremeRow(key, self._text(key), *counts) for key, *counts in rows)

    def _text(self, problem: str) -> str:
        try:
            found = self.store.get("problem", problem, problem, Problem)
        except DamagedError:
            found = None
        return excerpt(found.problem) if found is not None else f"{problem} (text unreadable)"

    def _ask(self, sql: str) -> list[Any]:
        return list(self.store.query(sql, {"arm": self.arm, "breakpoint": self.breakpoint}))
