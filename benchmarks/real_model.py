"""The real-model benchmark: every arm, cut and hint kind with a teacher and a student of your own.

In: a teacher (a folder or a `.gguf` file), perhaps a student, and a folder. Out: in the folder a
problem file, a recipe, one run that holds all traces, `figures/STATE.json` for every state of the
settings the run is brought into, and their tables. A state repeats nothing that another has drawn.
Stopped at any moment, the same command continues; a folder that holds a recipe keeps it.

    python -m benchmarks.real_model --teacher MODEL [--student MODEL] --out FOLDER [--quick]
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import typer
import yaml
from benchmarks.real_model_problems import EASIER, HARDER, Sizes, problems
from benchmarks.real_model_readings import write_figures
from benchmarks.real_yield import Way, print_table, said, short, table, times, yielded

from heal.cli.console import watched
from heal.config import ArmName, Config
from heal.errors import HealError
from heal.execute import execute
from heal.keys import content_key
from heal.lab.checked import audit_gear, separate_pure
from heal.method.intervals import Interval
from heal.method.summary import EvalSummary
from heal.recipe import load
from heal.records import Breakpoint, HintKind, Selection
from heal.report.load import load_view
from heal.session import Observer
from heal.store import Store

DATA_ARMS = (
    *("base", "rft", "rft_more", "star", "heal", "heal-random-cut", "heal-restart"),
    *("heal-no-pure", "heal-random-drop", "heal-shuffled"),
)
"""`heal-shuffled` has HEAL's data in another order: it differs where students are trained."""
QUICK_ARMS = ("base", "rft", "rft_more", "heal", "heal-random-cut", "heal-restart", "heal-no-pure")
CUTS = (
    Breakpoint.DIFFERENCE,
    Breakpoint.CLAIMS,
    Breakpoint.CHECKER,
    Breakpoint.FIXED_THIRD,
)
"""Beside the arms' own random cut and restart."""
HINTS = (
    *(HintKind.ANSWER, HintKind.CHECKER, HintKind.DIAGNOSIS, HintKind.PLAN, HintKind.GUIDED),
    HintKind.SIBLING,
)
"""`partial` needs reference solutions, which these families lack."""
READINGS = (
    *(Selection.SURPRISAL, Selection.WORST_RESULT, Selection.RELIANCE, Selection.JOINT),
    *(Selection.MEAN_NLL, Selection.MAX_PPL, Selection.LENGTH),
)
FULL = {
    "sampling": {"n": 10, "max_new_tokens": 320, "temperature": 0.7},
    "gear": {
        "breakpoint": "difference",  # beside the random cut, which is an arm
        "paths": 3,
        "candidates": 2,
        "target": None,
        "hinted_samples": 6,
    },
}
QUICK = {
    "sampling": {"n": 4, "max_new_tokens": 200, "temperature": 0.7},
    "gear": {
        "breakpoint": "difference",
        "paths": 2,
        "candidates": 1,
        "target": None,
        "hinted_samples": 2,
    },
}


@dataclass(frozen=True)
class State:
    """Settings the one run is brought into, and how far."""

    name: str
    overrides: tuple[str, ...]
    until: str | None


def states(arms: Sequence[str], cuts: Sequence[str], hints: Sequence[str]) -> Iterator[State]:
    """What is drawn, the most telling first: the arms, the gate, other cuts, other hints."""
    everything = f"arms=[{', '.join(arms)}]"
    first = (f"gear.breakpoint={cuts[0]}", f"gear.hint={hints[0]}", everything)
    yield State("arms", (*first, "steps.gate=false"), "select")
    yield State("arms-gated", (*first, "steps.gate=true"), "select")
    alone = ("arms=[base, heal]", "steps.gate=false")
    for cut in cuts[1:]:
        own = (f"gear.breakpoint={cut}", f"gear.hint={hints[0]}", *alone)
        yield State(f"{cut}-{hints[0]}", own, "score")
    for hint in hints[1:]:
        own = (f"gear.breakpoint={cuts[0]}", f"gear.hint={hint}", *alone)
        yield State(f"{cuts[0]}-{hint}", own, "score")


