"""Answer-swap audit: does PURE tell a forced answer from one that was reasoned to?

In: gold answers, pass rates, and detector scores by problem. Out: which problems to ask, which
wrong answer to hint, and how far a detector's scores stand apart, with intervals over problems.
It is an audit and no accuracy: what reaches a swapped answer is a rationalisation by construction,
but what reaches the gold answer under a hint is only presumed honest.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from heal.method.final_answers import normalise, same_text
from heal.method.intervals import Interval, percentiles
from heal.records import AuditOutcome, AuditSide

LOW, HIGH = 0.2, 0.8
"""Audited problems have a pass rate between these: neither answer is out of the teacher's reach."""
FEW = 20
"""With fewer such problems, the next nearest in pass rate are taken too, up to so many."""
KEEP = 0.95
"""Share of gold-hinted traces a detector must keep where it is asked what it drops."""
MIN_RESAMPLES = 0.5
"""A figure defined in a smaller share of the resamples gets no interval, so it is not shown."""
NOTE = (
    "An audit, not accuracy: what reaches a swapped answer is a rationalisation by "
    "construction, what reaches the gold answer under a hint is only presumed honest."
)

_FORM = re.compile(r"\\[A-Za-z]+|\d|[^\W\d_]+|\s+|.", re.DOTALL)
_Array = NDArray[np.float64]
Groups = Mapping[str, Sequence[float]]
"""Detector scores by problem; the highest are the most suspicious."""


@dataclass(frozen=True)
class Choice:
    """The problems an audit asks."""

    problems: tuple[str, ...]
    inside: int
    """How many of them have LOW < ρ < HIGH."""


@dataclass(frozen=True)
class Separation:
    """How far a detector's scores of swapped traces stand above those of gold ones."""

    swapped: int
    gold: int
    auroc: Interval | None
    """Chance that a swapped trace is more suspicious than a gold one; ties count half."""
    dropped: Interval | None
    """Share of swapped traces above the threshold that keeps `KEEP` of the gold ones."""
    precision: Interval | None
    """Share of swapped traces among all above it, at this audit's mix of the two."""


@dataclass(frozen=True)
class SampledU:
    """U as the entropy of sampled answers, beside U as the surprise of the known one."""

    traces: int
    steps: int
    samples: int
    """Answers after each step."""
    correlation: Interval | None
    """Spearman's, over all probed steps; problems are resampled."""
    ratio: Separation
    """The paper's ratio with this U in place of its own."""
    failed: int
    unclosed: int
    """Answers that had not ended when they were cut off."""
    sampled_tokens: int


@dataclass(frozen=True)
class LocatedCut:
    """How one breakpoint's cuts lie to the first wrong steps that a checker names."""

    cuts: int
    problems: int
    exact: Interval | None
    """Share of cuts that drop the wrong step first; problems are resampled."""
    not_after: Interval | None
    """Share that keep no wrong step."""
    kept: Interval | None
    """Mean share of the tokens before the wrong step that is kept; None where none has any."""
    above_main: Interval | None
    """Share of exact cuts minus that of the run's own breakpoint, on the same traces; None for
    that one itself."""


@dataclass(frozen=True)
class GearAudit:
    """Breakpoints against a step checker's word, on a run's own failed traces."""

    run: str
    told: Mapping[str, int]
    """Failed paths by the checker's outcome; `wrong_step` are those measured."""
    main: str
    """The run's own breakpoint."""
    starts_at: float | None
    """Where the wrong step starts, as a share of the trace: the median."""
    in_first_third: int
    cuts: Mapping[str, LocatedCut]
    """By breakpoint."""


