"""Marks: what a reader says of single traces, in `marks.jsonl` beside the database.

One line a mark, appended and durable before it counts; the last one of a trace holds. The database
never has them: a run's results follow from its recipe, unless `pace.respect_marks` asks for these.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from heal.errors import UserError
from heal.store.disk import disk_errors

MARKS = "marks.jsonl"
MAX_NOTE_CHARS = 2_000
_MAX_BYTES = 64 << 20


class Mark(StrEnum):
    """A reader's word on one trace; `NONE` takes an earlier one back."""

    GOOD = "good"
    BAD = "bad"
    NONE = "none"


@dataclass(frozen=True)
class Marked:
    """One mark, with what the reader noted."""

    trace: str
    problem: str
    mark: Mark
    note: str = ""
    at: str = ""
    """ISO 8601."""


def read_marks(folder: Path) -> dict[str, Marked]:
    """The mark that holds of each trace; those taken back are not there unless they have a note.

    A last line that does not end was never confirmed to anybody, and is passed over.
    Raises: UserError where any other line is no mark.
    """
    path = folder / MARKS
    if not path.exists():
        return {}
    with disk_errors(folder):
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: larger than any reader's marks", hint=f"move {path} away")
        content = path.read_bytes()
    found: dict[str, Marked] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        if line.strip():
            marked = _read(line, path, number)
            found[marked.trace] = marked
    return {key: m for key, m in found.items() if m.mark is not Mark.NONE or m.note}


def bad_marks(folder: Path) -> dict[str, str]:
    """Trace → problem of the traces marked bad. Raises: UserError."""
    return {m.trace: m.problem for m in read_marks(folder).values() if m.mark is Mark.BAD}


def add_mark(folder: Path, trace: str, problem: str, mark: Mark, note: str = "") -> Marked:
    """Append a mark; it is on the disk when this returns. Raises: UserError."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    marked = Marked(trace, problem, mark, note[:MAX_NOTE_CHARS], at)
    line = json.dumps(asdict(marked)).encode() + b"\n"
    with disk_errors(folder):
        # A link in its place would have a file elsewhere written to.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        number = os.open(folder / MARKS, flags, 0o644)
        with os.fdopen(number, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(_end_of_lines(file))
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    return marked


def _end_of_lines(file: Any) -> int:
    """Where the last whole line ends: a power cut may have left half of one behind it."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - (1 << 16))
    file.seek(start)
    tail = file.read()
    return start + tail.rfind(b"\n") + 1 if b"\n" in tail or not start else size


def _read(line: bytes, path: Path, number: int) -> Marked:
    try:
        row = json.loads(line)
        text = {name: row.get(name, "") for name in ("trace", "problem", "note", "at")}
        if not all(isinstance(value, str) for value in text.values()) or not text["trace"]:
            raise ValueError
        return Marked(mark=Mark(row["mark"]), **text)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}:{number}: is no mark", hint=f"correct or delete line {number} of {path}"
        ) from None
