"""PURE: is a repaired trace a breakthrough or a shortcut (docs/method.md §3)?

In: `PureScore` profiles, all under the *unhinted* teacher. Out: a reading per trace and the set of
traces to drop. High means suspicious in every score here. `fraction` drops a fixed share, so it
cannot clean a pool that is mostly fudged; those of `LINED` can, given traces known to be honest.
`fraction` and `calibrated` ask whether the step that settles the answer surprises; `surprisal` asks
whether the answer itself does, where the trace writes it; `worst_result` whether any number does
that a step claims; `joint` ranks a set by two readings and takes the more suspicious rank.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal.config import Pure
from heal.method.answers import mention_spans
from heal.records import FloatArray, PureScore, Selection

NEAR_COMMITMENT = 2
"""`calibrated` looks at the steps at most so far from k_c."""
BINS = 5
"""Quintiles of U and of step length."""
MIN_CELL = 10
"""A bin with fewer steps borrows its U quintile's mean and spread, or everyone's."""
MIN_SPREAD = 0.05
"""Floor of a bin's standard deviation of ln PPL, in nats."""
MIN_CALIBRATION = 20
"""Fewer honest traces do not have a 95th percentile."""
HONEST_LOST = 0.05
"""Of honest traces, above their line, where `pure.line` names a share of others."""
LINED = (Selection.CALIBRATED, Selection.SURPRISAL, Selection.WORST_RESULT)
"""Selections that drop what lies above a line drawn by honest traces."""
JOINED = (Selection.SURPRISAL, Selection.RELIANCE)
"""What `joint` ranks by."""
BY_RELIANCE = frozenset({Selection.RELIANCE, Selection.JOINT})
"""Selections that need what a trace costs with its hint in view."""

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class PureReading:
    """PURE's reading of one trace."""

    score: float | None
    """S = max ℓ_k over the steps that count; None when no step could be scored."""
    commit_step: int | None
    """k_c, from 1; None when the trace never committed to its answer."""

    @property
    def never_committed(self) -> bool:
        """U never stayed low, so every step from b on counted."""
        return self.commit_step is None


@dataclass(frozen=True)
class Bins:
    """How surprising honest steps are, by U and by length."""

    u_edges: _Array
    length_edges: _Array
    mean: _Array
    """float64[5, 5]: mean ln PPL in each bin of U (row) and step length (column)."""
    spread: _Array


@dataclass(frozen=True)
class Calibration:
    """What honest traces look like; fitted by `calibrate`."""

    bins: Bins | None
    """None where too few of them have a U."""
    lines: Mapping[Selection, float]
    """By selection; above it a trace is dropped. Of honest traces the quantile that `pure.line`
    names; none for a selection that fewer than `MIN_CALIBRATION` of them have a score for."""
    traces: int


def commitment(score: PureScore, settings: Pure) -> int | None:
    """k_c: the first k ≥ b from which U stays below `commit_below` for `commit_steps` steps.

    A run that reaches the last step may be shorter. None: the trace never committed.
    """
    low = np.asarray(score.uncertainty[1:]) < settings.commit_below
    steps = len(low)
    for k in range(score.first_step, steps + 1):
        if low[k - 1 : min(k - 1 + settings.commit_steps, steps)].all():
            return k
    return None


def step_ratios(score: PureScore, settings: Pure) -> _Array:
    """ℓ_k = ln PPL_k − ln(max(U_k, u_floor) + ε), float64[K]; NaN for steps that do not count.

    Those are: before b, after k_c, stating the answer, or not probed. After commitment U → 0 and
    every ratio would be large; below the floor −ln(U + ε) would swamp ln PPL.
    """
    log_ppl = np.asarray(score.log_ppl, np.float64)
    uncertainty = np.asarray(score.uncertainty[1:], np.float64)
    ratios = log_ppl - np.log(np.maximum(uncertainty, settings.u_floor) + settings.epsilon)
    last = commitment(score, settings) or len(log_ppl)
    return np.where(_counts(score, score.first_step, last), ratios, np.nan)


def trace_score(score: PureScore, settings: Pure) -> PureReading:
    """S = max ℓ_k over b ≤ k ≤ k_c, and where the trace committed."""
    return PureReading(_peak(step_ratios(score, settings)), commitment(score, settings))


