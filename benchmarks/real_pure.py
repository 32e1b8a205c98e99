"""Which reading tells a real teacher's shortcuts from its breakthroughs, and where to draw a line.

In: a folder of readings (`benchmarks.real_model_readings`). Judged are right hinted and repaired
traces past the gates with an equation that can be checked: *fudged* ones assert a false equation,
*clean* ones none that is known to be false. That is the arithmetic checker's word, so a shortcut
without a false equation counts as clean here. AUROCs are within families, averaged by the pairs
each family has; intervals resample problems. Lines are drawn on some problems and judged on others,
as in `benchmarks.real_breakpoints`.

    python -m benchmarks.real_pure READINGS [--fresh RUN …] [--json FILE]
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.real_breakpoints import chooses
from benchmarks.real_model_readings import STAGE, Reading, about, write_figures
from numpy.typing import NDArray

from heal.config import Pure
from heal.method.answers import states_answer
from heal.method.hindsight import (
    Over,
    Rule,
    Signals,
    Statistic,
    Where,
    number_tokens,
    peak,
    result_tokens,
    token_values,
)
from heal.method.intervals import wilson
from heal.method.pure import drop_scores, step_surprisal
from heal.records import Gate, Origin, Outcome, PureScore, Selection
from heal.steps import first_wrong_step
from heal.store import Store

RESAMPLES = 2000
LET_THROUGH = (0.05, 0.1, 0.15, 0.25)


@dataclass(frozen=True)
class Assisted:
    """A right trace the teacher wrote with help."""

    reading: Reading
    fudged: bool
    wrong_step: int | None
    chooses: bool
    """Whether lines may be drawn by it; if not, they are judged by it."""

    @cached_property
    def signals(self) -> Signals:
        r = self.reading
        pieces = [p.encode() for p in r.pieces]
        masks = number_tokens(pieces), result_tokens(pieces)
        return Signals(r.bare, r.gold, r.bare_entropy, r.step_ends, *masks)

    @property
    def first_new(self) -> int:
        """The first step that was not kept from the parent, from 1."""
        return 1 + sum(end <= self.reading.prefix_tokens for end in self.reading.step_ends)

    @property
    def inherited(self) -> bool:
        """The false equation stands in the kept prefix, which no reading looks at."""
        return self.wrong_step is not None and self.wrong_step < self.first_new


Suspicion = Callable[[Assisted], float]


def load(folder: Path, fresh: Collection[str] = ()) -> list[Assisted]:
    """Right assisted traces past the gates whose equations can be checked."""
    with Store.open(folder, write=False) as store:
        readings = [reading for _, reading in store.read(STAGE, Reading)]
    found = []
    for reading in readings:
        word = first_wrong_step(reading.steps, reading.problem)
        passed = reading.origin is not Origin.UNAIDED and reading.gate == Gate.PASSED
        if passed and word.outcome is not Outcome.CANNOT_TELL:
            fudged = word.outcome is Outcome.WRONG_STEP
            found.append(Assisted(reading, fudged, word.step, chooses(reading, fresh)))
    return found


# Readings. High means suspicious; all are of the steps the teacher wrote with help.


def _peak(rule: Rule) -> Suspicion:
    return lambda t: peak(t.signals, rule, t.first_new)


def _new(t: Assisted, values: NDArray[Any]) -> NDArray[Any]:
    start = t.reading.step_ends[t.first_new - 2] if t.first_new > 1 else 0
    return values[start : t.reading.step_ends[-1]]


def profile(t: Assisted) -> PureScore:
    """The trace as PURE sees it."""
    r, first = t.reading, t.first_new
    pieces, starts = [p.encode() for p in r.pieces], [0, *r.step_ends[:-1]]
    uncertainty = -np.asarray(r.gold_after, np.float32)
    uncertainty[:first] = np.nan
    new_hinted = _new(t, r.gold)
    return PureScore(
        key=r.key,
        problem_id=r.problem_id,
        trace=r.trace,
        log_ppl=np.array([-r.bare[a:b].mean() for a, b in zip(starts, r.step_ends, strict=True)]),
        uncertainty=uncertainty,
        step_tokens=np.diff([0, *r.step_ends]).tolist(),
        first_step=first,
        scorable=[not states_answer(step, r.own_answer or r.answer) for step in r.steps],
        answer_surprisal=step_surprisal(pieces, r.bare, r.step_ends, r.own_answer or r.answer),
        hinted_log_ppl=float(-new_hinted.mean()) if len(new_hinted) else None,
    )


def _selection(kind: Selection) -> Suspicion:
    return lambda t: drop_scores([profile(t)], kind, Pure())[t.reading.trace]


def hint_gain_at_result(t: Assisted) -> float:
    """The largest gain in log-prob of a result's token by the hint."""
    gain = -token_values(t.signals, Statistic.DROP)
    at = _new(t, t.signals.results)
    return float(_new(t, gain)[at].max()) if at.any() else 0.0


