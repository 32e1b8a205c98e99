"""Rows of text files: JSON, JSON lines, and tables with commas, semicolons or tabs.

In: a file's text. Out: `Rows`. Damaged lines are collected, not reported one by one. Nesting that
is too deep, integers too long to read and names given twice are refused like any other bad JSON.
"""

import csv
import io
import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from heal.data.rows import Rows, kind, numbered, quoted
from heal.errors import UserError
from heal.wording import plural

_DELIMITERS = (",", ";", "\t", "|")


def read_lines(text: str, shown: str) -> Rows:
    """JSON lines."""
    found = Rows(shown)
    # str.splitlines would also split inside a JSON string, at U+2028 for instance
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            value = parse_json(content)
        except (ValueError, RecursionError) as error:
            found.broken.append((line, f"not valid JSON: {why_not_json(error)}"))
            continue
        found.add(line, value)
    return found


def read_json(text: str, shown: str) -> Rows:
    """A list of objects, one object, or JSON lines under this name. Raises: UserError."""
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return read_lines(text, shown)
        line = getattr(error, "lineno", 1)
        raise UserError(
            f"{shown}:{line}: not valid JSON: {why_not_json(error)}",
            hint=f"python -m json.tool {shlex.quote(shown)}",
        ) from None
    if isinstance(value, list):
        return numbered(shown, value)
    if isinstance(value, dict) and not any(isinstance(v, list | dict) for v in value.values()):
        return numbered(shown, [value])
    what = f"an object with {quoted(list(value)[:5])}" if isinstance(value, dict) else kind(value)
    raise UserError(
        f"{shown}: expected a list of problems, found {what}",
        hint="save the list itself, or one problem per line as .jsonl",
    )


def read_table(text: str, shown: str) -> Rows:
    """A table whose first line names its columns. Raises: UserError."""
    found, line = Rows(shown), 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    with _fields_of_any_length():
        try:
            names = _header(reader, shown)
            line = reader.line_num + 1
            for values in reader:
                if values and len(values) != len(names):
                    reason = f"{plural(len(values), 'value')} under {plural(len(names), 'column')}"
                    found.broken.append((line, reason))
                elif values:
                    found.add(line, dict(zip(names, values, strict=True)))
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{shown}:{line}: not valid CSV: {error}",
                hint="quote every text that holds a comma, a quote or a line break",
            ) from None
    return found


def _header(reader: Iterator[list[str]], shown: str) -> list[str]:
    names = [name.strip() for name in next((row for row in reader if row), [])]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{shown}:1: two columns {name!r}", hint="give each its own name")
        seen.add(name)
    return names


def _delimiter(text: str) -> str:
    """What stands between the names; a comma unless there is none and something else is."""
    header = text.lstrip("\r\n").partition("\n")[0]
    return next((sign for sign in _DELIMITERS if sign in header), ",")


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    # the csv module refuses fields of more than 131,072 characters, for the whole process
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class _TwiceError(ValueError):
    """A name that stands twice in one object: which of the two counts is anybody's guess."""


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises: ValueError, RecursionError, told by `why_not_json`."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    given = list(pairs)
    found = dict(given)
    if len(found) < len(given):
        seen: set[str] = set()
        twice = next(name for name, _ in given if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _TwiceError(f"{twice!r} stands twice in one object")
    return found


def why_not_json(error: ValueError | RecursionError) -> str:
    """What is wrong with a JSON text, in words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, _TwiceError):
        return str(error)
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return (
        f"a number of more than {plural(sys.get_int_max_str_digits(), 'digit')}; write it as text"
    )
