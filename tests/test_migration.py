"""A run folder of schema 1 is read as the run it was, whatever happens on the way."""

import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.old_folder import CONFIG, array, check, hint, old_folder, trace

from heal.errors import UserError
from heal.records import (
    AuditItem,
    Check,
    Cut,
    EvalTrace,
    Hint,
    Problem,
    PureScore,
    ServerFacts,
    StagePlan,
    TokenScores,
    Trace,
    TrainResult,
)
from heal.store import (
    DATABASE,
    AttemptRow,
    CutRow,
    HintRow,
    ProblemRow,
    ScoreRow,
    SelectedRow,
    Store,
    TraceRow,
    migrate,
)
from heal.store.disk import NEW
from heal.store.migrate import KEPT


@pytest.fixture
def brought(tmp_path: Path) -> Any:
    with Store.open(old_folder(tmp_path / "run"), say=lambda line: None) as store:
        yield store


def test_every_body_is_brought_over_under_its_present_stage(brought: Store) -> None:
    assert brought.counts() == {
        "audit": 1, "audit_trace": 1, "check": 6, "cut": 2, "evaluate": 2, "hint": 3, "hinted": 1,
        "matched": 2, "plan": 1, "problem": 3, "pure": 4, "reliance": 3, "repair": 2, "sample": 4,
        "scores": 1, "server": 1, "train": 1,
    }  # fmt: skip
    found = brought.get("repair", "mended", "p", Trace)
    assert found is not None
    assert found.ids.tolist() == list(range(7))
    assert (found.text, found.parent, found.new_tokens) == ("text of mended", "failed", 5)
    scores = brought.get("scores", "scores", "p", TokenScores)
    assert scores is not None
    np.testing.assert_array_equal(scores.logprob, np.array([-0.1, -0.5, -0.2, -1.0], np.float32))
    cut = brought.get("cut", "cut", "p", Cut)
    assert cut is not None
    np.testing.assert_array_equal(cut.surge, np.array([np.nan, 0.7], np.float32))
    told = brought.get("hint", "told", "p", Hint)
    assert told is not None
    assert told.text == "look twice"
    assert brought.get("check", "c6", "p", Check) == Check(
        "more", check("", "no_answer")["verdict"]
    )
    exam = brought.get("evaluate", "e1", "q", EvalTrace)
    assert exam is not None
    assert (exam.text, exam.tokens) == ("so 8", 21)


def test_problems_have_their_ceilings_and_are_to_be_asked_again(brought: Store) -> None:
    assert list(brought.rows(ProblemRow)) == [
        ProblemRow("p", 0, "train", "core", 2, 1, 0, 0, "hard", 0.5, 1, None),
        ProblemRow("q", 1, "held_out", None, 1, 0, 0, 0, "undetermined", None, 0, None),
    ]


def test_traces_that_were_live_have_their_verdicts_and_gates(brought: Store) -> None:
    made = list(brought.rows(TraceRow))
    assert {(r.stage, r.tag, r.key): (r.verdict, r.answer, r.gate) for r in made} == {
        ("sample", "", "failed"): ("wrong", "7", None),
        ("sample", "", "right"): ("correct", "7", None),
        ("sample", "", "lost"): (None, None, None),
        ("hinted", "", "whole"): ("correct", "7", "passed"),
        ("repair", "zscore", "mended"): ("correct", "7", "hint_talk"),
        ("matched", "rft_more", "more"): ("no_answer", None, None),
        ("matched", "star", "right"): ("correct", "7", None),
    }
    by_key = {r.key: r for r in made if r.stage != "matched"}
    assert by_key["mended"][4:8] == (0, "stop", 7, 5)
    assert (by_key["mended"].hint, by_key["mended"].cut) == ("guided", "cut")
    assert (by_key["right"].seed_index, by_key["right"].failed) == (1, False)
    assert (by_key["lost"].finish, by_key["lost"].failed) == ("error", True)


def test_cuts_hints_and_attempts_are_in_the_columns(brought: Store) -> None:
    assert list(brought.rows(CutRow)) == [
        CutRow("p", "zscore", "cut", "failed", 2, 2, 0.5, None, True, False)
    ]
    assert list(brought.rows(HintRow)) == [
        HintRow("p", "answer", "told", None, "answer", "answer", 0, 0, False, False, False),
        HintRow("p", "zscore", "guided", "cut", "guided", "guided", 1, 11, False, False, False),
    ]
    assert list(brought.rows(AttemptRow)) == [
        AttemptRow("q", "heal", 1, 0, "e1", "wrong", "8", "length", 21, None)
    ]


