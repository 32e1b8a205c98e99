"""Where problems are read from: files, saved data sets, reasoning-gym tasks, a user's function.

In: the settings. Out: `Rows`: what each line or item holds, with its place. Knows nothing of
which column means what. Raises `UserError` with the place and the next command for anything it
cannot read; broken lines of a JSONL file are collected, not reported one by one.
"""

import csv
import difflib
import inspect
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heal.config import GymSource
from heal.errors import UserError
from heal.functions import load_function

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")

_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Row:
    """One line or item: its number (from 1) and its columns."""

    line: int
    values: Mapping[str, Any]


@dataclass
class Rows:
    """Everything a source holds, and what could not be read of it."""

    name: str
    """What messages call the source: `{name}:{line}`."""
    rows: list[Row] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    """(line, reason) of each row that is no row."""


def read_path(path: Path, shown: str) -> Rows:
    """Rows of a file or saved data set; messages call it `shown`. Raises: UserError."""
    if path.is_dir():
        return _read_saved(path, shown)
    if not path.is_file():
        raise _missing(path, shown)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{shown}: cannot read {suffix or 'a file without an extension'}",
            hint=f"convert it to one of {', '.join(SUFFIXES)}",
        )
    if path.stat().st_size == 0:
        raise UserError(f"{shown}: empty file", hint="give one problem per line, as JSON")
    if suffix == ".parquet":
        return _read_parquet(path, shown)
    text = _decode(path.read_bytes(), shown)
    if suffix == ".csv":
        return _read_csv(text, shown)
    return _read_lines(text, shown) if suffix in _LINES else _read_json(text, shown)


