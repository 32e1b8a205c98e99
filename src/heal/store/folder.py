"""The run folder: everything that happened, kept so that a kill at any moment loses nothing.

`run.sqlite` (WAL, one writer) holds one body per finished piece of work, named by its content key
and kept with its problem; a body is durable before anybody counts it. A request handed to an engine
leaves a *claim* until its result is stored, so the work in flight at a crash is a counted fact.
Columns (`heal.store.columns`) say which bodies belong to the run as it is configured now. Beside it
lie `config.yaml`, the training data of each stage, the students and `report.html`. Knows records;
decides nothing.
"""

import json
import logging
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self, TypeVar, cast

from heal.errors import UserError
from heal.keys import content_key
from heal.records import Problem, Stratum
from heal.store.bodies import DamagedError, decode, encode
from heal.store.columns import (
    FORGET,
    HOMES,
    LIVE,
    OF_PROBLEM,
    TABLES,
    Columns,
    ProblemRow,
    Row,
    insertion,
    maker,
    names,
)
from heal.store.disk import (
    DATABASE,
    damaged,
    disk_errors,
    fold_in,
    is_locked,
    make_durable,
    take_lock,
    written_whole,
)
from heal.store.opening import Say, make_room, open_to_read, open_to_write

Record = TypeVar("Record")

_PUT = "INSERT OR REPLACE INTO records (problem, stage, key, body) VALUES (?, ?, ?, ?)"
_RECEIVED = "UPDATE totals SET received = received + ?, replaced = replaced + ?"
_LIVE = "INSERT OR IGNORE INTO live (stage, tag, key, problem) VALUES (?, ?, ?, ?)"
_EXPECT = """
INSERT INTO problems (problem, place, split, family, n, correct, truncated, unverifiable, stratum,
    rho, paths, settled)
VALUES (?, ?, ?, ?, 0, 0, 0, 0, ?, NULL, 0, NULL)
ON CONFLICT (problem) DO UPDATE
SET place = excluded.place, split = excluded.split, family = excluded.family
"""
_log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """A record on its way to the disk."""

    stage: str
    key: str
    problem_id: str
    record: object


class Totals(NamedTuple):
    """What a run folder has cost, whatever its settings were."""

    spent: int
    """Teacher tokens sampled and stored."""
    lost: int
    """Answers in flight when a process died: paid for again, at most."""
    received: int
    """Answers that engines and verifiers gave."""
    replaced: int
    """Those of them that took the place of an earlier one: it had failed, or was asked twice."""