def calibrate(honest: Sequence[PureScore], settings: Pure) -> Calibration:
    """Draw a line for each selection that has one, from unaided correct traces.

    `surprisal` and `worst_result` need no U; `calibrated` needs it, to fit ln PPL in quintile bins
    of U_k × length.
    """
    bins = _fitted_bins(honest)
    draft = Calibration(bins, {}, len(honest))
    peaks = {
        Selection.SURPRISAL: [surprisal(score) for score in honest],
        # Scored before this was measured: they draw no line here, and are owed where one is wanted.
        Selection.WORST_RESULT: [worst_result(x) for x in honest if x.worst_result is not None],
    }
    if bins is not None:
        peaks[Selection.CALIBRATED] = [calibrated_score(x, settings, draft) for x in honest]
    read = {kind: [s for s in scores if s is not None] for kind, scores in peaks.items()}
    lines = {
        kind: float(np.quantile(scores, 1 - (settings.line.honest_lost or HONEST_LOST)))
        for kind, scores in read.items()
        if len(scores) >= MIN_CALIBRATION
    }
    return replace(draft, lines=lines)


def _fitted_bins(honest: Sequence[PureScore]) -> Bins | None:
    rows = [_calibration_steps(score) for score in honest]
    if sum(row.shape[1] > 0 for row in rows) < MIN_CALIBRATION:
        return None
    u, length, log_ppl = np.concatenate(rows, axis=1)
    inner = np.arange(1, BINS) / BINS
    u_edges, length_edges = np.quantile(u, inner), np.quantile(length, inner)
    row, column = np.searchsorted(u_edges, u), np.searchsorted(length_edges, length)
    return Bins(u_edges, length_edges, *_cell_statistics(row, column, log_ppl))


def calibrated_score(score: PureScore, settings: Pure, calibration: Calibration) -> float | None:
    """S = max z of ln PPL_k within ±2 steps of k_c (of K if it never committed), k ≥ b.

    Raises: ValueError for a calibration without bins.
    """
    bins = calibration.bins
    if bins is None:
        raise ValueError("selection 'calibrated' needs a calibration on traces with U")
    log_ppl = np.asarray(score.log_ppl, np.float64)
    uncertainty = np.asarray(score.uncertainty[1:], np.float64)
    row = np.searchsorted(bins.u_edges, uncertainty)
    column = np.searchsorted(bins.length_edges, np.asarray(score.step_tokens))
    row = np.minimum(row, BINS - 1)  # NaN sorts past the end; those steps do not count anyway
    z = (log_ppl - bins.mean[row, column]) / bins.spread[row, column]
    centre = commitment(score, settings) or len(log_ppl)
    first = max(score.first_step, centre - NEAR_COMMITMENT)
    return _peak(np.where(_counts(score, first, centre + NEAR_COMMITMENT), z, np.nan))


def surprisal(score: PureScore) -> float | None:
    """S = the largest −ln p of a mention of the answer in steps b … K, nats; None without any.

    What was derived is expected when it is written down. An answer that was only told must enter
    somewhere, and surprises there; an idea may surprise as well, but in other words. Needs no U.
    Raises: ValueError for a profile without the measurement.
    """
    if score.answer_surprisal is None:
        raise ValueError(f"{score.trace}: 'surprisal' was not measured")
    return _peak(np.where(_written(score, scorable=False), score.answer_surprisal, np.nan))


def worst_result(score: PureScore) -> float | None:
    """S = the largest −ln p of a token of a claimed number in steps b … K, nats; None without any.

    A false result surprises where it is written, whatever the answer costs. Needs no U.
    Raises: ValueError for a profile without the measurement.
    """
    if score.worst_result is None:
        raise ValueError(f"{score.trace}: 'worst_result' was not measured")
    return None if np.isnan(score.worst_result) else score.worst_result


def joint(surprisals: Mapping[str, float], reliances: Mapping[str, float]) -> dict[str, float]:
    """The higher of each trace's two ranks in its set, between 0 and 1, by key.

    Both: suspicions by trace, as `drop_scores` gives them, of one set judged together and not of
    one problem, where few ranks say little; traces without either are left out. Ranks are
    mid-ranks, (r − ½)/n, among the traces that a reading can read. One it cannot (infinite: a trace
    that never mentions the answer has no surprisal) takes the other's rank alone; one that neither
    can, without a step of its own, is infinitely suspicious.
    """
    both = [trace for trace in reliances if trace in surprisals]
    ranks = [
        _mid_ranks({t: own[t] for t in both if np.isfinite(own[t])})
        for own in (surprisals, reliances)
    ]
    return {t: max((own[t] for own in ranks if t in own), default=np.inf) for t in both}


def _mid_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Of each the share of all that lies below, ties and itself counting half."""
    from scipy.stats import rankdata  # `heal --help` must not wait for scipy

    ranks = (rankdata(list(values.values())) - 0.5) / max(len(values), 1)
    return dict(zip(values, ranks.tolist(), strict=True))


def telling_step(score: PureScore, kind: Selection, settings: Pure) -> int | None:
    """The step, from 1, that a trace's suspicion was read from; None where no one step was."""
    match kind:
        case Selection.FRACTION:
            values = step_ratios(score, settings)
        case Selection.SURPRISAL if score.answer_surprisal is not None:
            values = np.where(_written(score, scorable=False), score.answer_surprisal, np.nan)
        case Selection.MAX_PPL:
            values = np.where(_written(score, scorable=True), score.log_ppl, np.nan)
        case _:
            return None
    return int(np.nanargmax(values)) + 1 if np.isfinite(values).any() else None


