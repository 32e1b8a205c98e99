"""`heal doctor` on runs that were cut off, on copies, and on folders of an older HEAL."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.old_folder import RECORDS, old_folder
from tests.store_folders import (
    EACH,
    PROBLEMS,
    ROOT,
    bodies,
    filled_folder,
    spoil,
    treated,
)

from heal.errors import UserError
from heal.store import DATABASE, Store
from heal.store.doctor import doctor
from heal.store.migrate import KEPT
from heal.store.salvage import DAMAGED

PAGE = 4096
LOG = f"{DATABASE}-wal"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled_folder(tmp_path / "run")


# --- runs that were cut off, and copies ----------------------------------------------------------

CUT_OFF = """
import os, sys
from pathlib import Path
from heal.store import Store
from tests.store_folders import fill
store = Store.open(Path(sys.argv[1]))
for number in range(12, 18):
    fill(store, f"p{number}")
os._exit(0)
"""


def cut_off(folder: Path) -> Path:
    subprocess.run([sys.executable, "-c", CUT_OFF, str(folder)], cwd=ROOT, check=True)
    assert (folder / LOG).stat().st_size
    return folder


def test_a_run_that_was_cut_off_is_whole(folder: Path) -> None:
    whole, said = treated(cut_off(folder))
    assert whole, said
    assert sum(stage == "sample" for _, stage, _ in bodies(folder)) == 18 * EACH


def test_a_copy_without_the_log_may_lack_what_came_last(folder: Path, tmp_path: Path) -> None:
    cut_off(folder)
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(f"{DATABASE}-*"))
    whole, said = treated(tmp_path / "copy")
    assert not whole
    assert f"{LOG} is not there" in said
    assert sum(stage == "sample" for _, stage, _ in bodies(tmp_path / "copy")) >= PROBLEMS * EACH


def test_a_log_cut_anywhere_keeps_every_batch_before_it(folder: Path, tmp_path: Path) -> None:
    cut_off(folder)
    content = (folder / LOG).read_bytes()
    counts = []
    for place in np.linspace(0, len(content), 14).astype(int).tolist():
        copy = tmp_path / f"copy{place}"
        shutil.copytree(folder, copy)
        (copy / LOG).write_bytes(content[:place] + os.urandom(min(50, len(content) - place)))
        whole, said = treated(copy)
        assert whole, said
        found = sum(stage == "sample" for _, stage, _ in bodies(copy))
        assert found % EACH == 0
        counts.append(found)
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (PROBLEMS * EACH, 18 * EACH)


def test_of_a_damaged_run_that_was_cut_off_the_log_is_read_too(folder: Path) -> None:
    cut_off(folder)
    spoil(folder / DATABASE, 0, bytes(100))
    spoil(folder / LOG, 0, bytes(32))
    doctor(folder, lambda line: None)
    assert sum(stage == "sample" for _, stage, _ in bodies(folder)) == 18 * EACH
    assert (folder / f"{DAMAGED}-wal").exists()
    assert not (folder / LOG).exists()


def test_a_doctor_that_was_killed_is_called_again(folder: Path) -> None:
    cut_off(folder)
    spoil(folder / DATABASE, 0, bytes(100))
    spoil(folder / LOG, 0, bytes(32))
    os.link(folder / DATABASE, folder / DAMAGED)
    (folder / LOG).rename(folder / f"{DAMAGED}-wal")
    doctor(folder, lambda line: None)
    assert sum(stage == "sample" for _, stage, _ in bodies(folder)) == 18 * EACH


def test_a_doctor_that_was_killed_between_two_names_is_called_again(folder: Path) -> None:
    before = bodies(folder)
    spoil(folder / DATABASE, 0, bytes(100))
    (folder / DATABASE).rename(folder / DAMAGED)
    doctor(folder, lambda line: None)
    assert bodies(folder) == before


KILLED_CLOSING = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size=2")
database.execute("BEGIN")
database.execute("DELETE FROM records")
database.execute("UPDATE meta SET value='99'")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_whose_last_moment_was_cut_off_is_set_right(folder: Path) -> None:
    before = bodies(folder)

    def kill() -> None:
        run = [sys.executable, "-c", KILLED_CLOSING, str(folder / DATABASE)]
        assert subprocess.run(run).returncode == -signal.SIGKILL
        assert (folder / f"{DATABASE}-journal").exists()

    kill()
    with pytest.raises(UserError, match="killed in the instant it closed"):
        Store.open(folder, write=False)
    assert treated(folder)[0]
    assert bodies(folder) == before
    kill()
    Store.open(folder).close()
    assert bodies(folder) == before


# --- older folders -------------------------------------------------------------------------------


def test_an_older_folder_is_brought_to_the_present_form(tmp_path: Path) -> None:
    said: list[str] = []
    old_folder(tmp_path / "run")
    doctor(tmp_path / "run", said.append)
    assert "brought from schema 1 to 2" in said[0]
    assert len(bodies(tmp_path / "run")) > 30


def test_of_a_damaged_older_folder_what_can_be_read_is_brought_over(tmp_path: Path) -> None:
    long = {"note": "x" * 3_000}
    extra = [("wishes", f"w{n}", "p", long, [""]) for n in range(60)]
    folder = old_folder(tmp_path / "run", *extra)  # type: ignore[arg-type]
    size = (folder / DATABASE).stat().st_size
    spoil(folder / DATABASE, size - 3 * PAGE, os.urandom(PAGE))
    said: list[str] = []
    assert not doctor(folder, said.append)
    assert any("brought from schema 1 to 2" in line for line in said), said
    assert (folder / DAMAGED).exists()
    assert (folder / KEPT).exists()
    kept = {key for _, _, key in bodies(folder)}
    assert len(kept) >= 0.8 * len({key for stage, key, *_ in RECORDS if stage != "selected"})
