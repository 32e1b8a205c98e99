"""Where real failed traces broke, and which rule finds it: a table per rule.

In: a folder of readings (`benchmarks.real_model_readings`). The truth is the step of the first
false equation (`heal.steps.arithmetic`), or with it what is known of a family
(`benchmarks.real_model_checkers`); traces that go wrong otherwise are in neither. Rules are chosen,
and weights fitted, on some problems, and what is printed is of others: those of the runs named
fresh, or else those whose hash is odd.

    python -m benchmarks.real_breakpoints READINGS [--fresh RUN …] [--json FILE]
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.real_model_checkers import first_wrong
from benchmarks.real_model_readings import STAGE, Reading, about, write_figures

from heal.keys import seed_for
from heal.method.entropy import step_values as entropy_steps
from heal.method.gear import find_breakpoint
from heal.method.hindsight import (
    ALWAYS,
    BARE,
    FEATURES,
    Over,
    Rule,
    Signals,
    Statistic,
    Where,
    back_up_steps,
    features,
    fit_weights,
    number_tokens,
    point_at,
    result_tokens,
    safe_step,
    step_probabilities,
)
from heal.method.intervals import wilson
from heal.records import Breakpoint, Origin, StepEntropy
from heal.steps import first_wrong_step
from heal.store import Store

SAFETY = 0.9
"""Share of cuts that must not be after the break."""
KEPT = 0.7
"""Share of the good part that must be kept."""
SAFETIES = (0.7, 0.8, 0.9)
"""Of the cuts made from fitted probabilities."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Failed:
    """A failed trace whose first wrong step is known."""

    reading: Reading
    broke: int
    chooses: bool
    """Whether rules may be chosen on it; if not, they are judged by it."""

    @property
    def ends(self) -> list[int]:
        return self.reading.step_ends

    @cached_property
    def signals(self) -> Signals:
        r = self.reading
        pieces = [p.encode() for p in r.pieces]
        masks = number_tokens(pieces), result_tokens(pieces)
        return Signals(r.bare, r.gold, r.bare_entropy, r.step_ends, *masks)

    def start(self, step: int) -> int:
        """Tokens before a step."""
        return self.ends[step - 2] if step > 1 else 0

    def kept(self, step: int) -> float:
        """The share of the good part that a cut here keeps; NaN where there is none."""
        good = self.start(self.broke)
        return min(self.start(step), good) / good if good else float("nan")


Cut = Callable[[Failed], int]


def by_equations(reading: Reading) -> int | None:
    """The step of the first false equation."""
    return first_wrong_step(reading.steps, reading.problem).step


def by_family(reading: Reading) -> int | None:
    """That, or what the family tells if it is earlier: wrong facts and wrong signs."""
    return first_wrong(reading.problem, reading.answer, reading.steps) or None


TRUTHS = {"first false equation": by_equations, "first false equation, fact or sign": by_family}


def chooses(reading: Reading, fresh: Collection[str]) -> bool:
    """Whether rules are chosen on this problem: by its run, or by its hash where none is fresh."""
    return reading.run not in fresh if fresh else int(reading.problem_id[:8], 16) % 2 == 0


def load(
    folder: Path,
    truth: Callable[[Reading], int | None] = by_equations,
    fresh: Collection[str] = (),
) -> list[Failed]:
    """Failed traces whose first wrong step is known, in the order of their keys."""
    with Store.open(folder, write=False) as store:
        readings = [reading for _, reading in store.read(STAGE, Reading)]
    failed = [r for r in readings if r.origin is Origin.UNAIDED]
    return [Failed(r, step, chooses(r, fresh)) for r in failed if (step := truth(r)) is not None]


# Rules. Everything that maps a trace to a step.


def _gear(kind: Breakpoint, window: float, failed: Failed) -> int:
    entropy = entropy_steps(failed.reading.bare_entropy, failed.ends, StepEntropy.MEAN)
    seed = seed_for(0, failed.reading.trace, 0)
    return find_breakpoint(entropy, entropy, failed.ends, kind=kind, window=window, seed=seed).step


