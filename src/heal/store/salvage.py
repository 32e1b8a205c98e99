"""What can still be read of a damaged database, put into a new one.

In: a folder whose lock is held. Out: a database that is whole, in the damaged one's place, and what
could not be saved. Short rows are read by SQL from either end, as far as they can be; bodies by SQL
too, and then page by page, each proven by its checksum. The damaged database is never deleted: it
stays as `run.sqlite.damaged`. Every problem is asked again by the next run.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal.errors import UserError
from heal.records import Problem
from heal.store.bodies import DamagedError, decode, unpack
from heal.store.columns import TABLES
from heal.store.disk import DATABASE, NEW, connect_to_read, disk_errors, keep, take_place
from heal.store.kinds import KINDS, TRACES
from heal.store.pages import Found, bodies_in
from heal.store.schema import MAKE, OLD_SCHEMA

DAMAGED = f"{DATABASE}.damaged"
SMALL = (*TABLES.values(), "live", "claims", "meta", "totals")
"""Tables of short rows, which have no checksum of their own."""
FORGET = "DELETE FROM meta WHERE name IN ('complete', 'problems')"
"""So that a run does not take itself for complete, or its problems for stored."""


@dataclass
class Salvaged:
    """What became of a damaged database."""

    kept: str
    """Its name now."""
    bodies: int
    lost: list[tuple[str, str]]
    """(stage, key) of bodies that were there."""
    counted: bool
    """Whether what was there is known, and so what was lost."""
    cut_short: list[str]
    """Tables of which only a part could be read."""


class _UnreadableError(Exception):
    """A damaged database does not give any more."""


def salvage(folder: Path) -> Salvaged:
    """Put a whole database in a damaged one's place; the folder's lock is held.

    Raises: UserError where the disk has no room for it; all stays as it is.
    """
    old, new = folder / DATABASE, folder / NEW
    with disk_errors(folder):
        new.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(new, isolation_level=None)) as target:
                target.execute("PRAGMA journal_mode=OFF")
                found = _fill(target, old)
            found.kept = _set_aside(folder)
            take_place(new, old)
        finally:
            new.unlink(missing_ok=True)
    return found


def resume(folder: Path) -> None:
    """Undo what an earlier salvage had begun with the damaged database's names."""
    old, kept = folder / DATABASE, folder / DAMAGED
    if kept.exists() and not old.exists():
        kept.rename(old)
    elif kept.exists() and kept.samefile(old):
        kept.unlink()
    else:
        return
    with suppress(FileNotFoundError):
        (folder / f"{DAMAGED}-wal").rename(folder / f"{DATABASE}-wal")


def _fill(target: sqlite3.Connection, old: Path) -> Salvaged:
    source = _opened(old)
    try:
        if source is not None and _is_old(source):
            return _copy_old(source, target)
        target.executescript(MAKE)
        target.executescript("CREATE TEMP TABLE known (problem, stage, key); BEGIN IMMEDIATE;")
        cut_short = [table for table in SMALL if not _copy(source, target, table)]
        counted = _note_names(source, target)
        _take(target, _by_sql(source))
    finally:
        if source is not None:
            source.close()
    _take(target, bodies_in(old, old.with_name(f"{old.name}-wal")))
    if "totals" in cut_short:
        target.execute("UPDATE totals SET spent = ?", (_spent(target),))
    lost = target.execute(
        "SELECT DISTINCT stage, key FROM known EXCEPT SELECT stage, key FROM records ORDER BY 1, 2"
    ).fetchall()
    (bodies,) = target.execute("SELECT COUNT(*) FROM records").fetchone()
    # Asking a problem costs nothing where all of it is there.
    for statement in ("UPDATE problems SET settled = NULL", FORGET, "COMMIT"):
        target.execute(statement)
    return Salvaged("", bodies, lost, counted, cut_short)


def _opened(file: Path) -> sqlite3.Connection | None:
    """A connection to what may be no database at all."""
    with suppress(UserError):
        source = connect_to_read(file)
        # No row fits with bytes in the place of text.
        source.text_factory = _text
        return source
    return None


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _is_old(source: sqlite3.Connection) -> bool:
    with suppress(_UnreadableError):
        found = list(_read(source, "SELECT value FROM meta WHERE name='schema'"))
        return found == [(str(OLD_SCHEMA),)]
    return False


def _copy_old(source: sqlite3.Connection, target: sqlite3.Connection) -> Salvaged:
    """All that can be read of a database of schema 1, as it is: it is brought over later."""
    tables = ("meta", "live", "claims", "records")
    made = _read(source, "SELECT sql FROM sqlite_master WHERE name IN (?, ?, ?, ?)", tables)
    for (statement,) in list(made):
        target.execute(statement)
    target.execute("BEGIN IMMEDIATE")
    cut_short = [table for table in tables if not _copy(source, target, table)]
    (bodies,) = target.execute("SELECT COUNT(*) FROM records").fetchone()
    target.execute("COMMIT")
    return Salvaged("", bodies, [], "records" not in cut_short, cut_short)


