"""Ways of helping over several real runs: every run's problems together.

In: figures of `benchmarks.real_yield` or `benchmarks.real_model` (one hint, the gate off). Out:
each way's valid traces per 1,000 teacher tokens in each run and over all runs that tried it, and
every pair's quotient over the runs that tried both. Intervals resample problems of all runs
together: they say nothing of teachers or families that no run had.

    python -m benchmarks.real_pooled FIGURES.json … [--json FILE]
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.real_model_readings import write_figures
from benchmarks.real_yield import Way, said, short, times, yielded

Run = Mapping[str, Way]


def ways_in(figures: Mapping[str, Any]) -> Run:
    """The ways that were tried under the bare answer, by name."""
    states = figures["states"].values() if "states" in figures else [figures]
    told = [
        way
        for state in states
        if state.get("hint", "answer") == "answer" and not state.get("gate", False)
        for way in state["ways"]
    ]
    found: dict[str, Way] = {}
    for way in told:  # a way is the same in every state that tells it
        found.setdefault(way["name"], Way(**way))
    return found


def pooled(runs: Sequence[Run], name: str) -> Way:
    """One way over all of these runs; its problems are named after their run."""
    own = [run[name] for run in runs]
    return replace(
        own[0],
        problems=[f"{n} {p}" for n, way in enumerate(own) for p in way.problems],
        tokens=[t for way in own for t in way.tokens],
        valid=[v for way in own for v in way.valid],
        counts={},
        hints={},
    )


def compared(runs: Sequence[Run]) -> dict[str, Any]:
    """Yields by way, run by run and pooled; quotients of every pair, over the runs of both."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    having = {name: [run for run in runs if name in run] for name in names}
    yields = {
        name: {
            "runs": [short(yielded(run[name])) if name in run else None for run in runs],
            "pooled": short(yielded(pooled(having[name], name))),
        }
        for name in names
    }
    quotients = {}
    for one, other in combinations(names, 2):
        if both := [run for run in runs if one in run and other in run]:
            found = times(pooled(both, one), pooled(both, other))
            quotients[f"{one} / {other}"] = {"runs": len(both), "times": found}
    return {"yields": yields, "quotients": quotients}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = compared([ways_in(json.loads(file.read_text("utf-8"))) for file in args.figures])
    head = " | ".join(file.stem for file in args.figures)
    print(f"| valid per 1,000 teacher tokens | {head} | pooled |")
    print("|---" * (len(args.figures) + 2) + "|")
    for name, own in found["yields"].items():
        print(f"| {name} | {' | '.join(map(said, [*own['runs'], own['pooled']]))} |")
    print("\n| yield of / over | runs | times |\n|---|---|---|")
    for pair, own in found["quotients"].items():
        print(f"| {pair} | {own['runs']} | {said(own['times'])} |")
    if args.json:
        write_figures(args.json, found)


if __name__ == "__main__":
    main()
