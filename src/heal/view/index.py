"""Which traces a run has, sorted and filtered without opening any.

In: a run folder, read as it grows. Out: pages of rows by key, never by offset, so that the last
page is as near as the first. One pass over the columns fills a temporary table of SQLite's, which
spills to disk where it is large; later passes write only the problems that have changed. What a
page shows is of one pass.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from heal.config import Config
from heal.errors import HealError
from heal.store import DATABASE, Store
from heal.store.marks import Mark, read_marks

PAGE_ROWS = 50
_PER_PROBLEM = 1 << 20
"""Places kept for each problem's traces, so that one problem's growth moves no other's."""
_STAGES = {"sample": 0, "hinted": 1, "repair": 2, "matched": 3}
_AT_ONCE = 250
"""Problems written together."""
_REST = 20.0
"""A pass is followed by so many times its own length without one, and by `_LEAST_REST_S`."""
_LEAST_REST_S = 2.0
_Row = tuple[Any, ...]
"""An entry without its mark."""
NONE = "none"
"""In a filter: the traces that have no value there."""


class Entry(NamedTuple):
    """One trace as lists show it; texts are '' where there is none."""

    n: int
    """Where it stands; larger than those before it."""
    problem: str
    stratum: str
    split: str
    stage: str
    tag: str
    key: str
    verdict: str
    """`failed` where the engine failed."""
    gate: str
    hint: str
    """Kind of hint."""
    drop: str
    """What became of it in the arm shown; '': it is no candidate there."""
    answer: str
    tokens: int
    score: float | None
    mark: str


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to; '' takes all, `none` those without a value."""

    stage: str = ""
    verdict: str = ""
    stratum: str = ""
    gate: str = ""
    hint: str = ""
    drop: str = ""
    mark: str = ""
    q: str = ""
    """How the problem's id, or the trace's key, begins."""

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> "Filters":
        """From an address's parameters."""
        known = {f.name: asked.get(f.name, "").strip()[:200] for f in fields(cls)}
        return cls(**known)

    def asked(self) -> dict[str, str]:
        """As an address's parameters."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in told.items() if value}

    def sql(self) -> tuple[str, list[Any]]:
        """A condition on entries, and its parameters."""
        parts, values = ["1"], list[Any]()
        for name in FACETS:
            if value := getattr(self, name):
                parts.append(f'"{name}" = ?')
                values.append("" if value == NONE else value)
        if self.q:
            parts.append("(problem >= ? AND problem < ? OR key >= ? AND key < ?)")
            values += [self.q, self.q + "\U0010ffff"] * 2
        return " AND ".join(parts), values


FACETS = ("stage", "verdict", "stratum", "gate", "hint", "drop", "mark")


@dataclass(frozen=True)
class Page:
    """Some of the traces a filter finds."""

    rows: tuple[Entry, ...]
    total: int
    """That the filter finds."""
    first: int
    """Place of the first row among them, from 1."""
    has_more: bool

    @property
    def has_earlier(self) -> bool:
        """Whether rows come before these."""
        return self.first > 1


@dataclass(frozen=True)
class State:
    """How far the index is."""

    version: int
    """Another whenever a pass has found something new."""
    traces: int
    problems: int
    seconds: float
    """The last pass took."""
    arm: str | None
    """Whose decisions are shown."""
    is_busy: bool
    """Whether a process is writing to the run."""
    trouble: str = ""
    """Why the last pass behind the pages brought nothing."""


class Index:
    """All traces of one run folder. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._passing = threading.Lock()
        self._table = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._table.executescript(_MAKE)
        self._seen: dict[str, int] = {}
        """Of each problem, a hash of all its rows."""
        self._marks = {key: m.mark for key, m in read_marks(folder).items()}
        self._counted: dict[tuple[int, Filters], int] = {}
        self._facets: tuple[int, dict[str, dict[str, int]]] = (-1, {})
        self._stamp: tuple[Any, ...] = ()
        self._next = 0.0
        self.state = State(0, 0, 0, 0.0, None, False)

    def close(self) -> None:
        """Forget everything, once no pass is going on."""
        with self._passing, self._lock:
            self._table.close()

    # ── passes over the store ───────────────────────────────────────────────────────────────────

    def refresh(self) -> State:
        """Take in what the run has done since the last pass. Raises: UserError."""
        with self._passing:
            started, stamp = time.monotonic(), _stamp(self._folder)
            with Store.open(self._folder, write=False) as store, store.moment():
                arm = Config.model_construct(**(store.meta("config") or {})).main_arm
                changed = self._take_in(_problems(store, arm))
                busy = store.is_busy()
            seconds = time.monotonic() - started
            self._stamp, self._next = stamp, time.monotonic() + max(_LEAST_REST_S, _REST * seconds)
            with self._lock:
                ((traces,),) = self._table.execute("SELECT COUNT(*) FROM entries")
                is_new = changed or (arm, busy) != (self.state.arm, self.state.is_busy)
                version = self.state.version + is_new
                self.state = State(version, traces, len(self._seen), seconds, arm, busy)
                self._counted.clear()
            return self.state

    def refresh_behind(self) -> None:
        """Begin a pass in a thread of its own where the folder has changed and it is time."""
        if time.monotonic() < self._next or self._passing.locked():
            return
        if _stamp(self._folder) != self._stamp or self.state.is_busy:
            self._next = time.monotonic() + _LEAST_REST_S
            threading.Thread(target=self._refresh_or_note, daemon=True).start()

    def _refresh_or_note(self) -> None:
        try:
            self.refresh()
        except HealError as error:
            with self._lock:
                self.state = replace(self.state, trouble=str(error))

    def _take_in(self, problems: Iterable[tuple[str, list[_Row]]]) -> bool:
        """Whether anything has changed."""
        is_first, gone = not self._seen, set(self._seen)
        changed: dict[str, list[_Row]] = {}
        for problem, rows in problems:
            gone.discard(problem)
            if self._seen.get(problem) != hash(tuple(rows)):
                changed[problem] = rows
            if is_first and len(changed) >= _AT_ONCE:
                self._write(changed, ())
                changed = {}
        self._write(changed, () if is_first else gone | changed.keys())
        for problem in gone:
            del self._seen[problem]
        if is_first:
            with self._lock:
                self._table.executescript(_SORT)
        return bool(is_first or changed or gone)

    def _write(self, changed: Mapping[str, list[_Row]], replaced: Iterable[str]) -> None:
        marks = self._marks
        with self._lock:
            self._table.execute("BEGIN")
            self._table.executemany(
                "DELETE FROM entries WHERE problem=?", [(problem,) for problem in replaced]
            )
            self._table.executemany(
                f"INSERT INTO entries VALUES ({','.join('?' * len(Entry._fields))})",
                [(*row, str(marks.get(row[6], ""))) for rows in changed.values() for row in rows],
            )
            self._table.execute("COMMIT")
        self._seen |= {problem: hash(tuple(rows)) for problem, rows in changed.items()}

    def note(self, trace: str, mark: Mark) -> None:
        """A reader has marked a trace."""
        with self._lock:
            self._marks[trace] = mark
            said = "" if mark is Mark.NONE else str(mark)
            self._table.execute("UPDATE entries SET mark=? WHERE key=?", (said, trace))
            self._counted.clear()
            self._facets = (-1, {})

    # ── questions ───────────────────────────────────────────────────────────────────────────────

    def page(self, filters: Filters, after: int = -1, before: int | None = None) -> Page:
        """The traces next after, or last before, a place."""
        where, values = filters.sql()
        side, order = ("n < ?", "DESC") if before is not None else ("n > ?", "ASC")
        sql = f"SELECT * FROM entries WHERE {where} AND {side} ORDER BY n {order} LIMIT ?"
        with self._lock:
            found = self._entries(
                sql, (*values, after if before is None else before, PAGE_ROWS + 1)
            )
            more = len(found) > PAGE_ROWS
            rows = found[:PAGE_ROWS] if before is None else found[:PAGE_ROWS][::-1]
            total = self._count(filters)
            earlier = self._count_before(filters, rows[0].n) if rows else 0
        ends = earlier + len(rows) < total if before is not None else more
        return Page(tuple(rows), total, earlier + 1 if rows else 0, ends)

    def entry(self, stage: str, problem: str, key: str, tag: str) -> Entry | None:
        """One trace; of a tag that is not there, the same trace under another."""
        sql = "SELECT * FROM entries WHERE key=? AND stage=? AND problem=? ORDER BY tag<>? LIMIT 1"
        with self._lock:
            return next(iter(self._entries(sql, (key, stage, problem, tag))), None)

    def of_problem(self, problem: str) -> list[Entry]:
        """All traces of a problem."""
        with self._lock:
            return self._entries("SELECT * FROM entries WHERE problem=? ORDER BY n", (problem,))

    def beside(self, filters: Filters, n: int) -> tuple[Entry | None, Entry | None]:
        """The traces before and after a place that a filter finds."""
        where, values = filters.sql()
        sql = f"SELECT * FROM entries WHERE {where} AND n {{}} ? ORDER BY n {{}} LIMIT 1"
        with self._lock:
            earlier = self._entries(sql.format("<", "DESC"), (*values, n))
            later = self._entries(sql.format(">", "ASC"), (*values, n))
        return next(iter(earlier), None), next(iter(later), None)

    def facets(self) -> dict[str, dict[str, int]]:
        """Of each filter, its values in the whole run, and how many traces have each."""
        with self._lock:
            if self._facets[0] != self.state.version:
                found = {
                    name: dict(
                        self._table.execute(
                            f'SELECT "{name}", COUNT(*) FROM entries GROUP BY 1 ORDER BY 2 DESC'
                        )
                    )
                    for name in FACETS
                }
                self._facets = (self.state.version, found)
            return self._facets[1]

    def _count(self, filters: Filters) -> int:
        known = (self.state.version, filters)
        if known not in self._counted:
            where, values = filters.sql()
            ((n,),) = self._table.execute(f"SELECT COUNT(*) FROM entries WHERE {where}", values)
            self._counted[known] = n
        return self._counted[known]

    def _count_before(self, filters: Filters, n: int) -> int:
        where, values = filters.sql()
        sql = f"SELECT COUNT(*) FROM entries WHERE {where} AND n < ?"
        ((earlier,),) = self._table.execute(sql, (*values, n))
        return int(earlier)

    def _entries(self, sql: str, values: Iterable[Any]) -> list[Entry]:
        return [Entry._make(row) for row in self._table.execute(sql, tuple(values))]


