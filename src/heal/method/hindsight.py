"""Hindsight: where a failed trace broke, read from what its tokens cost its own teacher.

In: one trace's log-probs under the bare problem and with the answer in the prompt, its entropies,
its steps, and which of its tokens write numbers. Out: a statistic per step, the step it points at,
and a distribution over steps from which a cut of a stated safety follows. Nats throughout; steps
are numbered from 1. Knows nothing of prompts, models or disk. Only `number_tokens` and
`result_tokens` look at text; they know digits and relation signs, not words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal.records import FloatArray

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_RELATIONS = ("=", "≈", "\\approx")
_BEFORE = frozenset(" \t$\\&{([-−+~€£")
"""What may stand between a relation and its number, besides `_COMMANDS`."""
_COMMANDS = ("boxed", "mathbf", "textbf")
_INSIDE = frozenset(",.{}")
"""What may stand inside a number."""


@dataclass(frozen=True)
class Signals:
    """One trace as the statistics see it; T tokens, K steps."""

    logprob: FloatArray
    """float32[T]: ln p(y_t | x, y_<t)."""
    hinted: FloatArray
    """float32[T]: ln p(y_t | x, answer, y_<t)."""
    entropy: FloatArray
    """float32[T], under the bare problem."""
    step_ends: Sequence[int]
    numbers: _Mask
    """bool[T]: tokens that write a number."""
    results: _Mask
    """bool[T]: tokens of a number behind a relation sign: what a step claims."""


class Statistic(StrEnum):
    """What is read at each token."""

    DROP = "drop"
    """Δ_t = ln p(y_t|x) − ln p(y_t|x, answer): how much the answer speaks against the token."""
    ENTROPY = "entropy"
    DROP_AND_ENTROPY = "drop_and_entropy"
    """The sum of both, each in standard deviations of the trace."""
    SURPRISAL = "surprisal"
    """−ln p(y_t|x)."""


class Where(StrEnum):
    """Which tokens count; a step without one of them has the lowest value of the trace."""

    ALL = "all"
    NUMBERS = "numbers"
    RESULTS = "results"


class Over(StrEnum):
    """How a step's tokens become one value."""

    MAX = "max"
    SUM = "sum"
    MEAN = "mean"
    WINDOW = "window"
    """The largest mean of `WINDOW_TOKENS` neighbours (after arXiv 2510.03988)."""


WINDOW_TOKENS = 8


@dataclass(frozen=True)
class Rule:
    """One way to point at a step: the largest value, or the first of those large enough."""

    statistic: Statistic
    where: Where = Where.ALL
    over: Over = Over.MAX
    first_over: float | None = None
    """The first step above this value; None: the largest."""
    first_share: float | None = None
    """The first step that reaches this share of the largest (both above the smallest), because a
    wrong step makes those after it surprising too; None: the largest."""

    @property
    def name(self) -> str:
        """The rule in words, for tables."""
        words = f"{self.statistic} · {self.over} of {self.where}"
        if self.first_over is not None:
            return f"{words} · first over {self.first_over:g}"
        if self.first_share is not None:
            return f"{words} · first at {100 * self.first_share:.0f} % of the largest"
        return words


def token_values(signals: Signals, statistic: Statistic) -> _Array:
    """The statistic at every token, float64[T]."""
    drop = _float(signals.logprob) - _float(signals.hinted)
    entropy = _float(signals.entropy)
    if statistic is Statistic.DROP:
        return drop
    if statistic is Statistic.ENTROPY:
        return entropy
    if statistic is Statistic.SURPRISAL:
        return -_float(signals.logprob)
    return standardise(drop) + standardise(entropy)


