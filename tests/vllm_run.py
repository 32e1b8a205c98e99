"""A whole run with vLLM at both ends, by one command, and that command ended again and again.

`python -m tests.vllm_run [--kills N]`: HEAL starts vLLM for the teacher, trains the student, starts
vLLM for each student that is examined, and ends them. First undisturbed; then the command is ended
after random times, by SIGKILL, SIGINT and SIGTERM in turn. A run that was ended goes on with the
next command; after three times, or when it finishes, another begins. Whatever the way, no process
may be left: all of them are told by a mark in their environment. Prints figures as JSON; exits 1 if
anything was left or missing.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from benchmarks.vllm_server import PYTHON, served_folder

from heal.records import Split
from heal.store import AttemptRow, ProblemRow, Store

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
MARK = "HEAL_TESTED_RUN"
GRACE_S = 30.0
"""Longer than a supervisor waits before it kills (`heal.children.supervisor`)."""
POLL_S = 0.1
MOST_OF_ONE = 3
"""Kills of one run: later ones would all fall into its end."""
SUMS = [(a, b) for a in range(2, 8) for b in range(2, 4)]


@dataclass
class Run:
    """One run folder, and the command over it."""

    home: Path
    model: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True)
        rows = [{"problem": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in SUMS]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.home / "problems.jsonl").write_text(text)
        (self.home / "recipe.yaml").write_text(yaml.safe_dump(self.recipe()))

    def recipe(self) -> dict[str, Any]:
        """SmolLM2 teaches SmolLM2: a few tokens of everything."""
        served = {
            "command": f"{PYTHON} -m vllm.entrypoints.openai.api_server --model {{model}} "
            "--served-model-name m --host {host} --port {port} --dtype float32 --enforce-eager "
            "--max-model-len 512 --max-num-seqs 16 --max-num-batched-tokens 4096",
            "env": {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "OMP_NUM_THREADS": "1",
            },
        }
        return {
            "run": "run",
            "problems": {"path": "problems.jsonl", "held_out": 0.3, "decontaminate": None},
            "teacher": {"model": str(self.model), "served": "m", "serve": served},
            "student": {"model": str(self.model), "serve": served},
            "arms": ["base", "heal"],
            "prompts": {"solve": "{problem} Put the answer within \\boxed{}."},
            "sampling": {"n": 4, "max_new_tokens": 48},
            "gear": {
                "breakpoint": "difference",
                "paths": 1,
                "candidates": 1,
                "hinted_samples": 1,
                "hint_max_tokens": 24,
            },
            "pace": {"epochs": 1},
            "train": {"batch_size": 4, "max_length": 256, "threads": 1},
            "evaluate": {"samples": 1, "teacher_n": 2, "scored_token_cost": 0.5},
            "engine": {"http": {"in_flight": 16}},
        }

    @property
    def folder(self) -> Path:
        return self.home / "run"

    def start(self) -> "subprocess.Popen[bytes]":
        with (self.home / "said").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "heal", "run", "recipe.yaml", "--allow-code"],
                cwd=self.home,
                stdout=said,
                stderr=said,
                env={**os.environ, MARK: self.mark},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def processes(self) -> dict[int, str]:
        """Those that are alive and carry the mark, whoever their parent is, with their commands."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{MARK}={self.mark}".encode() in (place / "environ").read_bytes()
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended meanwhile; a zombie has no environment
            if marked:
                found[int(place.name)] = command
        return found

    def left_after(self) -> tuple[float, dict[int, str]]:
        """Seconds until no process was left, or those that were at the end of the grace."""
        began = time.monotonic()
        while (left := self.processes()) and time.monotonic() - began < GRACE_S:
            time.sleep(POLL_S)
        return time.monotonic() - began, left

    def stage(self) -> str:
        """Where the run is by its own record."""
        if not (self.folder / "run.sqlite").exists():
            return "opening"
        with Store.open(self.folder, write=False) as store:
            return str((store.meta("progress") or {}).get("stage") or "opening")

    def attempts(self) -> dict[str, int]:
        """By arm; each held-out problem has one."""
        with Store.open(self.folder, write=False) as store:
            held = [r for r in store.rows(ProblemRow) if r.split == Split.HELD_OUT]
            found = Counter(row.arm for row in store.rows(AttemptRow))
        assert held
        assert set(found.values()) == {len(held)}
        return dict(found)


def whole(home: Path, model: Path) -> dict[str, Any]:
    """One undisturbed run. Raises: RuntimeError unless all was examined and nothing is left."""
    run, began = Run(home, model), time.monotonic()
    code = run.start().wait()
    seconds = time.monotonic() - began
    _, left = run.left_after()
    if code or left:
        raise RuntimeError(f"exit code {code}, left: {left}\n{(home / 'said').read_text()[-2000:]}")
    logs = sorted(log.name for log in (run.folder / "servers").iterdir())
    return {"seconds": round(seconds), "attempts": run.attempts(), "logs": logs}


def killed(kills: int, seconds: float, home: Path, model: Path, seed: int) -> dict[str, Any]:
    """So many processes ended after random times, and what they left behind."""
    dice, told, finished = random.Random(seed), list[dict[str, Any]](), 0
    while len(told) < kills:
        run = Run(home / uuid.uuid4().hex, model)
        for _ in range(min(MOST_OF_ONE, kills - len(told))):
            number = SIGNALS[len(told) % len(SIGNALS)]
            kill = killed_after(run, dice.uniform(0.02, 0.8) * seconds, number)
            if kill is None:
                finished += 1
                break
            told.append(kill)
            print(json.dumps(kill), file=sys.stderr, flush=True)
        shutil.rmtree(run.home)
    return {"kills": told, "finished_in_between": finished}


def killed_after(run: Run, seconds: float, number: signal.Signals) -> dict[str, Any] | None:
    """One command ended after so long; None where it came to its end first, all examined."""
    process = run.start()
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        started = len(run.processes())
        process.send_signal(number)
        process.wait(2 * GRACE_S)
        waited, left = run.left_after()
        return {
            "signal": number.name,
            "stage": run.stage(),
            "processes": started,
            "gone_after_s": round(waited, 1),
            "left": list(left.values()),
        }
    if code:
        raise RuntimeError(f"exit code {code}\n{(run.home / 'said').read_text()[-2000:]}")
    run.attempts()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="of a whole run, which is then not made")
    options = parser.parse_args()
    model, found = served_folder("smollm2").resolve(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as home:
        if options.seconds is None:
            found["whole"] = whole(Path(home) / "whole", model)
        seconds = options.seconds or found["whole"]["seconds"]
        found |= killed(options.kills, seconds, Path(home), model, options.seed)
    print(json.dumps(found, indent=1))
    sys.exit(any(kill["left"] for kill in found["kills"]))


if __name__ == "__main__":
    main()
