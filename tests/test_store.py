"""The run folder: what is stored survives, and nothing is stored twice."""

import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, make_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal import records
from heal.errors import UserError
from heal.records import Check, Cut, Finish, Origin, Problem, Trace, Verdict
from heal.store import (
    DATABASE,
    AttemptRow,
    CutRow,
    DamagedError,
    HintRow,
    ProblemRow,
    ScoreRow,
    SelectedRow,
    Store,
    Stored,
    TraceRow,
    bodies,
    decode,
    disk_errors,
    encode,
)
from heal.store.columns import HOMES, KEYS, TABLES

RECORDS = [kind for kind in vars(records).values() if isinstance(kind, type) and is_dataclass(kind)]
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS = {str: st.text(), int: INT64, float: st.floats(), bool: st.booleans()}


def trace(key: str, text: str = "one\n\ntwo", ids: tuple[int, ...] = (1, 2, 3)) -> Trace:
    array = np.array(ids, np.int32)
    return Trace(key, "p", Origin.UNAIDED, 0, array, text, Finish.STOP, prompt_tokens=4)


def problem_row(problem: str, settled: str | None = None) -> ProblemRow:
    return ProblemRow(problem, 0, "train", None, 3, 0, 0, 0, "extreme", 0.0, 1, settled)


def trace_row(problem: str, key: str, stage: str = "sample", tag: str = "") -> TraceRow:
    return TraceRow(
        *(problem, stage, tag, key, 0, "stop", 3, 3, "wrong", "7", None, None, None, True)
    )


def score_row(problem: str, key: str, tag: str = "") -> ScoreRow:
    return ScoreRow(problem, "pure", tag, key, "t", 9, False, 2, None)


