"""The lab's benchmark: what a finished lab run shows, where the truth of every step is known.

In: a run folder whose problems are the lab's. Out: five tables, each figure with its n and
interval: ceiling, breakpoint, PURE, students, ledger. Reads columns, and opens traces one at a
time; runs no model itself.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from heal.config import ArmName, Config
from heal.execute import execute
from heal.lab.judged import Named, judged
from heal.lab.truth import Truth, split_steps
from heal.lab.worlds import world_named
from heal.method.arms import TRAINED
from heal.method.entropy import step_values
from heal.method.gear import find_breakpoint
from heal.method.intervals import Interval, auroc, ratio_of_sums, wilson
from heal.method.pure import BY_RELIANCE, Calibration, calibrate, drop_scores
from heal.method.summary import EvalSummary
from heal.recipe import load
from heal.records import (
    Breakpoint,
    Cut,
    Drop,
    PureScore,
    Selection,
    StepEntropy,
    TokenScores,
    Trace,
)
from heal.report.load import load_view
from heal.report.numbers import SetRow, sets
from heal.session import Observer
from heal.stages import calibrate as calibrating
from heal.stages import locate, repair, sample
from heal.stages.filter import profiles, readable
from heal.store import Store

RECIPE = Path(__file__).parent / "recipe.yaml"
ARMS: tuple[ArmName, ...] = tuple(
    arm for arm in get_args(ArmName) if arm not in TRAINED or TRAINED[arm].choice is None
)
"""Every arm a comparison needs (docs/method.md §5), and PURE's other readings."""
SCORED_TOKEN_COST = 0.5
"""Timed in four benchmarks at 0.36 to 0.51; fixed, so that a benchmark says the same anywhere."""
QUICK_ARMS = ("base", "rft", "rft_more", "heal")

