"""The figures a report shows, worked out from a `RunView`: strata, coverage, funnels, yields, sets.

Counts of what happened are exact and add up: whatever went into a row of a funnel either comes out
of it or stands beside it with the reason. Shares that stand for more than this run carry a 95 %
Wilson interval over problems. Nothing here is formatted.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from heal.method.intervals import wilson
from heal.method.pace import POOLS
from heal.records import Drop, Gate, HintKind, Split, Stratum, Verdict
from heal.report.view import Fact, PoolCount, Reach, RunView, StratumCount, TraceCount

Key = TypeVar("Key")

STAGE_OF = {"D1": "sample", "D2": "hinted", "D3": "repair"}
"""Whose traces a set is made of."""


@dataclass(frozen=True)
class Share:
    """`hits` of `n` problems, with its 95 % Wilson interval."""

    hits: int
    n: int
    lo: float
    hi: float

    @property
    def value(self) -> float:
        """The share itself; NaN when there is nothing to share."""
        return self.hits / self.n if self.n else float("nan")


@dataclass(frozen=True)
class StratumRow:
    """How many problems of one split are in a stratum, and how many of them were solved."""

    stratum: Stratum
    problems: int
    solved: int
    """Problems with at least one correct unaided trace."""


@dataclass(frozen=True)
class FunnelRow:
    """What is left after one stage, and what fell away on the way there."""

    label: str
    problems: int
    traces: int | None
    unit: str
    """What `traces` counts one of: a trace or a cut; a row of problems alone has no traces."""
    lost: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class HintYield:
    """What became of one kind of hint."""

    kind: HintKind
    hints: int
    traces: int
    passed: int
    """Traces that passed every gate."""
    kept: int
    """Of those, traces that PURE kept."""
    problems: Share
    """Problems given such a hint that got a kept trace from it."""


@dataclass(frozen=True)
class SetRow:
    """One of PACE's sets as it is: a count of everything in it, not an estimate."""

    pool: str
    problems: int
    traces: int
    mean_tokens: float
    doubt_rate: float
    """Phrases of doubt per 1,000 words, the mean over its traces."""


def share_of(hits: int, n: int) -> Share:
    """The share of `n` with its 95 % interval; an empty n knows nothing, so [0, 1]."""
    if n == 0:
        return Share(0, 0, 0.0, 1.0)
    interval = wilson(hits, n)
    return Share(hits, n, interval.low, interval.high)


def strata(view: RunView, split: Split) -> tuple[StratumRow, ...]:
    """Every stratum of one split, in the method's order, empty ones included."""
    found = view.strata.get(split, {})
    none = StratumCount(0, 0, 0)
    return tuple(StratumRow(stratum, *found.get(stratum, none)[:2]) for stratum in Stratum)


def attempts_per_problem(view: RunView, split: Split) -> int:
    """Unaided traces of a problem, at most."""
    return max((found.attempts for found in view.strata.get(split, {}).values()), default=0)


def ceiling_before(view: RunView) -> Share:
    """Extreme training problems the student would see under rejection sampling."""
    return share_of(view.extreme.before, view.extreme.problems)


def ceiling_after(view: RunView) -> Share:
    """Extreme training problems the student sees under the arm shown, from any of its sets."""
    return share_of(view.extreme.after, view.extreme.problems)


def repaired_share(view: RunView) -> Share:
    """Extreme training problems with at least one repair that PURE kept."""
    return share_of(view.extreme.repaired, view.extreme.problems)


def repair_funnel(view: RunView) -> tuple[FunnelRow, ...]:
    """From the extreme problems to the repairs the student is shown (D3)."""
    if not view.extreme.problems:
        return ()
    cuts = view.cuts
    rows = (
        FunnelRow("extreme problems", view.extreme.problems, None, "problem"),
        FunnelRow("failed traces cut", cuts.problems, cuts.cuts, "cut"),
        FunnelRow(
            "cuts given a hint",
            cuts.hinted_problems,
            cuts.hinted,
            "cut",
            _told(("given no hint", cuts.cuts - cuts.hinted)),
        ),
    )
    return (*rows, *candidate_funnel(view, "D3"))


def candidate_funnel(view: RunView, pool: str) -> tuple[FunnelRow, ...]:
    """From drawn traces through the gates and PURE into a set; every trace is accounted for."""
    traces = traces_of(view, STAGE_OF[pool])
    if not traces:
        return ()
    drawn = [t for t in traces if not t.failed]
    passed = [t for t in drawn if t.gate is Gate.PASSED]
    past = [t for t in passed if t.drop is not None and t.drop is not Drop.PURE]
    chosen = [t for t in past if t.drop is Drop.KEPT]
    refused, drops = _count(drawn, lambda t: t.gate), _count(passed, lambda t: t.drop)
    gates = [(str(g), refused[g]) for g in Gate if g is not Gate.PASSED]
    caps = [(str(d), drops[d]) for d in Drop if d not in (Drop.KEPT, Drop.PURE)]
    problems = view.reach.get(STAGE_OF[pool], Reach(0, 0, 0, 0))

    def row(label: str, n: int, left: list[TraceCount], *lost: tuple[str, int]) -> FunnelRow:
        return FunnelRow(label, n, _total(left), "trace", _told(*lost))

    return (
        row(
            "traces written",
            problems.written,
            drawn,
            ("engine failed", _total(traces) - _total(drawn)),
        ),
        row("passed the gates", problems.passed, passed, *gates, ("not checked", refused[None])),
        row(
            "kept by PURE",
            problems.pure,
            past,
            ("dropped by PURE", drops[Drop.PURE]),
            ("not scored", drops[None]),
        ),
        row(f"selected into {pool}", problems.chosen, chosen, *caps),
    )


