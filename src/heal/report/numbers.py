"""The figures a report shows, counted from a `RunView`: strata, coverage, funnels, yields, sets.

Counts of what happened are exact and add up: whatever went into a row of a funnel either comes out
of it or stands beside it with the reason. Shares that stand for more than this run carry a 95 %
Wilson interval over problems. Nothing here is formatted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heal.method.intervals import wilson
from heal.method.metrics import doubt_rate
from heal.method.pace import POOLS
from heal.method.pure import surprisal
from heal.records import (
    Drop,
    Gate,
    Hint,
    HintKind,
    Problem,
    Selected,
    Split,
    Stratum,
    Trace,
    Verdict,
)
from heal.report.view import Fact, RunView


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
    """What `traces` counts: traces or cuts; a row of problems alone has None."""
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


@dataclass(frozen=True)
class ExtremeRow:
    """One problem at the ceiling, and how far its repair got."""

    problem: Problem
    correct: int
    n: int
    cuts: int
    drawn: int
    passed: int
    kept: int
    """Repairs in D3."""


def share_of(hits: int, n: int) -> Share:
    """The share of `n` with its 95 % interval; an empty n knows nothing, so [0, 1]."""
    if n == 0:
        return Share(0, 0, 0.0, 1.0)
    interval = wilson(hits, n)
    return Share(hits, n, interval.low, interval.high)


def problems_of(view: RunView, split: Split) -> tuple[Problem, ...]:
    """The problems of one side of the split."""
    return tuple(p for p in view.problems if p.split is split)


def strata(view: RunView, split: Split) -> tuple[StratumRow, ...]:
    """Every stratum of one split, in METHOD's order, empty ones included."""
    ids = {p.id for p in problems_of(view, split)}
    mine = [c for c in view.ceilings if c.problem_id in ids]
    rows = []
    for stratum in Stratum:
        inside = [c for c in mine if c.stratum is stratum]
        rows.append(StratumRow(stratum, len(inside), sum(c.correct > 0 for c in inside)))
    return tuple(rows)


def extreme_ids(view: RunView) -> frozenset[str]:
    """Training problems at the teacher's ceiling."""
    train = {p.id for p in problems_of(view, Split.TRAIN)}
    return frozenset(
        c.problem_id
        for c in view.ceilings
        if c.stratum is Stratum.EXTREME and c.problem_id in train
    )


def past_pure(row: Selected) -> bool:
    """Whether PURE let a candidate through, whatever the caps did to it afterwards."""
    return row.drop is not Drop.PURE


def kept_problems(view: RunView, *pools: str) -> set[str]:
    """Problems with at least one trace in these training sets."""
    return {s.problem_id for s in view.selected if s.pool in pools and s.drop is Drop.KEPT}


def ceiling_before(view: RunView) -> Share:
    """Extreme training problems the student would see under rejection sampling."""
    extreme = extreme_ids(view)
    solved = {c.problem_id for c in view.ceilings if c.correct > 0}
    return share_of(len(extreme & solved), len(extreme))


def ceiling_after(view: RunView) -> Share:
    """Extreme training problems the student sees under the arm shown, from any of its sets."""
    extreme = extreme_ids(view)
    solved = {c.problem_id for c in view.ceilings if c.correct > 0}
    return share_of(len(extreme & (solved | kept_problems(view, *POOLS))), len(extreme))


def repaired_share(view: RunView) -> Share:
    """Extreme training problems with at least one repair that PURE kept."""
    extreme = extreme_ids(view)
    repaired = {s.problem_id for s in view.selected if s.pool == "D3" and past_pure(s)}
    return share_of(len(extreme & repaired), len(extreme))


