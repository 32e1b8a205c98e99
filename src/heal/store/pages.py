"""Bodies found in a database's pages, without asking SQLite.

In: a database file, however damaged, and its log. Out: whatever rows of `records` lie in its pages
with a body whose checksum holds. Needs neither a header nor the tree above the pages, so it finds
what SQL cannot reach any more; rows that were replaced or deleted may come too. Knows the layout of
https://www.sqlite.org/fileformat.html and nothing of records.
"""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from heal.store.bodies import DamagedError, unpack

PAGE_BYTES = 4_096
"""Where the header does not say: what `heal.store.opening` makes."""
_LEAF = 0x0D
_DATABASE_HEAD, _LOG_HEAD, _FRAME_HEAD = 100, 32, 24
_LOG_MAGIC = (0x377F0682, 0x377F0683)
_TEXT, _BLOB = 1, 0
"""Whether the type of a column, from 12 on, is odd or even."""


class Found(NamedTuple):
    """One row of `records`."""

    problem: str
    stage: str
    key: str
    body: bytes


def bodies_in(database: Path, log: Path) -> Iterator[Found]:
    """Every whole body in a database and in the log beside it, which may be missing."""
    pages = _Pages(_content(database), _content(log))
    for page, head in pages.all():
        for payload in _payloads(page, head, pages):
            found = _row(payload)
            if found is None:
                continue
            with suppress(DamagedError):
                unpack(found.body)
                yield found


class _Pages:
    """A database's pages; where the log has a newer copy, that one."""

    def __init__(self, database: bytes | mmap.mmap, log: bytes | mmap.mmap) -> None:
        self._database, self._log = database, log
        self.bytes = len(database) + len(log)
        self.size = _size_said(database, log)
        self._newer: dict[int, int] = {}
        """Where in the log the last copy of a page begins."""
        step = _FRAME_HEAD + self.size
        for start in range(_LOG_HEAD, len(log) - step + 1, step):
            self._newer[int.from_bytes(log[start : start + 4], "big")] = start + _FRAME_HEAD

    def get(self, number: int) -> bytes:
        """A page by its number, from 1; empty where there is none."""
        if number in self._newer:
            start = self._newer[number]
            return bytes(self._log[start : start + self.size])
        start = (number - 1) * self.size
        return bytes(self._database[start : start + self.size]) if number > 0 else b""

    def all(self) -> Iterator[tuple[bytes, int]]:
        """All pages, and where each begins; those of the log alone come last."""
        count = -(-len(self._database) // self.size)
        for number in (*range(1, count + 1), *(n for n in self._newer if n > count)):
            yield self.get(number), _DATABASE_HEAD if number == 1 else 0


def _content(file: Path) -> bytes | mmap.mmap:
    if not file.is_file() or not file.stat().st_size:
        return b""
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _size_said(database: bytes | mmap.mmap, log: bytes | mmap.mmap) -> int:
    """Bytes of a page, as the header has it, or else the log's."""
    said = [int.from_bytes(database[16:18], "big")] if database[:6] == b"SQLite" else []
    if int.from_bytes(log[:4], "big") in _LOG_MAGIC:
        said.append(int.from_bytes(log[8:12], "big"))
    fit = [n for n in said if 512 <= n <= 32_768 and n & (n - 1) == 0]
    return fit[0] if fit else PAGE_BYTES


def _payloads(page: bytes, head: int, pages: _Pages) -> Iterator[bytes]:
    """Contents of the cells of a page that holds rows of a table."""
    if len(page) < head + 8 or page[head] != _LEAF:
        return
    cells, first = int.from_bytes(page[head + 3 : head + 5], "big"), head + 8
    for place in range(first, min(first + 2 * cells, len(page) - 1), 2):
        start = int.from_bytes(page[place : place + 2], "big")
        with suppress(IndexError):
            yield _payload(page, start, pages)


def _payload(page: bytes, start: int, pages: _Pages) -> bytes:
    """One cell's content, gathered from the pages it overflows to. Raises: IndexError."""
    length, start = _number(page, start)
    _, start = _number(page, start)
    if length > pages.bytes:
        raise IndexError
    usable = pages.size
    most, least = usable - 35, (usable - 12) * 32 // 255 - 23
    if length <= most:
        return page[start : start + length]
    fitting = least + (length - least) % (usable - 4)
    here = fitting if fitting <= most else least
    found, following = [page[start : start + here]], page[start + here : start + here + 4]
    left = length - here
    while left > 0:
        onward = pages.get(int.from_bytes(following, "big"))
        if len(onward) <= 4:
            break
        found.append(onward[4 : 4 + left])
        left -= len(found[-1])
        following = onward[:4]
    return b"".join(found)


def _row(payload: bytes) -> Found | None:
    """A payload as a row of `records`; None if it is of another shape."""
    try:
        head, place = _number(payload, 0)
        kinds: list[int] = []
        while place < head:
            kind, place = _number(payload, place)
            kinds.append(kind)
        if [kind % 2 for kind in kinds] != [_TEXT, _TEXT, _TEXT, _BLOB] or min(kinds) < 12:
            return None
        values: list[bytes] = []
        for kind in kinds:
            values.append(payload[place : place + (kind - 12) // 2])
            place += (kind - 12) // 2
        problem, stage, key = (value.decode() for value in values[:3])
    except (IndexError, UnicodeDecodeError):
        return None
    return Found(problem, stage, key, values[3])


def _number(data: bytes, place: int) -> tuple[int, int]:
    """SQLite's variable-length integer, and where it ends. Raises: IndexError."""
    value = 0
    for _ in range(8):
        byte = data[place]
        place += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place
    return value << 8 | data[place], place + 1
