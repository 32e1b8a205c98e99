"""Files written row by row: JSON lines and Parquet, whole or not at all."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

BATCH = 1000


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """JSON lines; how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, count = path.with_name(path.name + ".part"), 0
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    part.replace(path)
    return count


def write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Parquet, a thousand rows to a group; how many. Without rows nothing is written.

    Columns take the type of the first group; a column that is null there is text.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    part, count, writer, schema = path.with_name(path.name + ".part"), 0, None, None
    for batch in _batches(rows):
        if schema is None:
            schema = _without_nulls(pa.Table.from_pylist(batch).schema)
            writer = parquet.ParquetWriter(part, schema)
        assert writer is not None
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        count += len(batch)
    if writer is not None:
        writer.close()
        part.replace(path)
    return count


def _without_nulls(schema: Any) -> Any:
    import pyarrow as pa

    kinds = {"cut_step": pa.int64(), "pure_score": pa.float64()}
    fields = [
        pa.field(f.name, kinds.get(f.name, pa.string()) if pa.types.is_null(f.type) else f.type)
        for f in schema
    ]
    return pa.schema(fields)


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


Writer = Callable[[Path, Iterable[dict[str, Any]]], int]