def test_each_pass_of_scoring_is_counted_once(brought: Store) -> None:
    assert list(brought.rows(ScoreRow)) == [
        ScoreRow("p", "pure", "hinted", "p1", "whole", 40, False, 2, 0.25),
        ScoreRow("p", "pure", "honest", "p3", "right", 40, False, None, 0.25),
        ScoreRow("p", "pure", "zscore", "p2", "mended", 40, False, 0, 0.25),
        ScoreRow("p", "reliance", "hinted", "r1", "whole", 35, False, None, None),
        ScoreRow("p", "scores", "", "scores", "failed", 4, False, None, None),
    ]  # fmt: skip
    profile = brought.get("pure", "p1", "p", PureScore)
    assert profile is not None
    assert (profile.scored_tokens, profile.hinted_log_ppl) == (40, None)


def test_what_each_arm_chose_says_where_its_traces_are(brought: Store) -> None:
    assert [(r.arm, r.trace, r.pool, r.drop, r.score, r.tokens, r.stage)
            for r in brought.rows(SelectedRow)] == [
        ("heal", "mended", "D3", "pure", 1.5, 7, "repair"),
        ("heal-restart", "control", "D3", "kept", None, 9, "repair"),
        ("rft", "right", "D1", "kept", None, 6, "sample"),
        ("rft_more", "more", "D1", "kept", None, 8, "matched"),
    ]  # fmt: skip


def test_what_was_live_is_live(brought: Store) -> None:
    def keys(stage: str, kind: type, tag: str = "") -> list[str]:
        return [key for key, _ in brought.live(stage, kind, tag)]

    assert keys("problem", Problem) == ["p", "q"]
    assert keys("sample", Trace) == ["failed", "right", "lost"]
    assert keys("repair", Trace, "zscore") == ["mended"]
    assert keys("matched", Trace, "star") == ["right"]
    assert keys("hint", Hint, "answer") == ["told"]
    assert keys("cut", Cut, "zscore") == ["cut"]
    assert keys("pure", PureScore, "honest") == ["p3"]
    assert keys("evaluate", EvalTrace) == ["e1"]
    assert keys("audit", AuditItem) == ["whole"]
    assert [facts.asked for _, facts in brought.live("server", ServerFacts)] == [3]
    assert [plan.batches for _, plan in brought.live("plan", StagePlan)] == [(("right",), ())]
    ((key, trained),) = brought.live("train", TrainResult)
    assert key == "trained"
    assert math.isnan(trained.loss_last)
    assert trained.loss_first == 0.5


def test_what_it_has_cost_is_counted_on(brought: Store) -> None:
    drawn = 4 + 6 + 0 + 100 + 5 + (7 - 2) + (9 - 2) + 8
    assert brought.totals()[:2] == (drawn + 11 + 11, 3)
    assert brought.claimed() == 1
    assert brought.release_claims() == 1
    assert brought.totals().lost == 4


def test_what_was_remembered_is_remembered(brought: Store) -> None:
    assert brought.meta("schema") == 2
    assert brought.meta("config") == CONFIG
    assert brought.meta("timings") == {"sample": 1.5}
    assert brought.meta("in_flight_lost") is None
    assert brought.meta("work") == {"write": [100, 4.0], "score": [40, 0.4]}
    # Complete, but not as the next run would have it: it asks again.
    assert brought.meta("complete") == "schema 1: stamp"


def test_what_cannot_be_read_is_named_and_the_rest_is_brought_over(tmp_path: Path) -> None:
    said: list[str] = []
    folder = old_folder(
        tmp_path / "run",
        ("sample", "bad", "p", b'{"key": "bad"', [""]),
        ("sample", "worse", "p", {**trace("worse"), "ids": "no base64!"}, [""]),
        ("hint", "wrong", "p", hint("wrong", kind="whispered"), [""]),
        ("wishes", "w", "p", {}, [""]),
    )
    with Store.open(folder, say=said.append) as store:
        assert store.counts()["sample"] == 4
    (line,) = said
    assert "from schema 1 to 2: 46 records" in line
    assert "3 could not be read and are owed again (1 × hint, 2 × sample)" in line
    assert "1 are of stages nobody knows and were left behind (1 × wishes)" in line
    assert "1 selected trace had no record" in line
    assert line.endswith(f"the old database stays as {KEPT}")


def tables(file: Path) -> list[Any]:
    with sqlite3.connect(file) as database:
        found = [
            database.execute(f"SELECT * FROM {t} ORDER BY 1, 2, 3").fetchall() for t in ("records",)
        ]
    database.close()
    return found


