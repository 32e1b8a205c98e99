"""Rows and traces to store, and folders in which nothing can be written."""

import os
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heal.records import Check, Finish, Origin, Problem, Trace, Verdict
from heal.store import DATABASE, ProblemRow, ScoreRow, Store, Stored, TraceRow
from heal.store.doctor import doctor

PROBLEMS, EACH = 12, 8
"""Of a filled folder: problems, and traces of each."""
ROOT = Path(__file__).parent.parent
AS_ROOT = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting takes root"
)


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


def python(code: str, *arguments: str) -> str:
    run = [sys.executable, "-c", code, *arguments]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def on_read_only_mount(folder: Path, code: str) -> str:
    """What code finds while nothing in the folder can be written, root or not."""
    inner = (
        f'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && {sys.executable} -c "$2" "$1"'
    )
    run = ["unshare", "--mount", "sh", "-c", inner, "sh", str(folder), code]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode and "permitted" in ended.stderr:
        pytest.skip("no mounts here")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def long_trace(problem: str, number: int) -> Trace:
    noise = np.random.default_rng(zlib.crc32(f"{problem}-{number}".encode()))
    ids = noise.integers(0, 50_000, 20 + 90 * number).astype(np.int32)
    key = f"{problem}-{number}"
    text = f"trace {number} of {problem} " * 20
    return Trace(key, problem, Origin.UNAIDED, number, ids, text, Finish.STOP, 9)


def fill(store: Store, problem: str) -> None:
    traces = [long_trace(problem, number) for number in range(EACH)]
    rows = [Stored("sample", t.key, problem, t) for t in traces]
    rows += [Stored("check", f"c-{t.key}", problem, Check(t.key, Verdict.WRONG)) for t in traces]
    store.commit(rows, spent=sum(t.new_tokens for t in traces))
    store.conclude(problem_row(problem, "set"), [trace_row(problem, t.key) for t in traces], [])


def filled_folder(folder: Path) -> Path:
    """A run with a report, whose problems are all settled."""
    with Store.open(folder) as store:
        names = [f"p{n:02d}" for n in range(PROBLEMS)]
        store.set_problems([Problem(name, f"Q {name}", "7") for name in names])
        for name in names:
            fill(store, name)
        store.set_meta("config", {"seed": 0})
        store.set_meta("complete", "stamp")
        store.write_text("report.html", "a page")
        store.write_text("config.yaml", "seed: 0\n")
    return folder


def bodies(folder: Path) -> dict[tuple[str, str, str], bytes]:
    with Store.open(folder, write=False) as store:
        query = "SELECT problem, stage, key, body FROM records"
        return {(p, s, k): body for p, s, k, body in store.query(query)}


def treated(folder: Path) -> tuple[bool, str]:
    """What the doctor says; afterwards nothing may be wrong any more."""
    said: list[str] = []
    whole = doctor(folder, said.append)
    again: list[str] = []
    assert doctor(folder, again.append), again
    assert again[-1] in ("whole", "nothing was stored here yet")
    return whole, "\n".join(said)


def execute(folder: Path, sql: str, *parameters: Any) -> None:
    database = sqlite3.connect(folder / DATABASE, isolation_level=None)
    database.execute(sql, parameters)
    database.close()


def spoil(file: Path, start: int, content: bytes) -> None:
    with file.open("rb+") as opened:
        opened.seek(start)
        opened.write(content)