def filled(hint: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of a record may hold."""
    inner = get_args(hint)
    if get_origin(hint) is np.ndarray:
        scalar = get_args(inner[1])[0]
        numbers = INT32 if scalar is np.int32 else st.floats(width=32)
        return st.lists(numbers, max_size=200).map(lambda values: np.array(values, scalar))
    if NoneType in inner:
        return st.none() | filled(inner[0])
    if get_origin(hint) is tuple:
        return st.lists(filled(inner[0]), max_size=5).map(tuple)
    if get_origin(hint) is list:
        return st.lists(filled(inner[0]), max_size=50)
    if get_origin(hint) is dict:
        return st.dictionaries(filled(inner[0]), filled(inner[1]), max_size=5)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    return SCALARS[hint]


def same(before: Any, after: Any) -> bool:
    if isinstance(before, np.ndarray):
        kept = before.dtype == after.dtype and before.tobytes() == after.tobytes()
        return kept and before.shape == after.shape
    return type(before) is type(after) and repr(before) == repr(after)


# --- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_record_of_any_kind_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    hints = get_type_hints(kind)
    before = kind(**{f.name: data.draw(filled(hints[f.name])) for f in fields(kind)})
    after = decode(kind, encode(before))
    for field in fields(kind):
        assert same(getattr(before, field.name), getattr(after, field.name)), field.name


def test_long_arrays_and_texts_come_back_as_they_were() -> None:
    ids = np.random.default_rng(0).integers(0, 150_000, 40_000).astype(np.int32)
    before = trace("k", "the walk goes left and then right, " * 9000, tuple(ids.tolist()))
    after = decode(Trace, encode(before))
    np.testing.assert_array_equal(after.ids, ids)
    assert after.text == before.text
    assert len(encode(before)) < 40_000 * 2.5


def test_a_decoded_array_can_be_written_to() -> None:
    for count in (0, 3, 4000):
        ids = decode(Trace, encode(trace("k", ids=tuple(range(count))))).ids
        assert ids.flags.writeable
        assert ids.flags.c_contiguous


@given(data=st.data())
def test_a_body_with_any_byte_changed_is_damaged(data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([3, 400]))
    body = bytearray(encode(trace("k", "a word " * count, tuple(range(count)))))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedError):
        decode(Trace, bytes(body))


@pytest.mark.parametrize("length", [0, 1, 4, 5, 8, 9, 20, -1])
def test_a_body_cut_short_is_damaged(length: int) -> None:
    with pytest.raises(DamagedError):
        decode(Trace, encode(trace("k", "word " * 100))[:length])


def test_the_body_of_another_kind_is_damaged() -> None:
    with pytest.raises(DamagedError, match="no Cut"):
        decode(Cut, encode(trace("k")))
    with pytest.raises(DamagedError, match="no Check"):
        decode(Check, encode(trace("k")))


def test_a_body_that_would_unpack_to_gigabytes_is_refused() -> None:
    bomb = bodies._zstd.shrink(b"\0" * 1000)
    claim = bytes([bomb[0], bomb[1], bomb[2], bomb[3], 0xE0]) + (2**40).to_bytes(8, "little")
    checked = len(claim).to_bytes(4, "big") + claim
    mark = bytes([1])
    with pytest.raises(DamagedError):
        decode(Check, mark + bodies._checksum(mark, checked) + checked)


def test_a_record_that_grew_at_its_end_reads_old_bodies_and_new_ones_are_read_by_the_old() -> None:
    old = make_dataclass("Old", [("key", str), ("scores", records.FloatArray)], frozen=True)
    new = make_dataclass(
        "New",
        [
            ("key", str),
            ("scores", records.FloatArray),
            ("note", str, "none"),
            ("more", records.FloatArray | None, None),
        ],
        frozen=True,
    )
    values = np.array([1.5, np.nan], np.float32)
    grown = decode(new, encode(old("k", values)))
    assert (grown.key, grown.note, grown.more) == ("k", "none", None)
    np.testing.assert_array_equal(grown.scores, values)
    assert decode(old, encode(new("k", values, "said"))).key == "k"


# --- storing -------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run") as opened:
        yield opened


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
        assert store.totals() == (7, 0)
    with Store.open(tmp_path / "run") as store:
        assert store.release_claims() == 2
        assert store.release_claims() == 0
        assert store.totals() == (7, 2)
        store.claim("sample", ["d"])
        assert store.release_claims() == 1
        assert store.totals() == (7, 3)


KILLED = """
import os, signal, sys
from pathlib import Path
from heal.store import Store, Stored
from tests.test_store import trace
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
    ended = subprocess.run(run, cwd=Path(__file__).parent.parent, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    with Store.open(tmp_path / "run") as store:
        assert store.counts() == {"sample": 400}
        assert store.totals() == (400, 0)
        assert store.release_claims() == 400


def test_what_was_stored_survives_kill_nine(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from heal.store import Store
from tests.test_store import trace
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
        cwd=Path(__file__).parent.parent,
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

AS_ROOT = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting takes root"
)
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
from tests.test_store import trace
store = Store.open(Path(sys.argv[1]))
store.put("sample", "b", "p", trace("b"))
os._exit(0)
"""


def python(code: str, *arguments: str) -> str:
    run = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        run, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    ).stdout


def on_read_only_mount(folder: Path, code: str = READ) -> str:
    """What code finds while nothing in the folder can be written, root or not."""
    inner = (
        f'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && {sys.executable} -c "$2" "$1"'
    )
    run = ["unshare", "--mount", "sh", "-c", inner, "sh", str(folder), code]
    ended = subprocess.run(run, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    if ended.returncode and "permitted" in ended.stderr:
        pytest.skip("no mounts here")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@AS_ROOT
def test_a_finished_run_is_read_on_a_read_only_mount(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
    said = on_read_only_mount(tmp_path / "run").splitlines()
    assert said[0] == "['a']"
    assert "cannot be written to" in said[1]


@AS_ROOT
def test_a_run_that_was_cut_off_is_read_on_a_read_only_mount(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.put("sample", "a", "p", trace("a"))
    python(LEFT, str(tmp_path / "run"))
    assert (tmp_path / "run" / f"{DATABASE}-wal").stat().st_size
    assert on_read_only_mount(tmp_path / "run").startswith("['a', 'b']")
    (tmp_path / "run" / f"{DATABASE}-shm").unlink()
    said = on_read_only_mount(tmp_path / "run")
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
    assert on_read_only_mount(tmp_path / "run").startswith("['a']")


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


def test_a_verdict_is_an_enum_again() -> None:
    assert decode(Check, encode(Check("t", Verdict.WRONG))).verdict is Verdict.WRONG
