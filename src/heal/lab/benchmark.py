"""The lab's court: what a finished lab run shows, where the truth of every step is known.

In: a run folder whose problems are the lab's. Out: five tables, each figure with its n and
interval: ceiling, breakpoint, PURE, students, ledger. Reads the store; runs no model itself.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heal.config import Config, Pure
from heal.execute import execute
from heal.lab.truth import Truth, judge, split_steps
from heal.lab.worlds import world_named
from heal.method.entropy import step_values
from heal.method.gear import find_breakpoint
from heal.method.intervals import Interval, auroc, wilson
from heal.method.pure import calibrate, drop_scores
from heal.method.summary import EvalSummary
from heal.recipe import load
from heal.records import (
    Breakpoint,
    Ceiling,
    Cut,
    Drop,
    Problem,
    PureScore,
    Selected,
    Selection,
    Split,
    StepEntropy,
    Stratum,
    TokenScores,
    Trace,
)
from heal.report.load import load_view
from heal.report.numbers import SetRow, sets
from heal.session import Observer
from heal.store import Store

RECIPE = Path(__file__).parent / "recipe.yaml"
ARMS = (
    "base",
    "rft",
    "rft_more",
    "star",
    "heal",
    "heal-shuffled",
    "heal-reverse",
    "heal-random-cut",
    "heal-restart",
    "heal-no-pure",
    "heal-random-drop",
    "heal-ratio",
    "heal-calibrated",
)
"""Every arm a comparison needs (METHOD §5), and PURE's other readings; `heal` is what we ship."""
SCORED_TOKEN_COST = 0.5
"""Timed in four courts at 0.36 to 0.51; fixed, so that a court says the same anywhere."""
QUICK_ARMS = ("base", "rft", "rft_more", "heal")

KEEP_HONEST = 0.95
DETECTORS = (
    Selection.FRACTION,
    Selection.SURPRISAL,
    Selection.MEAN_NLL,
    Selection.MAX_PPL,
    Selection.LENGTH,
    Selection.RANDOM,
)


@dataclass(frozen=True)
class Coverage:
    """Extreme training problems an arm has an accepted trace for, and a truly valid one."""

    arm: str
    accepted: Interval
    valid: Interval
    traces: int
    valid_traces: int


@dataclass(frozen=True)
class CutQuality:
    """Where one way of cutting cuts failed traces, against where they truly went wrong."""

    name: str
    hit: Interval
    """The step dropped is the first bad one, or the one that names the rule."""
    late: Interval
    """The first bad step is kept."""
    distance: float
    """Mean |b − first bad step|, in steps."""


@dataclass(frozen=True)
class Detection:
    """How well one score tells fudged traces from valid ones, over gated traces of one set."""

    name: str
    pool: str
    auroc: Interval | None
    fudged_dropped: float
    """Share of fudged traces dropped when 95 % of the valid ones are kept."""
    valid: int
    fudged: int


@dataclass(frozen=True)
class Court:
    """Everything `heal lab compare` prints."""

    run: str
    coverage: tuple[Coverage, ...]
    cuts: tuple[CutQuality, ...]
    misaligned: int
    """Failed traces whose steps are not the lab's paragraphs; left out of the cut table."""
    detection: tuple[Detection, ...]
    students: EvalSummary | None
    sets: tuple[SetRow, ...]
    """HEAL's D1, D2 and D3: sizes, lengths, words of doubt."""
    tokens_per_valid: Mapping[str, float | None]
    """Teacher tokens sampled per accepted valid trace of extreme problems, by arm with a bill."""


def lab_config(world: str, overrides: Sequence[str]) -> Config:
    """The lab's recipe for one of its worlds, with overrides. Raises: UserError."""
    world = world_named(world).name
    models = (f"{who}.model=pkg://heal.lab/assets/{world}/{who}" for who in ("teacher", "student"))
    return load(RECIPE, [f"problems.args.world={world}", *models, *overrides])


def compare(world: str, overrides: Sequence[str], observer: Observer, quick: bool = False) -> Court:
    """Run the lab's recipe to its end (or find it done) and hold court.

    quick trains fewer arms; either way PURE's rivals are measured on the same traces.
    """
    arms = ", ".join(QUICK_ARMS if quick else ARMS)
    settings = (
        f"arms=[{arms}]",
        "pure.measure_uncertainty=true",
        "pure.measure_reliance=true",
        "pure.measure_calibrated=true",
        f"evaluate.scored_token_cost={SCORED_TOKEN_COST}",
    )
    config = lab_config(world, [*settings, *overrides])
    execute(config, observer)
    with Store.open(Path(config.run), write=False) as store:
        return hold_court(store, config)


def hold_court(store: Store, config: Config) -> Court:
    """The five tables of one finished run."""
    problems = store.live("problem", Problem)
    arms = [arm for arm in config.arms if arm != "base"]
    cuts, misaligned = _cuts(store, problems, config)
    coverage = tuple(_coverage(store, problems, arm) for arm in arms)
    view = load_view(store)
    bills = {row.name: row.sampled for row in view.arm_ledger}
    return Court(
        run=str(store.folder),
        coverage=coverage,
        cuts=cuts,
        misaligned=misaligned,
        detection=_detection(store, problems, config.pure, config.seed),
        students=view.evaluation,
        sets=sets(view),
        tokens_per_valid={
            c.arm: bills[c.arm] / c.valid_traces if c.valid_traces else None
            for c in coverage
            if c.arm in bills
        },
    )


