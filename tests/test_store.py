"""The run folder: what is stored survives, and nothing is stored twice."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from tests.store_folders import ROOT, problem_row, score_row, trace, trace_row

from heal.errors import UserError
from heal.records import Problem, Trace
from heal.store import (
    AttemptRow,
    CutRow,
    HintRow,
    ProblemRow,
    ScoreRow,
    SelectedRow,
    Store,
    Stored,
    TraceRow,
    decode,
)
from heal.store.columns import HOMES, KEYS, TABLES


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run") as opened:
        yield opened


# --- storing -------------------------------------------------------------------------------------


def test_storing_a_key_again_keeps_one_record(store: Store) -> None:
    store.put("sample", "k", "p", trace("k", "old"))
    store.put("sample", "k", "p", trace("k", "new"))
    assert store.counts() == {"sample": 1}
    found = store.get("sample", "k", "p", Trace)
    assert found is not None
    assert found.text == "new"


def test_one_problems_bodies_are_read_without_looking_at_the_others(store: Store) -> None:
    rows = [
        Stored(stage, f"{p}-{n}", f"p{p}", trace("k"))
        for p in range(300)
        for n in range(5)
        for stage in ("sample", "hinted")
    ]
    store.commit(rows)
    steps: list[None] = []
    store._database.set_progress_handler(lambda: steps.append(None), 1)
    found = store.bodies("p7")
    assert set(found) == {(stage, f"7-{n}") for stage in ("sample", "hinted") for n in range(5)}
    assert decode(Trace, found["sample", "7-0"]).key == "k"
    assert store.bodies("nobody") == {}
    assert len(steps) < 200


def test_reading_a_stage_goes_problem_by_problem_and_key_by_key(store: Store) -> None:
    names = [(f"p{n * 7 % 5}", f"{n * 7919 % 101}é") for n in range(60)]
    store.commit(Stored("sample", key, problem, trace(key)) for problem, key in names)
    store.commit([Stored("other", "x", "p0", trace("x"))])
    found = [(key, record.key) for key, record in store.read("sample", Trace)]
    assert found == [(key, key) for _, key in sorted(names)]
    assert store.counts() == {"other": 1, "sample": 60}


def test_what_is_not_there_is_none(store: Store) -> None:
    store.put("sample", "k", "p", trace("k"))
    assert store.get("sample", "k", "q", Trace) is None
    assert store.get("hinted", "k", "p", Trace) is None


def test_a_result_releases_its_claim_and_the_rest_is_counted_as_lost(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.claim("sample", ["a", "b", "c"])
        store.claim("sample", ["a"])
        store.commit([Stored("sample", "a", "p", trace("a"))], spent=3)
        store.commit([Stored("hint", "b", "p", trace("b"))], spent=4)
        assert store.totals()[:2] == (7, 0)
    with Store.open(tmp_path / "run") as store:
        assert store.release_claims() == 2
        assert store.release_claims() == 0
        assert store.totals()[:2] == (7, 2)
        store.claim("sample", ["d"])
        assert store.release_claims() == 1
        assert store.totals()[:2] == (7, 3)


KILLED = """
import os, signal, sys
from pathlib import Path
from heal.store import Store, Stored
from tests.store_folders import trace
store, steps = Store.open(Path(sys.argv[1])), int(sys.argv[2])
store.claim("sample", [f"first-{n}" for n in range(400)])
store.commit([Stored("sample", f"first-{n}", "p", trace("k")) for n in range(400)], spent=400)
store.claim("sample", [f"second-{n}" for n in range(400)])
store._database.set_progress_handler(lambda: os.kill(os.getpid(), signal.SIGKILL), steps)
store.commit([Stored("sample", f"second-{n}", "p", trace("k")) for n in range(400)], spent=400)
"""


@pytest.mark.parametrize("steps", [1, 100, 5000, 20_000])
def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path, steps: int) -> None:
    run = [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(steps)]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    with Store.open(tmp_path / "run") as store:
        assert store.counts() == {"sample": 400}
        assert store.totals()[:2] == (400, 0)
        assert store.release_claims() == 400


def test_what_was_stored_survives_kill_nine(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from heal.store import Store
from tests.store_folders import trace
store = Store.open(Path(sys.argv[1]))
n = 0
while True:
    store.claim("sample", [str(n)])
    store.put("sample", str(n), "p", trace(str(n)))
    n += 1
    print(n, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
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
        stored = {key for key, _ in store.read("sample", Trace)}
        assert stored >= {str(n) for n in range(counted)}
        assert store.release_claims() <= 1


def test_a_full_disk_is_a_message_and_what_is_done_stays(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
        store._database.execute("PRAGMA max_page_count=60")
        with pytest.raises(UserError, match="no disk space left"):
            for n in range(10_000):
                ids = tuple(noise.integers(0, 50_000, 1000).tolist())
                store.put("sample", f"b{n}", "p", trace(f"b{n}", ids=ids))
        assert store.get("sample", "a", "p", Trace) is not None
        with pytest.raises(UserError, match="no disk space left"):
            store.conclude(
                problem_row("p"), [trace_row("p", str(n)) for n in range(9000)], [],
            )  # fmt: skip
        assert list(store.rows(ProblemRow)) == []
    with Store.open(tmp_path / "run") as store:
        assert store.counts()["sample"] > 1


# --- columns -------------------------------------------------------------------------------------


def test_tables_have_the_columns_of_their_classes(store: Store) -> None:
    kinds = {str: "TEXT", int: "INTEGER", float: "REAL", bool: "INTEGER"}
    assert TABLES.keys() == KEYS.keys()
    for kind, table in TABLES.items():
        found = list(store.query(f"PRAGMA table_info({table})"))
        assert [name for _, name, *_ in found] == list(kind._fields)
        for _, name, sql, required, _, part_of_key in found:
            hint = get_type_hints(kind)[name]
            assert required == (NoneType not in get_args(hint)), name
            assert sql == kinds[get_args(hint)[0] if get_args(hint) else hint], name
            assert bool(part_of_key) == (name in KEYS[kind]), name


ROWS: list[Any] = [
    problem_row("p", "set"),
    ProblemRow("p", 4, "held_out", "core", 30, 29, 1, 0, "easy", None, 0, None),
    trace_row("p", "t", "repair", "zscore"),
    TraceRow("p", "matched", "star", "t", 3, "error", 0, 0, *(None,) * 5, False),
    CutRow("p", "cusum", "c", "t", 2, 9, -0.5, "no_surge", True, False),
    HintRow("p", "answer", "h", None, "answer", "guided", 2, 31, True, False, True),
    score_row("p", "s"),
    ScoreRow("p", "scores", "", "s", "t", 40, True, None, 0.25),
    SelectedRow("rft", "p", "t", "D1", "kept", None, 12, None, 0.01, "sample"),
    SelectedRow("heal", "p", "t", "D3", "pure", float("inf"), 12, 13, None, "repair"),
    AttemptRow("p", "base", 0, 3, "a", "wrong", None, "length", 7, "lost"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_comes_back_as_it_was(store: Store, row: Any) -> None:
    store.insert([row])
    (found,) = store.rows(type(row))
    assert found == row
    assert list(map(type, found)) == list(map(type, row))


def test_rows_come_in_the_order_of_their_key(store: Store) -> None:
    rows = [
        TraceRow(p, stage, tag, key, n, "stop", 1, 1, *(None,) * 5, False)
        for n, (key, p) in enumerate((k, p) for k in "cab" for p in "yxz")
        for stage, tag in (("sample", ""), ("repair", "zscore"))
    ]
    store.insert(rows)
    found = list(store.rows(TraceRow, "stage = ?", "sample"))
    assert found == sorted(row for row in rows if row.stage == "sample")
    assert list(store.rows(TraceRow)) == sorted(rows)
    assert list(store.query("SELECT COUNT(*), SUM(tokens) FROM traces")) == [(18, 18)]


def test_concluding_a_problem_replaces_its_rows_but_not_what_is_chosen_over_all(
    store: Store,
) -> None:
    cut = CutRow("p", "zscore", "c", "t", 2, 9, 0.5, None, False, False)
    hint = HintRow("p", "zscore", "h", "c", "guided", "guided", 0, 9, False, False, False)
    store.conclude(
        problem_row("p", "first"),
        [trace_row("p", "old"), cut, hint, score_row("p", "old")],
        [Stored("cut", "c", "p", trace("c"))],
    )
    store.conclude(problem_row("q", "first"), [trace_row("q", "other")], [])
    store.insert([trace_row("p", "bought", "matched", "star")])
    store.insert([score_row("p", "calm", "honest")])
    store.conclude(problem_row("p", "second"), [trace_row("p", "new"), score_row("p", "new")], [])
    assert [(row.problem, row.key) for row in store.rows(TraceRow)] == [
        ("p", "bought"),
        ("p", "new"),
        ("q", "other"),
    ]
    assert [row.key for row in store.rows(ScoreRow)] == ["new", "calm"]
    assert [list(store.rows(kind)) for kind in (CutRow, HintRow)] == [[], []]
    assert [(row.problem, row.settled) for row in store.rows(ProblemRow)] == [
        ("p", "second"),
        ("q", "first"),
    ]
    assert store.counts() == {"cut": 1}


def test_concluding_is_one_transaction(store: Store) -> None:
    store.conclude(problem_row("p", "first"), [trace_row("p", "old")], [])
    bad = trace_row("p", "new")._replace(tokens=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.conclude(problem_row("p", "second"), [bad], [Stored("cut", "c", "p", trace("c"))])
    assert [row.settled for row in store.rows(ProblemRow)] == ["first"]
    assert [row.key for row in store.rows(TraceRow)] == ["old"]
    assert store.counts() == {}


def test_rows_are_forgotten_by_what_they_say(store: Store) -> None:
    store.insert(
        SelectedRow(arm, "p", t, "D1", "kept", None, 1, None, None, "sample")
        for arm in ("rft", "heal")
        for t in "ab"
    )
    store.insert([])
    store.forget(SelectedRow, arm="rft", trace="a")
    assert [(r.arm, r.trace) for r in store.rows(SelectedRow)] == [
        ("heal", "a"),
        ("heal", "b"),
        ("rft", "b"),
    ]
    store.forget(SelectedRow, drop="kept")
    assert list(store.rows(SelectedRow)) == []
    store.insert([trace_row("p", "t")])
    store.forget(TraceRow)
    assert list(store.rows(TraceRow)) == []


def test_problems_that_left_the_set_leave_the_columns_and_keep_their_bodies(store: Store) -> None:
    for problem in "pqr":
        store.conclude(
            problem_row(problem),
            [trace_row(problem, "t"), trace_row(problem, "m", "matched", "star")],
            [Stored("sample", "t", problem, trace("t"))],
        )
        store.insert([SelectedRow("rft", problem, "t", "D1", "kept", *(None, 1, None, None, "x"))])
        store.insert([score_row(problem, "s", "honest")])
        store.insert([AttemptRow(problem, "base", 0, 0, "a", "wrong", None, "stop", 7, None)])
    store.keep_problems(["q", "unheard of"])
    for kind in (ProblemRow, TraceRow, SelectedRow, ScoreRow, AttemptRow):
        assert {row.problem for row in store.rows(kind)} == {"q"}, kind
    assert store.counts() == {"sample": 3}


def test_the_problems_of_a_run_keep_what_is_known_of_them(store: Store) -> None:
    first = [Problem("q", "b", "2", meta={"family": "core"}), Problem("p", "a", "1")]
    store.set_problems(first)
    assert [(r.problem, r.place, r.family, r.stratum) for r in store.rows(ProblemRow)] == [
        ("p", 1, None, "undetermined"),
        ("q", 0, "core", "undetermined"),
    ]
    store.conclude(problem_row("p", "set"), [trace_row("p", "t")], [])
    store.conclude(problem_row("q", "set"), [trace_row("q", "t")], [])
    store.set_problems([Problem("r", "c", "3"), Problem("p", "a", "1")])
    assert [(r.problem, r.place, r.settled) for r in store.rows(ProblemRow)] == [
        ("p", 1, "set"),
        ("r", 0, None),
    ]
    assert [r.problem for r in store.rows(TraceRow)] == ["p"]
    assert [key for key, _ in store.live("problem", Problem)] == ["p", "r"]


# --- what belongs to the run as it is now --------------------------------------------------------


def test_live_records_are_those_of_the_present_configuration(store: Store) -> None:
    store.commit(Stored("plan", k, "p", trace(k)) for k in "abc")
    store.set_live("plan", [("c", "p"), ("a", "p"), ("a", "p"), ("missing", "p")])
    assert [key for key, _ in store.live("plan", Trace)] == ["a", "c"]
    store.set_live("plan", [("b", "p")], tag="other")
    store.set_live("plan", [("b", "p")])
    assert [key for key, _ in store.live("plan", Trace)] == ["b"]
    assert [key for key, _ in store.live("plan", Trace, tag="other")] == ["b"]
    assert store.counts()["plan"] == 3


def test_what_is_added_is_live_beside_the_rest(store: Store) -> None:
    store.add_live("server", [("a", "", trace("a"))])
    store.add_live("server", [("b", "", trace("b")), ("a", "", trace("again"))])
    assert [(key, t.key) for key, t in store.live("server", Trace)] == [("a", "again"), ("b", "b")]


def test_what_is_recorded_is_stored_and_live(store: Store) -> None:
    store.record(
        "problem", [("q", "q", Problem("q", "b", "2")), ("p", "p", Problem("p", "a", "1"))]
    )
    store.record("problem", [("p", "p", Problem("p", "a", "1"))])
    assert [record.answer for _, record in store.live("problem", Problem)] == ["1"]
    assert store.counts() == {"problem": 2}


LIVE: dict[str, list[Any]] = {
    "sample": [trace_row(p, k) for p in "qp" for k in "ba"],
    "hinted": [trace_row(p, k, "hinted") for p in "qp" for k in "ba"],
    "repair": [trace_row(p, k, "repair", "zscore") for p in "qp" for k in "ba"],
    "matched": [trace_row(p, k, "matched", "star") for p in "qp" for k in "ba"],
    "scores": [score_row(p, k)._replace(stage="scores") for p in "qp" for k in "ba"],
    "pure": [score_row(p, k, "zscore") for p in "qp" for k in "ba"],
    "reliance": [score_row(p, k)._replace(stage="reliance") for p in "qp" for k in "ba"],
    "cut": [CutRow(p, "zscore", k, "t", 2, 9, 0.5, None, False, False) for p in "qp" for k in "ba"],
    "hint": [
        HintRow(p, "answer", k, None, "answer", "answer", 0, 0, False, False, False)
        for p in "qp"
        for k in "ba"
    ],
    "evaluate": [
        AttemptRow(p, "base", 0, n, k, "wrong", None, "stop", 7, None)
        for p in "qp"
        for n, k in enumerate("ab")
    ],
}


def test_every_stage_with_columns_is_tried() -> None:
    assert LIVE.keys() == HOMES.keys()


@pytest.mark.parametrize("stage", LIVE)
def test_a_stage_with_columns_is_live_by_them(store: Store, stage: str) -> None:
    for problem in "pq":
        store.commit(Stored(stage, k, problem, trace(problem + k)) for k in "abc")
        store.commit([Stored("elsewhere", "a", problem, trace("no"))])
    store.insert(LIVE[stage])
    tag = getattr(LIVE[stage][0], "tag", "")
    found = [(key, record.key) for key, record in store.live(stage, Trace, tag)]
    assert found == [("a", "pa"), ("b", "pb"), ("a", "qa"), ("b", "qb")]
    if stage != "evaluate":
        assert list(store.live(stage, Trace, "another")) == []


@pytest.mark.parametrize("stage", [*HOMES, "plan"])
def test_live_records_are_never_sorted_with_their_bodies(store: Store, stage: str) -> None:
    seen: list[str] = []
    store._database.set_trace_callback(seen.append)
    list(store.live(stage, Trace))
    store._database.set_trace_callback(None)
    (query,) = seen
    plan = [row[-1] for row in store.query(f"EXPLAIN QUERY PLAN {query}")]
    assert not any("TEMP B-TREE" in step for step in plan), plan
    assert any("SEARCH r" in step for step in plan), plan


def test_answers_are_counted_as_received_and_those_that_replace_one_as_thrown_away(
    tmp_path: Path,
) -> None:
    with Store.open(tmp_path / "run") as store:
        store.commit([Stored("sample", k, "p", trace(k)) for k in "ab"], answers=True)
        store.commit([Stored("sample", k, "p", trace(k)) for k in "bc"], answers=True)
        store.put("cut", "x", "p", trace("x"))  # worked out, not received
        totals = store.totals()
        assert (totals.received, totals.replaced) == (4, 1)
        assert totals.received - totals.replaced == store.counts()["sample"]