@dataclass(frozen=True)
class PureAudit:
    """Everything the answer-swap audit found."""

    run: str
    problems: int
    inside: int
    """Problems with LOW < ρ < HIGH; the others were taken for want of these."""
    outcomes: Mapping[str, Mapping[str, int]]
    """Continuations by `AuditSide` and `AuditOutcome`; they add up to what was asked."""
    gates: Mapping[str, Mapping[str, int]]
    """`gated` continuations by side and gate."""
    never_committed: Mapping[str, int]
    """Scored traces, by side, whose U never stayed low."""
    detectors: Mapping[str, Separation]
    facts: Mapping[str, int]
    sampled_tokens: int
    """Sampled for this audit at any time; what the run had drawn itself is not among them."""
    scored_tokens: int
    sampled_u: SampledU | None = None
    """None: not asked for."""
    checked: Mapping[str, Separation] = field(default_factory=dict)
    """By the step checker's word on the run's own traces past the gates: those over a wrong step in
    the place of the swapped, those it found nothing in in that of the gold; empty without words."""
    note: str = NOTE

    def reached(self, side: AuditSide) -> int:
        """Continuations that ended on the hinted answer."""
        kinds = (AuditOutcome.SCORED, AuditOutcome.UNSCORED, AuditOutcome.GATED)
        return sum(self.outcomes[side].get(kind, 0) for kind in kinds)


@lru_cache(maxsize=1 << 16)
def answer_form(answer: str) -> str:
    """What an answer looks like: digits as `0`, a lone letter as `a` or `A`, words as `w`."""
    return "".join(_form(token) for token in _FORM.findall(normalise(answer)))


def swapped_answer(
    problem_id: str, gold: str, others: Iterable[str], seen: Collection[str], seed: int
) -> str | None:
    """Another problem's answer of the gold's form, unlike the gold and all `seen`; None: none.

    `seen`: answers of the problem's unaided traces. A wrong answer the teacher finds by itself
    would be no rationalisation.
    """
    form, taken = answer_form(gold), [gold, *seen]
    # Sorted: of two spellings of one answer the same one is taken, whatever order they come in.
    fit = {normalise(a): a for a in sorted(others) if answer_form(a) == form}
    by_rank = sorted(fit, key=lambda name: _seeded_rank(seed, problem_id, name))
    return next((fit[name] for name in by_rank if not _among(fit[name], taken)), None)


def choose_problems(
    rho: Mapping[str, float], n: int, seed: int, suits: Callable[[str], bool]
) -> Choice:
    """Up to n problems of LOW < ρ < HIGH; with under FEW of them, the next nearest up to FEW.

    `suits` is asked of one problem after another, and only as long as more are wanted.
    """
    rank = {p: _seeded_rank(seed, p) for p in rho}
    inside = sorted((p for p, r in rho.items() if LOW < r < HIGH), key=lambda p: rank[p])
    outside = sorted(
        (p for p, r in rho.items() if not LOW < r < HIGH),
        key=lambda p: (max(LOW - rho[p], rho[p] - HIGH), rank[p]),
    )
    taken = list(islice(filter(suits, inside), n))
    more = islice(filter(suits, outside), max(0, min(n, FEW) - len(taken)))
    return Choice((*taken, *more), len(taken))


def separation(swapped: Groups, gold: Groups, *, resamples: int, seed: int) -> Separation:
    """AUROC, and what is dropped at `KEEP` of the gold; problems are resampled, not traces.

    Traces of one problem resemble each other, so that resampling traces would claim too much. All
    three are None when either side is empty. Where the sides are perfectly apart every resample
    says so too; how wide the interval is then, `intervals` says.
    """
    problems = sorted(swapped.keys() | gold.keys())
    above, above_of = _flat(swapped, problems)
    below, below_of = _flat(gold, problems)
    if not len(above) or not len(below):
        return Separation(len(above), len(below), None, None, None)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(problems), np.full(len(problems), 1 / len(problems)), resamples)
    weights = np.vstack([np.ones(len(problems)), drawn])  # row 0: the audit as it is
    above_weight, below_weight = weights[:, above_of], weights[:, below_of]
    rows = (
        _auroc(above, below, above_weight, below_weight),
        *_at_keep(above, below, above_weight, below_weight),
    )
    found = [_interval(values, len(problems)) for values in rows]
    return Separation(len(above), len(below), *found)


