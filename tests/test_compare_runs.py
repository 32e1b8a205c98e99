"""The proof that a change altered nothing tells equal runs from unequal ones, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import compare_runs
from benchmarks.compare_runs import compare, difference, main
from tests.scripted_run import ScriptedRun
from tests.test_docs import documented_tables

from heal.store.columns import TABLES

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("before"))


def finished(home: Path, *overrides: str) -> Path:
    run = ScriptedRun(home)
    run.go(*overrides)
    return run.folder


def test_two_runs_of_one_recipe_are_equal(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    after = finished(tmp_path)
    found = {table.table: table for table in compare(before, after)}
    assert all(table.equal for table in found.values())
    for table in ("sample", "traces", "cut", "hint", "repair", "pure", "selected", "training_rows"):
        assert found[table].both > 0, table
    monkeypatch.setattr("sys.argv", ["compare_runs", str(before), str(after)])
    assert main() == 0
    assert capsys.readouterr().out.endswith("the runs are equal\n")


def test_a_changed_setting_shows_in_every_table_it_reaches_and_in_no_other(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    after = finished(tmp_path, "gear.breakpoint=restart")
    differ = {table.table for table in compare(before, after) if not table.equal}
    assert {"cut", "hint", "repair"} <= differ
    assert differ.isdisjoint({"problems", "sample", "hinted"})
    monkeypatch.setattr("sys.argv", ["compare_runs", str(before), str(after)])
    assert main() == 1
    said = capsys.readouterr().out
    assert "only in the second" in said
    assert said.endswith("the runs differ\n")


VALUES = [
    (np.float32([1, np.nan]), np.float32([1, np.nan]), 0.0, True),
    (np.float32([1, 2]), np.float32([1, 2 + 1e-6]), 0.0, False),
    (np.float32([1, 2]), np.float32([1, 2 + 1e-6]), 1e-5, True),
    (np.float32([1, 2]), np.float32([1, 2, 3]), 1.0, False),
    (0.1, 0.1 + 1e-12, 0.0, False),
    (None, 0.0, 1.0, False),
    ("a", "b", 1.0, False),
]


@pytest.mark.parametrize(("one", "other", "tolerance", "equal"), VALUES)
def test_values_are_equal_to_the_last_bit_or_within_the_tolerance(
    one: object, other: object, tolerance: float, equal: bool
) -> None:
    found = difference("x", {"k": {"v": one}}, {"k": {"v": other}}, tolerance)
    assert found.equal is equal
    assert found.fields == ({} if equal else {"v": 1})


def test_clock_times_are_no_difference() -> None:
    assert difference("x", {"k": {"seconds": 1.0}}, {"k": {"seconds": 2.0}}).equal


def test_every_column_of_a_run_is_compared() -> None:
    assert set(compare_runs.COLUMNS) == set(TABLES)


def test_every_record_that_a_run_draws_is_compared() -> None:
    known = documented_tables()
    decided = {"problem", "check", "hint_draw", "server"}  # shown by the columns, or no result
    left_out = {t for t in known if t.startswith("audit")} | decided
    assert set(compare_runs.BODIES) == set(known) - left_out
    for table, kind in compare_runs.BODIES.items():
        assert kind.__name__ == known[table]
