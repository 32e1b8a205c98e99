"""The run folder: everything that happened, kept so that a kill at any moment loses nothing.

`run.sqlite` (WAL, one writer) holds one row per finished piece of work, named by its content key;
a row is durable before anybody counts it. A request handed to an engine leaves a *claim* until its
result is stored, so the work in flight at a crash is a counted fact. Beside it lie `config.yaml`,
the training data of each stage, the students and `report.html`. Knows records; decides nothing.
"""

import base64
import errno
import fcntl
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar, get_args

import msgspec
import numpy as np

from heal.errors import UserError

Record = TypeVar("Record")

SCHEMA = 1
DATABASE = "run.sqlite"
LOCK = "run.lock"

_KEYS_PER_QUERY = 500
"""SQLite takes 999 parameters at most where it is old."""

_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    stage TEXT NOT NULL, key TEXT NOT NULL, problem TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (stage, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS live (
    stage TEXT NOT NULL, tag TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (stage, tag, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    stage TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (stage, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


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
            self._database.executescript(_TABLES)
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

    def put(self, stage: str, key: str, problem_id: str, record: object) -> None:
        """Store one result and release its claim, in one transaction."""
        body = encode(record)
        with disk_errors(self.folder), self._transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (stage, key, problem_id, body)
            )
            self._database.execute("DELETE FROM claims WHERE stage=? AND key=?", (stage, key))

    def put_many(self, stage: str, rows: Iterable[tuple[str, str, object]]) -> None:
        """Store many (key, problem id, record) at once."""
        encoded = [(stage, key, problem, encode(record)) for key, problem, record in rows]
        with disk_errors(self.folder), self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO records VALUES (?,?,?,?)", encoded)

    def claim(self, stage: str, keys: Collection[str]) -> None:
        """Note that these were handed to an engine and may have to be paid for again."""
        with disk_errors(self.folder), self._transaction():
            self._database.executemany(
                "INSERT OR IGNORE INTO claims VALUES (?, ?)", [(stage, key) for key in keys]
            )

    def release_claims(self) -> int:
        """Forget what was in flight when an earlier process died; returns how much it was."""
        (count,) = self._database.execute("SELECT COUNT(*) FROM claims").fetchone()
        if count:
            with disk_errors(self.folder):
                self._database.execute("DELETE FROM claims")
        return int(count)

    def keys(self, stage: str) -> set[str]:
        """Keys of everything this stage ever finished here."""
        rows = self._database.execute("SELECT key FROM records WHERE stage=?", (stage,))
        return {key for (key,) in rows}

    def read(
        self, stage: str, kind: type[Record], keys: Collection[str] | None = None
    ) -> dict[str, Record]:
        """Records by key, in key order; `keys` narrows them down. None reads the whole stage."""
        decoder = _decoder(kind)
        return {key: decoder(body) for key, body in self._bodies(stage, keys)}

    def _bodies(self, stage: str, keys: Collection[str] | None) -> Iterator[tuple[str, bytes]]:
        query = "SELECT key, body FROM records WHERE stage=?"
        if keys is None:
            yield from self._database.execute(f"{query} ORDER BY key", (stage,))
            return
        # Sorted first: the keys of each chunk all come before those of the next.
        wanted = sorted(set(keys))
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            chunk = wanted[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(chunk))
            yield from self._database.execute(
                f"{query} AND key IN ({marks}) ORDER BY key", (stage, *chunk)
            )

    def set_live(self, stage: str, keys: Iterable[str], tag: str = "") -> None:
        """Say which rows of a stage belong to the run as it is configured now.

        A `tag` keeps apart what several arms use of one stage.
        """
        rows = [(stage, tag, key) for key in keys]
        with disk_errors(self.folder), self._transaction():
            self._database.execute("DELETE FROM live WHERE stage=? AND tag=?", (stage, tag))
            self._database.executemany("INSERT OR IGNORE INTO live VALUES (?, ?, ?)", rows)

    def live(self, stage: str, kind: type[Record], tag: str = "") -> dict[str, Record]:
        """The rows of a stage that belong to the run as it is configured now, by key."""
        decoder = _decoder(kind)
        rows = self._database.execute(
            "SELECT key, body FROM live JOIN records USING (stage, key) WHERE stage=? AND tag=?"
            " ORDER BY key",
            (stage, tag),
        )
        return {key: decoder(body) for key, body in rows}

    def live_count(self, stage: str) -> int:
        """How many rows of a stage belong to the run as it is configured now."""
        query = "SELECT COUNT(DISTINCT key) FROM live WHERE stage=?"
        (count,) = self._database.execute(query, (stage,)).fetchone()
        return int(count)

    def counts(self) -> dict[str, int]:
        """Stored rows per stage."""
        return dict(
            self._database.execute("SELECT stage, COUNT(*) FROM records GROUP BY stage ORDER BY 1")
        )

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


def encode(record: object) -> bytes:
    """A record as JSON; arrays as base64 of little-endian bytes."""
    return msgspec.json.encode(record, enc_hook=_encode_array)


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        return base64.b64encode(little.tobytes()).decode()
    raise NotImplementedError(f"cannot store a {type(value).__name__}")


def _decode_array(kind: Any, value: Any) -> Any:
    _shape, dtype = get_args(kind)
    (scalar,) = get_args(dtype)
    little = np.dtype(scalar).newbyteorder("<")
    return np.frombuffer(base64.b64decode(value), little).astype(scalar)


def _decoder(kind: type[Record]) -> Callable[[bytes], Record]:
    return msgspec.json.Decoder(kind, dec_hook=_decode_array).decode


def jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON lines, in UTF-8 and not escaped."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