def step_values(signals: Signals, rule: Rule) -> _Array:
    """The rule's value for every step, float64[K]."""
    values = token_values(signals, rule.statistic)
    if rule.over is Over.WINDOW:
        values = _window_means(values)
    counts = {Where.NUMBERS: signals.numbers, Where.RESULTS: signals.results}.get(rule.where)
    if counts is None or not counts.any():
        counts = np.ones(len(values), bool)
    reduce = _REDUCTIONS[rule.over]
    steps = _split(values, signals.step_ends), _split(counts, signals.step_ends)
    found = np.array([reduce(v[c]) if c.any() else np.nan for v, c in zip(*steps, strict=True)])
    lowest = 0.0 if rule.over is Over.SUM else np.nanmin(found)
    return np.where(np.isnan(found), lowest, found)


def point_at(signals: Signals, rule: Rule) -> int:
    """The step the rule points at, from 1; the earliest on ties.

    With `first_over`, the last step where none is above it: nothing spoke up.
    """
    values = step_values(signals, rule)
    if rule.first_share is not None:
        above_lowest = values - values.min()
        return 1 + int(np.argmax(above_lowest >= rule.first_share * above_lowest.max()))
    if rule.first_over is None:
        return 1 + int(values.argmax())
    above = np.flatnonzero(values > rule.first_over)
    return 1 + int(above[0]) if len(above) else len(values)


def peak(signals: Signals, rule: Rule, first_step: int = 1) -> float:
    """The largest value of steps `first_step` … K: a trace's suspicion, where its steps before
    that were kept from another. Raises: ValueError for a trace that has no such step.
    """
    return float(step_values(signals, rule)[first_step - 1 :].max())


