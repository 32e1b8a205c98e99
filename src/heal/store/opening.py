"""Opening a run folder: its tables, its form, and what must not be opened.

In: a folder. Out: a connection whose tables are those of this HEAL. A database is looked at before
anything is written to it, so that a damaged one stays as it is.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from heal.errors import UserError
from heal.store.disk import (
    BESIDE,
    DATABASE,
    connect_to_look,
    connect_to_read,
    connect_to_write,
    damaged,
    disk_errors,
    roll_back,
)
from heal.store.schema import MAKE, NAMES, OLD_SCHEMA, SCHEMA
from heal.wording import plural

Say = Callable[[str], None]
"""Told, in a line, what was done to a folder."""


def open_to_read(folder: Path) -> sqlite3.Connection:
    """A connection that writes nothing and makes nothing. Raises: UserError."""
    if not (folder / DATABASE).is_file():
        raise UserError(f"{folder}: not a run folder", hint="heal run -c FILE.yaml makes one")
    found = stored_schema(folder)
    if found == OLD_SCHEMA:
        raise UserError(
            f"{folder}: written by an older HEAL (schema {found}, not {SCHEMA})",
            hint=f"heal doctor {folder} brings it to the present form; so does heal run",
        )
    refuse_other(folder, found)
    database = connect_to_read(folder / DATABASE)
    try:
        require_tables(database, folder)
    except BaseException:
        database.close()
        raise
    return database


def open_to_write(folder: Path, say: Say) -> sqlite3.Connection:
    """The database of a folder whose lock is held: made, or brought to the present form."""
    roll_back(folder / DATABASE)
    new = is_new(folder)
    if not new and (found := stored_schema(folder)) != SCHEMA:
        refuse_other(folder, found, OLD_SCHEMA)
        from heal.store.migrate import migrate

        say(migrate(folder))
    database = connect_to_write(folder / DATABASE)
    try:
        if new:
            with disk_errors(folder):
                database.executescript(MAKE)
        require_tables(database, folder)
    except BaseException:
        database.close()
        raise
    return database


def make_room(folder: Path) -> None:
    """Make a folder, if need be. Raises: UserError if it holds something else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}", hint="choose with --set run=DIR") from None
    with disk_errors(folder):
        found = {file.name for file in folder.iterdir()}
    if (folder / DATABASE).is_dir():
        raise UserError(f"{folder / DATABASE}: is not a file", hint="choose with --set run=DIR")
    if found - BESIDE and DATABASE not in found:
        raise UserError(
            f"{folder}: the folder is not empty and is no run folder",
            hint="choose another with --set run=DIR",
        )


def stored_schema(folder: Path) -> int:
    """Which form a folder's database has. Raises: UserError where it has none: it is damaged."""
    database = connect_to_look(folder / DATABASE)
    try:
        return schema_of(database, folder)
    finally:
        database.close()


def schema_of(database: sqlite3.Connection, folder: Path) -> int:
    """Which form a database has. Raises: UserError where it has none: it is damaged."""
    with disk_errors(folder):
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if "meta" not in tables:
            raise damaged(folder, f"it has {plural(len(tables), 'table')}, and not those of a run")
        row = database.execute("SELECT value FROM meta WHERE name='schema'").fetchone()
    if row is None or not str(row[0]).isdigit():
        raise damaged(folder, "it does not say which form it has")
    return int(row[0])


def is_new(folder: Path) -> bool:
    """Whether nothing was ever stored: an empty database beside results has lost its tables."""
    with disk_errors(folder):
        if {file.name for file in folder.iterdir()} - BESIDE:
            return False
        if not (folder / DATABASE).exists():
            return True
        database = connect_to_look(folder / DATABASE)
        try:
            (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        finally:
            database.close()
    return not tables


def require_tables(database: sqlite3.Connection, folder: Path) -> None:
    """Raises: DamagedDatabaseError where tables of the present form are not there."""
    with disk_errors(folder):
        there = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    lacking = [name for name in NAMES if name not in there]
    if lacking:
        raise damaged(folder, f"without its tables {', '.join(lacking)}")


def refuse_other(folder: Path, found: int, *known: int) -> None:
    """Raises: UserError for a form that is neither the present one nor known."""
    if found not in (SCHEMA, *known):
        raise UserError(
            f"{folder}: written by another version of HEAL (schema {found}, not {SCHEMA})",
            hint="choose another folder with --set run=DIR",
        )
