"""Marks: kept whatever happens, and what they do to a selection."""

import json
import os
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pytest
from tests.scripted_run import ScriptedRun
from typer.testing import CliRunner

from heal.cli import app
from heal.errors import UserError
from heal.records import Drop
from heal.store import SelectedRow, Store
from heal.store.marks import MARKS, MAX_NOTE_CHARS, Mark, add_mark, bad_marks, read_marks

ON = "pace.respect_marks=true"


# ── the file ────────────────────────────────────────────────────────────────────────────────────


def test_the_last_mark_of_a_trace_holds(tmp_path: Path) -> None:
    add_mark(tmp_path, "a", "p", Mark.BAD, "why")
    add_mark(tmp_path, "b", "p", Mark.GOOD)
    add_mark(tmp_path, "a", "p", Mark.GOOD)
    add_mark(tmp_path, "b", "p", Mark.NONE)
    add_mark(tmp_path, "c", "q", Mark.BAD, "ünï\n\u202e")
    found = read_marks(tmp_path)
    assert {key: (m.mark, m.note) for key, m in found.items()} == {
        "a": (Mark.GOOD, ""),
        "c": (Mark.BAD, "ünï\n\u202e"),
    }
    assert bad_marks(tmp_path) == {"c": "q"}
    assert len((tmp_path / MARKS).read_text().splitlines()) == 5


def test_no_marks_are_none(tmp_path: Path) -> None:
    assert read_marks(tmp_path) == {}
    (tmp_path / MARKS).write_text("\n\n")
    assert read_marks(tmp_path) == {}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_half_a_line_is_passed_over_and_the_next_mark_takes_its_place(
    tmp_path: Path, cut: int
) -> None:
    """The power went while it was written: nobody was told that it is there."""
    for key in "ab":
        add_mark(tmp_path, key, "p", Mark.BAD)
    file = tmp_path / MARKS
    file.write_bytes(file.read_bytes()[:-cut])
    assert set(read_marks(tmp_path)) == {"a"}
    add_mark(tmp_path, "c", "p", Mark.GOOD)
    assert {key: m.mark for key, m in read_marks(tmp_path).items()} == {"a": "bad", "c": "good"}


@pytest.mark.parametrize(
    "line",
    ["x", "{}", "[]", "7", '{"mark": "bad"}', '{"trace": "a", "mark": "lovely"}',
     '{"trace": 3, "mark": "bad"}', '{"trace": "a", "mark": ["bad"]}', '{"trace": "a", "note": 1}'],
)  # fmt: skip
def test_a_line_that_is_no_mark_is_named(tmp_path: Path, line: str) -> None:
    add_mark(tmp_path, "a", "p", Mark.BAD)
    with (tmp_path / MARKS).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=r"marks\.jsonl:2: is no mark") as caught:
        read_marks(tmp_path)
    assert "line 2" in (caught.value.hint or "")


def test_a_mark_is_on_the_disk_when_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[int]()
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    add_mark(tmp_path, "a", "p", Mark.BAD)
    assert synced == [(tmp_path / MARKS).stat().st_size]


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MARKS).symlink_to(other)
    with pytest.raises(UserError, match="is a link"):
        add_mark(tmp_path / "run", "a", "p", Mark.BAD)
    assert other.read_text() == "mine\n"


def test_a_long_note_is_cut(tmp_path: Path) -> None:
    assert len(add_mark(tmp_path, "a", "p", Mark.GOOD, "x" * 9_999).note) == MAX_NOTE_CHARS


def test_several_readers_lose_nothing(tmp_path: Path) -> None:
    context = get_context("spawn")
    readers = [context.Process(target=_mark_many, args=(tmp_path, name)) for name in "abc"]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0, 0]
    assert len(read_marks(tmp_path)) == 150


def _mark_many(folder: Path, name: str) -> None:
    for i in range(50):
        add_mark(folder, f"{name}{i}", "p", Mark.GOOD)


# ── the selection ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    run = ScriptedRun(tmp_path_factory.mktemp("marks"))
    run.go()
    return run


@pytest.fixture
def run(made: ScriptedRun) -> ScriptedRun:
    (made.folder / MARKS).unlink(missing_ok=True)
    made.go("pace.respect_marks=false")
    return made


def drops(run: ScriptedRun) -> dict[str, str]:
    return {row.trace: row.drop for row in run.rows(SelectedRow, "arm='heal'")}