def read_gym(source: GymSource) -> Rows:
    """Entries of a reasoning-gym task, each kept whole as JSON. Raises: UserError."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError(
            "problems.gym needs reasoning-gym, which is not installed",
            hint="pip install 'heal-distill[gym]'",
        ) from None
    if source.task not in DATASETS:
        near = difflib.get_close_matches(source.task, list(DATASETS), n=3)
        raise UserError(
            f"problems.gym.task: reasoning-gym has no task {source.task!r}"
            + (f"; did you mean {', '.join(near)}?" if near else ""),
            hint=f"--set problems.gym.task={near[0] if near else 'gsm_symbolic'}",
        )
    try:
        entries: Iterable[dict[str, Any]] = reasoning_gym.create_dataset(
            source.task, size=source.size, seed=source.seed, **source.settings
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(
            f"problems.gym.settings: {source.task} refuses them: {error}",
            hint="leave problems.gym.settings out to use the task's own",
        ) from None
    rows = [Row(i, _gym_values(source.task, entry)) for i, entry in enumerate(entries, 1)]
    return Rows(source.task, rows)


def read_function(spec: str, args: Mapping[str, Any]) -> Rows:
    """Dicts returned by `module:function`. Raises: UserError."""
    function = load_function(spec, "problems.source")
    try:
        inspect.signature(function).bind(**args)
    except TypeError as error:
        raise UserError(
            f"problems.args: {spec} {error}", hint=f"it takes {inspect.signature(function)}"
        ) from None
    given = function(**args)
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise UserError(
            f"problems.source: {spec} returned a {type(given).__name__}",
            hint="return a list of dicts with 'problem' and 'answer'",
        )
    return _number(spec, given)


def _gym_values(task: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    # some entries hold what JSON does not know (dates, numpy numbers); as text, a task that needs
    # them no longer scores its own answer, which the verifier's preflight counts
    whole = json.dumps(entry, default=str)
    question, answer = entry["question"], entry["answer"]
    return {"problem": question, "answer": answer, "family": task, "verifier_data": whole}


def _missing(path: Path, shown: str) -> UserError:
    folder = path.parent
    if not folder.is_dir():
        return UserError(
            f"{shown}: no such file, and no such folder {folder}", hint=f"ls {_up(folder)}"
        )
    names = [p.name for p in folder.iterdir() if p.is_dir() or p.suffix.lower() in SUFFIXES]
    near = difflib.get_close_matches(path.name, sorted(names), n=1, cutoff=0.5)
    if not near:
        return UserError(f"{shown}: no such file", hint=f"ls {folder}")
    there = Path(shown).with_name(near[0])
    return UserError(
        f"{shown}: no such file; did you mean {there}?", hint=f"--set problems.path={there}"
    )


def _up(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.is_dir())


def _decode(data: bytes, shown: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, at) + 1
        raise UserError(
            f"{shown}:{line}: not UTF-8: byte 0x{data[at]:02x} at offset {at}",
            hint=f"iconv -f LATIN1 -t UTF-8 {shown} > utf8-{Path(shown).name}",
        ) from None


def _read_lines(text: str, shown: str) -> Rows:
    found = Rows(shown)
    # str.splitlines would also split inside a JSON string, at U+2028 for instance
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except ValueError as error:
            found.broken.append((line, f"not valid JSON: {_json_reason(error)}"))
            continue
        _add(found, line, value)
    return found


def _read_json(text: str, shown: str) -> Rows:
    try:
        value = json.loads(text)
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return _read_lines(text, shown)  # JSON Lines under the name .json
        line = getattr(error, "lineno", 1)
        raise UserError(
            f"{shown}:{line}: not valid JSON: {_json_reason(error)}",
            hint=f"python -m json.tool {shown}",
        ) from None
    if isinstance(value, list):
        return _number(shown, value)
    if isinstance(value, dict) and not any(isinstance(v, list | dict) for v in value.values()):
        return _number(shown, [value])
    what = f"an object with {_quoted(value)}" if isinstance(value, dict) else _kind(value)
    raise UserError(
        f"{shown}: expected a list of problems, found {what}",
        hint="save the list itself, or one problem per line as .jsonl",
    )


def _read_csv(text: str, shown: str) -> Rows:
    found = Rows(shown)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        line += bool(reader.fieldnames)
        for values in reader:
            columns = len(reader.fieldnames or ())
            extra = values.pop(None, None)
            if extra is not None:
                found.broken.append(
                    (line, f"{columns + len(extra)} values under {columns} columns")
                )
            elif None in values.values():
                present = sum(value is not None for value in values.values())
                found.broken.append((line, f"{present} values under {columns} columns"))
            else:
                found.rows.append(Row(line, values))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{shown}:{line}: not valid CSV: {error}",
            hint="quote every text that holds a comma, a quote or a line break",
        ) from None
    return found


def _read_parquet(path: Path, shown: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(
            f"{shown}: not a Parquet file: {str(error).partition('.')[0]}",
            hint="write it again, for instance with pandas' to_parquet",
        ) from None
    return _number(shown, table.to_pylist())


def _read_saved(path: Path, shown: str) -> Rows:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "state.json").is_file())
        if len(splits) != 1:
            raise UserError(
                f"{shown}: holds the splits {', '.join(splits)}; choose one",
                hint=f"--set problems.path={shown}/{'train' if 'train' in splits else splits[0]}",
            )
        return _read_saved(path / splits[0], f"{shown}/{splits[0]}")
    if not (path / "state.json").is_file():
        files = sorted(p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        raise UserError(
            f"{shown}: a folder, but not one written by save_to_disk"
            + (f"; it holds {', '.join(files[:5])}" if files else ""),
            hint=f"--set problems.path={shown}/{files[0] if files else 'FILE.jsonl'}",
        )
    import datasets

    return _number(shown, datasets.load_from_disk(str(path)))


def _number(name: str, values: Iterable[Any]) -> Rows:
    found = Rows(name)
    for line, value in enumerate(values, 1):
        _add(found, line, value)
    return found


def _add(found: Rows, line: int, value: Any) -> None:
    if isinstance(value, Mapping):
        found.rows.append(Row(line, value))
    else:
        found.broken.append((line, f"expected an object, found {_kind(value)}"))


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _json_reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)