def step_surprisal(
    pieces: Sequence[bytes], logprob: FloatArray, ends: Sequence[int], answer: str
) -> FloatArray:
    """The largest −ln p of a mention of the answer that begins in each step; NaN without one.

    pieces, logprob: of the trace's tokens, [T]; ends: of its steps, [K]. A mention costs what the
    tokens it touches cost together, float32[K], nats.
    """
    found = np.full(len(ends), np.nan, np.float32)
    closes = np.cumsum([len(piece) for piece in pieces])
    for start, end in mention_spans(b"".join(pieces), answer):
        first, last = np.searchsorted(closes, (start, end - 1), side="right")
        step = int(np.searchsorted(ends, first, side="right"))
        if step < len(ends):
            found[step] = np.fmax(found[step], -logprob[first : last + 1].sum())
    return found


def select(
    candidates: Sequence[PureScore],
    kind: Selection,
    settings: Pure,
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> frozenset[str]:
    """Keys of the traces to drop, by `drop_scores` and `dropped_by`."""
    scores = drop_scores(candidates, kind, settings, seed=seed, calibration=calibration)
    problem_of = {c.trace: c.problem_id for c in candidates}
    return dropped_by(scores, problem_of, kind, settings, calibration)


def dropped_by(
    scores: Mapping[str, float],
    problem_of: Mapping[str, str],
    kind: Selection,
    settings: Pure,
    calibration: Calibration | None = None,
) -> frozenset[str]:
    """Keys of the traces to drop. Give one PACE pool at a time: S depends on where b stands.

    `calibrated`, `surprisal` and `worst_result` drop what exceeds their line, if it `fits`.
    Otherwise, and by every other kind, the worst `drop` share of each problem's candidates goes,
    rounded; problems with fewer than `min_candidates` are pooled, with their scores z-scored by
    problem first.
    """
    line = calibration.lines.get(kind) if calibration is not None else None
    if line is not None and fits(scores, line, settings):
        return frozenset(t for t, s in scores.items() if s > line)
    return _worst(problem_of, scores, settings)


def drop_at_random(traces: Iterable[str], count: int, *, seed: int = 0) -> frozenset[str]:
    """Keys of `count` traces that chance chooses: what PURE's own choice is held against."""
    scores = {trace: _dice(seed, trace) for trace in traces}
    return frozenset(sorted(scores, key=lambda trace: (-scores[trace], trace))[:count])


def fits(scores: Mapping[str, float], line: float, settings: Pure) -> bool:
    """Whether honest unaided traces are a measure for these: not nearly all are above the line.

    Where an honest idea itself makes the answer certain, nearly every repair looks abnormal beside
    traces that needed no idea: the lab's `rows` would lose 266 of 269 valid repairs.
    """
    above = sum(score > line for score in scores.values())
    return above <= settings.drop_at_most * len(scores)


def drop_scores(
    candidates: Sequence[PureScore],
    kind: Selection,
    settings: Pure,
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> dict[str, float]:
    """Each trace's suspicion by one kind; the highest go first.

        fraction    S = max ℓ_k                calibrated  S = max z near k_c
        surprisal   S = max −ln p(a mention of the answer)
        worst_result  S = max −ln p(a token of a claimed number)
        random      a seeded number by key     reliance    −Δ = mean ln p(y|x,h) − mean ln p(y|x)
        length      −(tokens written)          mean_nll, max_ppl   over all scorable steps from b
        joint       the higher rank of surprisal and reliance

    `length` suspects the short: a shortcut skips steps. `joint` ranks all candidates, so give one
    whole set; every other kind reads each trace for itself. A trace without any step to score is
    infinitely suspicious, since nothing speaks for it. Raises: ValueError when what a kind needs
    was not measured.
    """
    if kind is Selection.JOINT:
        return joint(*(drop_scores(candidates, part, settings) for part in JOINED))
    suspicions = (_suspicion(c, kind, settings, seed, calibration) for c in candidates)
    return {
        c.trace: np.inf if s is None or np.isnan(s) else float(s)
        for c, s in zip(candidates, suspicions, strict=True)
    }


def _suspicion(
    score: PureScore, kind: Selection, settings: Pure, seed: int, calibration: Calibration | None
) -> float | None:
    match kind:
        case Selection.FRACTION:
            return trace_score(score, settings).score
        case Selection.CALIBRATED:
            if calibration is None:
                raise ValueError("selection 'calibrated' needs a calibration")
            return calibrated_score(score, settings, calibration)
        case Selection.SURPRISAL:
            return surprisal(score)
        case Selection.WORST_RESULT:
            return worst_result(score)
        case Selection.RANDOM:
            return _dice(seed, score.trace)
        case Selection.RELIANCE:
            if not _written(score, scorable=False).any():
                return None
            if score.hinted_log_ppl is None:
                raise ValueError(f"{score.trace}: 'reliance' needs the hinted log-probs")
            return _mean_nll(score, scorable=False) - score.hinted_log_ppl
        case Selection.LENGTH:
            return -float(sum(score.step_tokens[score.first_step - 1 :]))
        case Selection.MEAN_NLL:
            return _mean_nll(score, scorable=True)
        case Selection.MAX_PPL:
            return _peak(np.where(_written(score, scorable=True), score.log_ppl, np.nan))
        case Selection.JOINT:
            raise ValueError("selection 'joint' ranks a set, not one trace")


def _dice(seed: int, trace: str) -> float:
    return float(int.from_bytes(blake2b(f"{seed}|{trace}".encode(), digest_size=6).digest()))


def _worst(
    problem_of: Mapping[str, str], scores: Mapping[str, float], settings: Pure
) -> frozenset[str]:
    by_problem: dict[str, list[str]] = defaultdict(list)
    for trace, problem in problem_of.items():
        by_problem[problem].append(trace)
    dropped: list[str] = []
    pooled: dict[str, float] = {}
    for group in by_problem.values():
        own = {t: scores[t] for t in group}
        if len(group) < settings.min_candidates:
            pooled |= _standardised(own)
        else:
            dropped += _top_share(own, scores, settings.drop)
    return frozenset(dropped + _top_share(pooled, scores, settings.drop))


def _top_share(ranks: Mapping[str, float], raw: Mapping[str, float], share: float) -> list[str]:
    """The highest ranked share, to the nearest whole trace; ties by raw score, then by key."""
    count = int(share * len(ranks) + 0.5)
    return sorted(ranks, key=lambda t: (-ranks[t], -raw[t], t))[:count]


def _standardised(scores: Mapping[str, float]) -> dict[str, float]:
    """z within one problem; a trace with nothing to compare it with stands in the middle."""
    finite = np.array([s for s in scores.values() if np.isfinite(s)])
    spread = float(finite.std()) if len(finite) else 0.0
    if spread == 0:
        return {t: 0.0 if np.isfinite(s) else np.inf for t, s in scores.items()}
    return {t: (s - float(finite.mean())) / spread for t, s in scores.items()}


def _counts(score: PureScore, first: int, last: int) -> NDArray[np.bool_]:
    """Steps first … last that are scorable and probed, bool[K]."""
    k = 1 + np.arange(len(score.log_ppl))
    probed = np.isfinite(np.asarray(score.uncertainty[1:], np.float64))
    return (k >= first) & (k <= last) & np.asarray(score.scorable, bool) & probed


def _written(score: PureScore, *, scorable: bool) -> NDArray[np.bool_]:
    """Steps the teacher wrote after the kept prefix, bool[K]; these need no probes."""
    k = 1 + np.arange(len(score.log_ppl))
    written: NDArray[np.bool_] = k >= score.first_step
    return written & np.asarray(score.scorable, bool) if scorable else written


def _mean_nll(score: PureScore, *, scorable: bool) -> float:
    weights = np.where(_written(score, scorable=scorable), score.step_tokens, 0)
    total = weights.sum()
    return float((weights * score.log_ppl).sum() / total) if total else np.nan


def _peak(values: NDArray[Any]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else None


def _calibration_steps(score: PureScore) -> _Array:
    counts = _counts(score, score.first_step, len(score.log_ppl))
    rows = (score.uncertainty[1:], score.step_tokens, score.log_ppl)
    return np.stack([np.asarray(row, np.float64)[counts] for row in rows])


def _cell_statistics(
    row: NDArray[np.int64], column: NDArray[np.int64], log_ppl: _Array
) -> tuple[_Array, _Array]:
    mean, spread = np.empty((BINS, BINS)), np.empty((BINS, BINS))
    for i in range(BINS):
        for j in range(BINS):
            nested = ((row == i) & (column == j), row == i, np.ones(len(row), bool))
            cell = next((c for c in nested if c.sum() >= MIN_CELL), nested[-1])
            mean[i, j] = log_ppl[cell].mean()
            spread[i, j] = max(float(log_ppl[cell].std()), MIN_SPREAD)
    return mean, spread
