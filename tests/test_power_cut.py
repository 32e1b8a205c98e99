"""The power goes: what was synced is there, whatever else of the log is, and the run goes on.

A disk keeps what was synced, and of what was written after that any part of the log up to some
byte. So a run's folder is copied whenever answers were made durable, the log of some copies is cut
off at a random byte behind that point, and every copy is resumed.
"""

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.scripted_run import PAGE, ScriptedRun, Watch, run_recipe, small_batches

from heal.store import DATABASE, Store
from heal.store import folder as store_folder

LOG = f"{DATABASE}-wal"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    run = ScriptedRun(tmp_path_factory.mktemp("whole"))
    run.go()
    return run


@contextmanager
def snapshots(run: ScriptedRun, to: Path) -> Iterator[list[tuple[Path, int, int]]]:
    """Copies of the home at every sync: where, bytes of its log, answers counted by then."""
    taken: list[tuple[Path, int, int]] = []
    commit, received = Store.commit, 0

    def counted(self: Store, rows: object, **counts: object) -> None:
        nonlocal received
        listed = list(rows)  # type: ignore[call-overload]
        received += len(listed) if counts.get("answers") else 0
        commit(self, listed, **counts)  # type: ignore[arg-type]

    def copied(_: Path) -> None:
        home = to / str(len(taken))
        shutil.copytree(run.home, home)
        taken.append((home, (home / "run" / LOG).stat().st_size, received))

    with patch.object(Store, "commit", counted), patch.object(store_folder, "make_durable", copied):
        yield taken


def same(run: ScriptedRun, whole: ScriptedRun) -> bool:
    mine, theirs = (
        (run.live(), run.stored(), run.data()),
        (whole.live(), whole.stored(), whole.data()),
    )
    return mine == theirs and run.claims() == 0


def cut(tmp_path: Path, whole: ScriptedRun, most: int) -> None:
    """Resume up to so many copies as they were synced, and as many with part of what followed."""
    run, dice = ScriptedRun(tmp_path / "run"), random.Random(3)
    no_page = patch(PAGE, lambda view: "no charts")
    with small_batches(17), snapshots(run, tmp_path) as taken, no_page:
        run_recipe(run.home, (), None, Watch())
    assert len(taken) > 10
    torn = 0
    for home, size, received in dice.sample(taken, min(most, len(taken))):
        later = next((h for h, s, _ in taken if s > size), None)
        if later is not None:  # the same log, written further: cut off behind what was synced
            after = copy_of(later, "torn")
            log = after / "run" / LOG
            with log.open("r+b") as file:
                file.truncate(dice.randrange(size, log.stat().st_size))
            check(after, received, whole)
            torn += 1
        check(copy_of(home, "as-synced"), received, whole)
    assert torn > 2


def check(home: Path, received: int, whole: ScriptedRun) -> None:
    """Every answer that was counted is there, and the run comes to the same end."""
    (home / "run" / f"{DATABASE}-shm").unlink(missing_ok=True)  # memory: no power cut leaves it
    with Store.open(home / "run") as store:
        assert store.totals().received >= received
    run = ScriptedRun(home)
    run.go()
    assert same(run, whole)


def copy_of(home: Path, name: str) -> Path:
    return shutil.copytree(home, home.with_name(f"{home.name}-{name}"), dirs_exist_ok=True)


def test_a_power_cut_takes_nothing_that_was_counted(tmp_path: Path, whole: ScriptedRun) -> None:
    cut(tmp_path, whole, most=6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_power_cut_at_any_transaction_takes_nothing(tmp_path: Path, whole: ScriptedRun) -> None:
    cut(tmp_path, whole, most=1000)
