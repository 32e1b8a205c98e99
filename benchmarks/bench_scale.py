"""A run as large as its disk: memory, speed and size of whole runs on the scripted engine.

Each step is a process of its own (`heal run`, `heal run` again, `heal show`, `heal report`);
printed are its seconds and peak memory (resource usage of the waited-for child). 70 % of the
problems are easy, 15 % hard, 15 % extreme; texts are one token a byte. Run:
python benchmarks/bench_scale.py [--json FILE] [--problems 2000 20000] [--tokens 400] [--repeats N]
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

N = 30
REPLIES = 40
WORDS = ("add", "carry", "hold", "take", "count", "note", "write", "halve", "round", "check")


@dataclass(frozen=True)
class Step:
    """One command."""

    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Scale:
    """One run, and what was asked of it afterwards."""

    problems: int
    tokens: int
    traces: int
    run: Step
    again: Step
    show: Step
    report: Step
    stages: dict[str, float]
    """Seconds by part of the run."""
    folder_mb: float
    report_mb: float
    candidates: int
    """Traces that `select` decided on, over all arms."""

    @property
    def traces_s(self) -> float:
        """Traces sampled, stored, decoded and judged per second of the per-problem part."""
        return self.traces / self.stages["problems"]

    @property
    def select_s(self) -> float:
        """Seconds of `select` per 100,000 correct traces it read."""
        return self.stages["select"] / self.candidates * 100_000


def text(dice: random.Random, answer: int, tokens: int) -> str:
    """Steps of plain words that end on an answer, in exactly so many tokens."""
    end = f"So \\boxed{{{answer}}}."
    steps, left = list[str](), tokens - len(end) - 1  # and the end of the turn
    while left > 62:
        line = " ".join(f"{dice.choice(WORDS)} {dice.randrange(10_000)}" for _ in range(6))[:58]
        steps.append(line + "\n\n")
        left -= len(steps[-1])
    return "".join(steps) + "." * max(0, left - 2) + "\n\n" + end


def world(problems: int, tokens: int, folder: Path) -> None:
    """A problem file, a script and a recipe."""
    dice = random.Random(0)
    kinds = ["easy"] * 14 + ["hard"] * 3 + ["extreme"] * 3
    with (folder / "problems.jsonl").open("w") as file:
        for n in range(problems):
            row = {"problem": f"What is {kinds[n % 20]} number {n}?", "answer": "142"}
            file.write(json.dumps(row) + "\n")

    def replies(right: float) -> list[str]:
        wrong = [101, 102, 103, 104, 105]
        return [
            text(dice, 142 if i < right * REPLIES else dice.choice(wrong), tokens)
            for i in range(REPLIES)
        ]

    surge = {"entropies": [0.2, 0.3, 2.5, 0.4], "logprobs": [-0.3, -0.4, -0.9, -0.2]}
    rules: list[dict[str, Any]] = [
        {"match": "A student is solving", "replies": ["Carry the one before you go on."]},
        {"match": "Hint:", "replies": replies(0.6)},
        {"match": "easy", "replies": replies(0.8)},
        {"match": "hard", "replies": replies(0.25)},
        {"match": "extreme", "replies": replies(0)},
        {"match": "", **surge},
    ]
    (folder / "script.json").write_text(json.dumps(rules))
    recipe = {
        "run": "run",
        "problems": {"path": "problems.jsonl", "verifier": "exact", "held_out": 0},
        "teacher": {"engine": "scripted", "model": "script.json"},
        "sampling": {"n": N},
        # failed traces are scored, so that every stage has work
        "gear": {"breakpoint": "difference", "paths": 4, "candidates": 4},
        "arms": ["rft", "heal"],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def timed(folder: Path, *words: str) -> Step:
    """One `heal` command in a process of its own. Raises: SystemExit where it fails."""
    started = time.monotonic()
    out = os.open(folder / "out.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    command = [sys.executable, "-m", "heal", *words]
    child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
    os.close(out)
    # wait4, for what this one child took: RUSAGE_CHILDREN knows the most of all of them
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"heal {' '.join(words)} failed:\n{(folder / 'out.txt').read_text()}")
    return Step(time.monotonic() - started, usage.ru_maxrss / 1024)


def measure(problems: int, tokens: int, keep: Path | None = None) -> Scale:
    """One whole run."""
    folder = keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    try:
        world(problems, tokens, folder)
        run = timed(folder, "run", "-c", "recipe.yaml")
        again = timed(folder, "run", "-c", "recipe.yaml")
        show = timed(folder, "show", "run")
        report = timed(folder, "report", "run")
        return _read(folder / "run", problems, tokens, run, again, show, report)
    finally:
        if keep is None:
            shutil.rmtree(folder)


def _read(home: Path, problems: int, tokens: int, *steps: Step) -> Scale:
    from heal.store import Store

    with Store.open(home, write=False) as store:
        ((traces,),) = store.query("SELECT COUNT(*) FROM traces")
        correct = "SELECT COUNT(*) FROM traces WHERE verdict='correct'"
        ((candidates,),) = store.query(correct)
        stages = store.meta("timings")
    size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
    page = (home / "report.html").stat().st_size
    return Scale(
        problems, tokens, traces, *steps, stages, size / 1e6, page / 1e6, candidates
    )  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--problems", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="Keep the last run's folder here.")
    args = parser.parse_args(words)
    found = []
    print(
        "problems tokens    traces   run s  peak MB  traces/s  select s/100k  again s  show s"
        "  report s  report MB  page MB  folder MB"
    )
    for _ in range(args.repeats):
        for problems in args.problems:
            s = measure(problems, args.tokens, args.keep)
            found.append(s)
            print(
                f"{s.problems:8,} {s.tokens:6} {s.traces:9,} {s.run.seconds:7.1f}"
                f" {s.run.peak_mb:8.0f} {s.traces_s:9,.0f} {s.select_s:14.1f}"
                f" {s.again.seconds:8.1f} {s.show.seconds:7.1f} {s.report.seconds:9.1f}"
                f" {s.report.peak_mb:10.0f} {s.report_mb:8.2f} {s.folder_mb:10,.0f}",
                flush=True,
            )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(s) for s in found], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