class Store:
    """One run folder. Open it with `with Store.open(folder) as store`."""

    def __init__(self, folder: Path, database: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.folder = folder
        self._database = database
        self._lock = lock
        self._file = _identity(folder)

    @classmethod
    def open(cls, folder: Path, *, write: bool = True, say: Say = _log.warning) -> Self:
        """Open or create a run folder; without `write` nothing is written, and nothing made.

        A folder of an older HEAL is brought to the present form, and `say` told so. Raises:
        UserError if it is another's, busy, damaged or unwritable.
        """
        if not write:
            return cls(folder, open_to_read(folder), None)
        make_room(folder)
        lock = take_lock(folder)
        try:
            return cls(folder, open_to_write(folder, say), lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Release the folder, and leave the database as one plain file."""
        if self._lock:
            fold_in(self._database)
        self._database.close()
        if self._lock:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    # ── bodies ──────────────────────────────────────────────────────────────────────────────────

    def put(self, stage: str, key: str, problem_id: str, record: object) -> None:
        """Store one record and release its claim."""
        self.commit([Stored(stage, key, problem_id, record)])

    def commit(self, rows: Iterable[Stored], *, spent: int = 0, answers: bool = False) -> None:
        """Store records and release their claims, in one transaction; `spent` teacher tokens.

        `answers`: they came from an engine or a verifier, and are counted as received.
        """
        encoded = [(row.problem_id, row.stage, row.key, encode(row.record)) for row in rows]
        with self._writing():
            if answers:
                replaced = sum(self._has(*row[:3]) for row in encoded)
                self._database.execute(_RECEIVED, (len(encoded), replaced))
            self._database.executemany(_PUT, encoded)
            self._database.executemany(
                "DELETE FROM claims WHERE stage=? AND key=?",
                [(stage, key) for _, stage, key, _ in encoded],
            )
            if spent:
                self._database.execute("UPDATE totals SET spent = spent + ?", (spent,))
        if answers:
            with disk_errors(self.folder):
                make_durable(self.folder / DATABASE)

    def _has(self, problem_id: str, stage: str, key: str) -> bool:
        query = "SELECT 1 FROM records WHERE problem=? AND stage=? AND key=?"
        return self._database.execute(query, (problem_id, stage, key)).fetchone() is not None

    def claim(self, stage: str, keys: Collection[str]) -> None:
        """Note that these were handed to an engine and may have to be paid for again."""
        with self._writing():
            self._database.executemany(
                "INSERT OR IGNORE INTO claims VALUES (?, ?)", [(stage, key) for key in keys]
            )

    def release_claims(self) -> int:
        """Forget what was in flight when an earlier process died; returns how much it was."""
        with self._writing():
            count = self._database.execute("DELETE FROM claims").rowcount
            if count:
                self._database.execute("UPDATE totals SET lost = lost + ?", (count,))
        return count

    def claimed(self) -> int:
        """Requests in flight now, or when the last process ended."""
        ((found,),) = self.query("SELECT COUNT(*) FROM claims")
        return int(found)

    def is_busy(self) -> bool:
        """Whether another process is writing to this folder."""
        return self._lock is None and is_locked(self.folder)

    def totals(self) -> Totals:
        """What this folder has cost so far."""
        with disk_errors(self.folder):
            query = f"SELECT {', '.join(Totals._fields)} FROM totals"
            return Totals(*self._database.execute(query).fetchone())

    def bodies(self, problem_id: str) -> dict[tuple[str, str], bytes]:
        """Every body stored for a problem, by (stage, key)."""
        query = "SELECT stage, key, body FROM records WHERE problem=?"
        with disk_errors(self.folder):
            rows = self._database.execute(query, (problem_id,))
            return {(stage, key): body for stage, key, body in rows}

    def get(self, stage: str, key: str, problem_id: str, kind: type[Record]) -> Record | None:
        """One record; None if it is not there."""
        query = "SELECT body FROM records WHERE problem=? AND stage=? AND key=?"
        with disk_errors(self.folder):
            row = self._database.execute(query, (problem_id, stage, key)).fetchone()
        return self._decoded(kind, stage, key, row[0]) if row else None

    def read(self, stage: str, kind: type[Record]) -> Iterator[tuple[str, Record]]:
        """(key, record) of everything stored under a stage, live or not, problem by problem."""
        query = "SELECT key, body FROM records WHERE stage=? ORDER BY problem, key"
        with disk_errors(self.folder):
            for key, body in self._database.execute(query, (stage,)):
                yield key, self._decoded(kind, stage, key, body)

    def counts(self) -> dict[str, int]:
        """Stored records per stage."""
        query = "SELECT stage, COUNT(*) FROM records GROUP BY stage ORDER BY 1"
        with disk_errors(self.folder):
            found = dict(self._database.execute(query))
        if None in found:  # an index that does not fit its table is read without complaint
            raise damaged(self.folder, "records without a stage")
        return found

    # ── what belongs to the run as it is configured now ─────────────────────────────────────────

    def set_live(self, stage: str, rows: Iterable[tuple[str, str]], tag: str = "") -> None:
        """Say which records of a stage, as (key, problem id), belong to the run as it is now.

        For stages that have no columns of their own. A `tag` keeps apart what several arms use.
        """
        listed = [(stage, tag, key, problem) for key, problem in rows]
        with self._writing():
            self._database.execute("DELETE FROM live WHERE stage=? AND tag=?", (stage, tag))
            self._database.executemany(_LIVE, listed)

    def add_live(self, stage: str, rows: Iterable[tuple[str, str, object]]) -> None:
        """Store (key, problem id, record) beside what is live in a stage already."""
        listed = list(rows)
        self.commit(Stored(stage, key, problem, record) for key, problem, record in listed)
        with self._writing():
            self._database.executemany(
                _LIVE, [(stage, "", key, problem) for key, problem, _ in listed]
            )

    def record(self, stage: str, rows: Iterable[tuple[str, str, object]], tag: str = "") -> None:
        """Store (key, problem id, record) worked out without a model, and say they are live."""
        listed = list(rows)
        self.commit(Stored(stage, key, problem, record) for key, problem, record in listed)
        self.set_live(stage, [(key, problem) for key, problem, _ in listed], tag)

    def live(self, stage: str, kind: type[Record], tag: str = "") -> Iterator[tuple[str, Record]]:
        """(key, record) of what belongs to the run as it is now, problem by problem.

        A stage with columns is read by them; `tag` as there. Records come one at a time.
        """
        home = HOMES.get(stage, LIVE)
        query = (
            f"SELECT l.key, r.body FROM {home.table} l CROSS JOIN records r"
            " ON r.problem = l.problem AND r.stage = ? AND r.key = l.key"
            f" WHERE {home.where} ORDER BY {home.order}"
        )
        known = {"stage": stage, "tag": tag}
        with disk_errors(self.folder):
            wanted = [known[name] for name in home.parameters]
            for key, body in self._database.execute(query, (stage, *wanted)):
                yield key, self._decoded(kind, stage, key, body)

    def conclude(self, found: ProblemRow, rows: Iterable[Row], records: Iterable[Stored]) -> None:
        """Replace what the columns say of a problem, in one transaction."""
        by_kind: dict[type[Row], list[Row]] = {}
        for row in (found, *rows):
            by_kind.setdefault(type(row), []).append(row)
        bodies = [(r.problem_id, r.stage, r.key, encode(r.record)) for r in records]
        with self._writing():
            for forget in FORGET:
                self._database.execute(forget, (found.problem,))
            for kind, own in by_kind.items():
                self._database.executemany(insertion(kind), own)
            self._database.executemany(_PUT, bodies)

    def insert(self, rows: Iterable[Row]) -> None:
        """Add column rows, in one transaction; rows of one table only."""
        listed = list(rows)
        if not listed:
            return
        with self._writing():
            self._database.executemany(insertion(type(listed[0])), listed)

    def forget(self, kind: type[Row], **equal: Any) -> None:
        """Drop the column rows of a kind in which these columns have these values."""
        where = " AND ".join(f'"{name}" = ?' for name in equal)
        with self._writing():
            self._database.execute(
                f"DELETE FROM {TABLES[kind]}" + (f" WHERE {where}" if where else ""),
                tuple(equal.values()),
            )

    def set_problems(self, problems: Sequence[Problem]) -> None:
        """These are the run's problems now; what is known of those it had before stays."""
        digest = content_key([(p.id, p) for p in problems])
        if self.meta("problems") == digest:
            return
        self.keep_problems({problem.id for problem in problems})
        self.commit(Stored("problem", p.id, p.id, p) for p in problems)
        undetermined = Stratum.UNDETERMINED
        with self._writing():
            self._database.executemany(
                _EXPECT,
                [
                    (p.id, place, p.split, p.meta.get("family"), undetermined)
                    for place, p in enumerate(problems)
                ],
            )
        self.set_live("problem", [(p.id, p.id) for p in problems])
        self.set_meta("problems", digest)

    def keep_problems(self, problem_ids: Collection[str]) -> None:
        """Forget the columns of problems that the run no longer has."""
        known = {problem for (problem,) in self.query("SELECT problem FROM problems")}
        gone = known - set(problem_ids)
        with self._writing():
            for table in (*map(TABLES.__getitem__, OF_PROBLEM), "problems", "attempts", "selected"):
                self._database.executemany(
                    f"DELETE FROM {table} WHERE problem=?", [(problem,) for problem in gone]
                )

    def query(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Iterator[Any]:
        """Rows that SQL finds in the columns, as tuples."""
        with disk_errors(self.folder):
            yield from self._database.execute(sql, parameters)

    def rows(self, kind: type[Columns], where: str = "", *parameters: Any) -> Iterator[Columns]:
        """Column rows of a kind, in the order of their key."""
        sql = f"SELECT {names(kind)} FROM {TABLES[kind]}" + (f" WHERE {where}" if where else "")
        return map(maker(cast(Any, kind)), self.query(sql, parameters))

    @contextmanager
    def moment(self) -> Iterator[None]:
        """All that is read within is of one moment, while another process goes on writing."""
        with disk_errors(self.folder):
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.execute("COMMIT")

    # ── the rest ────────────────────────────────────────────────────────────────────────────────

    def meta(self, name: str) -> Any:
        """A remembered JSON value; None when there is none."""
        with disk_errors(self.folder):
            row = self._database.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        try:
            return json.loads(row[0]) if row else None
        except ValueError as error:
            raise damaged(self.folder, f"'{name}' says nothing: {error}") from None

    def set_meta(self, name: str, value: Any) -> None:
        """Remember a JSON value."""
        with self._writing():
            self._database.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value))
            )

    def write_text(self, relative: str, text: str) -> Path:
        """Write a file of the run folder whole or not at all."""
        self._require_file()
        path = self.folder / relative
        with disk_errors(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as out:
                out.write(text.encode())
        return path

    def write_parts(self, relative: str, parts: Iterable[Path]) -> Path:
        """Write a file of the run folder from the files given, whole or not at all."""
        self._require_file()
        path = self.folder / relative
        with disk_errors(self.folder), written_whole(path) as out:
            for part in parts:
                with part.open("rb") as opened:
                    shutil.copyfileobj(opened, out)
        return path

    def _decoded(self, kind: type[Record], stage: str, key: str, body: bytes) -> Record:
        try:
            return decode(kind, body)
        except DamagedError as error:
            raise DamagedError(
                f"{self.folder}: {stage} {key}: {error}",
                hint=f"heal doctor {self.folder} drops what is damaged, so that it is made again",
            ) from None

    def _require_file(self) -> None:
        """Raises: UserError if the database is no longer where it was opened."""
        if _identity(self.folder) != self._file:
            raise UserError(
                f"{self.folder}: was removed or replaced while this was at work in it; what was "
                "stored since then is lost",
                hint="leave the folder where it is, and run the same command again",
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with disk_errors(self.folder), self._transaction():
            yield
        self._require_file()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            # Within: a disk may turn out to be full only now.
            self._database.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after some errors.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which file a run's database is; None where there is none."""
    try:
        found = (folder / DATABASE).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