def mark(run: ScriptedRun, *traces: str) -> None:
    with Store.open(run.folder, write=False) as store:
        problems = dict(store.query("SELECT key, problem FROM traces"))
    for trace in traces:
        add_mark(run.folder, trace, problems.get(trace, "nobody"), Mark.BAD)


def test_what_is_marked_bad_is_left_out_and_the_next_comes_in(run: ScriptedRun) -> None:
    before = drops(run)
    rows = run.rows(SelectedRow, "arm='heal' AND pool='D1'")
    full = next(row.trace for row in rows if row.drop == Drop.KEPT)
    mark(run, full)
    run.go(ON)
    after = drops(run)
    assert after.keys() == before.keys()
    assert [key for key, drop in after.items() if drop == Drop.MARKED] == [full]
    # its near duplicates were refused for its sake
    assert Counter(after.values())[Drop.KEPT] == Counter(before.values())[Drop.KEPT]
    assert all(row["trace"] != full for name in run.data() for row in run.stage_rows(name))
    others = {key: drop for key, drop in before.items() if drop == Drop.PURE}
    assert {key: drop for key, drop in after.items() if drop == Drop.PURE} == others
    assert "1 marked" in run.watch.lines["select"]
    assert any("1 left out of the selection" in line for line in run.watch.said)
    assert run.meta("facts")["traces marked bad, left out of the selection"] == 1


def test_a_good_mark_and_one_taken_back_change_nothing(run: ScriptedRun) -> None:
    before = drops(run)
    some = [key for key, drop in before.items() if drop == Drop.KEPT][:2]
    mark(run, some[0])
    add_mark(run.folder, some[0], "p", Mark.NONE, "was fine")
    add_mark(run.folder, some[1], "p", Mark.GOOD)
    run.go(ON)
    assert drops(run) == before
    assert any("no trace is marked bad" in line for line in run.watch.said)


def test_marks_that_leave_nothing_out_are_told(run: ScriptedRun) -> None:
    before = drops(run)
    pure = next(key for key, drop in before.items() if drop == Drop.PURE)
    mark(run, pure, "gone-7", "gone-8")
    run.go(ON)
    assert drops(run) == before
    facts = run.meta("facts")
    assert facts["bad marks of traces that this run does not have"] == 2
    assert facts["traces marked bad that no arm would have taken anyway"] == 1
    said = "\n".join(run.watch.said)
    assert "2 traces marked bad that this run does not have: gone-7, gone-8" in said


def test_marks_that_are_not_respected_are_counted(run: ScriptedRun) -> None:
    before = drops(run)
    mark(run, next(key for key, drop in before.items() if drop == Drop.KEPT))
    run.go("pure.drop=0.21")  # anything that has it select again
    assert Drop.MARKED not in drops(run).values()
    assert run.meta("facts")["traces marked bad, not left out: pace.respect_marks is off"] == 1


def test_a_run_is_complete_only_for_the_marks_it_was_made_with(run: ScriptedRun) -> None:
    run.go(ON)
    run.go(ON)
    assert any("complete, nothing to do" in line for line in run.watch.said)
    key = next(key for key, drop in drops(run).items() if drop == Drop.KEPT)
    mark(run, key)
    run.go(ON)
    assert drops(run)[key] == Drop.MARKED
    add_mark(run.folder, key, "p", Mark.NONE)
    run.go(ON)
    assert drops(run)[key] == Drop.KEPT
    assert run.watch.answers == Counter(), "no model is asked anything again"


def test_the_flag_of_select_leaves_them_out_and_the_report_counts_them(
    run: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = next(key for key, drop in drops(run).items() if drop == Drop.KEPT)
    mark(run, key, "gone-7")
    monkeypatch.chdir(run.home)
    done = CliRunner().invoke(app, ["select", "recipe.yaml", "--respect-marks"])
    assert done.exit_code == 0, done.output
    assert drops(run)[key] == Drop.MARKED
    assert "1 marked" in done.output
    page = (run.folder / "report.html").read_text()
    assert "traces marked bad, left out of the selection" in page
    assert "bad marks of traces that this run does not have" in page
    assert json.loads(json.dumps(run.meta("config")))["pace"]["respect_marks"] is True


def test_a_file_that_is_no_marks_stops_a_run_that_asks_for_them(run: ScriptedRun) -> None:
    (run.folder / MARKS).write_text("bad: everything\n")
    with pytest.raises(UserError, match=r"marks\.jsonl:1"):
        run.go(ON)
