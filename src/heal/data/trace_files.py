"""Rows of trace files, one at a time: JSON lines, tables, JSON, Parquet, and Inspect's logs.

In: a file, a folder or a pattern. Out: `Row`s in the order of the files. JSON lines and Parquet
take the memory of a line or a batch, whatever their size; JSON and tables are read whole. The same
limits hold as for problem files. Knows nothing of which column is what.
"""

import hashlib
import json
import shlex
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heal.data.arrow_rows import probe, stream_parquet
from heal.data.files import decode, most_bytes, read_bytes, stream_lines
from heal.data.rows import Row, Rows, kind, raise_bad, whole_names
from heal.data.sources import PACKED, SUFFIXES, file_kind
from heal.data.text_rows import parse_json, read_table, why_not_json
from heal.errors import UserError

INSPECT = ".eval"
"""A zip of JSON files, one per sample."""
_PATTERN = frozenset("*?[")
_MOST_FILES = 10_000
_SAMPLES = "samples/"

File = tuple[Path, str]
"""A path, and what messages call it."""


def trace_files(shown: str, base: Path) -> list[File]:
    """The files that a path, a folder or a pattern names, in order. Raises: UserError."""
    if "\0" in shown:
        raise UserError(f"{shown!r}: a path cannot hold a NUL", hint="name the file")
    where = Path(shown).expanduser() if shown.startswith("~") else Path(shown)
    path = base / where
    try:
        if path.is_dir():
            found = _in_folder(path, shown.rstrip("/") or shown)
        elif path.is_file():
            found = [(path, shown)]
        elif _PATTERN & set(shown):
            root, inside = (base, where) if not where.anchor else _under_root(where)
            hits = sorted(hit for hit in root.glob(str(inside)) if hit.is_file())
            found = [(hit, str(hit.relative_to(base) if root is base else hit)) for hit in hits]
        else:
            found = []
    except (OSError, ValueError) as error:  # ValueError: no pattern
        words = getattr(error, "strerror", None) or error
        raise UserError(f"{shown[:300]}: {words}", hint="name the file") from None
    if not found:
        raise UserError(
            f"{shown[:300]}: no such file", hint=f"ls {shlex.quote(str(path.parent)[:300])}"
        )
    if len(found) > _MOST_FILES:
        raise UserError(f"{shown}: more than {_MOST_FILES:,} files", hint="name fewer")
    for file, name in found:
        _require_readable(file, name)
    return found


def fingerprint(files: list[File]) -> str:
    """Names what the files hold, whatever they are called."""
    digest = hashlib.sha256()
    for path, shown in files:
        try:
            with path.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise _unreadable(shown, error) from None
    return digest.hexdigest()[:20]


def stream_rows(files: list[File]) -> Iterator[Row]:
    """Every row of every file. Raises: UserError naming the first damaged rows, at a file's end."""
    for path, shown in files:
        try:
            yield from _rows_of(path, shown)
        except OSError as error:
            raise _unreadable(shown, error) from None


def _rows_of(path: Path, shown: str) -> Iterator[Row]:
    suffix = INSPECT if path.suffix.lower() == INSPECT else file_kind(path)
    if suffix in (".jsonl", ".ndjson"):
        yield from _of_lines(path, shown)
    elif suffix == ".parquet":
        probe([(path, shown)])
        yield from _of_values(shown, stream_parquet(path, shown))
    elif suffix == INSPECT:
        yield from _of_zip(path, shown)
    elif suffix == ".json":
        yield from _of_json(path, shown)
    else:
        yield from _whole(read_table(decode(read_bytes(path, shown), shown), shown))


def _of_lines(path: Path, shown: str) -> Iterator[Row]:
    def values() -> Iterator[tuple[int, Any]]:
        for number, line in stream_lines(path, shown):
            if line.strip():
                try:
                    yield number, parse_json(line)
                except (ValueError, RecursionError) as error:
                    broken.append(f"{shown}:{number}: not valid JSON: {why_not_json(error)}")

    broken: list[str] = []
    yield from _checked(shown, values(), broken)