def set_funnel(view: RunView, pool: str, label: str) -> tuple[FunnelRow, ...]:
    """From correct traces, by this label, straight into a set."""
    found = view.pools.get(pool)
    if found is None:
        return ()
    caps = [(str(d), found.drops.get(d, 0)) for d in Drop if d is not Drop.KEPT]
    kept = found.drops.get(Drop.KEPT, 0)
    return (
        FunnelRow(label, found.problems, found.candidates, "trace"),
        FunnelRow(f"selected into {pool}", found.kept_problems, kept, "trace", _told(*caps)),
    )


def funnels(view: RunView) -> list[tuple[str, tuple[FunnelRow, ...]]]:
    """Each set's way in, those that are empty left out."""
    under_answer = "D2: whole traces written under an answer hint"
    found = [("D1: unaided traces", set_funnel(view, "D1", "correct unaided traces"))]
    if view.shows_heal:
        found = [
            ("D3: repairs of extreme problems", repair_funnel(view)),
            (under_answer, candidate_funnel(view, "D2")),
            *found,
        ]
    else:  # no gate and no PURE before any of its sets
        found.insert(0, (under_answer, set_funnel(view, "D2", "correct traces")))
    return [(title, rows) for title, rows in found if rows]


def hint_yields(view: RunView) -> tuple[HintYield, ...]:
    """What each kind of hint gave to the repairs drawn under it."""
    return tuple(
        HintYield(y.kind, y.hints, y.traces, y.passed, y.kept, share_of(y.reached, y.problems))
        for y in view.yields
    )


def sets(view: RunView) -> tuple[SetRow, ...]:
    """D1, D2 and D3 as the student sees them."""
    nan = float("nan")
    empty = PoolCount(0, 0, {}, 0, nan, nan)
    found = [(pool, view.pools.get(pool, empty)) for pool in POOLS]
    return tuple(
        SetRow(
            pool,
            own.kept_problems,
            own.drops.get(Drop.KEPT, 0),
            own.mean_tokens,
            1000 * own.mean_doubt,
        )
        for pool, own in found
    )


def traces_of(view: RunView, stage: str) -> list[TraceCount]:
    """What became of one stage's traces."""
    return [found for found in view.traces if found.stage == stage]


def gate_counts(view: RunView, *stages: str) -> Counter[Gate | None]:
    """Traces of these stages by what the gates said; None: nothing yet."""
    return _count([t for stage in stages for t in traces_of(view, stage)], lambda t: t.gate)


def verdict_counts(view: RunView, split: Split) -> dict[Verdict, int]:
    """Unaided traces of one split by verdict, all five of them."""
    given = _count([t for t in traces_of(view, "sample") if t.split is split], lambda t: t.verdict)
    return {verdict: given[verdict] for verdict in Verdict}


def all_facts(view: RunView) -> tuple[Fact, ...]:
    """What the records tell on the side, then what the pipeline counted; zeros are left out."""
    cuts, hints, profiles = view.cuts, view.hints, view.profiles
    candidates = sum(pool.candidates for pool in view.pools.values())
    near = sum(pool.drops.get(Drop.NEAR_DUPLICATE, 0) for pool in view.pools.values())
    counted = [
        *(
            Fact(f"breakpoint fell back ({why.replace('_', ' ')})", n, cuts.cuts)
            for why, n in sorted(cuts.fallbacks.items())
        ),
        Fact("breakpoint undecided by the entropy bounds", cuts.undecided, cuts.cuts),
        Fact("hint fell back to another kind", hints.other_kind, hints.hints),
        Fact("hint draws refused: they gave the answer away, or said nothing", hints.leaks),
        Fact("hint failed", hints.failed, hints.hints),
        _not_sampled(view),
        _engine_failures(view, "repair failed in the engine", "repair"),
        _engine_failures(view, "whole hinted trace failed in the engine", "hinted"),
        Fact("PURE scoring failed", profiles.failed, profiles.profiles),
        Fact(
            "trace never committed to its answer",
            profiles.never_committed,
            profiles.with_uncertainty,
        ),
        Fact(
            "trace whose new steps never write its answer", profiles.unmentioned, profiles.profiles
        ),
        Fact("near-duplicate dropped", near, candidates),
        *_refused_long(view),
        *_left_out(view),
    ]
    return tuple(fact for fact in (*counted, *view.facts) if fact.count)


def _not_sampled(view: RunView) -> Fact:
    all_of_them = view.problems.get(Split.TRAIN, 0)
    sampled = sum(row.problems for row in strata(view, Split.TRAIN))
    return Fact("training problem without an unaided trace", all_of_them - sampled, all_of_them)


def _engine_failures(view: RunView, text: str, stage: str) -> Fact:
    traces = traces_of(view, stage)
    return Fact(text, _total(t for t in traces if t.failed), _total(traces))


def _refused_long(view: RunView) -> list[Fact]:
    worst: Counter[str] = Counter()
    for result in view.training:
        worst[result.arm] = max(worst[result.arm], result.refused_long)
    return [Fact(f"example longer than train.max_length ({a})", n) for a, n in worst.items()]


def _left_out(view: RunView) -> list[Fact]:
    summary = view.evaluation
    if summary is None:
        return []
    return [
        Fact("evaluation attempt failed in the engine, left out", summary.failed),
        Fact("held-out problem without attempts of every arm, left out", summary.left_out),
    ]


def _total(counts: Iterable[TraceCount]) -> int:
    return sum(found.traces for found in counts)


def _count(counts: Iterable[TraceCount], by: Callable[[TraceCount], Key]) -> Counter[Key]:
    tally: Counter[Key] = Counter()
    for found in counts:
        tally[by(found)] += found.traces
    return tally


def _told(*lost: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple((reason.replace("_", " "), count) for reason, count in lost if count)