def _anywhere(failed: Failed) -> int:
    rng = np.random.default_rng(seed_for(1, failed.reading.trace, 0))
    return int(rng.integers(1, len(failed.ends) + 1))


def _at_share(share: float, failed: Failed) -> int:
    starts = np.array([0, *failed.ends[:-1]])
    return 1 + int(np.abs(starts - failed.ends[-1] * share).argmin())


def _probe(own: bool, failed: Failed) -> int:
    """The step after which the gold answer lost most, or the own one gained most on it."""
    r = failed.reading
    gained = np.diff(r.own_after - r.gold_after) if own else -np.diff(r.gold_after)
    return 1 + int(gained.argmax())


def _contrast(where: Where, failed: Failed) -> int:
    """The largest gain of a token when its trace's own answer is hinted instead of the gold one."""
    r, s = failed.reading, failed.signals
    # Signals with the two hinted passes in the places of drop's two.
    swapped = Signals(r.own, r.gold, s.entropy, s.step_ends, s.numbers, s.results)
    return point_at(swapped, Rule(Statistic.DROP, where))


RIVALS: Mapping[str, Cut] = {
    "random in the first third": partial(_gear, Breakpoint.RANDOM, 1 / 3),
    "a fixed third": partial(_gear, Breakpoint.FIXED_THIRD, 1 / 3),
    "a fixed two thirds": partial(_at_share, 2 / 3),
    "random anywhere": _anywhere,
    "the last step": lambda failed: len(failed.ends),
    "the last step but one": lambda failed: max(1, len(failed.ends) - 1),
    "restart": lambda failed: 1,
}
PAPER: Mapping[str, Cut] = {
    "entropy rise, first third (the paper's)": partial(_gear, Breakpoint.DIFFERENCE, 1 / 3),
    "entropy rise, whole trace": partial(_gear, Breakpoint.DIFFERENCE, 1.0),
    "entropy z-score, whole trace": partial(_gear, Breakpoint.ZSCORE, 1.0),
    "entropy cusum, whole trace": partial(_gear, Breakpoint.CUSUM, 1.0),
}
RULES_TRIED = [
    *(Rule(statistic, where, Over.MAX) for statistic in Statistic for where in Where),
    *(Rule(statistic, where, Over.SUM) for statistic in Statistic for where in Where),
    *(Rule(statistic, Where.ALL, Over.MEAN) for statistic in Statistic),
    *(Rule(statistic, Where.ALL, Over.WINDOW) for statistic in Statistic),
    Rule(Statistic.DROP, first_over=1.0),
    *(Rule(Statistic.SURPRISAL, Where.RESULTS, first_over=line) for line in (1.0, 2.0, 3.0)),
    *(
        Rule(statistic, Where.RESULTS, Over.SUM, first_share=share)
        for statistic in (Statistic.SURPRISAL, Statistic.ENTROPY)
        for share in (0.3, 0.5, 0.7)
    ),
]


def _by(rule: Rule, failed: Failed) -> int:
    return point_at(failed.signals, rule)


POINTED: Mapping[str, Cut] = {
    **{rule.name: partial(_by, rule) for rule in RULES_TRIED},
    "gold answer's fall at a probe": partial(_probe, False),
    "own answer's gain on gold at a probe": partial(_probe, True),
    "own-hinted over gold-hinted · max of all": partial(_contrast, Where.ALL),
    "own-hinted over gold-hinted · max of numbers": partial(_contrast, Where.NUMBERS),
    "own-hinted over gold-hinted · max of results": partial(_contrast, Where.RESULTS),
}
MODELS: Mapping[str, Mapping[str, Rule]] = {
    "fitted, bare pass alone": BARE,
    "fitted, with the answer's drop": FEATURES,
}