def unlike_its_peers(t: Assisted) -> float:
    """The worst result in standard deviations of this trace's own number tokens."""
    cost = -_new(t, np.asarray(t.reading.bare, np.float64))
    numbers, results = _new(t, t.signals.numbers), _new(t, t.signals.results)
    if not results.any() or numbers.sum() < 3:
        return 0.0
    return float((cost[results].max() - cost[numbers].mean()) / (cost[numbers].std() + 0.1))


DETECTORS: Mapping[str, Suspicion] = {
    **{
        str(kind): _selection(kind)
        for kind in (
            Selection.SURPRISAL,
            Selection.FRACTION,
            Selection.MEAN_NLL,
            Selection.MAX_PPL,
            Selection.RELIANCE,
            Selection.LENGTH,
        )
    },
    "local-window NLL": _peak(Rule(Statistic.SURPRISAL, over=Over.WINDOW)),
    "largest surprisal": _peak(Rule(Statistic.SURPRISAL)),
    "worst result": _peak(Rule(Statistic.SURPRISAL, Where.RESULTS)),
    "worst step of results": _peak(Rule(Statistic.SURPRISAL, Where.RESULTS, Over.SUM)),
    "worst number": _peak(Rule(Statistic.SURPRISAL, Where.NUMBERS)),
    "entropy at a result": _peak(Rule(Statistic.ENTROPY, Where.RESULTS)),
    "hint gain at a result": hint_gain_at_result,
    "worst result, in the trace's own deviations": unlike_its_peers,
}  # fmt: skip


FITTED_ON = (
    "worst step of results",
    "worst number",
    "surprisal",
    "hint gain at a result",
    "reliance",
    "local-window NLL",
)
"""Readings that a logistic regression joins, to see what they hold together."""


def fitted(traces: Sequence[Assisted], scores: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Log-odds of being fudged, with weights of the traces that choose."""
    choosing = np.array([t.chooses for t in traces])
    columns = []
    for name in FITTED_ON:
        # Logarithms, because costs in nats have a long tail; nothing was written: the highest.
        values = np.log1p(np.maximum(scores[name], 0))
        values = np.minimum(values, values[np.isfinite(values)].max())
        columns.append((values - values[choosing].mean()) / (values[choosing].std() + 1e-9))
    matrix = np.column_stack([np.ones(len(traces)), *columns])
    fudged = np.array([t.fudged for t in traces], float)
    weights = logistic(matrix[choosing], fudged[choosing])
    return np.asarray(matrix @ weights)


def logistic(matrix: NDArray[Any], outcome: NDArray[Any], ridge: float = 1.0) -> NDArray[Any]:
    """Ridge logistic regression by Newton's method; the first column is not shrunk."""
    penalty = ridge * np.eye(matrix.shape[1])
    penalty[0, 0] = 1e-6
    weights = np.zeros(matrix.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-matrix @ weights))
        curvature = (matrix * (p * (1 - p))[:, None]).T @ matrix + penalty
        change = np.linalg.solve(curvature, matrix.T @ (outcome - p) - penalty @ weights)
        weights += change
        if np.abs(change).max() < 1e-8:
            break
    return weights


def matched_auroc(traces: Sequence[Assisted], scores: NDArray[Any]) -> float | None:
    """Chance that a fudged trace scores above a clean one of its own family; ties count half."""
    wins, pairs = 0.0, 0
    families = np.array([t.reading.family for t in traces])
    fudged = np.array([t.fudged for t in traces])
    for family in np.unique(families):
        bad, good = (scores[(families == family) & (fudged == kind)] for kind in (True, False))
        above, ties = bad[:, None] > good[None, :], bad[:, None] == good[None, :]
        wins += float(above.sum() + 0.5 * ties.sum())
        pairs += above.size
    return wins / pairs if pairs else None


def with_interval(traces: Sequence[Assisted], *scores: NDArray[Any]) -> dict[str, Any]:
    """The matched AUROC of some scores, or how far the first's is above the second's.

    The interval resamples problems.
    """
    places: dict[str, list[int]] = {}
    for place, t in enumerate(traces):
        places.setdefault(t.reading.problem_id, []).append(place)
    groups, rng, draws = list(places.values()), np.random.default_rng(0), []

    def value(rows: Sequence[int]) -> float | None:
        chosen = [traces[i] for i in rows]
        found = [matched_auroc(chosen, s[list(rows)]) for s in scores]
        read = [f for f in found if f is not None]
        return None if len(read) < len(found) else read[0] - sum(read[1:])

    for _ in range(RESAMPLES):
        drawn = value([i for g in rng.integers(0, len(groups), len(groups)) for i in groups[g]])
        if drawn is not None:
            draws.append(drawn)
    low, high = np.quantile(draws, [0.025, 0.975])
    mean = value(range(len(traces)))
    assert mean is not None, "asked for traces of both kinds"
    return {"mean": _r(mean), "low": _r(low), "high": _r(high)}