def _of_values(shown: str, values: Iterator[Any]) -> Iterator[Row]:
    yield from _checked(shown, enumerate(values, 1), [])


def _checked(shown: str, values: Iterator[tuple[int, Any]], broken: list[str]) -> Iterator[Row]:
    """Rows of what are objects; what is not is named once all is read."""
    for number, value in values:
        if isinstance(value, Mapping):
            yield Row(number, whole_names(value), shown)
        elif value is not None:
            broken.append(f"{shown}:{number}: expected an object, found {kind(value)}")
    raise_bad(broken, "correct or delete")


def _of_json(path: Path, shown: str) -> Iterator[Row]:
    text = decode(read_bytes(path, shown), shown)
    try:
        found = parse_json(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from _of_lines(path, shown)
            return
        raise UserError(
            f"{shown}:{getattr(error, 'lineno', 1)}: not valid JSON: {why_not_json(error)}",
            hint=f"python -m json.tool {shlex.quote(shown)}",
        ) from None
    del text
    # Inspect's log, and results that verifiers saves as one object
    for inside in ("samples", "results", "rows", "data"):
        if isinstance(found, Mapping) and isinstance(found.get(inside), list):
            found = found[inside]
    if not isinstance(found, list):
        raise UserError(
            f"{shown}: expected a list of rows, or a log with 'samples', found {kind(found)}",
            hint="save one row per line as .jsonl",
        )
    yield from _of_values(shown, iter(found))


def _of_zip(path: Path, shown: str) -> Iterator[Row]:
    """Samples of an Inspect log, one file of the archive after another."""
    hint = f"inspect log convert --to json --output-dir json {shlex.quote(shown)}"
    left = most_bytes(path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.startswith(_SAMPLES)]
            for name in names:
                with archive.open(name) as member:
                    content = member.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise UserError(f"{shown}: unpacks to far more than its size allows", hint=hint)
                yield from _of_values(f"{shown}/{name}", iter([parse_json(content.decode())]))
                del content
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise UserError(f"{shown}: cannot be unpacked: {error}", hint=hint) from None
    except (ValueError, RecursionError) as error:
        words = "not UTF-8" if isinstance(error, UnicodeDecodeError) else why_not_json(error)
        raise UserError(f"{shown}: {name}: {words}", hint=hint) from None
    if not names:
        raise UserError(f"{shown}: holds no samples", hint="was the log written to its end?")


def _whole(rows: Rows) -> Iterator[Row]:
    rows.raise_broken()
    yield from rows.rows


def _in_folder(path: Path, shown: str) -> list[File]:
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    kinds = {_suffix(p) for p in files} - {None}
    if len(kinds) > 1:
        raise UserError(
            f"{shown}: a folder with files of several kinds: {', '.join(sorted(map(str, kinds)))}",
            hint=f"name those with the traces: {shlex.quote(f'{shown}/*.jsonl')}",
        )
    return [(p, f"{shown}/{p.name}") for p in files if _suffix(p)]


def _under_root(where: Path) -> tuple[Path, Path]:
    return Path(where.anchor), where.relative_to(where.anchor)


def _suffix(path: Path) -> str | None:
    return INSPECT if path.suffix.lower() == INSPECT else file_kind(path)


def _require_readable(path: Path, shown: str) -> None:
    if _suffix(path) is None:
        raise UserError(
            f"{shown}: cannot read {path.suffix or 'a file without an extension'}",
            hint=f"convert it to one of {', '.join((*SUFFIXES, INSPECT))}; text may be packed: "
            + ", ".join(PACKED),
        )
    if not path.stat().st_size:
        raise UserError(f"{shown}: empty file", hint="name the file with the traces")


def _unreadable(shown: str, error: OSError) -> UserError:
    words = error.strerror or str(error)
    return UserError(f"{shown[:300]}: {words}", hint=f"ls -l {shlex.quote(shown[:300])}")