def with_student(arms: Sequence[str], model: str, seeds: int) -> State:
    """The last state: students of every arm, trained for equal tokens and examined."""
    return State(
        "students",
        (
            f"arms=[{', '.join(arms)}]",
            f"student={{model: {json.dumps(model)}}}",
            f"seeds={list(range(seeds))}",
        ),
        None,
    )


# ── the folder ──────────────────────────────────────────────────────────────────────────────────


def prepare(folder: Path, teacher: str, quick: bool, seed: int = 11, scale: int = 2) -> Path:
    """The folder's recipe; written with its problems where there is none."""
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        return recipe
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(chosen_problems(quick, seed, scale))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "problems.jsonl").write_text(text, "utf-8")
    tree = {
        "run": str(folder.resolve() / "run"),
        "problems": {
            "path": str(folder.resolve() / "problems.jsonl"),
            "verifier": "math",
            "held_out": 0.2,
        },
        "teacher": {"model": teacher},
        "student": None,
        "steps": {"checker": "arithmetic", "gate": False},
        "pure": {"measure_reliance": True},
        **(QUICK if quick else FULL),
    }
    recipe.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    return recipe


def chosen_problems(quick: bool, seed: int = 11, scale: int = 2) -> Iterator[dict[str, str]]:
    """Six families at two sizes, no problem twice; quick: the first few of each."""
    seen = set[str]()
    for sizes, dice in ((EASIER, seed), (HARDER, seed + 1)):
        for row in problems(dice, _scaled(sizes, quick, scale)):
            if row["problem"] not in seen:
                seen.add(row["problem"])
                yield row


def _scaled(sizes: Sizes, quick: bool, scale: int) -> Sizes:
    return {
        family: (2 if quick else scale * count, levels) for family, (count, levels) in sizes.items()
    }


def measure(recipe: Path, state: State, observer: Observer) -> dict[str, Any]:
    """A state's figures; drawn and read where they are not there for these settings yet."""
    config = load(recipe, state.overrides)
    file = recipe.parent / "figures" / f"{state.name}.json"
    stamp = content_key(config.model_dump(mode="json", exclude={"engine", "limits"}), state.until)
    if file.exists() and (found := json.loads(file.read_text("utf-8")))["stamp"] == stamp:
        return dict(found)
    execute(config, observer, until=state.until)
    found = {"stamp": stamp, **_settings(config), **_read(config)}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1), "utf-8")
    return found


def _settings(config: Config) -> dict[str, Any]:
    gear = config.gear
    return {
        "cut": str(gear.breakpoint),
        "hint": str(gear.hint),
        "gate": config.steps.gate,
        "checker": config.steps.checker,
        "selection": str(config.pure.selection),
    }


def _read(config: Config) -> dict[str, Any]:
    with Store.open(Path(config.run), write=False) as store:
        found = table(store)
        found["facts"] = store.meta("facts")
        readings = separate_pure(store, config, READINGS)
        found["pure"] = {name: asdict(own) for name, own in readings.items()}
        found["students"] = students(load_view(store, gallery=0).evaluation)
    found["gear"] = asdict(audit_gear(config))
    return found


def students(summary: EvalSummary | None) -> dict[str, Any] | None:
    """Held-out avg@k of every arm by stratum, and the differences; None where none is trained."""
    if summary is None or not summary.arms:
        return None
    return {
        "k": summary.k,
        "seeds": summary.seeds,
        "arms": [(a.arm, a.stratum, short(a.avg)) for a in summary.arms],
        "differences": [
            (f"{d.arm} − {d.against}", d.stratum, short(d.interval)) for d in summary.differences
        ],
    }