def _copy(source: sqlite3.Connection | None, target: sqlite3.Connection, table: str) -> bool:
    """Copy a table's rows, from either end as far as they can be read; whether that is all."""
    if source is None:
        return False
    columns = target.execute(f"PRAGMA table_info({table})").fetchall()
    names = ", ".join(f'"{name}"' for _, name, *_ in columns)
    keys = sorted((part, name) for _, name, _, _, _, part in columns if part)
    marks = ", ".join("?" * len(columns))
    misfits: list[None] = []
    for way in ("", " DESC"):
        order = ", ".join(f'"{name}"{way}' for _, name in keys)
        rows = _read(source, f"SELECT {names} FROM {table} ORDER BY {order}")
        with suppress(_UnreadableError):
            target.executemany(
                f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})",
                _fit(columns, rows, misfits),
            )
            return not misfits
    return False


def _fit(
    columns: list[Any], rows: Iterable[tuple[Any, ...]], misfits: list[None]
) -> Iterator[tuple[Any, ...]]:
    """Rows whose values are what their columns hold: damaged pages may say anything."""
    kinds = {"TEXT": str, "INTEGER": int, "REAL": float, "BLOB": bytes}
    wanted = [(kinds[kind], bool(required)) for _, _, kind, required, *_ in columns]
    for row in rows:
        if all(
            isinstance(value, kind) or (value is None and not required)
            for value, (kind, required) in zip(row, wanted, strict=True)
        ):
            yield row
        else:
            misfits.append(None)


def _note_names(source: sqlite3.Connection | None, target: sqlite3.Connection) -> bool:
    """Note what bodies there were, from their index and the columns; whether that is all."""
    target.execute("INSERT INTO known SELECT problem, stage, key FROM traces")
    target.execute("INSERT INTO known SELECT problem, stage, key FROM scores")
    target.execute("INSERT INTO known SELECT problem, 'evaluate', key FROM attempts")
    target.execute("INSERT INTO known SELECT problem, stage, key FROM live")
    if source is None:
        return False
    for way in ("", " DESC"):
        with suppress(_UnreadableError):
            order = ", ".join(f"{name}{way}" for name in ("problem", "stage", "key"))
            query = f"SELECT problem, stage, key FROM records ORDER BY {order}"
            rows = _read(source, query)
            known = (row for row in rows if all(isinstance(name, str) for name in row))
            target.executemany("INSERT INTO known VALUES (?, ?, ?)", known)
            return True
    return False


def _by_sql(source: sqlite3.Connection | None) -> Iterator[Found]:
    for way in ("ASC", "DESC") if source is not None else ():
        with suppress(_UnreadableError):
            # By row number, not by the index, which may be what is damaged.
            query = (
                f"SELECT problem, stage, key, body FROM records NOT INDEXED ORDER BY rowid {way}"
            )
            for row in _read(source, query):
                yield Found._make(row)
            return


def _read(
    source: sqlite3.Connection | None, query: str, parameters: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, ...]]:
    """Rows, as far as they come. Raises: _UnreadableError."""
    assert source is not None
    try:
        yield from source.execute(query, parameters)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _UnreadableError from error


def _take(target: sqlite3.Connection, found: Iterable[Found]) -> None:
    """Keep bodies that are whole and what their names say; the first of each name."""
    target.executemany(
        "INSERT OR IGNORE INTO records (problem, stage, key, body) VALUES (?, ?, ?, ?)",
        (row for row in found if is_whole(*row)),
    )


def is_whole(problem: str, stage: str, key: str, body: bytes) -> bool:
    """Whether a body's checksum holds and it says what it is stored as."""
    try:
        unpack(body)
        if not all(isinstance(name, str) for name in (problem, stage, key)):
            return False
        if stage not in KINDS:
            return True
        record: Any = decode(KINDS[stage], body)
    except (DamagedError, TypeError):
        return False
    own = record.id if isinstance(record, Problem) else getattr(record, "key", key)
    return bool(own == key and getattr(record, "problem_id", problem) == problem)


def _spent(target: sqlite3.Connection) -> int:
    """Teacher tokens of the traces and hints that are there."""
    drawn = target.execute("SELECT 1 FROM records WHERE stage='hint_draw' LIMIT 1").fetchone()
    stages = (*TRACES, "hint_draw" if drawn else "hint")  # a folder of before has hints alone
    marks = ", ".join("?" * len(stages))
    found = target.execute(f"SELECT stage, body FROM records WHERE stage IN ({marks})", stages)
    return sum(decode(KINDS[stage], body).new_tokens for stage, body in found)


def _set_aside(folder: Path) -> str:
    """Keep the damaged database, and its log, under another name."""
    old, name, number = folder / DATABASE, DAMAGED, 2
    while (folder / name).exists():
        name, number = f"{DAMAGED}{number}", number + 1
    if not keep(old, folder / name):
        old.rename(folder / name)
    # Beside a new database the old one's log would be taken for its own.
    for end in ("wal", "journal"):
        with suppress(FileNotFoundError):
            (folder / f"{DATABASE}-{end}").rename(folder / f"{name}-{end}")
    (folder / f"{DATABASE}-shm").unlink(missing_ok=True)
    return name
