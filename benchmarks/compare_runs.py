"""Proof that a change altered nothing: two run folders, record by record.

    python -m benchmarks.compare_runs runs/before runs/after

In: two folders made by the same recipe under the same seeds, before and after a change. Out: per
table how many rows are in both, in one only, or differ, and in which fields; training rows and
students likewise. Exit code 1 if anything differs. Clock times are left out; floats must be equal
to the last bit unless --tolerance says otherwise (another engine, another thread count).
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from heal import records
from heal.method.arms import TRAINED
from heal.records import Breakpoint
from heal.store import (
    AttemptRow,
    CutRow,
    HintRow,
    ProblemRow,
    Row,
    ScoreRow,
    SelectedRow,
    Store,
    TraceRow,
)
from heal.store.columns import TABLES

COLUMNS: Mapping[type[Row], tuple[str, ...]] = {
    ProblemRow: ("problem",),
    TraceRow: ("problem", "stage", "tag", "key"),
    CutRow: ("problem", "tag", "key", "trace"),
    HintRow: ("problem", "tag", "key"),
    ScoreRow: ("problem", "stage", "tag", "key"),
    SelectedRow: ("arm", "problem", "trace"),
    AttemptRow: ("arm", "seed", "problem", "seed_index"),
}
"""What a run decides and counts, by what names a row of it."""
LEFT_OUT = {"settled"}
"""Names settings and versions, which two runs to be compared may differ in."""
BODIES: Mapping[str, type] = {
    "import": records.Imported,
    "sample": records.Trace,
    "hinted": records.Trace,
    "repair": records.Trace,
    "matched": records.Trace,
    "scores": records.TokenScores,
    "stepwords": records.StepWords,
    "cut": records.Cut,
    "hint": records.Hint,
    "pure": records.PureScore,
    "reliance": records.HintedScore,
    "watched": records.StageExam,
    "evaluate": records.EvalTrace,
    "own": records.OwnAnswer,
    "rehearsed": records.OwnAnswer,
    "student_score": records.StudentScore,
    "plan": records.StagePlan,
    "train": records.TrainResult,
}
"""What a run draws; the audit's records and the servers' are no part of its result."""
TAGS = ("", "answer", "hinted", "honest", *Breakpoint, *TRAINED)
CLOCK = {"seconds"}
SHOWN = 3
"""Examples of each kind of difference."""

Rows = Mapping[Hashable, Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """One table of two runs."""

    table: str
    both: int
    only_first: int
    only_second: int
    fields: Mapping[str, int]
    """Rows that differ, by field."""
    examples: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return not (self.only_first or self.only_second or self.fields)


def compare(first: Path, second: Path, tolerance: float = 0.0) -> Iterator[Difference]:
    """Every table, then the training rows, then the students' results."""
    with Store.open(first, write=False) as a, Store.open(second, write=False) as b:
        for kind, names in COLUMNS.items():
            yield difference(TABLES[kind], rows(a, kind, names), rows(b, kind, names), tolerance)
        for stage, body in BODIES.items():
            yield difference(stage, live(a, stage, body), live(b, stage, body), tolerance)
    for read in (training_rows, student_results):
        yield difference(read.__name__, read(first), read(second), tolerance)


def rows(store: Store, kind: type[Row], names: tuple[str, ...]) -> Rows:
    found = (row._asdict() for row in store.rows(kind))
    return {
        tuple(row[name] for name in names): {k: v for k, v in row.items() if k not in LEFT_OUT}
        for row in found
    }


def live(store: Store, table: str, kind: type) -> Rows:
    return {
        (tag, key): {f.name: getattr(row, f.name) for f in fields(kind)}
        for tag in TAGS
        for key, row in store.live(table, kind, tag)
    }


def training_rows(folder: Path) -> Rows:
    """By file and line: their order counts."""
    return {
        (path.name, number): json.loads(line)
        for path in sorted((folder / "data").glob("*.jsonl"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    }


def student_results(folder: Path) -> Rows:
    """Losses, steps and tokens of each trained stage, from its `done.json`."""
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / "students").glob("*/*/done.json"))
    }


def difference(table: str, first: Rows, second: Rows, tolerance: float = 0.0) -> Difference:
    shared = sorted(first.keys() & second.keys(), key=str)
    changed, examples = Counter[str](), list[str]()
    for key in shared:
        names = sorted(differing(first[key], second[key], tolerance))
        changed.update(names)
        if names and len(examples) < SHOWN:
            examples.append(f"{key}: {', '.join(names)}")
    for run, one, other in (("first", first, second), ("second", second, first)):
        alone = sorted(one.keys() - other.keys(), key=str)[:SHOWN]
        examples += [f"{key}: only in the {run}" for key in alone]
    return Difference(
        table,
        len(shared),
        len(first) - len(shared),
        len(second) - len(shared),
        dict(changed),
        tuple(examples),
    )


def differing(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float) -> set[str]:
    names = (a.keys() | b.keys()) - CLOCK
    return {n for n in names if n not in a or n not in b or not same(a[n], b[n], tolerance)}


def same(a: Any, b: Any, tolerance: float) -> bool:
    """Equal values; NaN equals NaN, for it stands where nothing was measured."""
    numbers = isinstance(a, float | np.ndarray) or isinstance(b, float | np.ndarray)
    if not numbers or a is None or b is None:
        return bool(a == b)
    one, other = np.asarray(a), np.asarray(b)
    if one.shape != other.shape or one.dtype.kind not in "if" or other.dtype.kind not in "if":
        return False
    return bool(np.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True))


def lines(found: Difference) -> Iterator[str]:
    counts = (found.both, found.only_first, found.only_second, sum(found.fields.values()))
    yield f"{found.table:<16}" + "".join(f"{count:>13,}" for count in counts)
    yield from (f"    {example}" for example in found.examples)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0, help="largest absolute difference")
    args = parser.parse_args()
    found = [*compare(args.first, args.second, args.tolerance)]
    print(f"{'table':<16}{'in both':>13}{'only first':>13}{'only second':>13}{'fields off':>13}")
    for table in found:
        print("\n".join(lines(table)))
    equal = all(table.equal for table in found)
    print("the runs are equal" if equal else "the runs differ")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
