"""`heal doctor`: what is whole is kept, what is lost is named, and afterwards all is in order."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from tests.store_folders import (
    AS_ROOT,
    EACH,
    PROBLEMS,
    bodies,
    execute,
    fill,
    filled_folder,
    long_trace,
    on_read_only_mount,
    spoil,
    treated,
)
from typer.testing import CliRunner

from heal.cli.doctor import doctor as command
from heal.errors import UserError
from heal.records import Problem, Trace, TrainResult
from heal.store import DATABASE, ProblemRow, SelectedRow, Store, TraceRow
from heal.store.doctor import doctor
from heal.store.salvage import DAMAGED

PAGE = 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled_folder(tmp_path / "run")


# --- whole ---------------------------------------------------------------------------------------


def test_a_whole_folder_is_whole_and_stays_as_it_is(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    whole, said = treated(folder)
    assert whole
    assert "every page in order" in said
    assert f"{PROBLEMS * (2 * EACH + 1)} whole (check 96, problem 12, sample 96)" in said
    assert "rows: problems 12, traces 96" in said
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_in_which_nothing_was_stored_is_whole(tmp_path: Path) -> None:
    (tmp_path / DATABASE).touch()
    assert treated(tmp_path) == (True, "nothing was stored here yet")


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="not a run folder"):
            doctor(place, print)


def test_a_folder_that_is_being_written_to_is_left_alone(folder: Path) -> None:
    with Store.open(folder), pytest.raises(UserError, match="another process is writing"):
        doctor(folder, print)


def test_a_form_of_tomorrow_is_refused_and_stays(folder: Path) -> None:
    execute(folder, "UPDATE meta SET value='99' WHERE name='schema'")
    before = (folder / DATABASE).read_bytes()
    with pytest.raises(UserError, match="another version of HEAL"):
        doctor(folder, print)
    assert (folder / DATABASE).read_bytes() == before


def test_bodies_of_other_settings_and_requests_in_flight_are_counted(folder: Path) -> None:
    with Store.open(folder) as store:
        store.put("sample", "p00-99", "p00", long_trace("p00", 99))
        store.claim("sample", ["a", "b"])
    whole, said = treated(folder)
    assert whole
    assert "bodies that only other settings ask for, kept: 1" in said
    assert "in flight when the last process ended: 2" in said


# --- bodies and rows -----------------------------------------------------------------------------


def settled(folder: Path) -> list[str]:
    with Store.open(folder, write=False) as store:
        return [row.problem for row in store.rows(ProblemRow) if row.settled is None]


@pytest.mark.parametrize("spoiled", ["substr(body, 1, length(body) - 1)", "x'00'", "''"])
def test_a_damaged_body_is_dropped_named_and_made_anew(folder: Path, spoiled: str) -> None:
    before = bodies(folder)
    execute(folder, f"UPDATE records SET body = {spoiled} WHERE key IN ('p03-2', 'c-p05-1')")
    whole, said = treated(folder)
    assert not whole
    assert "2 damaged bodies dropped:" in said
    assert "  sample p03-2" in said
    assert "  check c-p05-1" in said
    assert "rows of traces whose body is not there: 1, dropped" in said
    lost = {("p03", "sample", "p03-2"), ("p05", "check", "c-p05-1")}
    assert bodies(folder) == {name: body for name, body in before.items() if name not in lost}
    assert settled(folder) == ["p03", "p05"]
    with Store.open(folder, write=False) as store:
        assert store.meta("complete") is None
        assert "p03-2" not in {row.key for row in store.rows(TraceRow)}


def test_a_body_under_anothers_name_is_damaged(folder: Path) -> None:
    execute(folder, "UPDATE records SET key = 'p03-x' WHERE key = 'p03-2'")
    whole, said = treated(folder)
    assert not whole
    assert "sample p03-x" in said


def test_a_damaged_problem_is_stored_again_by_the_next_run(folder: Path) -> None:
    problems = [Problem(f"p{n:02d}", f"Q p{n:02d}", "7") for n in range(PROBLEMS)]
    execute(folder, "UPDATE records SET body = x'00' WHERE stage = 'problem' AND key = 'p04'")
    assert not treated(folder)[0]
    with Store.open(folder) as store:
        store.set_problems(problems)
        assert len(list(store.live("problem", Problem))) == PROBLEMS


def test_many_damaged_bodies_are_counted_and_some_are_named(folder: Path) -> None:
    execute(folder, "UPDATE records SET body = x'00' WHERE stage = 'check'")
    whole, said = treated(folder)
    assert not whole
    assert "96 damaged bodies dropped:" in said
    assert said.count("  check ") == 20
    assert "and 76 more" in said


def test_rows_whose_body_is_not_there_are_dropped_and_their_problem_is_asked_again(
    folder: Path,
) -> None:
    with Store.open(folder) as store:
        store.insert(
            [SelectedRow("rft", "p01", "p01-3", "D1", "kept", *(None, 9, 9, 0.0, "sample"))]
        )
        for n in (1, 2, 3):
            store.write_text(f"data/stage{n}_x.jsonl", "")
    execute(folder, "DELETE FROM records WHERE key IN ('p01-3', 'p02-0')")
    whole, said = treated(folder)
    assert not whole
    assert "rows of traces whose body is not there: 2, dropped" in said
    assert "rows of selected whose body is not there: 1, dropped" in said
    assert settled(folder) == ["p01", "p02"]


# --- the database --------------------------------------------------------------------------------


def test_a_database_truncated_to_nothing_is_kept_and_the_report_stays(folder: Path) -> None:
    (folder / DATABASE).write_bytes(b"")
    whole, said = treated(folder)
    assert not whole
    assert f"it stays as {DAMAGED}" in said
    assert "how many bodies there were is not known" in said
    assert (folder / DAMAGED).read_bytes() == b""
    assert (folder / "report.html").read_text() == "a page"
    assert bodies(folder) == {}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_of_a_truncated_database_all_that_is_there_is_kept(folder: Path, share: float) -> None:
    before, content = bodies(folder), (folder / DATABASE).read_bytes()
    cut = content[: int(len(content) * share)]
    (folder / DATABASE).write_bytes(cut)
    whole, said = treated(folder)
    after = bodies(folder)
    assert not whole
    assert f"({len(cut):,} of {len(content):,} bytes are there)" in said
    assert after.items() <= before.items()
    # Before any body stand the first pages of 14 tables.
    assert len(after) >= (share - 0.3) * len(before)
    assert (folder / DAMAGED).read_bytes() == cut
    if share == 0.999:
        assert len(after) >= len(before) - EACH


def test_whatever_page_is_damaged_only_what_was_on_it_is_lost(folder: Path) -> None:
    before, content = bodies(folder), (folder / DATABASE).read_bytes()
    kept = 0
    pages = range(0, len(content), PAGE)
    for number, start in enumerate(pages):
        spoil(folder / DATABASE, start, np.random.default_rng(number).bytes(PAGE))
        _, said = treated(folder)
        after = bodies(folder)
        assert after.items() <= before.items()
        lost = {(stage, key) for _, stage, key in before.keys() - after.keys()}
        assert len(lost) <= 40, said
        if lost and len(lost) <= 20 and "is not known" not in said:
            assert all(f"  {stage} {key}" in said for stage, key in lost), said
        kept += len(after)
        for file in folder.glob(f"{DAMAGED}*"):
            assert file.read_bytes() != content
            file.unlink()
        (folder / DATABASE).write_bytes(content)
    assert kept > 0.97 * len(before) * len(pages)


def test_without_its_head_a_database_is_read_page_by_page(folder: Path) -> None:
    before = bodies(folder)
    spoil(folder / DATABASE, 0, bytes(100))
    whole, said = treated(folder)
    assert not whole
    assert "tables of which only a part was left: problems" in said
    assert bodies(folder) == before
    with Store.open(folder) as store:
        drawn = PROBLEMS * sum(len(long_trace("p", number).ids) for number in range(EACH))
        assert store.totals()[:2] == (drawn, 0)


def test_a_damaged_index_costs_nothing(folder: Path) -> None:
    before = bodies(folder)
    database = sqlite3.connect(folder / DATABASE)
    root = "SELECT rootpage FROM sqlite_master WHERE name='sqlite_autoindex_records_1'"
    ((page,),) = database.execute(root)
    database.close()
    spoil(folder / DATABASE, (page - 1) * PAGE, bytes(PAGE))
    with pytest.raises(UserError, match="damaged"), Store.open(folder, write=False) as store:
        store.bodies("p03")
    said: list[str] = []
    doctor(folder, said.append)
    assert bodies(folder) == before
    assert settled(folder) == sorted({problem for problem, _, _ in before})
    assert doctor(folder, said.append)


def test_the_damaged_databases_of_two_occasions_are_both_kept(folder: Path) -> None:
    for _ in range(2):
        spoil(folder / DATABASE, 0, bytes(100))
        doctor(folder, lambda line: None)
    assert (folder / DAMAGED).exists()
    assert (folder / f"{DAMAGED}2").exists()


def test_without_its_tables_a_database_is_damaged(folder: Path) -> None:
    execute(folder, "DROP TABLE claims")
    for write in (True, False):
        with pytest.raises(UserError, match="without its tables claims"):
            Store.open(folder, write=write)
    whole, said = treated(folder)
    assert not whole
    assert "without its tables claims" in said


@pytest.mark.parametrize("seed", range(30))
def test_whatever_bytes_are_damaged_every_reader_says_it_in_words(folder: Path, seed: int) -> None:
    before, dice = bodies(folder), np.random.default_rng(seed)
    size = (folder / DATABASE).stat().st_size
    for _ in range(dice.integers(1, 6)):
        length = int(dice.choice([1, 4, 40, 600]))
        spoil(folder / DATABASE, int(dice.integers(0, size - length)), dice.bytes(length))

    def read(store: Store) -> None:
        store.counts(), store.totals(), store.claimed(), store.meta("config")
        for kind in (ProblemRow, TraceRow, SelectedRow):
            list(store.rows(kind))
        list(store.read("sample", Trace)), list(store.live("problem", Problem))
        list(store.live("sample", Trace)), store.bodies("p03")

    for write in (False, True):
        try:
            with Store.open(folder, write=write) as store:
                read(store)
        except UserError as error:
            assert error.hint
    treated(folder)
    # A name has no checksum: of a stage or a verdict's key that is none, the body is kept.
    assert set(bodies(folder).values()) <= set(before.values())
    with Store.open(folder) as store:
        read(store)
        fill(store, "p03")
        assert len([key for key, _ in store.live("sample", Trace)]) >= EACH


# --- files ---------------------------------------------------------------------------------------


def test_settings_are_written_again_from_the_database(folder: Path) -> None:
    (folder / "config.yaml").unlink()
    whole, said = treated(folder)
    assert whole
    assert "written again from the database" in said
    assert (folder / "config.yaml").read_text() == "seed: 0\n"


def test_a_missing_report_is_named_with_its_command(folder: Path) -> None:
    (folder / "report.html").unlink()
    whole, said = treated(folder)
    assert whole
    assert f"heal report {folder} writes it" in said


def test_unfinished_files_are_removed_and_links_are_not_followed(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("untouched")
    (folder / "report.html.part").symlink_to(tmp_path / "precious")
    whole, said = treated(folder)
    assert whole
    assert "unfinished files removed: report.html.part" in said
    assert (tmp_path / "precious").read_text() == "untouched"


def test_missing_data_and_students_are_named_and_the_next_run_makes_them(folder: Path) -> None:
    home = "students/heal-seed0/stage1"
    result = TrainResult("t", "heal", 0, 1, home, 3, 30, 4, 2, 0, 0.5, 0.4, 0.001, 1.5)
    with Store.open(folder) as store:
        store.record("train", [("t", "", result)])
        store.insert([SelectedRow("heal", "p01", "p01-3", "D1", "kept", None, 9, 9, 0.0, "sample")])
        store.write_text("data/stage1_foundation.jsonl", "{}\n")
    said: list[str] = []
    assert not doctor(folder, said.append)
    assert {"data/stage2_*.jsonl is not there", "data/stage3_*.jsonl is not there"} < {*said}
    assert f"{home} is not there" in said
    with Store.open(folder) as store:
        assert store.meta("complete") is None
        for n in (2, 3):
            store.write_text(f"data/stage{n}_x.jsonl", "{}\n")
        store.write_text(f"{home}/model.safetensors", "weights")
    assert doctor(folder, said.append)


# --- folders that cannot be written --------------------------------------------------------------

LOOK = """
import sys
import zlib
from pathlib import Path
from heal.store.doctor import doctor
print(doctor(Path(sys.argv[1]), print))
"""


@AS_ROOT
def test_where_nothing_can_be_written_it_only_looks(folder: Path) -> None:
    said = on_read_only_mount(folder, LOOK)
    assert "only looked at" in said
    assert said.endswith("whole\nTrue\n")
    execute(folder, "UPDATE records SET body = x'00' WHERE key = 'p03-2'")
    said = on_read_only_mount(folder, LOOK)
    assert "1 damaged bodies:\n  sample p03-2" in said
    assert said.endswith("where the folder can be written to\nFalse\n")
    spoil(folder / DATABASE, 0, bytes(100))
    content = (folder / DATABASE).read_bytes()
    said = on_read_only_mount(folder, LOOK)
    assert "file is not a database" in said
    assert said.endswith("False\n")
    assert (folder / DATABASE).read_bytes() == content


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def invoke() -> Callable[[Path], Any]:
    app = typer.Typer()
    app.command()(command)
    return lambda folder: CliRunner().invoke(app, [str(folder)])


def test_the_command_ends_with_0_where_all_is_whole_and_with_1_where_something_is_lost(
    folder: Path, invoke: Callable[[Path], Any]
) -> None:
    assert invoke(folder).exit_code == 0
    execute(folder, "UPDATE records SET body = x'00' WHERE key = 'p03-2'")
    found = invoke(folder)
    assert found.exit_code == 1
    assert "sample p03-2" in found.output
    found = invoke(folder)
    assert found.exit_code == 0
    assert found.output.endswith("whole\n")
    assert isinstance(invoke(folder / "nowhere").exception, UserError)
