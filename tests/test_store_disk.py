"""The run folder's disk: who may write, what a reader leaves alone, and what errors mean."""

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.store_folders import (
    AS_ROOT,
    on_read_only_mount,
    python,
    trace,
    trace_row,
)

from heal.errors import UserError
from heal.records import Trace
from heal.store import (
    DATABASE,
    Store,
    Stored,
    disk_errors,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run") as opened:
        yield opened


# --- opening -------------------------------------------------------------------------------------


def test_others_read_while_one_writes(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as writer:
        writer.commit(Stored("sample", str(n), "p", trace(str(n))) for n in range(50))
        with Store.open(tmp_path / "run", write=False) as reader:
            reading = reader.read("sample", Trace)
            next(reading)
            for n in range(50, 60):
                writer.put("sample", str(n), "p", trace(str(n)))
            assert len(list(reading)) == 49
            assert reader.counts() == {"sample": 60}
            with pytest.raises(UserError, match="cannot be written to"):
                reader.put("sample", "x", "p", trace("x"))


def test_a_closed_folder_is_one_plain_file(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.commit(Stored("sample", str(n), "p", trace(str(n))) for n in range(2000))
        assert (tmp_path / "run" / f"{DATABASE}-wal").exists()
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["run.lock", DATABASE]


def test_a_folder_closed_while_somebody_reads_is_whole_and_its_log_is_small(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as writer:
        writer.commit(Stored("sample", str(n), "p", trace(str(n))) for n in range(2000))
        reader = Store.open(tmp_path / "run", write=False)
        reading = reader.read("sample", Trace)
        next(reading)
    assert len(list(reading)) == 1999
    reader.close()
    with Store.open(tmp_path / "run") as store:
        assert store.counts() == {"sample": 2000}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(folder.iterdir())
    }


def test_reading_a_closed_folder_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Store.open(folder) as store:
        store.put("sample", "a", "p", trace("a"))
    before = snapshot(folder), folder.stat().st_mtime_ns
    with Store.open(folder, write=False) as store:
        assert store.counts() == {"sample": 1}
        assert len(list(store.read("sample", Trace))) == 1
    assert (snapshot(folder), folder.stat().st_mtime_ns) == before


@pytest.mark.parametrize("name", ["a b", "a?b#c%41", "ä ö"])
def test_any_folder_name_can_be_read(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / name) as store:
        store.put("sample", "a", "p", trace("a"))
    with Store.open(tmp_path / name, write=False) as store:
        assert store.counts() == {"sample": 1}


def test_reading_a_folder_that_is_no_run_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        Store.open(tmp_path, write=False)
    with pytest.raises(UserError, match="not a run folder"):
        Store.open(tmp_path / "nowhere", write=False)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with (
        Store.open(tmp_path / "run"),
        pytest.raises(UserError, match="another process is writing"),
    ):
        Store.open(tmp_path / "run")
    Store.open(tmp_path / "run").close()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(UserError, match="not empty and is no run folder"):
        Store.open(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_of_another_schema_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.set_meta("schema", 99)
    for write in (True, False):
        with pytest.raises(UserError, match="another version of HEAL"):
            Store.open(tmp_path / "run", write=write)


@pytest.mark.parametrize("write", [True, False])
def test_a_damaged_database_is_named_with_who_mends_it(tmp_path: Path, write: bool) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / DATABASE).write_bytes(b"not a database at all, but long enough to be read" * 30)
    with pytest.raises(UserError, match="damaged") as raised:
        Store.open(folder, write=write)
    assert raised.value.hint is not None
    assert f"heal doctor {folder}" in raised.value.hint


@pytest.mark.parametrize("write", [True, False])
def test_a_database_truncated_to_nothing_is_not_taken_for_a_new_run(
    tmp_path: Path, write: bool
) -> None:
    folder = tmp_path / "run"
    with Store.open(folder) as store:
        store.write_text("report.html", "a page")
    (folder / DATABASE).write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        Store.open(folder, write=write)
    assert (folder / DATABASE).read_bytes() == b""
    assert (folder / "report.html").read_text() == "a page"


def test_a_run_killed_before_its_first_table_starts_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.lock").touch()
    (folder / DATABASE).touch()
    with Store.open(folder) as store:
        assert store.meta("schema") == 2


def test_a_damaged_body_is_named_with_who_mends_it(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
        store.insert([trace_row("p", "a")])
        store._database.execute("UPDATE records SET body = substr(body, 1, length(body) - 1)")
        for read in (
            lambda: store.get("sample", "a", "p", Trace),
            lambda: list(store.read("sample", Trace)),
            lambda: list(store.live("sample", Trace)),
        ):
            with pytest.raises(UserError, match="sample a: the checksum") as raised:
                read()
            assert f"heal doctor {tmp_path / 'run'}" in str(raised.value.hint)


def test_a_folder_removed_in_mid_run_is_an_error(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
        (tmp_path / "run").rename(tmp_path / "gone")
        for work in (
            lambda: store.put("sample", "b", "p", trace("b")),
            lambda: store.set_meta("date", "today"),
            lambda: store.write_text("report.html", "page"),
        ):
            with pytest.raises(UserError, match="removed or replaced"):
                work()
        assert not (tmp_path / "run").exists()


def test_a_folder_put_in_anothers_place_is_an_error(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        (tmp_path / "run").rename(tmp_path / "gone")
        with (
            Store.open(tmp_path / "run") as another,
            pytest.raises(UserError, match="removed or replaced"),
        ):
            store.put("sample", "b", "p", trace("b"))
        assert another.folder == tmp_path / "run"


def test_who_writes_is_seen_from_outside(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as writer:
        writer.claim("sample", ["a", "b"])
        assert not writer.is_busy()
        with Store.open(tmp_path / "run", write=False) as reader:
            assert reader.is_busy()
            assert reader.claimed() == 2
    with Store.open(tmp_path / "run", write=False) as reader:
        assert not reader.is_busy()


# --- folders that cannot be written ---------------------------------------------------------------

READ = """
import sys
from pathlib import Path
from heal.errors import UserError
from heal.records import Trace
from heal.store import Store
folder = Path(sys.argv[1])
try:
    with Store.open(folder, write=False) as store:
        print(sorted(key for key, _ in store.read("sample", Trace)))
        try:
            store.write_text("report.html", "page")
        except UserError as error:
            print(error)
except UserError as error:
    print(error, error.hint)
"""
LEFT = """
import os, sys
from pathlib import Path
from heal.store import Store
from tests.store_folders import trace
store = Store.open(Path(sys.argv[1]))
store.put("sample", "b", "p", trace("b"))
os._exit(0)
"""


@AS_ROOT
def test_a_finished_run_is_read_on_a_read_only_mount(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
    said = on_read_only_mount(tmp_path / "run", READ).splitlines()
    assert said[0] == "['a']"
    assert "cannot be written to" in said[1]


@AS_ROOT
def test_a_run_that_was_cut_off_is_read_on_a_read_only_mount(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
    python(LEFT, str(tmp_path / "run"))
    assert (tmp_path / "run" / f"{DATABASE}-wal").stat().st_size
    assert on_read_only_mount(tmp_path / "run", READ).startswith("['a', 'b']")
    (tmp_path / "run" / f"{DATABASE}-shm").unlink()
    said = on_read_only_mount(tmp_path / "run", READ)
    assert "run.sqlite-wal holds results" in said
    assert "copy the whole folder" in said
    assert python(READ, str(tmp_path / "run")).startswith("['a', 'b']")


@AS_ROOT
def test_a_folder_left_wanting_a_log_is_read_on_a_read_only_mount(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
    other = sqlite3.connect(tmp_path / "run" / DATABASE)
    assert other.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    other.close()
    assert on_read_only_mount(tmp_path / "run", READ).startswith("['a']")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_closed_to_us_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
    (tmp_path / "run").chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with Store.open(tmp_path / "run", write=False) as store:
            assert store.counts() == {"sample": 1}
    finally:
        (tmp_path / "run").chmod(stat.S_IRWXU)


def test_a_folder_of_somebody_else_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Any, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match="cannot be written to"):
        Store.open(tmp_path / "run")


def test_a_folder_in_the_databases_place_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "run" / DATABASE).mkdir(parents=True)
    with pytest.raises(UserError, match="is not a file"):
        Store.open(tmp_path / "run")


@pytest.mark.parametrize("name", ["full-gsm", "readonly", "malformed"])
def test_a_folders_name_is_not_taken_for_the_error(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with pytest.raises(UserError, match="cannot be written to"), disk_errors(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / "x"))
    with pytest.raises(FileNotFoundError), disk_errors(folder):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder / "x"))


def test_other_database_errors_are_not_disguised(tmp_path: Path) -> None:
    database = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError, match="full"), disk_errors(tmp_path):
        database.execute("SELECT * FROM full_malformed_readonly")
    database.close()


# --- files ---------------------------------------------------------------------------------------


def test_files_are_written_whole(store: Store) -> None:
    store.write_text("data/a.jsonl", "first\n")
    store.write_text("data/a.jsonl", "second\n")
    assert (store.folder / "data/a.jsonl").read_text() == "second\n"
    assert [p.name for p in (store.folder / "data").iterdir()] == ["a.jsonl"]


def test_a_file_is_written_from_its_parts(store: Store) -> None:
    for name in "ab":
        store.write_text(f"data/{name}", f"{name} é\n")
    store.write_parts("data/all", [store.folder / "data" / name for name in "ba"])
    assert (store.folder / "data/all").read_text() == "b é\na é\n"
    with pytest.raises(FileNotFoundError):
        store.write_parts("data/all", [store.folder / "data" / name for name in "axb"])
    assert (store.folder / "data/all").read_text() == "b é\na é\n"


def test_a_file_that_cannot_be_written_leaves_the_old_one(store: Store) -> None:
    store.write_text("report.html", "first")
    with pytest.raises(UnicodeEncodeError):
        store.write_text("report.html", "x" * 100_000 + "\ud800")
    assert (store.folder / "report.html").read_text() == "first"
    assert store.write_text("report.html", "second").read_text() == "second"


@pytest.mark.parametrize("name", ["report.html.part", "report.html"])
def test_a_link_in_a_files_place_is_not_followed(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("untouched")
    (store.folder / name).symlink_to(tmp_path / "precious")
    store.write_text("report.html", "page")
    assert (tmp_path / "precious").read_text() == "untouched"
    assert (store.folder / "report.html").read_text() == "page"
    assert not (store.folder / "report.html").is_symlink()
    assert not (store.folder / "report.html.part").is_symlink()


def test_a_link_in_the_locks_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("untouched")
    (tmp_path / "run" / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"run\.lock is a link"):
        Store.open(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "untouched"


def test_values_are_remembered(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.set_meta("work", {"sample": [1, 2.5]})
        assert store.meta("nothing") is None
    with Store.open(tmp_path / "run", write=False) as store:
        assert store.meta("work") == {"sample": [1, 2.5]}