# ── across states ───────────────────────────────────────────────────────────────────────────────


def ways_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Way]:
    """Every way of helping that any state tried, by cut and hint."""
    ways: dict[str, Way] = {}
    for state in found.values():
        for told in state["ways"] if not state["gate"] else ():
            way = Way(**told)
            hint = "" if way.name == "whole traces" else f" · {state['hint']}"
            ways.setdefault(way.name + hint, way)
    return ways


def compared(ways: Mapping[str, Way]) -> dict[str, dict[str, float] | None]:
    """Every cut's yield over that of each way which needs no look at the trace."""
    plain = [n for n in ways if n.split(" ")[0] in ("random", "restart", "whole", "fixed_third")]
    return {
        f"{name} / {rival}": times(way, ways[rival])
        for name, way in ways.items()
        if name not in plain
        for rival in plain
        if way.problems == ways[rival].problems
    }


def report(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Prints every state's tables and what they say together; the same as data."""
    for name, state in found.items():
        print(f"\n## {name}: cut {state['cut']}, hint {state['hint']}, gate {state['gate']}")
        print_table(state)
    ways = ways_of(found)
    print("\n| cut · hint | tried | right | valid per 1,000 teacher tokens |\n|---|---|---|---|")
    for name, way in sorted(ways.items(), key=lambda item: -_mean(yielded(item[1]))):
        tried, right = (way.counts.get(kind, 0) for kind in ("tried", "right"))
        print(f"| {name} | {tried} | {right} | {said(short(yielded(way)))} |")
    for state in found.values():
        print_students(state.get("students"))
    ratios = compared(ways)
    print("\n| yield of / over | times |\n|---|---|")
    for pair, ratio in ratios.items():
        print(f"| {pair} | {said(ratio)} |")
    return {"states": dict(found), "times": ratios}


def print_students(told: Mapping[str, Any] | None) -> None:
    """avg@k of every arm by stratum, and the differences, in points."""
    if told is None:
        return
    print(
        f"\n| arm or difference, avg@{told['k']}, {told['seeds']} training seeds | held out | % |"
    )
    print("|---|---|---|")
    for name, stratum, found in [*told["arms"], *told["differences"]]:
        print(f"| {name} | {stratum} | {said(found, 100)} |")


def _mean(found: Interval | None) -> float:
    return found.mean if found is not None else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument(
        "--student", help="trains every arm, for hours on a CPU; without: data alone"
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--quick", action="store_true", help="two dozen problems: minutes")
    parser.add_argument("--arms", nargs="+", choices=get_args(ArmName))
    parser.add_argument("--cuts", nargs="+", choices=list(Breakpoint), default=list(CUTS))
    parser.add_argument("--hints", nargs="+", choices=list(HintKind))
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--problem-seed", type=int, default=11, help="other problems")
    parser.add_argument("--scale", type=int, default=2, help="2: a hundred and fifty problems")
    parser.add_argument("--set", action="append", default=[], help="a setting, as heal takes it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recipe = prepare(args.out, args.teacher, args.quick, args.problem_seed, args.scale)
    arms = args.arms or (QUICK_ARMS if args.quick else DATA_ARMS)
    hints = args.hints or (HINTS[:2] if args.quick else HINTS)
    planned = list(states(arms, args.cuts, hints))
    if args.student:
        planned.append(with_student(arms, args.student, 1 if args.quick else args.seeds))
    try:
        given = [replace(s, overrides=(*s.overrides, *args.set)) for s in planned]
        found = {s.name: watched(partial(measure, recipe, s)) for s in given}
    except typer.Exit as stopped:
        raise SystemExit(stopped.exit_code) from None
    except HealError as error:
        hint = f"; {error.hint}" if error.hint else ""
        parser.exit(error.exit_code, f"{error}{hint}\n")
    figures = report(found)
    if args.json:
        write_figures(args.json, figures)


if __name__ == "__main__":
    main()
