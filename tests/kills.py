"""Random SIGKILLs over whole runs, students included: `python -m tests.kills [--kills N]`.

A run of every kind of problem, three arms, two training stages with steps and an exam is started by
the real command and killed after a random time, again and again, until it finishes; then it is held
against one that nobody disturbed: columns, bodies, training files, every weight, totals. More runs
follow until so many processes were killed. Prints what differed, as JSON; exits 1 if anything did.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.scripted_run import ScriptedRun, easy, extreme, hard, world
from tests.tiny_student import make_student

from heal.records import TrainResult
from heal.store import Store

NAMES = ("apples", "pears", "plums", "figs", "dates", "limes", "melons", "kiwis")
MOST_OF_ONE = 9
"""Kills of one run; then it may finish, and another starts from nothing."""
SETTINGS: dict[str, Any] = {
    "arms": ["base", "rft", "heal"],
    "problems": {"held_out": 0.4},
    "student": {"model": "student"},
    "sampling": {"n": 20},
    "train": {"learning_rate": 1e-3, "batch_size": 4, "threads": 1, "max_length": 900},
    "pace": {"epochs": 4, "rehearsal": 0.2},
    "evaluate": {"samples": 2, "max_new_tokens": 24, "scored_token_cost": 1.0},
    "engine": {"local": {"threads": 1, "products": "mkl"}},
}


def new_run(home: Path) -> ScriptedRun:
    kinds = (easy, hard, extreme)
    parts = [kinds[n % 3](name) for n, name in enumerate(NAMES)]
    run = ScriptedRun(home, world(*parts), SETTINGS)
    config = make_student(home / "student") / "config.json"
    # room for a whole repaired trace in bytes
    config.write_text(config.read_text().replace('_embeddings": 256', '_embeddings": 1024'))
    return run


def start(run: ScriptedRun) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "heal", "run", "-c", "recipe.yaml"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=run.home, stdout=quiet, stderr=quiet)


def finish(run: ScriptedRun) -> float:
    """Seconds the command took. Raises: RuntimeError where it did not succeed."""
    began, process = time.monotonic(), start(run)
    if process.wait():
        raise RuntimeError(f"exit code {process.returncode}")
    return time.monotonic() - began


def killed_after(run: ScriptedRun, seconds: float) -> str | None:
    """The stage a run was killed in after so long; None for one that came to its end first."""
    process = start(run)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return stage_of(run)
    if code:
        raise RuntimeError(f"exit code {code}")
    return None


def stage_of(run: ScriptedRun) -> str:
    if not (run.folder / "run.sqlite").exists():
        return "opening"
    with Store.open(run.folder, write=False) as store:
        return str((store.meta("progress") or {}).get("stage") or "opening")


def weights(run: ScriptedRun) -> dict[str, str]:
    files = sorted((run.folder / "students").rglob("*.safetensors"))
    return {
        str(f.relative_to(run.folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def columns(run: ScriptedRun) -> dict[str, set[Any]]:
    """All that is live, but for how long training took."""
    live = run.live()
    return live | {"live": {row for row in live["live"] if row[0] != "train"}}


def losses(run: ScriptedRun) -> list[TrainResult]:
    return sorted(
        (replace(found, seconds=0.0) for found in run.read("train", TrainResult)),
        key=lambda found: found.key,
    )


def differing(run: ScriptedRun, whole: ScriptedRun) -> list[str]:
    """What a killed run has otherwise than one that was not."""
    found = []
    for name, one, two in (
        ("columns", columns(run), columns(whole)),
        ("losses", losses(run), losses(whole)),
        ("bodies", run.stored(), whole.stored()),
        ("training files", run.data(), whole.data()),
        ("weights", weights(run), weights(whole)),
    ):
        found += [name] if one != two else []
    with Store.open(run.folder, write=False) as one, Store.open(whole.folder, write=False) as two:
        left, right = one.totals(), two.totals()
    found += ["totals"] if left._replace(lost=0) != right._replace(lost=0) else []
    found += ["kept twice"] if left.replaced else []
    found += ["still claimed"] if run.claims() else []
    return found


def prove(kills: int, seed: int, home: Path) -> dict[str, Any]:
    """Kill so many processes; what differed."""
    dice, stages = random.Random(seed), Counter[str]()
    whole = new_run(home / "whole")
    seconds = finish(whole)
    assert weights(whole), "students were trained"
    runs, wrong = 0, Counter[str]()
    while stages.total() < kills:
        run, runs = new_run(home / str(runs)), runs + 1
        for _ in range(dice.randrange(1, MOST_OF_ONE)):
            # later than the undisturbed one took, too: this machine may do other things by now
            stage = killed_after(run, dice.uniform(0.1, 1.3) * seconds)
            if stage is None or stages.total() == kills:
                break
            stages[stage] += 1
        finish(run)
        wrong.update(differing(run, whole))
    return {
        "kills": stages.total(),
        "runs": runs,
        "seconds of a run": round(seconds, 1),
        "killed in": dict(stages.most_common()),
        "students' weight files compared": len(weights(whole)),
        "differing": dict(wrong),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = prove(options.kills, options.seed, Path(home))
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["differing"]))


if __name__ == "__main__":
    main()