def weights_of(traces: Sequence[Failed], rules: Mapping[str, Rule]) -> dict[str, float]:
    """The fitted weights by feature, as they may be shipped."""
    found = fit_weights([(features(f.signals, rules), f.broke) for f in traces])
    return {n: _r(w) for n, w in zip((*rules, *ALWAYS), found, strict=True)}


def fitted(chosen: Sequence[Failed], rules: Mapping[str, Rule]) -> Callable[[Failed], Any]:
    """Probabilities over steps, with weights of the traces given."""
    weights = fit_weights([(features(f.signals, rules), f.broke) for f in chosen])
    return lambda failed: step_probabilities(features(failed.signals, rules), weights)


def _safe(model: Callable[[Failed], Any], safety: float, failed: Failed) -> int:
    return safe_step(model(failed), safety)


def _likeliest(model: Callable[[Failed], Any], failed: Failed) -> int:
    return 1 + int(model(failed).argmax())


def measured(cut: Cut, traces: Sequence[Failed]) -> dict[str, Any]:
    """Exact hit, not after, and the share of the good part kept, each with n and interval."""
    steps = [cut(f) for f in traces]
    kept = np.array([f.kept(s) for f, s in zip(traces, steps, strict=True)])
    kept = kept[~np.isnan(kept)]
    exact = sum(s == f.broke for f, s in zip(traces, steps, strict=True))
    early = sum(s <= f.broke for f, s in zip(traces, steps, strict=True))
    half = 1.96 * kept.std(ddof=1) / np.sqrt(len(kept)) if len(kept) > 1 else None
    return {
        "exact": _share(exact, len(traces)),
        "not_after": _share(early, len(traces)),
        "kept": {
            "mean": _r(kept.mean()) if len(kept) else None,
            "half": None if half is None else _r(half),
            "n": len(kept),
        },
    }


def _share(successes: int, n: int) -> dict[str, Any]:
    found = wilson(successes, n)
    return {"share": _r(found.mean), "low": _r(found.low), "high": _r(found.high), "n": n}


def _r(value: float) -> float:
    return round(float(value), 4)


def difference(a: Cut, b: Cut, traces: Sequence[Failed]) -> dict[str, float]:
    """Exact hits of a − b, with an interval over problems (traces of one are alike)."""
    gains: dict[str, list[float]] = {}
    for f in traces:
        gains.setdefault(f.reading.problem_id, []).append((a(f) == f.broke) - (b(f) == f.broke))
    sums = np.array([sum(g) for g in gains.values()], float)
    counts = np.array([len(g) for g in gains.values()], float)
    rows = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    draws = sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": _r(sums.sum() / counts.sum()), "low": _r(low), "high": _r(high)}


def backed_up(cut: Cut, chosen: Sequence[Failed]) -> tuple[Cut, int]:
    """The rule, backed up by so many steps that it is safe on the traces given."""
    steps = back_up_steps([cut(f) for f in chosen], [f.broke for f in chosen], SAFETY)
    return (lambda failed: max(1, cut(failed) - steps)), steps


def merit(found: Mapping[str, Any]) -> float:
    """What a rule is chosen by: its exact hits, less what it lacks in safety (twice) and thrift.

    A bar instead would leave the choice to one trace more or less on either side of it.
    """
    unsafe = max(0.0, SAFETY - found["not_after"]["share"])
    wasteful = max(0.0, KEPT - (found["kept"]["mean"] or 0))
    return float(found["exact"]["share"] - 2 * unsafe - wasteful)