def repair_funnel(view: RunView) -> tuple[FunnelRow, ...]:
    """From the extreme problems to the repairs the student is shown (D3)."""
    extreme = extreme_ids(view)
    if not extreme:
        return ()
    cuts = view.cuts
    told = {h.cut for h in view.hints if h.text and h.cut is not None}
    hinted = [c for c in cuts if c.key in told]
    rows = [
        FunnelRow("extreme problems", len(extreme), None, "problems"),
        FunnelRow("failed traces cut", _distinct(cuts), len(cuts), "cuts"),
        FunnelRow(
            "cuts given a hint",
            _distinct(hinted),
            len(hinted),
            "cuts",
            _told(("given no hint", len(cuts) - len(hinted))),
        ),
    ]
    return (*rows, *candidate_funnel(view, view.repaired, "D3"))


def candidate_funnel(view: RunView, traces: Sequence[Trace], pool: str) -> tuple[FunnelRow, ...]:
    """From drawn traces through the gates and PURE into a set; every trace is accounted for."""
    if not traces:
        return ()
    gate_of = {g.trace: g.gate for g in view.gates}
    drawn = [t for t in traces if t.error is None]
    passed = [t for t in drawn if gate_of.get(t.key) is Gate.PASSED]
    refused = Counter(gate_of.get(t.key) for t in drawn)
    fate = {s.trace: s.drop for s in view.selected if s.pool == pool}
    pure = [t for t in passed if t.key in fate and fate[t.key] is not Drop.PURE]
    shown = [t for t in pure if fate[t.key] is Drop.KEPT]
    drops = Counter(fate.get(t.key) for t in passed)
    gates = [(str(g), refused[g]) for g in Gate if g is not Gate.PASSED]
    caps = [(str(d), drops[d]) for d in Drop if d not in (Drop.KEPT, Drop.PURE)]
    return (
        _row("traces written", drawn, [("engine failed", len(traces) - len(drawn))]),
        _row("passed the gates", passed, [*gates, ("not checked", refused[None])]),
        _row(
            "kept by PURE",
            pure,
            [("dropped by PURE", drops[Drop.PURE]), ("not scored", drops[None])],
        ),
        _row(f"selected into {pool}", shown, caps),
    )


def set_funnel(view: RunView, pool: str, label: str) -> tuple[FunnelRow, ...]:
    """From correct traces, by this label, straight into a set."""
    fate = [s for s in view.selected if s.pool == pool]
    if not fate:
        return ()
    drops = Counter(s.drop for s in fate)
    kept = [s for s in fate if s.drop is Drop.KEPT]
    caps = [(str(d), drops[d]) for d in Drop if d is not Drop.KEPT]
    return (
        FunnelRow(label, _distinct(fate), len(fate), "traces"),
        FunnelRow(f"selected into {pool}", _distinct(kept), len(kept), "traces", _told(*caps)),
    )


def extreme_rows(view: RunView) -> tuple[ExtremeRow, ...]:
    """Every extreme training problem, those without a kept repair first."""
    extreme, problems = extreme_ids(view), {p.id: p for p in view.problems}
    passed_keys = {g.trace for g in view.gates if g.gate is Gate.PASSED}
    cuts = Counter(c.problem_id for c in view.cuts)
    drawn = Counter(t.problem_id for t in view.repaired)
    passed = Counter(t.problem_id for t in view.repaired if t.key in passed_keys)
    kept = Counter(s.problem_id for s in view.selected if s.pool == "D3" and s.drop is Drop.KEPT)
    rows = [
        ExtremeRow(problems[i], c.correct, c.n, cuts[i], drawn[i], passed[i], kept[i])
        for c in view.ceilings
        if (i := c.problem_id) in extreme
    ]
    return tuple(sorted(rows, key=lambda r: (r.kept, r.passed, r.problem.id)))


def hint_yields(view: RunView) -> tuple[HintYield, ...]:
    """What each kind of hint gave, repairs and whole hinted traces apart from each other."""
    gate_of = {g.trace: g.gate for g in view.gates}
    kept = {s.trace for s in view.selected if past_pure(s)}
    by_hint: dict[str, list[Trace]] = {}
    for trace in view.repaired:
        if trace.hint is not None and trace.error is None:
            by_hint.setdefault(trace.hint, []).append(trace)
    rows = []
    for kind in HintKind:
        hints = [h for h in view.hints if h.kind is kind and h.key in by_hint]
        if hints:
            rows.append(_yield_of(kind, hints, by_hint, gate_of, kept))
    return tuple(rows)


