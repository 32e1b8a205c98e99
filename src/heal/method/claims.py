"""Claims: what the numbers that a trace's steps claim cost its teacher.

In: unhinted log-probs and entropies of a trace's tokens, with their bytes. Out: of a failed trace a
cut that is not behind the break with probability `SAFETY`, by weights fitted elsewhere
(`hindsight.BARE_WEIGHTS`), wherever in the trace it lies; of an assisted one what its worst claim
costs. Arithmetic and word problems are all it was fitted and judged on; of a trace that claims no
number it knows nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heal.method.gear import Break
from heal.method.hindsight import (
    BARE,
    BARE_WEIGHTS,
    Rule,
    Signals,
    Statistic,
    Where,
    features,
    number_tokens,
    peak,
    result_tokens,
    safe_step,
    step_probabilities,
    step_values,
)
from heal.records import Fallback, FloatArray

SAFETY = 0.8

_Array = NDArray[np.float64]
_WEIGHTS = np.array(BARE_WEIGHTS)


def find_claim_break(
    logprob: FloatArray,
    entropy_lo: FloatArray,
    entropy_hi: FloatArray,
    step_ends: Sequence[int],
    token_bytes: Sequence[bytes],
) -> Break:
    """b: the latest step that is not behind the break with probability `SAFETY`.

    The statistic is p_k, how likely step k is to be the break; the margin is by how much
    P(break < k) would have to change at some k for another b. No claimed number gives b = 2; a
    trace of one step b = 1: both say so. `undecided` errs on the side of doubt.
    """
    nothing = np.full(len(step_ends), np.nan, np.float32)
    if len(step_ends) <= 1:
        return Break(1, nothing, fallback=Fallback.SINGLE_STEP)
    total = step_ends[-1]
    pieces = token_bytes[:total]
    if not result_tokens(pieces).any():
        return Break(2, nothing, fallback=Fallback.NO_CLAIM)
    low, middle, high = (
        _signals(logprob[:total], entropy, step_ends, pieces)
        for entropy in (
            entropy_lo[:total],
            (entropy_lo[:total] + entropy_hi[:total]) / np.float32(2),
            entropy_hi[:total],
        )
    )
    found = features(middle, BARE)
    p = step_probabilities(found, _WEIGHTS)
    b = safe_step(p, SAFETY)
    behind = np.cumsum(p)  # P(break ≤ k)
    margins = [abs(1 - SAFETY - behind[k - 1]) for k in (b - 1, b) if 0 < k < len(p)]
    exact = np.array_equal(low.entropy, high.entropy)
    undecided = not exact and _allows_another(found, low, high)
    return Break(b, p.astype(np.float32), float(min(margins)), undecided=undecided)


def worst_result(
    logprob: FloatArray, step_ends: Sequence[int], token_bytes: Sequence[bytes], first_step: int
) -> float:
    """The largest −ln p of a token of a claimed number in steps `first_step` … K, nats.

    NaN where these claim none.
    """
    if first_step > len(step_ends):
        return float("nan")
    total, start = step_ends[-1], step_ends[first_step - 2] if first_step > 1 else 0
    # The rule reads no entropy.
    signals = _signals(logprob[:total], logprob[:total], step_ends, token_bytes[:total])
    if not signals.results[start:].any():
        return float("nan")
    return peak(signals, Rule(Statistic.SURPRISAL, Where.RESULTS), first_step)


def _signals(
    logprob: FloatArray, entropy: FloatArray, step_ends: Sequence[int], pieces: Sequence[bytes]
) -> Signals:
    masks = number_tokens(pieces), result_tokens(pieces)
    # No rule of `BARE` reads the hinted pass.
    return Signals(logprob, logprob, entropy, step_ends, *masks)


def _allows_another(found: _Array, lowest: Signals, highest: Signals) -> bool:
    """Whether entropies within their bounds may move b."""
    low = high = found @ _WEIGHTS
    for column, rule in enumerate(BARE.values()):
        if rule.statistic is Statistic.ENTROPY:
            weight, own = _WEIGHTS[column], _WEIGHTS[column] * found[:, column]
            between = _standardised(step_values(lowest, rule), step_values(highest, rule))
            ends = weight * between
            low, high = low - own + ends.min(axis=0), high - own + ends.max(axis=0)
    return _last_safe(low, high) != _last_safe(high, low)


def _standardised(lo: _Array, hi: _Array) -> _Array:
    """Bounds of (e_k − μ) / σ for every e between lo and hi, float64[2, K].

    σ is a seminorm, so it moves by at most the root mean square of the half-widths.
    """
    steps = len(lo)
    middle, slack = (lo + hi) / 2, float(np.sqrt((((hi - lo) / 2) ** 2).mean()))
    narrow, wide = max(middle.std() - slack, 1e-9), middle.std() + slack
    # Each step's own value counts in its mean with the same sign as above it.
    least = lo - (hi.sum() - hi + lo) / steps
    most = hi - (lo.sum() - lo + hi) / steps
    bounds = [
        least / np.where(least >= 0, wide, narrow),
        most / np.where(most >= 0, narrow, wide),
    ]
    limit = np.sqrt(steps - 1)  # no value of K stands farther from their mean
    return np.clip(bounds, -limit, limit)


def _last_safe(before: _Array, after: _Array) -> int:
    """The last k that is safe if steps before k have these logits, and k and later ones those."""
    top = max(before.max(), after.max())
    odds_before, odds_after = np.exp(before - top), np.exp(after - top)
    behind = np.concatenate([[0.0], np.cumsum(odds_before)[:-1]])
    ahead = np.cumsum(odds_after[::-1])[::-1]
    return 1 + int(np.flatnonzero(behind <= (1 - SAFETY) * (behind + ahead) + 1e-12).max())