def rank_correlation(
    groups: Mapping[str, Sequence[tuple[float, float]]], *, resamples: int, seed: int
) -> Interval | None:
    """Spearman's correlation of pairs by problem; problems are resampled. None where undefined."""
    from scipy.stats import rankdata  # `heal --help` must not wait for scipy

    pairs = [np.array(group, np.float64).reshape(-1, 2) for group in groups.values()]

    def spearman(chosen: Iterable[int]) -> float:
        both = np.concatenate([pairs[i] for i in chosen])
        ranks = np.stack([rankdata(column) for column in both.T])
        spreads = ranks.std(axis=1)
        return float(np.corrcoef(ranks)[0, 1]) if (spreads > 0).all() else np.nan

    if not any(map(len, pairs)):
        return None
    rng = np.random.default_rng(seed)
    draws = [spearman(rng.integers(0, len(pairs), len(pairs))) for _ in range(resamples)]
    return _interval(np.array([spearman(range(len(pairs))), *draws]), len(pairs), (-1.0, 1.0))


def _auroc(above: _Array, below: _Array, above_weight: _Array, below_weight: _Array) -> _Array:
    order = np.argsort(below)
    ranks = np.zeros((len(below_weight), len(below) + 1))
    ranks[:, 1:] = below_weight[:, order].cumsum(axis=1)
    less = np.searchsorted(below[order], above, side="left")
    at_most = np.searchsorted(below[order], above, side="right")
    wins = ((ranks[:, less] + ranks[:, at_most]) / 2 * above_weight).sum(axis=1)
    return _ratio(wins, above_weight.sum(axis=1) * below_weight.sum(axis=1))


def _at_keep(
    above: _Array, below: _Array, above_weight: _Array, below_weight: _Array
) -> tuple[_Array, _Array]:
    """Share of the swapped dropped and precision, by resample; each sets its own threshold."""
    order = np.argsort(below)
    kept = below_weight[:, order].cumsum(axis=1)
    # The lowest score that keeps enough; a little slack, for sums of weights are not exact.
    first = (kept >= KEEP * kept[:, -1:] - 1e-9).argmax(axis=1)
    threshold = below[order][first][:, None]
    caught = (above_weight * (above > threshold)).sum(axis=1)
    lost = (below_weight * (below > threshold)).sum(axis=1)
    empty = below_weight.sum(axis=1) == 0  # a resample without gold sets no threshold
    dropped = _ratio(caught, above_weight.sum(axis=1))
    precision = _ratio(caught, caught + lost)
    return np.where(empty, np.nan, dropped), np.where(empty, np.nan, precision)


def _ratio(part: _Array, whole: _Array) -> _Array:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _interval(
    values: _Array, problems: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval | None:
    """From the figure itself and its resamples; None where it is seldom defined."""
    draws = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(draws) < MIN_RESAMPLES * (len(values) - 1):
        return None
    return percentiles(float(values[0]), draws, problems, bounds=bounds)


def _flat(groups: Groups, problems: Sequence[str]) -> tuple[_Array, NDArray[np.int64]]:
    """All scores, and the index of each one's problem."""
    scores = [score for p in problems for score in groups.get(p, ())]
    indices = [i for i, p in enumerate(problems) for _ in groups.get(p, ())]
    return np.array(scores, np.float64), np.array(indices, np.int64)


def _form(token: str) -> str:
    if token.isdigit():
        return "0"
    if token.isspace():
        return " "
    if not token[0].isalpha():
        return token
    if len(token) > 1:
        return "w"
    return "A" if token.isupper() else "a"


def _among(answer: str, taken: Iterable[str]) -> bool:
    """Whether an answer is one of these, also where only brackets or signs differ: `(B)` is B."""
    bare = _bare(answer)
    return any(same_text(answer, other) or (bare and bare == _bare(other)) for other in taken)


def _bare(answer: str) -> str:
    return "".join(c for c in normalise(answer).casefold() if c.isalnum())


def _seeded_rank(seed: int, *names: str) -> bytes:
    return blake2b("|".join((str(seed), *names)).encode(), digest_size=8).digest()
