"""Whether Parquet and Arrow files can be read in the memory and time their size allows.

Run as a program, by its path, in a process of its own: a file of a kilobyte may claim gigabytes,
and a damaged one may end the process that decodes it. It decodes everything once under a memory
limit and throws it away. In: limits and paths as one JSON line on stdin. Out: one JSON line: null,
or why not. Imports nothing of HEAL, so that it starts fast.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heal.wording import plural

_OWN_BYTES = 384 << 20
_BATCH = 256
_FREE_VALUES = 2_000_000
_VALUES_PER_BYTE = 8


def main() -> None:
    """Probe every file until one fails."""
    asked = json.loads(sys.stdin.readline())
    reason = None
    try:
        _limit_memory(max(most for _, most in asked) + _OWN_BYTES)
        for path, most in asked:
            reason = reason or _why_not(Path(path), most)
    except MemoryError:
        reason = "it needs far more memory than its size allows"
    except Exception as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
    print(json.dumps(reason))


def _why_not(path: Path, most_bytes: int) -> str | None:
    size = path.stat().st_size
    most_values, total_bytes, total_values = _FREE_VALUES + _VALUES_PER_BYTE * size, 0, 0
    for batch in _batches(path, most_values):
        sizes = [_size(column) for column in batch.columns]
        total_values += sum(values for values, _ in sizes)
        total_bytes += sum(held for _, held in sizes)
        if total_bytes > most_bytes:
            return f"{plural(size, 'byte')} unpack to more than {most_bytes >> 20:,} MiB"
        if total_values > most_values:
            return f"{plural(size, 'byte')} claim more than {plural(most_values, 'value')}"
    return None


def _batches(path: Path, most_values: int) -> Iterator[Any]:
    if path.suffix.lower() == ".arrow":
        yield from _arrow_batches(path)
        return
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        claimed = file.metadata.num_rows * max(1, file.metadata.num_columns)
        if claimed > most_values:
            raise ValueError(
                f"it claims {plural(file.metadata.num_rows, 'row')}, too many for its size"
            )
        yield from file.iter_batches(batch_size=_BATCH, use_threads=False)


def _arrow_batches(path: Path) -> Iterator[Any]:
    import pyarrow

    with pyarrow.OSFile(str(path)) as source:
        try:
            yield from pyarrow.ipc.open_stream(source)
            return
        except pyarrow.ArrowInvalid:
            source.seek(0)
        with pyarrow.ipc.open_file(source) as file:
            for i in range(file.num_record_batches):
                yield file.get_batch(i)


def _size(array: Any) -> tuple[int, int]:
    """Values a column makes in Python, those inside lists and structs too, and their bytes."""
    import pyarrow
    from pyarrow import types

    array = _plain(array)
    kind = array.type
    if types.is_struct(kind):
        inside = [array.field(i) for i in range(kind.num_fields)]
    elif types.is_map(kind):
        inside = [array.keys, array.items]
    elif types.is_nested(kind) and not isinstance(array, pyarrow.UnionArray):
        inside = [array.flatten()]
    else:
        return len(array), array.nbytes
    sizes = [_size(one) for one in inside]
    return len(array) + sum(n for n, _ in sizes), array.nbytes + sum(n for _, n in sizes)


def _plain(array: Any) -> Any:
    """A column whose values all take their own room, as they will in Python.

    Dictionaries, runs and views name one value many times over.
    """
    import pyarrow
    from pyarrow import compute, types

    kind = array.type
    if types.is_dictionary(kind):
        return array.dictionary_decode()
    if types.is_run_end_encoded(kind):
        return compute.run_end_decode(array)
    if types.is_string_view(kind):
        return array.cast(pyarrow.large_string())
    if types.is_binary_view(kind):
        return array.cast(pyarrow.large_binary())
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return array.cast(pyarrow.large_list(kind.value_type))
    return array


def _limit_memory(most_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: only the caller's time limit holds there
        return
    import pyarrow  # noqa: F401  what the library itself takes is not the file's

    # data, not address space: allocators reserve far more addresses than they ever touch
    limit = most_bytes + _data_bytes()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _data_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 1 << 30
    return next(int(x.split()[1]) << 10 for x in status.splitlines() if x.startswith("VmData"))


if __name__ == "__main__":
    main()