def table(traces: Sequence[Failed]) -> dict[str, Any]:
    """Every rule on the traces that judge; numbers in them are from those that choose."""
    chosen, judged = [f for f in traces if f.chooses], [f for f in traces if not f.chooses]
    singles = {**PAPER, **POINTED}
    best_single = max(singles, key=lambda name: merit(measured(singles[name], chosen)))
    models = {name: fitted(chosen, rules) for name, rules in MODELS.items()}
    cuts: dict[str, Cut] = dict(singles)
    for name, model in models.items():
        cuts[name] = partial(_likeliest, model)
        for safety in SAFETIES:
            cut = partial(_safe, model, safety)
            cuts[f"{name}, safe at {safety:g}"] = cut
    safe, steps = backed_up(singles[best_single], chosen)
    if steps:
        cuts[f"{best_single}, backed up {steps}"] = safe
    best_rival = max(RIVALS, key=lambda name: measured(RIVALS[name], judged)["exact"]["share"])
    families = sorted({f.reading.family for f in judged})
    return {
        "chosen": best_single,
        "weights_judged": {n: weights_of(chosen, rules) for n, rules in MODELS.items()},
        "weights_of_all": {n: weights_of(traces, rules) for n, rules in MODELS.items()},
        "rivals": {name: measured(cut, judged) for name, cut in RIVALS.items()},
        "rules": {name: measured(cut, judged) for name, cut in cuts.items()},
        "chosen_where_chosen": measured(singles[best_single], chosen),
        "by_family": {
            family: {
                name: measured({**cuts, **RIVALS}[name], own)
                for name in (best_single, *(f"{m}, safe at 0.8" for m in MODELS), best_rival)
            }
            for family in families
            if (own := [f for f in judged if f.reading.family == family])
        },
        "differences_of_exact_hits": {
            f"{own} − {name}": difference(cuts[own], cut, judged)
            for own in (best_single, *(f"{m}, safe at 0.8" for m in MODELS))
            for name, cut in {**RIVALS, **PAPER}.items()
        },
    }


def facts(traces: Sequence[Failed]) -> dict[str, Any]:
    """What the traces are."""
    steps = np.array([len(f.ends) for f in traces])
    place = np.array([f.start(f.broke) / f.ends[-1] for f in traces])
    return {
        "traces": len(traces),
        "judged": sum(not f.chooses for f in traces),
        "judged_problems": len({f.reading.problem_id for f in traces if not f.chooses}),
        "problems": len({f.reading.problem_id for f in traces}),
        "families": dict(Counter(f.reading.family for f in traces)),
        "steps_median": float(np.median(steps)),
        "break_starts_at_median": _r(np.median(place)),
        "breaks_in_first_third": _share(int((place < 1 / 3).sum()), len(traces)),
        "tokens_scored_per_trace_bare": _r(np.mean([len(f.reading.bare) for f in traces])),
        "safety": SAFETY,
    }


def line(name: str, found: Mapping[str, Any]) -> str:
    def share(cell: Mapping[str, Any]) -> str:
        return f"{100 * cell['share']:.0f} % [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]"

    kept = found["kept"]
    words = "–" if kept["mean"] is None else f"{100 * kept['mean']:.0f} %"
    if kept["half"] is not None:
        words += f" ± {100 * kept['half']:.0f}"
    return f"| {name} | {share(found['exact'])} | {share(found['not_after'])} | {words} |"


def show(found: Mapping[str, Any]) -> None:
    print(json.dumps(found["facts"], indent=1))
    print(f"chosen: {found['chosen']}")
    print("| where to cut | at the first wrong step | not after it | good part kept |")
    print("|---|---|---|---|")
    for group in ("rivals", "rules"):
        for name, row in sorted(found[group].items(), key=lambda x: -x[1]["exact"]["share"]):
            print(line(name, row))
    for family, rows in found["by_family"].items():
        for name, row in rows.items():
            print(line(f"{family}: {name}", row))
    for name, gap in found["differences_of_exact_hits"].items():
        print(f"{name}: {gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readings", type=Path)
    parser.add_argument("--fresh", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--about", default="", help="how the traces were drawn, for the JSON")
    args = parser.parse_args()
    found: dict[str, Any] = {"made_with": about(args.readings, args.about)}
    for name, truth in TRUTHS.items():
        traces = load(args.readings, truth, args.fresh)
        found[name] = {"facts": facts(traces), **table(traces)}
        print(f"\n## {name}")
        show(found[name])
    if args.json:
        write_figures(args.json, found)


if __name__ == "__main__":
    main()
