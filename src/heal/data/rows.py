"""Rows as a source holds them: each with its place, before anybody knows which column is what.

A row that is no object, or whose column names are broken text, is dealt with here, so that all
sources do it alike. Text that holds lone surrogates is mended on the way in: nothing behind this
could write it down.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from heal.errors import UserError
from heal.wording import plural

NAMED = 5
_LONE = re.compile(r"[\ud800-\udfff]")
_SHOWN_COLUMNS = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One line or item: its number (from 1), its columns, and the file it stands in."""

    line: int
    values: Mapping[str, Any]
    file: str = ""
    """None of its own: '' is the source itself."""


@dataclass
class Rows:
    """Everything a source holds, and what could not be read of it."""

    name: str
    """What messages call the source: `{name}:{line}`."""
    rows: list[Row] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    """(line, reason) of each row that is damaged; such a file is refused."""
    empty: list[tuple[int, str]] = field(default_factory=list)
    """(line, reason) of each row that is null: it is whole, but holds nothing."""
    files: int = 1
    parts: list["Rows"] = field(default_factory=list)
    """The files of a folder, where their damaged and empty rows are still told apart."""

    def place(self, row: Row) -> str:
        """`file:line`."""
        return f"{row.file or self.name}:{row.line}"

    def add(self, line: int, value: Any) -> None:
        """Take in what should be an object."""
        if isinstance(value, Mapping):
            self.rows.append(Row(line, whole_names(value), self.name))
        elif value is None:
            self.empty.append((line, "expected an object, found null"))
        else:
            self.broken.append((line, f"expected an object, found {kind(value)}"))

    def join(self, part: "Rows") -> None:
        """Take in all of a file's rows."""
        self.rows += part.rows
        self.parts.append(part)

    def raise_broken(self) -> None:
        """Raises: UserError naming the first damaged rows and their number."""
        named = [f"{part.name}:{line}: {why}" for part in self._all() for line, why in part.broken]
        raise_bad(named, "correct or delete")

    def empty_rows(self) -> list[tuple[str, str]]:
        """(place, reason) of each row that holds nothing."""
        return [(f"{part.name}:{line}", why) for part in self._all() for line, why in part.empty]

    def _all(self) -> list["Rows"]:
        return [self, *self.parts]


def raise_bad(lines: list[str], advice: str, more: str = "") -> None:
    """Refuse a source for these rows, if there are any. Raises: UserError with the first few."""
    if not lines:
        return
    shown = lines[:NAMED]
    if len(lines) > NAMED:
        shown.append(f"… and {plural(len(lines) - NAMED, 'more bad row')} ({len(lines)} in all)")
    which = "that row" if len(lines) == 1 else "these rows"
    raise UserError("\n".join(shown), hint=f"{advice} {which}{more}")


def numbered(name: str, values: Iterable[Any]) -> Rows:
    """Items in their order, counted from 1."""
    found = Rows(name)
    for line, value in enumerate(values, 1):
        found.add(line, value)
    return found


def whole_text(text: str) -> str:
    """A text with U+FFFD where half a surrogate pair stands, which no file can hold."""
    return text if text.isascii() else _LONE.sub("\ufffd", text)


def kind(value: Any) -> str:
    """A value's kind in words."""
    if isinstance(value, Mapping):
        return "an object"
    names = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def quoted(names: Iterable[str]) -> str:
    """Names in quotes, with commas between them."""
    return ", ".join(repr(name) for name in names)


def listed(columns: Iterable[str]) -> str:
    """Column names with commas; of very many, the first."""
    names = list(columns)
    more = f", … ({len(names):,} in all)" if len(names) > _SHOWN_COLUMNS else ""
    return ", ".join(names[:_SHOWN_COLUMNS]) + more


def whole_names(values: Mapping[Any, Any]) -> Mapping[str, Any]:
    """A row whose column names are text that can be written down."""
    if all(type(name) is str and (name.isascii() or not _LONE.search(name)) for name in values):
        return values
    return {whole_text(str(name)): value for name, value in values.items()}