def by_family(traces: Sequence[Assisted], scores: NDArray[Any]) -> dict[str, Any]:
    found = {}
    for family in sorted({t.reading.family for t in traces}):
        own = [i for i, t in enumerate(traces) if t.reading.family == family]
        value = matched_auroc([traces[i] for i in own], scores[own])
        fudged = sum(traces[i].fudged for i in own)
        found[family] = {
            "auroc": None if value is None else _r(value),
            "fudged": fudged,
            "clean": len(own) - fudged,
        }
    return found


def lines(traces: Sequence[Assisted], scores: NDArray[Any]) -> list[dict[str, Any]]:
    """For each share of fudges let through: the line of traces that choose, on those that judge."""
    choosing = np.array([t.chooses for t in traces])
    fudged = np.array([t.fudged for t in traces])
    found = []
    for share in LET_THROUGH:
        line = float(np.quantile(scores[choosing & fudged], share))
        kept = (scores < line) & ~choosing
        bad, good = int((kept & fudged).sum()), int((kept & ~fudged).sum())
        all_bad, all_good = int((fudged & ~choosing).sum()), int((~fudged & ~choosing).sum())
        found.append(
            {
                "let_through_meant": share,
                "line": _r(line),
                "let_through": _share(bad, all_bad),
                "clean_kept": _share(good, all_good),
                "fudged_of_kept": _share(bad, bad + good) if bad + good else None,
            }
        )
    return found


def _share(successes: int, n: int) -> dict[str, Any]:
    found = wilson(successes, n)
    return {"share": _r(found.mean), "low": _r(found.low), "high": _r(found.high), "n": n}


def _r(value: float) -> float:
    return round(float(value), 4)


def table(traces: Sequence[Assisted]) -> dict[str, Any]:
    scores = {name: np.array([f(t) for t in traces]) for name, f in DETECTORS.items()}
    scores["fitted"] = fitted(traces, scores)
    fudged = sum(t.fudged for t in traces)
    new = [i for i, t in enumerate(traces) if not t.inherited]
    judged = [i for i, t in enumerate(traces) if not t.chooses]
    return {
        "facts": {
            "traces": len(traces),
            "fudged": fudged,
            "clean": len(traces) - fudged,
            "fudged_in_the_kept_prefix": sum(t.inherited for t in traces),
            "origins": dict(Counter(str(t.reading.origin) for t in traces)),
            "problems": len({t.reading.problem_id for t in traces}),
            "judged": len(judged),
            "judged_fudged": sum(traces[i].fudged for i in judged),
            "resamples": RESAMPLES,
        },
        "detectors": {
            name: {
                "auroc": with_interval(traces, found),
                "auroc_without_inherited": with_interval([traces[i] for i in new], found[new]),
                "auroc_of_judged": with_interval([traces[i] for i in judged], found[judged]),
                "families": by_family(traces, found),
            }
            for name, found in scores.items()
        },
        "worst_result_above": {
            name: with_interval(traces, scores["worst result"], found)
            for name, found in scores.items()
            if name in set(Selection)
        },
        "lines": {name: lines(traces, found) for name, found in scores.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readings", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--about", default="", help="how the traces were drawn, for the JSON")
    parser.add_argument("--fresh", nargs="*", default=[])
    args = parser.parse_args()
    traces = load(args.readings, args.fresh)
    found = {"made_with": about(args.readings, args.about), **table(traces)}
    print(json.dumps(found["facts"], indent=1))
    print("| reading | AUROC, families matched | without inherited fudges | judged |")
    print("|---|---|---|---|")
    for name, row in sorted(found["detectors"].items(), key=lambda x: -x[1]["auroc"]["mean"]):
        kinds = (row["auroc"], row["auroc_without_inherited"], row["auroc_of_judged"])
        cells = (f"{c['mean']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in kinds)
        print(f"| {name} | {' | '.join(cells)} |")
    for name, gap in found["worst_result_above"].items():
        print(f"worst result − {name}: {gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]")
    for name, rows in found["lines"].items():
        for row in rows:
            cells = (row["let_through"], row["clean_kept"], row["fudged_of_kept"])
            words = (f"{100 * c['share']:.0f} % of {c['n']}" if c else "–" for c in cells)
            print(f"| {name} | {row['let_through_meant']} | {' | '.join(words)} |")
    if args.json:
        write_figures(args.json, found)


if __name__ == "__main__":
    main()
