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
        total_bytes += batch.nbytes
        total_values += sum(_values(column) for column in batch.columns)
        if total_bytes > most_bytes:
            return f"{size:,} bytes unpack to more than {most_bytes >> 20:,} MiB"
        if total_values > most_values:
            return f"{size:,} bytes claim more than {most_values:,} values"
    return None


def _batches(path: Path, most_values: int) -> Iterator[Any]:
    if path.suffix.lower() == ".arrow":
        yield from _arrow_batches(path)
        return
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        claimed = file.metadata.num_rows * max(1, file.metadata.num_columns)
        if claimed > most_values:
            raise ValueError(f"it claims {file.metadata.num_rows:,} rows, too many for its size")
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


def _values(array: Any) -> int:
    """Values a column makes in Python, those inside lists and structs too."""
    import pyarrow

    kind = array.type
    total = len(array)
    if pyarrow.types.is_dictionary(kind):
        return total + len(array.dictionary)
    if pyarrow.types.is_struct(kind):
        return total + sum(_values(array.field(i)) for i in range(kind.num_fields))
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return total + _values(array.flatten())
    if pyarrow.types.is_fixed_size_list(kind) or pyarrow.types.is_map(kind):
        return total + _values(array.values if not pyarrow.types.is_map(kind) else array.items)
    return total


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
