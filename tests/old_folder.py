"""A run folder of schema 1, made by SQL: every kind of record, live and not."""

import base64
import json
import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heal.store import DATABASE

TABLES = """
CREATE TABLE records (
    stage TEXT NOT NULL, key TEXT NOT NULL, problem TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (stage, key)
) WITHOUT ROWID;
CREATE TABLE live (
    stage TEXT NOT NULL, tag TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (stage, tag, key)
) WITHOUT ROWID;
CREATE TABLE claims (
    stage TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (stage, key)
) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
CONFIG = {
    "gear": {"breakpoint": "zscore", "a setting of tomorrow": 1},
    "pure": {"commit_below": 0.5, "commit_steps": 1},
}
META = {
    "schema": 1, "config": CONFIG, "complete": "stamp", "stopped": None, "in_flight_lost": 3,
    "timings": {"sample": 1.5}, "bill": 77,
    "work": {"sample": [100, 4.0], "scores": [10, 0.1], "pure": [30, 0.3], "hint": [5, 1.0]},
}  # fmt: skip


def array(*values: float, kind: str = "<f4") -> str:
    return base64.b64encode(np.array(values, kind).tobytes()).decode()


def trace(key: str, origin: str = "unaided", tokens: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "problem_id": "p", "origin": origin, "seed_index": 0,
        "ids": array(*range(tokens), kind="<i4"), "text": f"text of {key}", "finish": "stop",
        "prompt_tokens": 9, "prefix_tokens": 0, "parent": None, "cut": None, "hint": None,
        "error": None, **more,
    }  # fmt: skip


def check(trace: str, verdict: str, answer: str | None = "7") -> dict[str, Any]:
    return {"trace": trace, "verdict": verdict, "answer": answer, "detail": None}


def hint(key: str, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "problem_id": "p", "kind": "guided", "text": "look twice", "cut": "cut",
        "asked": "guided", "leaks": 1, "new_tokens": 11, "cut_off": False, "error": None, **more,
    }  # fmt: skip


def pure(key: str, trace: str, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "problem_id": "p", "trace": trace, "log_ppl": array(0.1, 0.2),
        "uncertainty": array(math.nan, 0.9, 0.1), "step_tokens": [2, 2], "first_step": 1,
        "scorable": [True, False], "answer_surprisal": array(math.nan, 0.25),
        "hinted_log_ppl": None, "scored_tokens": 40, "probe_tokens": 6, "error": None, **more,
    }  # fmt: skip


def reliance(key: str, trace: str, tokens: int) -> dict[str, Any]:
    return {
        "key": key, "problem_id": "p", "trace": trace, "log_ppl": 0.3, "scored_tokens": tokens,
        "error": None,
    }  # fmt: skip


def problem(key: str, split: str, **more: Any) -> dict[str, Any]:
    return {
        "id": key, "problem": f"Q {key}", "answer": "7", "split": split, "solution": None,
        "meta": {}, "verifier_data": None, **more,
    }  # fmt: skip


def attempt(key: str, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "problem_id": "q", "arm": "heal", "seed": 1, "seed_index": 0,
        "verdict": "wrong", "answer": "8", "finish": "length", "tokens": 21, "text": "so 8",
        "error": None, **more,
    }  # fmt: skip


def selected(trace: str, pool: str, drop: str, score: float | None = None) -> dict[str, Any]:
    return {"trace": trace, "problem_id": "p", "pool": pool, "drop": drop, "score": score}


CUT = {
    "key": "cut", "problem_id": "p", "trace": "failed", "step": 2, "prefix_tokens": 2,
    "step_ends": [2, 4], "entropy_lo": array(0.1, 0.9), "entropy_hi": array(0.2, 0.9),
    "surge": array(math.nan, 0.7), "margin": 0.5, "fallback": None, "undecided": True,
}  # fmt: skip
SCORES = {
    "key": "scores", "problem_id": "p", "trace": "failed", "logprob": array(-0.1, -0.5, -0.2, -1.0),
    "entropy_lo": array(1, 2, 3, 4), "entropy_hi": array(1, 2, 3, 4), "scored_tokens": 4,
    "error": None,
}  # fmt: skip
TRAIN = {
    "key": "trained", "arm": "heal", "seed": 0, "stage": 1, "folder": "students/heal-seed0/stage1",
    "steps": 3, "tokens": 30, "presentations": 4, "distinct": 2, "refused_long": 0,
    "loss_first": 0.5, "loss_last": None, "learning_rate": 0.001, "seconds": 1.5,
}  # fmt: skip
SERVER = {
    "url": "http://a", "asked": 3, "answered": 2, "failures": {"500": 1}, "given_up": 0,
    "pauses": 1, "paused_s": 0.5,
}  # fmt: skip
AUDIT = {
    "key": "whole", "problem_id": "p", "side": "gold", "answer": "7", "outcome": "gated",
    "gate": "hint_talk",
}  # fmt: skip
CEILING = {
    "problem_id": "p", "n": 2, "correct": 1, "truncated": 0, "unverifiable": 0, "stratum": "hard",
    "rho": 0.5,
}  # fmt: skip
REPAIRED = {"prefix_tokens": 2, "parent": "failed", "cut": "cut"}

RECORDS: list[tuple[str, str, str, Any, Sequence[str]]] = [
    # stage, key, problem, body, tags it is live under
    ("problem", "p", "p", problem("p", "train", meta={"family": "core"}), [""]),
    ("problem", "q", "q", problem("q", "held_out"), [""]),
    ("problem", "gone", "gone", problem("gone", "train"), []),
    ("sample", "failed", "p", trace("failed"), [""]),
    ("sample", "right", "p", trace("right", tokens=6, seed_index=1), [""]),
    ("sample", "lost", "q", trace("lost", tokens=0, finish="error", error="down"), [""]),
    ("sample", "old", "gone", trace("old", tokens=100), []),
    ("hinted", "whole", "p", trace("whole", "hinted", 5, hint="told"), [""]),
    ("repair", "mended", "p", trace("mended", "repaired", 7, hint="guided", **REPAIRED), [""]),
    ("repair", "control", "p", trace("control", "repaired", 9, hint="guided", **REPAIRED), []),
    ("bought", "more", "p", trace("more", tokens=8), ["rft_more"]),
    ("bought", "right", "p", trace("right", tokens=6), ["star"]),
    ("check", "c1", "p", check("failed", "wrong"), [""]),
    ("check", "c2", "p", check("right", "correct"), [""]),
    ("check", "c3", "p", check("whole", "correct"), [""]),
    ("check", "c4", "p", check("mended", "correct"), [""]),
    ("check", "c5", "p", check("failed", "correct"), []),
    ("check", "c6", "p", check("more", "no_answer", None), [""]),
    ("ceiling", "p", "p", CEILING, [""]),
    ("scores", "scores", "p", SCORES, [""]),
    ("cut", "cut", "p", CUT, [""]),
    ("cut", "other cut", "p", {**CUT, "key": "other cut", "surge": array(math.nan, math.nan)}, []),
    ("hint", "guided", "p", hint("guided"), [""]),
    ("hint", "redrawn", "p", hint("redrawn", text=""), []),
    ("answer_hint", "told", "p",
     hint("told", kind="answer", asked="answer", cut=None, leaks=0, new_tokens=0), [""]),
    ("gate", "whole", "p", {"trace": "whole", "gate": "passed"}, [""]),
    ("gate", "mended", "p", {"trace": "mended", "gate": "hint_talk"}, [""]),
    ("pure", "p1", "p", pure("p1", "whole", hinted_log_ppl=0.3, scored_tokens=75), [""]),
    ("pure", "p2", "p", pure("p2", "mended", uncertainty=array(math.nan, 0.9, 0.8)), [""]),
    ("pure", "p3", "p", pure("p3", "right", uncertainty=array(*[math.nan] * 3)), ["honest"]),
    ("pure", "p4", "p", pure("p4", "control", answer_surprisal=None), []),
    ("reliance", "r1", "p", reliance("r1", "whole", 35), [""]),
    ("reliance", "r2", "p", reliance("r2", "whole", 999), []),
    ("reliance", "r3", "p", reliance("r3", "control", 4), [""]),
    ("selected", "rft/right", "p", selected("right", "D1", "kept"), ["rft"]),
    ("selected", "heal/mended", "p", selected("mended", "D3", "pure", 1.5), ["heal", ""]),
    ("selected", "heal-restart/control", "p", selected("control", "D3", "kept"), ["heal-restart"]),
    ("selected", "rft_more/more", "p", selected("more", "D1", "kept"), ["rft_more"]),
    ("selected", "star/vanished", "p", selected("vanished", "D2", "kept"), ["star"]),
    ("plan", "heal-seed0-1", "", {"index": 1, "batches": [["right"], []], "lr_scale": 0.5}, [""]),
    ("train", "trained", "", TRAIN, [""]),
    ("evaluate", "e1", "q", attempt("e1"), [""]),
    ("evaluate", "e2", "q", attempt("e2", seed_index=1, error="down"), []),
    ("server", "s1", "", SERVER, [""]),
    ("audit", "whole", "p", AUDIT, [""]),
    ("audit_trace", "whole", "p", trace("whole", "hinted", 5), [""]),
]  # fmt: skip


def old_folder(folder: Path, *more: tuple[str, str, str, Any, Sequence[str]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.lock").touch()
    (folder / "config.yaml").write_text("seed: 0\n")
    database = sqlite3.connect(folder / DATABASE)
    database.execute("PRAGMA journal_mode=WAL")
    database.executescript(TABLES)
    for stage, key, of, body, tags in (*RECORDS, *more):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        database.execute("INSERT INTO records VALUES (?, ?, ?, ?)", (stage, key, of, raw))
        database.executemany("INSERT INTO live VALUES (?, ?, ?)", [(stage, t, key) for t in tags])
    database.execute("INSERT INTO claims VALUES ('bought', 'in flight')")
    database.executemany(
        "INSERT INTO meta VALUES (?, ?)", [(name, json.dumps(v)) for name, v in META.items()]
    )
    database.commit()
    database.close()
    return folder