def as_json(court: Court) -> dict[str, Any]:
    """The court as plain data."""
    return asdict(court)


def _traces(store: Store, arm: str) -> dict[str, Trace]:
    tables = [store.live(t, Trace) for t in ("sample", "hinted", "repair")]
    tables.append(store.live("bought", Trace, tag=arm))
    return {key: trace for table in tables for key, trace in table.items()}


def _coverage(store: Store, problems: Mapping[str, Problem], arm: str) -> Coverage:
    extreme = {
        p
        for p, found in store.live("ceiling", Ceiling).items()
        if found.stratum is Stratum.EXTREME and problems[p].split is Split.TRAIN
    }
    traces = _traces(store, arm)
    truths: dict[str, list[Truth]] = defaultdict(list)
    for x in store.live("selected", Selected, tag=arm).values():
        if x.drop is Drop.KEPT and x.problem_id in extreme and x.trace in traces:
            problem = problems[x.problem_id]
            truths[x.problem_id].append(judge(problem.problem, traces[x.trace].text))
    valid = sum(any(t.valid for t in found) for found in truths.values())
    return Coverage(
        arm=arm,
        accepted=wilson(len(truths), max(1, len(extreme))),
        valid=wilson(valid, max(1, len(extreme))),
        traces=sum(map(len, truths.values())),
        valid_traces=sum(t.valid for found in truths.values() for t in found),
    )


def _cuts(
    store: Store, problems: Mapping[str, Problem], config: Config
) -> tuple[tuple[CutQuality, ...], int]:
    traces = store.live("sample", Trace)
    scores = {s.trace: s for s in store.live("scores", TokenScores).values()}
    cases: list[tuple[Cut, TokenScores, Truth]] = []
    misaligned = 0
    for cut in store.live("cut", Cut).values():
        trace = traces[cut.trace]
        if len(split_steps(trace.text)) != len(cut.step_ends):
            misaligned += 1
            continue
        truth = judge(problems[cut.problem_id].problem, trace.text)
        cases.append((cut, scores[cut.trace], truth))
    if not cases:
        return (), misaligned
    variants = [(kind, StepEntropy.MEAN) for kind in Breakpoint]
    variants.insert(1, (Breakpoint.DIFFERENCE, StepEntropy.TOP20))
    return tuple(_cut_quality(cases, *v, config) for v in variants), misaligned


def _cut_quality(
    cases: Sequence[tuple[Cut, TokenScores, Truth]],
    kind: Breakpoint,
    entropy: StepEntropy,
    config: Config,
) -> CutQuality:
    hits, late, distances = 0, 0, []
    for number, (cut, scores, truth) in enumerate(cases):
        low = step_values(scores.entropy_lo, cut.step_ends, entropy)
        high = step_values(scores.entropy_hi, cut.step_ends, entropy)
        found = find_breakpoint(
            low, high, cut.step_ends, kind=kind, window=config.gear.window, seed=number
        )
        b = found.step - 1  # truth counts steps from 0
        first_bad = truth.first_bad if truth.first_bad is not None else truth.rule_step
        hits += b in (truth.first_bad, truth.rule_step)
        if first_bad is not None:
            late += b > first_bad
            distances.append(abs(b - first_bad))
    name = str(kind) if entropy is StepEntropy.MEAN else f"{kind} ({entropy})"
    return CutQuality(
        name,
        wilson(hits, len(cases)),
        wilson(late, len(cases)),
        float(np.mean(distances)) if distances else float("nan"),
    )


def _detection(
    store: Store, problems: Mapping[str, Problem], settings: Pure, seed: int
) -> tuple[Detection, ...]:
    profiles = list(store.live("pure", PureScore).values())
    honest = list(store.live("pure", PureScore, tag="honest").values())
    calibration = calibrate(honest, settings) if settings.measure_calibrated else None
    kinds = list(DETECTORS)
    lines = calibration.lines if calibration else {}
    kinds[1:1] = [Selection.CALIBRATED] if Selection.CALIBRATED in lines else []
    kinds += [Selection.RELIANCE] if settings.measure_reliance else []
    found = []
    for pool, table in (("D2", "hinted"), ("D3", "repair")):
        traces = store.live(table, Trace)
        own = [p for p in profiles if p.trace in traces and p.error is None]
        truth = {p.trace: judge(problems[p.problem_id].problem, traces[p.trace].text) for p in own}
        for kind in kinds:
            scores = drop_scores(own, kind, settings, seed=seed, calibration=calibration)
            found.append(_detect(str(kind), pool, scores, truth))
    return tuple(found)


def _detect(
    name: str, pool: str, scores: Mapping[str, float], truth: Mapping[str, Truth]
) -> Detection:
    valid = np.array([s for t, s in scores.items() if truth[t].valid])
    fudged = np.array([s for t, s in scores.items() if not truth[t].valid])
    if not len(valid) or not len(fudged):
        return Detection(name, pool, None, float("nan"), len(valid), len(fudged))
    return Detection(
        name,
        pool,
        auroc(fudged, valid, resamples=2_000, seed=0),
        float((fudged > np.quantile(valid, KEEP_HONEST)).mean()),
        len(valid),
        len(fudged),
    )
