"""The run folder: everything that happened, kept so that a kill at any moment loses nothing.

`run.sqlite` (WAL, one writer) holds one body per finished piece of work, named by its content key
and kept with its problem; a body is durable before anybody counts it. A request handed to an engine
leaves a *claim* until its result is stored, so the work in flight at a crash is a counted fact.
Columns (`heal.store.columns`) say which bodies belong to the run as it is configured now. Beside it
lie `config.yaml`, the training data of each stage, the students and `report.html`. Knows records;
decides nothing.
"""

import errno
import fcntl
import json
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self, TypeVar, cast

from heal.errors import UserError
from heal.keys import content_key
from heal.records import Problem
from heal.store.bodies import decode, encode
from heal.store.columns import DDL, FORGET, HOMES, OF_PROBLEM, TABLES, Home, ProblemRow, Row

Record = TypeVar("Record")
Columns = TypeVar("Columns", bound=Row)

SCHEMA = 2
DATABASE = "run.sqlite"
LOCK = "run.lock"

_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    problem TEXT NOT NULL, stage TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (problem, stage, key)
);
CREATE TABLE IF NOT EXISTS live (
    stage TEXT NOT NULL, tag TEXT NOT NULL, key TEXT NOT NULL, problem TEXT NOT NULL,
    PRIMARY KEY (stage, tag, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    stage TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (stage, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
    one INTEGER PRIMARY KEY CHECK (one = 1), spent INTEGER NOT NULL, lost INTEGER NOT NULL
);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


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
    """Requests in flight when a process died: paid for again, at most."""


class Store:
    """One run folder. Open it with `with Store.open(folder) as store`."""

    def __init__(self, folder: Path, database: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.folder = folder
        self._database = database
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, *, write: bool = True) -> Self:
        """Open or create a run folder. Raises: UserError if it is another's, busy or unwritable."""
        if not write and not (folder / DATABASE).is_file():
            raise UserError(f"{folder}: not a run folder", hint="heal run -c FILE.yaml makes one")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: {error.strerror}", hint="choose with --set run=DIR"
            ) from None
        with disk_errors(folder):
            foreign = {file.name for file in folder.iterdir()} - {LOCK}
        if write and foreign and DATABASE not in foreign:
            raise UserError(
                f"{folder}: the folder is not empty and is no run folder",
                hint="choose another with --set run=DIR",
            )
        lock = _take_lock(folder) if write else None
        try:
            with disk_errors(folder):
                database = sqlite3.connect(folder / DATABASE, isolation_level=None)
        except BaseException:
            if lock:
                lock.close()
            raise
        store = cls(folder, database, lock)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def _prepare(self) -> None:
        with disk_errors(self.folder):
            self._database.execute("PRAGMA journal_mode=WAL")
            # NORMAL survives a killed process; FULL would add an fsync per result and only
            # guards against a power cut, after which WAL still opens consistently.
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(_TABLES + DDL)
        self._check_schema()

    def _check_schema(self) -> None:
        found = self.meta("schema")
        if found is None:
            self.set_meta("schema", SCHEMA)
        elif found != SCHEMA:
            raise UserError(
                f"{self.folder}: written by another version of HEAL (schema {found}, not {SCHEMA})",
                hint="choose another folder with --set run=DIR",
            )

    def close(self) -> None:
        """Release the folder."""
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

    def commit(self, rows: Iterable[Stored], *, spent: int = 0) -> None:
        """Store records and release their claims, in one transaction; `spent` teacher tokens."""
        encoded = [(row.problem_id, row.stage, row.key, encode(row.record)) for row in rows]
        with self._writing():
            self._database.executemany(
                "INSERT OR REPLACE INTO records (problem, stage, key, body) VALUES (?, ?, ?, ?)",
                encoded,
            )
            self._database.executemany(
                "DELETE FROM claims WHERE stage=? AND key=?",
                [(stage, key) for _, stage, key, _ in encoded],
            )
            if spent:
                self._database.execute("UPDATE totals SET spent = spent + ?", (spent,))

    def claim(self, stage: str, keys: Collection[str]) -> None:
        """Note that these were handed to an engine and may have to be paid for again."""
        with self._writing():
            self._database.executemany(
                "INSERT OR IGNORE INTO claims VALUES (?, ?)", [(stage, key) for key in keys]
            )

    def release_claims(self) -> int:
        """Forget what was in flight when an earlier process died; returns how much it was."""
        (count,) = self._database.execute("SELECT COUNT(*) FROM claims").fetchone()
        if count:
            with self._writing():
                self._database.execute("DELETE FROM claims")
                self._database.execute("UPDATE totals SET lost = lost + ?", (count,))
        return int(count)

    def claimed(self) -> int:
        """Requests in flight now, or when the last process ended."""
        ((found,),) = self.query("SELECT COUNT(*) FROM claims")
        return int(found)

    def is_busy(self) -> bool:
        """Whether another process is writing to this folder."""
        try:
            lock = (self.folder / LOCK).open("r")
        except OSError:
            return False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return self._lock is None
        return False

    def totals(self) -> Totals:
        """What this folder has cost so far."""
        with disk_errors(self.folder):
            return Totals(*self._database.execute("SELECT spent, lost FROM totals").fetchone())

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
        return decode(kind, row[0]) if row else None

    def read(self, stage: str, kind: type[Record]) -> Iterator[tuple[str, Record]]:
        """(key, record) of everything stored under a stage, live or not, problem by problem."""
        query = "SELECT key, body FROM records WHERE stage=? ORDER BY problem, key"
        with disk_errors(self.folder):
            for key, body in self._database.execute(query, (stage,)):
                yield key, decode(kind, body)

    def counts(self) -> dict[str, int]:
        """Stored records per stage."""
        query = "SELECT stage, COUNT(*) FROM records GROUP BY stage ORDER BY 1"
        with disk_errors(self.folder):
            return dict(self._database.execute(query))

    # ── what belongs to the run as it is configured now ─────────────────────────────────────────

    def set_live(self, stage: str, rows: Iterable[tuple[str, str]], tag: str = "") -> None:
        """Say which records of a stage, as (key, problem id), belong to the run as it is now.

        For stages that have no columns of their own. A `tag` keeps apart what several arms use.
        """
        listed = [(stage, tag, key, problem) for key, problem in rows]
        with self._writing():
            self._database.execute("DELETE FROM live WHERE stage=? AND tag=?", (stage, tag))
            self._database.executemany("INSERT OR IGNORE INTO live VALUES (?, ?, ?, ?)", listed)

    def add_live(self, stage: str, rows: Iterable[tuple[str, str, object]]) -> None:
        """Store (key, problem id, record) beside what is live in a stage already."""
        listed = list(rows)
        self.commit(Stored(stage, key, problem, record) for key, problem, record in listed)
        with self._writing():
            self._database.executemany(
                "INSERT OR IGNORE INTO live VALUES (?, '', ?, ?)",
                [(stage, key, problem) for key, problem, _ in listed],
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
        home = HOMES.get(stage, Home("live"))
        query = (
            f"SELECT l.{home.key}, r.body FROM {home.table} l JOIN records r"
            f" ON r.problem = l.problem AND r.stage = ? AND r.key = l.{home.key}"
            f" WHERE {home.where} ORDER BY l.problem, l.{home.key}"
        )
        known = {"stage": stage, "tag": tag}
        with disk_errors(self.folder):
            wanted = [known[name] for name in home.parameters]
            for key, body in self._database.execute(query, (stage, *wanted)):
                yield key, decode(kind, body)

    def conclude(self, found: ProblemRow, rows: Iterable[Row], records: Iterable[Stored]) -> None:
        """Replace what the columns say of a problem, in one transaction."""
        by_table: dict[str, list[Row]] = {}
        for row in (found, *rows):
            by_table.setdefault(TABLES[type(row)], []).append(row)
        bodies = [(r.problem_id, r.stage, r.key, encode(r.record)) for r in records]
        with self._writing():
            for forget in FORGET:
                self._database.execute(forget, (found.problem,))
            for table, own in by_table.items():
                marks = ",".join("?" * len(own[0]))
                self._database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", own)
            self._database.executemany(
                "INSERT OR REPLACE INTO records (problem, stage, key, body) VALUES (?, ?, ?, ?)",
                bodies,
            )

    def insert(self, rows: Iterable[Row]) -> None:
        """Add column rows, in one transaction; rows of one table only."""
        listed = list(rows)
        if not listed:
            return
        marks = ",".join("?" * len(listed[0]))
        with self._writing():
            self._database.executemany(
                f"INSERT OR REPLACE INTO {TABLES[type(listed[0])]} VALUES ({marks})", listed
            )

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
        with self._writing():
            self._database.executemany(
                "INSERT INTO problems VALUES (?,?,?,?,0,0,0,0,'undetermined',NULL,0,NULL)"
                " ON CONFLICT (problem) DO UPDATE SET place=excluded.place, split=excluded.split,"
                " family=excluded.family",
                [(p.id, n, p.split, p.meta.get("family")) for n, p in enumerate(problems)],
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
        sql = f"SELECT * FROM {TABLES[kind]}" + (f" WHERE {where}" if where else "")
        return (cast(Columns, kind._make(row)) for row in self.query(sql, parameters))

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
        row = self._database.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_meta(self, name: str, value: Any) -> None:
        """Remember a JSON value."""
        with disk_errors(self.folder):
            self._database.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value))
            )

    def write_text(self, relative: str, text: str) -> Path:
        """Write a file of the run folder whole or not at all."""
        path = self.folder / relative
        with disk_errors(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        return path

    def write_parts(self, relative: str, parts: Iterable[Path]) -> Path:
        """Write a file of the run folder from the files given, whole or not at all."""
        path = self.folder / relative
        with disk_errors(self.folder):
            whole = path.with_name(path.name + ".part")
            with whole.open("wb") as out:
                for part in parts:
                    with part.open("rb") as opened:
                        shutil.copyfileobj(opened, out)
            whole.replace(path)
        return path

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with disk_errors(self.folder), self._transaction():
            yield

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


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a message. Raises: UserError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _explain_disk(folder, error) from error


def _explain_disk(folder: Path, error: Exception) -> Exception:
    number = getattr(error, "errno", None)
    # SQLite says it in words alone; an OSError's words hold a path, which may say anything.
    words = str(error) if isinstance(error, sqlite3.Error) else ""
    if "full" in words or number in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{folder}: no disk space left; everything finished so far is stored",
            hint="free some space, then run the same command again",
        )
    unwritable = "readonly" in words or "unable to open" in words
    if unwritable or number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{folder}: cannot be written to", hint="choose with --set run=DIR")
    if "not a database" in words or "malformed" in words:
        return UserError(
            f"{folder / DATABASE}: is damaged ({error})", hint="choose with --set run=DIR"
        )
    return error


def _take_lock(folder: Path) -> IO[str]:
    with disk_errors(folder):
        lock = (folder / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(
            f"{folder}: another process is writing to this run",
            hint="wait for it, or choose another folder with --set run=DIR",
        ) from None
    return lock