KEEP_HONEST = 0.95
DETECTORS = (
    Selection.FRACTION,
    Selection.SURPRISAL,
    Selection.WORST_RESULT,
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
    distance: Interval | None
    """Mean |b − first bad step|, in steps; problems are resampled."""


@dataclass(frozen=True)
class Detection:
    """How well one score tells fudged traces from valid ones, over gated traces of one set."""

    name: str
    pool: str
    auroc: Interval | None
    fudged_dropped: Interval | None
    """Share of fudged traces dropped when 95 % of the valid ones are kept."""
    valid: int
    fudged: int


@dataclass(frozen=True)
class Benchmark:
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
    """Teacher tokens sampled per accepted valid trace of extreme problems, by arm."""


def lab_config(world: str, overrides: Sequence[str]) -> Config:
    """The lab's recipe for one of its worlds, with overrides. Raises: UserError."""
    world = world_named(world).name
    models = (f"{who}.model=pkg://heal.lab/assets/{world}/{who}" for who in ("teacher", "student"))
    return load(RECIPE, [f"problems.args.world={world}", *models, *overrides])


def compare(
    world: str, overrides: Sequence[str], observer: Observer, quick: bool = False
) -> Benchmark:
    """Run the lab's recipe to its end (or find it done) and measure it.

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
        return measure_run(store, config)


def measure_run(store: Store, config: Config) -> Benchmark:
    """The five tables of one finished run."""
    cuts, misaligned = _cuts(store, config)
    coverage = _coverage(store, [arm for arm in config.arms if arm != "base"])
    view = load_view(store)
    sampled = {row.name: row.sampled for row in view.arm_ledger}
    return Benchmark(
        run=str(store.folder),
        coverage=coverage,
        cuts=cuts,
        misaligned=misaligned,
        detection=_detection(store, config),
        students=view.evaluation,
        sets=sets(view),
        tokens_per_valid={
            c.arm: sampled[c.arm] / c.valid_traces if c.valid_traces else None
            for c in coverage
            if c.arm in sampled
        },
    )


def as_json(found: Benchmark) -> dict[str, Any]:
    """The benchmark as plain data."""
    return asdict(found)


# ── ceiling ─────────────────────────────────────────────────────────────────────────────────────

_EXTREME = "problem IN (SELECT problem FROM problems WHERE stratum='extreme' AND split='train')"


def _coverage(store: Store, arms: Sequence[str]) -> tuple[Coverage, ...]:
    ((extreme,),) = store.query(f"SELECT COUNT(*) FROM problems WHERE {_EXTREME}")
    if not extreme:
        return ()
    kept = f"""FROM selected WHERE "drop"='{Drop.KEPT}' AND {_EXTREME}"""
    named = store.query(f"SELECT DISTINCT problem, stage, trace {kept} ORDER BY 1, 2, 3")
    # Arms share most of their traces: each is opened and judged once for all of them.
    valid = {trace.key: truth.valid for _, trace, truth in judged(store, map(Named._make, named))}
    found = []
    for arm in arms:
        by_problem: dict[str, list[bool]] = defaultdict(list)
        for problem, trace in store.query(f"SELECT problem, trace {kept} AND arm=?", (arm,)):
            by_problem[problem].append(valid[trace])
        found.append(
            Coverage(
                arm=arm,
                accepted=wilson(len(by_problem), extreme),
                valid=wilson(sum(map(any, by_problem.values())), extreme),
                traces=sum(map(len, by_problem.values())),
                valid_traces=sum(map(sum, by_problem.values())),
            )
        )
    return tuple(found)


# ── breakpoint ──────────────────────────────────────────────────────────────────────────────────


@dataclass
class _CutCounts:
    """One way of cutting, over the failed traces so far."""

    kind: Breakpoint
    entropy: StepEntropy = StepEntropy.MEAN
    hits: int = 0
    late: int = 0
    distances: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By problem."""

    def add(self, problem: str, step: int, truth: Truth) -> None:
        """Compare one cut with where its trace truly went wrong; steps from 0."""
        first_bad = truth.first_bad if truth.first_bad is not None else truth.rule_step
        self.hits += step in (truth.first_bad, truth.rule_step)
        if first_bad is not None:
            self.late += step > first_bad
            self.distances[problem].append(abs(step - first_bad))

    def quality(self, n: int) -> CutQuality:
        """What came of n traces."""
        plain = self.entropy is StepEntropy.MEAN
        sums = np.array([sum(own) for own in self.distances.values()])
        counts = np.array([len(own) for own in self.distances.values()])
        return CutQuality(
            str(self.kind) if plain else f"{self.kind} ({self.entropy})",
            wilson(self.hits, n),
            wilson(self.late, n),
            ratio_of_sums(sums, counts, seed=0) if len(counts) else None,
        )


def _cuts(store: Store, config: Config) -> tuple[tuple[CutQuality, ...], int]:
    # They ask for the tokens' bytes, which no record holds; nor are numbers claimed here.
    others = (Breakpoint.CLAIMS, Breakpoint.CHECKER)
    counts = [_CutCounts(kind) for kind in Breakpoint if kind not in others]
    counts.insert(1, _CutCounts(Breakpoint.DIFFERENCE, StepEntropy.TOP20))
    aligned = misaligned = 0
    for cut, scores, trace, truth in _failed_traces(store, config):
        if len(split_steps(trace.text)) != len(cut.step_ends):
            misaligned += 1
            continue
        for each in counts:
            low = step_values(scores.entropy_lo, cut.step_ends, each.entropy)
            high = step_values(scores.entropy_hi, cut.step_ends, each.entropy)
            found = find_breakpoint(
                low, high, cut.step_ends, kind=each.kind, window=config.gear.window, seed=aligned
            )
            each.add(trace.problem_id, found.step - 1, truth)  # truth counts steps from 0
        aligned += 1
    return tuple(each.quality(aligned) for each in counts) if aligned else (), misaligned


def _failed_traces(store: Store, config: Config) -> Iterator[tuple[Cut, TokenScores, Trace, Truth]]:
    """Every failed trace that HEAL's own breakpoint cut, with its scores."""
    rows = store.query(
        "SELECT c.problem, c.trace, c.key, s.key FROM cuts c JOIN scores s ON s.problem=c.problem"
        " AND s.stage=? AND s.trace=c.trace WHERE c.tag=? ORDER BY c.key",
        (locate.STAGE, str(config.gear.breakpoint)),
    )
    for problem, key, cut_key, scores_key in rows:
        ((_, trace, truth),) = judged(store, [Named(problem, sample.STAGE, key)])
        cut = store.get("cut", cut_key, problem, Cut)
        scores = store.get(locate.STAGE, scores_key, problem, TokenScores)
        assert cut is not None, "columns name only what is stored"
        assert scores is not None, "columns name only what is stored"
        yield cut, scores, trace, truth


# ── PURE ────────────────────────────────────────────────────────────────────────────────────────


class _Read(NamedTuple):
    """What is said of one gated trace."""

    valid: bool
    suspicion: Mapping[Selection, float]


def _detection(store: Store, config: Config) -> tuple[Detection, ...]:
    calibration = _calibration(store, config)
    kinds = list(DETECTORS)
    lines = calibration.lines if calibration else {}
    kinds[1:1] = [Selection.CALIBRATED] if Selection.CALIBRATED in lines else []
    kinds += sorted(BY_RELIANCE) if config.pure.measure_reliance else []
    found = []
    main = str(config.gear.breakpoint)
    for pool, group, stage in (
        ("D2", repair.HINTED, repair.HINTED),
        ("D3", main, repair.REPAIRED),
    ):
        read, own = dict[str, _Read](), [profile for _, profile in profiles(store, group)]
        suspicions = _suspicions(own, kinds, config, calibration)
        for profile in own:
            named = Named(profile.problem_id, stage, profile.trace)
            ((_, _, truth),) = judged(store, [named])
            by = {kind: s[profile.trace] for kind, s in suspicions.items() if profile.trace in s}
            read[profile.key] = _Read(truth.valid, by)
        in_order = [read[key] for key in sorted(read)]
        found += [_detect(kind, pool, in_order) for kind in kinds]
    return tuple(found)


def _calibration(store: Store, config: Config) -> Calibration | None:
    """PURE's lines, as the run drew them."""
    if not config.pure.measure_calibrated:
        return None
    honest = [profile for _, profile in profiles(store, calibrating.TAG)]
    return calibrate(sorted(honest, key=lambda profile: profile.trace), config.pure)


def _suspicions(
    pool: Sequence[PureScore],
    kinds: Iterable[Selection],
    config: Config,
    calibration: Calibration | None,
) -> dict[Selection, dict[str, float]]:
    """By kind and trace; of a trace that a kind cannot read none, the row's n tells."""
    able = {kind: [p for p in pool if readable(p, kind)] for kind in kinds}
    return {
        kind: drop_scores(own, kind, config.pure, seed=config.seed, calibration=calibration)
        for kind, own in able.items()
    }


def _detect(kind: Selection, pool: str, read: Sequence[_Read]) -> Detection:
    own = [each for each in read if kind in each.suspicion]
    # a trace without any number is as suspicious to `worst_result` as can be: infinitely
    read_as = [min(each.suspicion[kind], sys.float_info.max / 2) for each in own]
    valid = np.array([s for s, each in zip(read_as, own, strict=True) if each.valid])
    fudged = np.array([s for s, each in zip(read_as, own, strict=True) if not each.valid])
    if not len(valid) or not len(fudged):
        return Detection(str(kind), pool, None, None, len(valid), len(fudged))
    return Detection(
        str(kind),
        pool,
        auroc(fudged, valid, resamples=2_000, seed=0),
        wilson(int((fudged > np.quantile(valid, KEEP_HONEST)).sum()), len(fudged)),
        len(valid),
        len(fudged),
    )
