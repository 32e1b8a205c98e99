"""The run folder's disk: locks, connections, files, and what their errors mean.

A folder has one writer at a time, who holds `run.lock`. While it writes, the database keeps a log
(WAL) beside it, so that others read without waiting. A writer that closes folds the log in and
leaves one plain file, which can be copied, or read where nothing can be written. A reader writes
nothing at all. Knows no records.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from heal.errors import UserError

DATABASE = "run.sqlite"
LOCK = "run.lock"
NEW = f"{DATABASE}.new"
"""A database that is being made, to take the other's place."""
BESIDE = frozenset({LOCK, DATABASE, *(f"{DATABASE}-{end}" for end in ("wal", "shm", "journal"))})
"""What a folder holds in which nothing has been stored yet."""
BUSY_S = 60.0
"""How long a statement waits for another process; readers hold a closed folder this long at most
before a writer gives up on it."""
_TRIES, _RETRY_S = 5, 0.02

_FULL = {"SQLITE_FULL"}
_UNWRITABLE = {"SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM"}
_DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_TOOBIG"}
_BUSY = {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"}
_DISK = {"SQLITE_IOERR"}


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a disk does to a run into words. Raises: UserError."""
    try:
        yield
    except UnicodeDecodeError as error:
        # What SQLite says of a damaged database holds pieces of it.
        raise damaged(folder, "it holds text that is none") from error
    except (sqlite3.Error, OSError) as error:
        raise _explained(folder, error) from error


def _explained(folder: Path, error: Exception) -> Exception:
    number, name = getattr(error, "errno", None), error_name(error)
    if name in _FULL or number in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{folder}: no disk space left; everything finished so far is stored",
            hint="free some space, then run the same command again",
        )
    if name in _UNWRITABLE or number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{folder}: cannot be written to", hint="choose with --set run=DIR")
    if number == errno.EISDIR:
        taken = getattr(error, "filename2", None) or getattr(error, "filename", None) or folder
        return UserError(
            f"{taken}: is a folder where a file of the run belongs",
            hint=f"move it away, then heal doctor {folder}",
        )
    if number == errno.ELOOP:
        return UserError(
            f"{folder}: {Path(str(getattr(error, 'filename', ''))).name} is a link",
            hint="remove it: a link there might lead to a file of somebody else's",
        )
    # Text that is none is found by Python, which gives no name to it.
    if name in _DAMAGED or (name is None and isinstance(error, sqlite3.OperationalError)):
        return damaged(folder, str(error))
    if name in _DISK or number == errno.EIO:
        return DamagedDatabaseError(
            f"{folder / DATABASE}: the disk does not give what was written ({error})",
            hint=f"look after the disk, then heal doctor {folder}",
        )
    if name in _BUSY:
        return UserError(
            f"{folder / DATABASE}: another process has kept it busy for {BUSY_S:.0f} s",
            hint="wait for it, then run the same command again",
        )
    return error


def error_name(error: Exception) -> str | None:
    """SQLite's own name of an error, without its finer kinds; None for other errors."""
    name = getattr(error, "sqlite_errorname", None)
    return None if name is None else "_".join(name.split("_")[:2])


class DamagedDatabaseError(UserError):
    """A database is not what was written."""


def damaged(folder: Path, what: str) -> DamagedDatabaseError:
    """The error that says so, and who mends it."""
    return DamagedDatabaseError(
        f"{folder / DATABASE}: is damaged ({what})",
        hint=f"heal doctor {folder} says what is whole, and keeps it",
    )


def take_lock(folder: Path) -> IO[str]:
    """Become a folder's one writer. Raises: UserError."""
    with disk_errors(folder):
        # A link in its place would have a file elsewhere opened for writing.
        number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    lock = os.fdopen(number, "r+")
    for _ in range(_TRIES):
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        # Whoever asks `is_locked` holds it for an instant.
        time.sleep(_RETRY_S)
    lock.close()
    raise UserError(
        f"{folder}: another process is writing to this run",
        hint="wait for it, or choose another folder with --set run=DIR",
    )


def is_locked(folder: Path) -> bool:
    """Whether a process is writing to a folder."""
    try:
        lock = (folder / LOCK).open("r")
    except OSError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def connect_to_write(file: Path) -> sqlite3.Connection:
    """A connection that keeps a log, for the holder of the lock."""
    with disk_errors(file.parent):
        database = sqlite3.connect(file, isolation_level=None, timeout=BUSY_S)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            # What a power cut must not take is synced by whoever commits it (`make_durable`); FULL
            # would also sync each of the many notes of what is in flight.
            database.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            database.close()
            raise
    return database


def make_durable(file: Path) -> None:
    """Have what was committed to a database survive a power cut."""
    for path in (file.with_name(f"{file.name}-wal"), file):
        with suppress(FileNotFoundError):
            number = os.open(path, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
            return


def sync_files(folder: Path) -> None:
    """Have every file of a folder, and their names, survive a power cut."""
    for path in (*folder.rglob("*"), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def connect_to_read(file: Path) -> sqlite3.Connection:
    """A connection that writes nothing. Raises: UserError."""
    folder, journal = file.parent, file.with_name(f"{file.name}-journal")
    with disk_errors(folder):
        try:
            return _opened(f"{file.absolute().as_uri()}?mode=ro")
        except sqlite3.Error as error:
            if error_name(error) == "SQLITE_READONLY" and journal.exists():
                raise UserError(
                    f"{folder}: a run was killed in the instant it closed",
                    hint=f"heal doctor {folder} sets it right; so does running it again",
                ) from None
            if error_name(error) != "SQLITE_CANTOPEN":
                raise
        if not os.access(file, os.R_OK):
            raise UserError(f"{file}: cannot be read", hint="ask its owner for it")
        log = file.with_name(f"{file.name}-wal")
        if log.exists() and log.stat().st_size:
            raise UserError(
                f"{folder}: {log.name} holds results of a run that was cut off, and what they need "
                "to be read cannot be written here",
                hint="copy the whole folder to where it can be written, and look at the copy",
            )
        # A database that wants a log, has none, and cannot be given one: nobody is writing.
        return _opened(f"{file.absolute().as_uri()}?mode=ro&immutable=1")


def connect_to_look(file: Path) -> sqlite3.Connection:
    """A connection for an instant, which leaves nothing behind.

    A database that wants a log and has none would be given one, by a reader, too.
    """
    if not wants_log(file) or file.with_name(f"{file.name}-wal").exists():
        return connect_to_read(file)
    with disk_errors(file.parent):
        return _opened(f"{file.absolute().as_uri()}?mode=ro&immutable=1")


def wants_log(file: Path) -> bool:
    """Whether a database was last written to by a process that did not close it."""
    with disk_errors(file.parent), file.open("rb") as opened:
        return opened.read(20)[18:] == b"\x02\x02"


def _opened(address: str) -> sqlite3.Connection:
    database = sqlite3.connect(address, uri=True, isolation_level=None, timeout=BUSY_S)
    try:
        database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except BaseException:
        database.close()
        raise
    return database


def roll_back(file: Path) -> None:
    """Undo what a process was doing when it was killed while it closed or opened a database.

    A reader cannot: it must not write.
    """
    if not file.with_name(f"{file.name}-journal").exists():
        return
    with disk_errors(file.parent), closing(sqlite3.connect(file, timeout=BUSY_S)) as database:
        database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()


def fold_in(database: sqlite3.Connection) -> bool:
    """Leave one plain file, with no log beside it; False where a reader is still at it."""
    with suppress(sqlite3.Error):
        database.execute("PRAGMA busy_timeout=0")
        database.execute("PRAGMA journal_mode=DELETE")
        return True
    with suppress(sqlite3.Error):
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return False


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place whole or not at all, a power cut included."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    # Anew, and never through a link: it might lead to a file of somebody else's.
    number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(number, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def keep(old: Path, kept: Path) -> bool:
    """Have a file under another name, too; False where there is no room for it."""
    kept.unlink(missing_ok=True)
    try:
        os.link(old, kept)
    except OSError:  # a file system without links
        with suppress(OSError):
            shutil.copy2(old, kept)
    there = kept.exists() and kept.stat().st_size == old.stat().st_size
    if not there:
        kept.unlink(missing_ok=True)
    return there


def take_place(new: Path, old: Path) -> None:
    """Put a finished file in an old one's place, in one step."""
    with new.open("rb+") as made:
        os.fsync(made.fileno())
    new.replace(old)
