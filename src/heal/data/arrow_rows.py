"""Rows of Parquet files, of folders written by `save_to_disk`, and of data sets on the Hub.

Files are decoded in a process of their own first (`arrow_probe`): a damaged or bomb-like file
costs a message. What the Hub gives has been read by `datasets` in its own cache and is not probed.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from heal.data import arrow_probe
from heal.data.files import most_bytes
from heal.data.rows import Rows, numbered
from heal.errors import UserError

_BATCH = 1024
_FEW = 32
"""Rows that may hold megabytes each."""
_LEAST_S = 30.0
_BYTES_PER_S = 5 << 20


def probe(files: Sequence[tuple[Path, str]]) -> None:
    """Refuse what cannot be decoded within bounds. Raises: UserError."""
    for path, shown in files:
        reason = _why_not(path)
        if reason is not None:
            kind = "Arrow" if path.suffix.lower() == ".arrow" else "Parquet"
            raise UserError(
                f"{shown}: cannot be read as {kind}: {reason}",
                hint="write it again, for instance with pandas' to_parquet",
            )


def read_parquet(path: Path, shown: str) -> Rows:
    """Rows of a file that was probed. Raises: UserError."""
    return numbered(shown, stream_parquet(path, shown, _BATCH))


def stream_parquet(path: Path, shown: str, at_once: int = _FEW) -> Iterator[Any]:
    """Values of a probed file, in the memory of a row group. Raises: UserError."""
    from pyarrow import parquet

    with _Readable(shown), parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=at_once):
            yield from batch.to_pylist()


def read_saved(path: Path, shown: str, split: str | None) -> Rows:
    """Rows of a folder written by `datasets`' `save_to_disk`. Raises: UserError."""
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "state.json").is_file())
        if split is None and len(splits) == 1:
            split = splits[0]
        if split not in splits:
            near = "train" if "train" in splits or not splits else splits[0]
            raise UserError(
                f"{shown}: holds the splits {', '.join(splits)}; choose one",
                hint=f"--set problems.path={shlex.quote(f'{shown}/{near}')}",
            )
        return read_saved(path / split, f"{shown}/{split}", None)
    probe([(file, f"{shown}/{file.name}") for file in sorted(path.glob("*.arrow"))])
    import datasets

    with _Readable(shown):
        return numbered(shown, _values(datasets.load_from_disk(str(path))))


def read_hub(name: str, subset: str | None, split: str | None) -> Rows:
    """Rows of a data set on the Hub, or in its cache. Raises: UserError."""
    import datasets

    try:
        found = datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the network, the cache, the name, the file: each library its own
        raise _unreachable(name, subset, split, error) from None
    if isinstance(found, datasets.DatasetDict):
        if len(found) != 1:
            splits = sorted(map(str, found))
            raise UserError(
                f"{name}: holds the splits {', '.join(splits)}; choose one",
                hint=f"--set problems.split={'train' if 'train' in splits else splits[0]}",
            )
        (found,) = found.values()
    with _Readable(name):
        return numbered(name, _values(found))


def _unreachable(name: str, subset: str | None, split: str | None, error: Exception) -> UserError:
    words = (str(error) or type(error).__name__).strip()
    first = words.partition("\n")[0][:300]
    if isinstance(error, ValueError) and subset is None and "onfig" in words:
        flat = " ".join(words.split())[:500]
        return UserError(f"{name}: {flat}", hint="--set problems.subset=NAME")
    if isinstance(error, ValueError) and split is not None and "split" in words:
        return UserError(f"{name}: {first}", hint="--set problems.split=NAME")
    folder = name.replace("/", "--")
    fetch = f"hf download --repo-type dataset {shlex.quote(name)} --local-dir {shlex.quote(folder)}"
    return UserError(
        f"{name}: neither on the Hub nor in its cache, as far as this machine can see: {first}",
        hint=f"where there is a network: {fetch}; here: --set problems.hub=null "
        f"--set problems.path={shlex.quote(folder)}",
    )


def _values(found: Any) -> Iterator[Any]:
    # as Arrow, so that images and sounds stay bytes that nobody decodes
    for batch in found.with_format("arrow").iter(_BATCH):
        yield from batch.to_pylist()


def _why_not(path: Path) -> str | None:
    size = path.stat().st_size
    asked = json.dumps([(str(path), most_bytes(size))])
    limit_s = _LEAST_S + size / _BYTES_PER_S
    try:
        done = subprocess.run(
            [sys.executable, arrow_probe.__file__], input=asked + "\n", capture_output=True,
            text=True, timeout=limit_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"decoding it takes longer than {limit_s:.0f} s"
    if done.returncode or not done.stdout:
        return "the decoder breaks down on it"
    reason = json.loads(done.stdout)
    return reason if isinstance(reason, str) else None


class _Readable:
    """Turns what the readers raise into a message that names the source."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # each library and each kind of damage has its own exception
        if isinstance(error, Exception) and not isinstance(error, UserError):
            words = (str(error) or type(error).__name__).partition("\n")[0][:300]
            raise UserError(
                f"{self._shown}: cannot be read: {type(error).__name__}: {words}",
                hint="write it again, for instance with pandas' to_parquet",
            ) from None