_MAKE = f"""
PRAGMA journal_mode=OFF;
PRAGMA cache_size=-32768;
CREATE TABLE entries (n INTEGER PRIMARY KEY, {", ".join(f'"{c}"' for c in Entry._fields[1:])});
"""
_SORT = "".join(
    f'CREATE INDEX IF NOT EXISTS by_{c} ON entries ("{c}");' for c in (*FACETS, "problem", "key")
)
"""Once the table is filled: kept up row by row, the indexes take several times as long."""


def _problems(store: Store, arm: str | None) -> Iterator[tuple[str, list[_Row]]]:
    """Each problem and its traces."""
    sql = """SELECT p.place, t.problem, p.stratum, p.split, t.stage, t.tag, t.key,
        CASE WHEN t.failed THEN 'failed' ELSE COALESCE(t.verdict, '') END, COALESCE(t.gate, ''),
        COALESCE((SELECT h.kind FROM hints h WHERE h.problem = t.problem AND h.key = t.hint), ''),
        COALESCE(s."drop", ''), COALESCE(t.answer, ''), t.tokens, s.score, t.seed_index
        FROM traces t CROSS JOIN problems p ON p.problem = t.problem
        LEFT JOIN selected s ON s.arm = ? AND s.problem = t.problem AND s.trace = t.key
        AND s.stage = t.stage
        ORDER BY t.problem, t.stage, t.tag, t.key"""
    for problem, found in groupby(store.query(sql, (arm,)), key=lambda row: row[1]):
        rows = sorted(found, key=_order)
        first = rows[0][0] * _PER_PROBLEM
        yield problem, [(first + i, *row[1:14]) for i, row in enumerate(rows)]


def _order(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """By stage, breakpoint and draw."""
    return _STAGES.get(row[4], len(_STAGES)), row[5], row[14], row[6]


def _stamp(folder: Path) -> tuple[Any, ...]:
    """Changes whenever something is written to a database."""
    found = []
    for name in (DATABASE, f"{DATABASE}-wal"):
        try:
            stat = (folder / name).stat()
            found.append((stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            found.append((0, 0))
    return tuple(found)