def _yield_of(
    kind: HintKind,
    hints: Sequence[Hint],
    by_hint: dict[str, list[Trace]],
    gate_of: dict[str, Gate],
    kept: set[str],
) -> HintYield:
    traces = [t for h in hints for t in by_hint[h.key]]
    passed = [t for t in traces if gate_of.get(t.key) is Gate.PASSED]
    good = [t for t in passed if t.key in kept]
    reached = share_of(_distinct(good), _distinct(hints))
    return HintYield(kind, len(hints), len(traces), len(passed), len(good), reached)


def sets(view: RunView) -> tuple[SetRow, ...]:
    """D1, D2 and D3 as the student sees them."""
    traces = {t.key: t for t in (*view.unaided, *view.hinted, *view.repaired)}
    rows = []
    for pool in POOLS:
        chosen = [s for s in view.selected if s.pool == pool and s.drop is Drop.KEPT]
        known = [traces[s.trace] for s in chosen if s.trace in traces]
        tokens = _mean([len(t.ids) for t in known])
        doubt = 1000 * _mean([doubt_rate(t.text) for t in known])
        rows.append(SetRow(pool, _distinct(chosen), len(chosen), tokens, doubt))
    return tuple(rows)


def verdict_counts(view: RunView, split: Split) -> dict[Verdict, int]:
    """Unaided traces of one split by verdict, all five of them."""
    given = view.verdicts.get(split, {})
    return {verdict: given.get(verdict, 0) for verdict in Verdict}


def all_facts(view: RunView) -> tuple[Fact, ...]:
    """What the records tell on the side, then what the pipeline counted; zeros are left out."""
    cuts, hints, n_pure = view.cuts, view.hints, len(view.pure)
    fallbacks = Counter(c.fallback for c in cuts if c.fallback is not None)
    drops = Counter(s.drop for s in view.selected)
    counted = [
        *(
            Fact(f"breakpoint fell back ({str(why).replace('_', ' ')})", n, len(cuts))
            for why, n in sorted(fallbacks.items())
        ),
        Fact(
            "breakpoint undecided by the entropy bounds", sum(c.undecided for c in cuts), len(cuts)
        ),
        Fact(
            "hint fell back to another kind", sum(h.kind is not h.asked for h in hints), len(hints)
        ),
        Fact("hint draws refused because they leaked the answer", sum(h.leaks for h in hints)),
        Fact("hint failed", _errors(hints), len(hints)),
        Fact("repair failed in the engine", _errors(view.repaired), len(view.repaired)),
        Fact("whole hinted trace failed in the engine", _errors(view.hinted), len(view.hinted)),
        Fact("PURE scoring failed", _errors(view.pure), n_pure),
        Fact(
            "trace never committed to its answer",
            sum(k is None for k in view.commitments.values()),
            len(view.commitments),
        ),
        Fact("trace whose new steps never write its answer", _unmentioned(view), n_pure),
        Fact("near-duplicate dropped", drops[Drop.NEAR_DUPLICATE], len(view.selected)),
        *_refused_long(view),
        *_left_out(view),
    ]
    return tuple(fact for fact in (*counted, *view.facts) if fact.count)


def _unmentioned(view: RunView) -> int:
    read = [p for p in view.pure if p.error is None and p.answer_surprisal is not None]
    return sum(surprisal(p) is None for p in read)


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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _errors(records: Iterable[object]) -> int:
    return sum(getattr(record, "error", None) is not None for record in records)


def _distinct(records: Iterable[object]) -> int:
    return len({getattr(record, "problem_id", None) for record in records})


def _row(label: str, left: Sequence[Trace], lost: Iterable[tuple[str, int]]) -> FunnelRow:
    return FunnelRow(label, _distinct(left), len(left), "traces", _told(*lost))


def _told(*lost: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple((reason.replace("_", " "), count) for reason, count in lost if count)
