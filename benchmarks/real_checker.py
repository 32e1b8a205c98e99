"""How often the step checker speaks on a real teacher's traces, and what it says of right ones.

In: run folders of `heal verify` or later. Out: per family, how many unaided right traces it flags
and how many wrong ones it names a step of. A flagged right trace is no false alarm by itself: a
right answer may stand on a false equation. So each is listed, to be read. Needs no model.

    python -m benchmarks.real_checker RUN [RUN …] [--json FILE]
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.real_model_checkers import first_wrong
from benchmarks.real_model_readings import write_figures

import heal
from heal.method.intervals import wilson
from heal.records import Check, Outcome, Problem, Trace, Verdict
from heal.steps import first_wrong_step
from heal.steps.arithmetic import RULES, check_text, unknown_of
from heal.store import Store

BLANK = re.compile(r"\n[ \t]*\n")


def judged(folders: Iterable[Path]) -> Iterable[tuple[Problem, Trace, Verdict]]:
    """Unaided traces with their verdicts."""
    for folder in folders:
        with Store.open(folder, write=False) as store:
            problems = dict(store.read("problem", Problem))
            verdicts = {check.trace: check.verdict for _, check in store.read("check", Check)}
            traces = [trace for _, trace in store.read("sample", Trace)]
        for trace in traces:
            if trace.key in verdicts:
                yield problems[trace.problem_id], trace, verdicts[trace.key]


def table(folders: Iterable[Path]) -> dict[str, Any]:
    counts: Counter[tuple[str, str]] = Counter()
    equations: Counter[str] = Counter()
    flagged = []
    for problem, trace, verdict in judged(folders):
        if verdict not in (Verdict.CORRECT, Verdict.WRONG):
            continue
        family, steps = problem.meta.get("family", ""), BLANK.split(trace.text)
        word = first_wrong_step(steps, problem.problem)
        kinds = [str(verdict)]
        if word.outcome is not Outcome.CANNOT_TELL:
            kinds.append(f"{verdict} checkable")
        if word.step:
            kinds.append(f"{verdict} named")
        if first_wrong(problem.problem, problem.answer, steps):
            kinds.append(f"{verdict} named with what the family tells")
        counts.update((kind, group) for kind in kinds for group in (family, "all"))
        for e in check_text(trace.text, unknown_of(problem.problem)):
            equations[f"{verdict} {e.truth}"] += 1
        if verdict is Verdict.CORRECT and word.step:
            flagged.append({"family": family, "trace": trace.key, "equation": word.detail})
    families = sorted({group for _, group in counts})
    shares = {
        "right_traces_flagged": ("correct named", "correct"),
        "right_traces_flagged_with_what_the_family_tells": (
            "correct named with what the family tells",
            "correct",
        ),
        "right_traces_checkable": ("correct checkable", "correct"),
        "wrong_traces_named": ("wrong named", "wrong"),
        "wrong_traces_named_with_what_the_family_tells": (
            "wrong named with what the family tells",
            "wrong",
        ),
    }
    return {
        **{name: {f: _share(counts, f, *of) for f in families} for name, of in shares.items()},
        "equations": dict(equations),
        "flagged": flagged,
        "heal": heal.__version__,
        "arithmetic_rules": RULES,
    }


def _share(
    counts: Counter[tuple[str, str]], family: str, part: str, whole: str
) -> dict[str, Any] | None:
    n = counts[whole, family]
    if not n:
        return None
    found = wilson(counts[part, family], n)
    return {
        "share": round(found.mean, 4), "low": round(found.low, 4), "high": round(found.high, 4),
        "n": n,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--about", default="", help="how the traces were drawn, for the JSON")
    args = parser.parse_args()
    found = {"about": args.about, **table(args.runs)}
    print(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))
    if args.json:
        write_figures(args.json, found)


if __name__ == "__main__":
    main()
