"""Where problems are read from: files, folders, the Hub, reasoning-gym tasks, a user's function.

In: the settings. Out: `Rows`: what each line or item holds, with its place. Knows nothing of
which column means what. Raises `UserError` with the place and the next command for anything it
cannot read.
"""

import difflib
import inspect
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heal.config import GymSource
from heal.data.arrow_rows import probe, read_parquet, read_saved
from heal.data.files import TOOLS, decode, read_bytes
from heal.data.rows import Rows, numbered
from heal.data.text_rows import read_json, read_lines, read_table
from heal.errors import UserError
from heal.functions import load_function

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PACKED = tuple(TOOLS)

_READ_TEXT = {
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".json": read_json,
    ".csv": read_table,
    ".tsv": read_table,
}
_ABOUT = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_SHARD = re.compile(r"(?P<split>.+?)[-_.](?:part-?)?\d+(?:-of-\d+)?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SPLITS = frozenset({"train", "test", "validation", "valid", "val", "dev", "eval"})
_MOST_FILES = 10_000
_DEPTH = 4


def read_path(path: Path, shown: str, split: str | None = None) -> Rows:
    """Rows of a file, a folder of shards or a saved data set, called `shown`. Raises: UserError."""
    if "\0" in shown:
        raise UserError(f"{shown!r}: a path cannot hold a NUL", hint="--set problems.path=FILE")
    try:
        if path.is_dir():
            return _read_folder(path, shown, split)
        if not path.is_file():
            raise _missing(path, shown)
        if file_kind(path) is None:
            raise _unknown(path, shown)
        if path.suffix.lower() == ".parquet" and path.stat().st_size:
            probe([(path, shown)])
        return _read_file(path, shown)
    except OSError as error:
        # ls says what the permissions are; of a name that is too long, it says so too
        raise UserError(
            f"{shown[:300]}: {error.strerror or error}", hint=f"ls -l {shlex.quote(shown[:300])}"
        ) from None


def file_kind(path: Path) -> str | None:
    """The suffix that says how to read a file, whatever it is packed with; None: it is not read."""
    suffix = path.suffix.lower()
    if suffix in PACKED:
        suffix = Path(path.stem).suffix.lower()
        return suffix if suffix in _READ_TEXT else None
    return suffix if suffix in SUFFIXES else None


def read_gym(source: GymSource) -> Rows:
    """Entries of a reasoning-gym task, each kept whole as JSON. Raises: UserError."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError(
            "problems.gym needs reasoning-gym, which is not installed",
            hint="pip install reasoning-gym",
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
    return numbered(source.task, (_gym_values(source.task, entry) for entry in entries))


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
    return numbered(spec, given)


def _gym_values(task: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    # some entries hold what JSON does not know (dates, numpy numbers); as text, a task that needs
    # them no longer scores its own answer, which the verifier's preflight counts
    whole = json.dumps(entry, default=str)
    question, answer = entry["question"], entry["answer"]
    return {"problem": question, "answer": answer, "family": task, "verifier_data": whole}


def _read_file(path: Path, shown: str) -> Rows:
    suffix = file_kind(path)
    if path.stat().st_size == 0:
        raise UserError(f"{shown}: empty file", hint="give one problem per line, as JSON")
    if suffix == ".parquet":
        return read_parquet(path, shown)
    assert suffix is not None, "only files of a known kind are read"
    return _READ_TEXT[suffix](decode(read_bytes(path, shown), shown), shown)


def _read_folder(path: Path, shown: str, split: str | None) -> Rows:
    shown = shown.rstrip("/") or shown
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return read_saved(path, shown, split)
    files = _of_split(path, shown, split)
    kinds = sorted({kind for file in files if (kind := file_kind(file))})
    if len(kinds) != 1:
        raise _no_shards(path, shown, kinds)
    named = [(file, f"{shown}/{file.relative_to(path)}") for file in files]
    probe([one for one in named if kinds == [".parquet"] and one[0].stat().st_size])
    found = Rows(shown, files=len(named))
    for file, name in named:
        if file.stat().st_size:
            found.join(_read_file(file, name))
    return found


def _of_split(path: Path, shown: str, split: str | None) -> list[Path]:
    """The files of one split; of the only one, if none is named."""
    by_split: dict[str, list[Path]] = {}
    for file in _data_files(path, shown):
        by_split.setdefault(_split_name(file.relative_to(path)), []).append(file)
    names = sorted(by_split)
    if split is None and len(names) < 2:
        return by_split.get(names[0], []) if names else []
    if split in by_split:
        return by_split[split]
    near = "train" if "train" in names or not names else names[0]
    raise UserError(
        f"{shown}: holds the splits {', '.join(name or '(none)' for name in names)}; choose one",
        hint=f"--set problems.split={shlex.quote(near)}, or name one file: "
        f"--set problems.path={shlex.quote(f'{shown}/FILE')}",
    )


def _no_shards(path: Path, shown: str, kinds: list[str]) -> UserError:
    kept = sorted(p.name for p in path.iterdir() if file_kind(p))
    why = (
        f"its files are of several kinds: {', '.join(kinds)}"
        if kinds
        else "it holds no data set written by save_to_disk and no file that is read"
    )
    there = shlex.quote(f"{shown}/{kept[0]}" if kept else "FILE")
    return UserError(f"{shown}: a folder, but {why}", hint=f"--set problems.path={there}")


def _data_files(path: Path, shown: str) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(path):
        deep = len(Path(folder).relative_to(path).parts)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and deep < _DEPTH)
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and name not in _ABOUT and file_kind(file):
                found.append(file)
        if len(found) > _MOST_FILES:
            raise UserError(
                f"{shown}: holds more than {_MOST_FILES:,} files", hint="name a folder inside it"
            )
    return [file for file in found if file.is_file()]


def _split_name(inside: Path) -> str:
    """`train` for data/train-00000-of-00002.parquet and for train.jsonl, '' where none is named."""
    stem = inside.name.partition(".")[0]
    if shard := _SHARD.fullmatch(stem):
        stem = shard["split"]
    if stem.casefold() in _SPLITS:
        return stem.casefold()
    folder = next((p.casefold() for p in inside.parts[:-1] if p.casefold() in _SPLITS), None)
    return folder or ""


def _unknown(path: Path, shown: str) -> UserError:
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() in PACKED else path.suffixes[-1:])
    return UserError(
        f"{shown}: cannot read {suffix or 'a file without an extension'}",
        hint=f"convert it to one of {', '.join(SUFFIXES)}",
    )


def _missing(path: Path, shown: str) -> UserError:
    folder = path.parent
    if path.is_symlink():
        return UserError(
            f"{shown}: a link that leads nowhere", hint=f"ls -l {shlex.quote(str(path))}"
        )
    if not folder.is_dir():
        is_on_the_hub = _HUB_NAME.fullmatch(shown) and not path.suffix
        return UserError(
            f"{shown}: no such file, and no such folder {folder}",
            hint=f"--set problems.path=null --set problems.hub={shown}"
            if is_on_the_hub
            else f"ls {shlex.quote(str(_up(folder)))}",
        )
    names = [p.name for p in folder.iterdir() if p.is_dir() or file_kind(p)]
    near = difflib.get_close_matches(path.name, sorted(names), n=1, cutoff=0.5)
    if not near:
        return UserError(f"{shown}: no such file", hint=f"ls {shlex.quote(str(folder))}")
    there = Path(shown).with_name(near[0])
    return UserError(
        f"{shown}: no such file; did you mean {there}?",
        hint=f"--set problems.path={shlex.quote(str(there))}",
    )


def _up(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.is_dir())