def standardise(values: NDArray[Any]) -> _Array:
    """Values in standard deviations from their mean; zeros where they do not vary."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros(len(values))


# From statistics to a distribution over steps: a conditional logit, fitted on traces whose break is
# known, and cut where the break lies behind with a stated probability.

FEATURES: Mapping[str, Rule] = {
    "surprisal of results": Rule(Statistic.SURPRISAL, Where.RESULTS, Over.SUM),
    "worst result": Rule(Statistic.SURPRISAL, Where.RESULTS, Over.MAX),
    "entropy of numbers": Rule(Statistic.ENTROPY, Where.NUMBERS, Over.SUM),
    "drop at a number": Rule(Statistic.DROP, Where.NUMBERS, Over.MAX),
    "drop": Rule(Statistic.DROP, Where.ALL, Over.SUM),
}
"""What the distribution is built on; each is standardised within its trace."""

BARE: Mapping[str, Rule] = {
    name: rule
    for name, rule in FEATURES.items()
    if rule.statistic in (Statistic.SURPRISAL, Statistic.ENTROPY)
}
"""Those that need no second pass with the answer, which adds nothing that was seen."""

ALWAYS = ("claims no result", "place in the trace")
"""Features that belong to every distribution, behind those of its rules."""

BARE_WEIGHTS = (0.1258, -0.0623, 1.3129, -1.9265, -1.9343)
"""Of `BARE` and `ALWAYS`, fitted on 201 failed traces of 65 arithmetic problems by a 0.5B instruct
model; `benchmarks/results/real_breakpoints.json` says how well such weights do on fresh problems.
"""


def features(signals: Signals, rules: Mapping[str, Rule] = FEATURES) -> _Array:
    """float64[K, F]: every rule's value for every step, in standard deviations of the trace; then
    those of `ALWAYS`: whether the step claims no result at all, and where it ends (0 to 1).
    """
    columns = [standardise(step_values(signals, rule)) for rule in rules.values()]
    silent = [not part.any() for part in _split(signals.results, signals.step_ends)]
    place = np.asarray(signals.step_ends, np.float64) / signals.step_ends[-1]
    return np.stack([*columns, np.array(silent, np.float64), place], axis=1)


def step_probabilities(found: NDArray[Any], weights: NDArray[Any]) -> _Array:
    """p_k: how likely each step is to be the break, float64[K]."""
    logits = found @ weights
    odds = np.exp(logits - logits.max())
    return np.asarray(odds / odds.sum(), np.float64)


def fit_weights(
    examples: Sequence[tuple[NDArray[Any], int]], ridge: float = 1.0, rounds: int = 50
) -> _Array:
    """Weights that make the known breaks likely: Newton's method on a concave likelihood.

    examples: (features, break from 1) of each trace. Raises: ValueError without examples.
    """
    if not examples:
        raise ValueError("weights from no traces")
    size = examples[0][0].shape[1]
    weights = np.zeros(size)
    for _ in range(rounds):
        gradient, curvature = -ridge * weights, ridge * np.eye(size)
        for found, step in examples:
            p = step_probabilities(found, weights)
            mean = p @ found
            gradient += found[step - 1] - mean
            curvature += (found * p[:, None]).T @ found - np.outer(mean, mean)
        change = np.linalg.solve(curvature, gradient)
        weights += change
        if np.abs(change).max() < 1e-8:
            break
    return np.asarray(weights, np.float64)


def safe_step(probabilities: NDArray[Any], safety: float) -> int:
    """The latest step, from 1, that is not behind the break with probability `safety`.

    P(break ≥ k) ≥ safety always holds at k = 1. Backs up by as much as the doubt asks for, so a
    clear trace keeps more than a fixed back-up would let it.
    """
    behind = np.concatenate([[0.0], np.cumsum(probabilities)[:-1]])
    return 1 + int(np.flatnonzero(behind <= 1 - safety + 1e-12).max())


def back_up_steps(pointed: Sequence[int], breaks: Sequence[int], safety: float) -> int:
    """The fewest steps to back up so that a share `safety` of these cuts is not after the break.

    Raises: ValueError without traces.
    """
    if not pointed:
        raise ValueError("a back-up from no traces")
    late = np.sort(np.asarray(pointed) - np.asarray(breaks))
    # All but 1 − safety of them must be at most this late.
    needed = late[min(len(late) - 1, int(np.ceil(safety * len(late) - 1e-9)) - 1)]
    return max(0, int(needed))


def number_tokens(token_bytes: Sequence[bytes]) -> _Mask:
    """Tokens that hold a digit, bool[T]."""
    return np.array([any(48 <= b <= 57 for b in piece) for piece in token_bytes], bool)


def result_tokens(token_bytes: Sequence[bytes]) -> _Mask:
    """Number tokens behind a relation sign, up to the number's end, bool[T]."""
    found, awaited, begun = np.zeros(len(token_bytes), bool), False, False
    for at, piece in enumerate(token_bytes):
        text = piece.decode("utf-8", "ignore")
        if ends := [text.rfind(sign) + len(sign) for sign in _RELATIONS if sign in text]:
            awaited, begun, text = True, False, text[max(ends) :]
        if any("0" <= c <= "9" for c in text):
            found[at] = begun = awaited
        elif begun:
            awaited = bool(text) and set(text) <= _INSIDE
        elif not (set(text) <= _BEFORE or text.strip(" {\\") in _COMMANDS):
            awaited = False
    return found


_REDUCTIONS: Mapping[Over, Callable[[_Array], float]] = {
    Over.MAX: lambda v: float(v.max()),
    Over.WINDOW: lambda v: float(v.max()),
    Over.SUM: lambda v: float(v.sum()),
    Over.MEAN: lambda v: float(v.mean()),
}


def _window_means(values: _Array) -> _Array:
    """The mean of each token and its neighbours; fewer at the ends."""
    kernel = np.ones(min(WINDOW_TOKENS, len(values)))
    sums = np.convolve(values, kernel, "same")
    return sums / np.convolve(np.ones(len(values)), kernel, "same")


def _split(values: NDArray[Any], step_ends: Sequence[int]) -> list[NDArray[Any]]:
    return np.split(values, np.asarray(step_ends, np.int64))[: len(step_ends)]


def _float(values: NDArray[Any]) -> _Array:
    return np.asarray(values, np.float64)
