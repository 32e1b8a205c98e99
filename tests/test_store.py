"""The run folder: what is stored survives, and nothing is stored twice."""

import errno
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.errors import UserError
from heal.records import Cut, Fallback, Finish, Origin, Trace
from heal.store import DATABASE, Store, _decoder, disk_errors, encode


def trace(key: str, text: str = "one\n\ntwo", ids: tuple[int, ...] = (1, 2, 3)) -> Trace:
    array = np.array(ids, np.int32)
    return Trace(key, "p", Origin.UNAIDED, 0, array, text, Finish.STOP, prompt_tokens=4)


@given(
    text=st.text(),
    ids=st.lists(st.integers(0, 2**31 - 1)),
    error=st.none() | st.text(),
)
def test_a_record_comes_back_as_it_was(text: str, ids: list[int], error: str | None) -> None:
    before = Trace(
        "k", "p", Origin.REPAIRED, 3, np.array(ids, np.int32), text, Finish.LOOP, 7, error=error
    )
    after = _decoder(Trace)(encode(before))
    assert after.ids.dtype == np.int32
    assert after.ids.tolist() == ids
    assert (after.text, after.finish, after.error) == (text, Finish.LOOP, error)


def test_float_arrays_keep_nan_and_every_bit() -> None:
    values = np.array([np.nan, 1e-8, -3.25, np.inf], np.float32)
    cut = Cut("k", "p", "t", 2, 5, [3, 9], values, values, values, fallback=Fallback.NO_SURGE)
    after = _decoder(Cut)(encode(cut))
    np.testing.assert_array_equal(after.surge, values)
    assert after.fallback is Fallback.NO_SURGE


def test_storing_a_key_again_keeps_one_row(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "k", "p", trace("k", "old"))
        store.put("sample", "k", "p", trace("k", "new"))
        assert store.counts() == {"sample": 1}
        assert store.read("sample", Trace)["k"].text == "new"


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1200])
def test_rows_asked_for_come_in_key_order_and_missing_ones_are_ignored(
    tmp_path: Path, count: int
) -> None:
    names = [f"{n * 7919 % 1201}é" if n % 2 else f"{n}" for n in range(1200)]
    with Store.open(tmp_path / "run") as store:
        store.put_many("sample", [(k, "p", trace(k)) for k in names])
        store.put("other", "x", "p", trace("x"))
        asked = [*names[:count], *names[: count // 2], "missing", "x"]
        assert list(store.read("sample", Trace, asked)) == sorted(names[:count])
        assert list(store.read("sample", Trace)) == sorted(names)


def test_reading_a_few_rows_does_not_look_at_all_of_them(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put_many("sample", [(f"{n:05d}", "p", trace("k")) for n in range(5000)])
        steps: list[None] = []
        store._database.set_progress_handler(lambda: steps.append(None), 1)
        assert len(store.read("sample", Trace, ["00007", "04000", "missing"])) == 2
        assert len(steps) < 500


def test_a_result_releases_its_claim_and_the_rest_is_counted_as_lost(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.claim("sample", ["a", "b", "c"])
        store.put("sample", "a", "p", trace("a"))
    with Store.open(tmp_path / "run") as store:
        assert store.release_claims() == 2
        assert store.release_claims() == 0


def test_live_rows_are_those_of_the_present_configuration(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put_many("cut", [(k, "p", trace(k)) for k in "abc"])
        store.set_live("cut", ["a", "c"])
        assert list(store.live("cut", Trace)) == ["a", "c"]
        store.set_live("cut", ["b"])
        assert list(store.live("cut", Trace)) == ["b"]
        assert store.counts()["cut"] == 3


def test_what_was_stored_survives_kill_nine(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from heal.store import Store
from test_store import trace
store = Store.open(Path({str(tmp_path / "run")!r}))
n = 0
while True:
    store.claim("sample", [str(n)])
    store.put("sample", str(n), "p", trace(str(n)))
    n += 1
    print(n, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    counted = 0
    deadline = time.monotonic() + 30
    while counted < 50 and time.monotonic() < deadline:
        counted = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    counted = max([counted, *(int(line) for line in process.stdout.read().split())])
    process.stdout.close()
    process.wait()
    with Store.open(tmp_path / "run") as store:
        stored = store.keys("sample")
        assert stored >= {str(n) for n in range(counted)}
        assert store.release_claims() <= 1


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with (
        Store.open(tmp_path / "run"),
        pytest.raises(UserError, match="another process is writing"),
    ):
        Store.open(tmp_path / "run")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(UserError, match="not empty and is no run folder"):
        Store.open(tmp_path)


def test_reading_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        Store.open(tmp_path, write=False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_schema_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.set_meta("schema", 99)
    with pytest.raises(UserError, match="another version of HEAL"):
        Store.open(tmp_path / "run")


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / DATABASE).write_bytes(b"not a database at all, but long enough to be read" * 30)
    with pytest.raises(UserError, match="damaged"):
        Store.open(folder)


def test_a_full_disk_is_a_message_and_what_is_done_stays(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
        store._database.execute("PRAGMA max_page_count=12")
        with pytest.raises(UserError, match="no disk space left"):
            for n in range(10_000):
                store.put("sample", f"b{n}", "p", trace(f"b{n}", "x" * 1000))
        assert "a" in store.read("sample", Trace)


@pytest.mark.parametrize("opened", ["run.lock", "run.sqlite"])
def test_a_folder_of_somebody_else_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: str
) -> None:
    real = Path.open

    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == opened:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    if opened == DATABASE:
        (tmp_path / "run" / DATABASE).mkdir(parents=True)  # even root cannot open a folder
    with pytest.raises(UserError, match="cannot be written to"):
        Store.open(tmp_path / "run")


@pytest.mark.parametrize("name", ["full-gsm", "readonly", "malformed"])
def test_a_folders_name_is_not_taken_for_the_error(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with pytest.raises(UserError, match="cannot be written to"), disk_errors(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / "x"))
    with pytest.raises(FileNotFoundError), disk_errors(folder):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder / "x"))


def test_other_database_errors_are_not_disguised(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError), disk_errors(tmp_path):
        raise sqlite3.OperationalError("no such table: nonsense")


def test_files_are_written_whole(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.write_text("data/a.jsonl", "first\n")
        store.write_text("data/a.jsonl", "second\n")
        assert (tmp_path / "run/data/a.jsonl").read_text() == "second\n"
        assert [p.name for p in (tmp_path / "run/data").iterdir()] == ["a.jsonl"]