def test_the_old_database_stays_as_it_was(tmp_path: Path) -> None:
    before = tables(old_folder(tmp_path / "run") / DATABASE)
    Store.open(tmp_path / "run").close()
    assert tables(tmp_path / "run" / KEPT) == before
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "config.yaml",
        "run.lock",
        DATABASE,
        KEPT,
    ]


def test_a_folder_is_brought_over_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old_folder(tmp_path / "run")
    Store.open(tmp_path / "run").close()
    Store.open(tmp_path / "run").close()
    assert [r.getMessage() for r in caplog.records if "brought from schema" in r.getMessage()] == [
        caplog.records[0].getMessage()
    ]


def test_reading_an_old_folder_names_the_command_and_changes_nothing(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "run")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match="an older HEAL") as raised:
        Store.open(folder, write=False)
    assert f"heal doctor {folder}" in str(raised.value.hint)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_results_that_are_still_in_the_log_are_brought_over(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "run")
    code = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("INSERT INTO records SELECT stage, 'last', problem, body FROM records"
                 " WHERE key='right' AND stage='sample'")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, str(folder / DATABASE)], check=True)
    assert (folder / f"{DATABASE}-wal").stat().st_size
    with Store.open(folder) as store:
        assert store.get("sample", "last", "p", Trace) is not None


def test_an_old_folder_that_somebody_reads_is_left_alone(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "run")
    reader = sqlite3.connect(folder / DATABASE)
    reading = reader.execute("SELECT * FROM records")
    reading.fetchone()
    with pytest.raises(UserError, match="another process is reading it"):
        Store.open(folder)
    reading.close()
    reader.close()
    Store.open(folder).close()


KILL = """
import os, signal, sys
from pathlib import Path
from heal.store import Store, migrate
where, place = sys.argv[2], int(sys.argv[3])
real, calls = getattr(migrate, where), []
def killed(*arguments):
    calls.append(None)
    if len(calls) > place:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(migrate, where, killed)
Store.open(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("_settle", 0),
        ("encode", 0),
        ("encode", 30),
        ("_carry_over", 0),
        ("keep", 0),
        ("take_place", 0),
    ],
)
def test_a_kill_on_the_way_leaves_the_old_one_usable(
    tmp_path: Path, where: str, place: int
) -> None:
    folder = old_folder(tmp_path / "run")
    before = tables(folder / DATABASE)
    run = [sys.executable, "-c", KILL, str(folder), where, str(place)]
    assert subprocess.run(run, capture_output=True).returncode == -signal.SIGKILL
    assert tables(folder / DATABASE) == before
    with Store.open(folder) as store:
        assert store.counts()["sample"] == 4
    assert not (folder / NEW).exists()


def test_a_kill_between_keeping_the_old_and_taking_its_place_leaves_it_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = old_folder(tmp_path / "run")
    os.link(folder / DATABASE, folder / KEPT)
    shutil.copy(folder / DATABASE, folder / NEW)
    with Store.open(folder) as store:
        assert store.counts()["sample"] == 4
    assert tables(folder / KEPT)


def refused(error: OSError) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        raise error

    return call


def test_where_there_are_no_links_the_old_database_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(os, "link", refused(PermissionError(1, "no links here")))
    folder = old_folder(tmp_path / "run")
    before = tables(folder / DATABASE)
    Store.open(folder, say=said.append).close()
    assert tables(folder / KEPT) == before
    assert "stays as" in said[0]


def test_without_room_for_a_copy_of_the_old_database_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(os, "link", refused(PermissionError(1, "no links here")))
    monkeypatch.setattr(shutil, "copy2", refused(OSError(28, "No space left on device")))
    with Store.open(old_folder(tmp_path / "run"), say=said.append) as store:
        assert store.counts()["sample"] == 4
    assert "no room to keep the old database" in said[0]
    assert not (tmp_path / "run" / KEPT).exists()


def test_a_disk_that_fills_up_leaves_the_old_one_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 2**31, 20_000)
    long = trace("long") | {"ids": array(*noise.tolist(), kind="<i4")}
    folder = old_folder(tmp_path / "run", ("sample", "long", "p", long, [""]))
    before = tables(folder / DATABASE)
    monkeypatch.setattr(migrate, "MAKE", f"{migrate.MAKE} PRAGMA max_page_count=1;")
    with pytest.raises(UserError, match="no disk space left"):
        Store.open(folder)
    assert tables(folder / DATABASE) == before
    assert not (folder / NEW).exists()
    monkeypatch.undo()
    with Store.open(folder) as store:
        assert store.counts()["sample"] == 5
