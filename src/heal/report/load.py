"""From the store to a `RunView`: everything a report shows, without opening a model.

In: a run folder, finished or not. Out: plain records and counts.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from heal.config import Pure
from heal.method.pure import commitment
from heal.method.summary import EvalSummary, summarise
from heal.records import (
    Ceiling,
    Check,
    Cut,
    Drop,
    EvalTrace,
    GateResult,
    Hint,
    Problem,
    PureScore,
    Selected,
    ServerFacts,
    Split,
    StagePlan,
    TokenScores,
    Trace,
    TrainResult,
    Verdict,
)
from heal.report.view import Fact, LedgerRow, PlanRow, RunView
from heal.store import Store


def load_view(store: Store) -> RunView:
    """Read a run folder."""
    config: dict[str, Any] = store.meta("config") or {}
    problems = store.live("problem", Problem)
    unaided = store.live("sample", Trace)
    hinted, repaired = store.live("hinted", Trace), store.live("repair", Trace)
    checks = {check.trace: check for check in store.live("check", Check).values()}
    selected = tuple(store.live("selected", Selected).values())
    pure = {s.trace: s for s in store.live("pure", PureScore).values()}
    cuts, ceilings = store.live("cut", Cut), store.live("ceiling", Ceiling)
    hints = store.live("hint", Hint) | store.live("answer_hint", Hint)
    kept = {x.trace for x in selected if x.drop is Drop.KEPT}
    shown = kept | {cut.trace for cut in cuts.values()}
    stages = _stage_ledger(store, problems, unaided, hinted, repaired, checks, kept)
    attempts = tuple(store.live("evaluate", EvalTrace).values())
    return RunView(
        name=str(config.get("run", store.folder.name)),
        date=store.meta("date") or "",
        seed=int(config.get("seed", 0)),
        teacher=config.get("teacher", {}).get("model", ""),
        student=(config.get("student") or {}).get("model"),
        config_yaml=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        versions=store.meta("versions") or {},
        stopped=store.meta("stopped"),
        problems=tuple(problems.values()),
        ceilings=tuple(ceilings.values()),
        verdicts=_verdicts(problems, unaided, checks),
        unaided=tuple(trace for key, trace in unaided.items() if key in shown),
        cuts=tuple(cuts.values()),
        hints=tuple(hints.values()),
        repaired=tuple(repaired.values()),
        hinted=tuple(hinted.values()),
        checks=tuple(c for t, c in checks.items() if t in shown or t not in unaided),
        gates=tuple(store.live("gate", GateResult).values()),
        pure=tuple(pure.values()),
        commitments=_commitments(pure, config),
        selected=selected,
        plan=_plan_rows(store, config),
        training=tuple(store.live("train", TrainResult).values()),
        evaluation=_evaluation(attempts, problems, ceilings, config),
        stage_ledger=stages,
        arm_ledger=(*_arm_ledger(stages), *_buyers(store, stages[0], checks)),
        facts=tuple(Fact(text, count) for text, count in (store.meta("facts") or {}).items()),
        servers=_servers(store),
        timings=store.meta("timings") or {},
    )


def _servers(store: Store) -> tuple[ServerFacts, ...]:
    """One row per address: each process, and each use of a server, has noted its own."""
    by_url: dict[str, list[ServerFacts]] = {}
    for facts in store.live("server", ServerFacts).values():
        by_url.setdefault(facts.url, []).append(facts)
    return tuple(_sum_up(url, by_url[url]) for url in sorted(by_url))


def _sum_up(url: str, found: Sequence[ServerFacts]) -> ServerFacts:
    failures = Counter[str]()
    for facts in found:
        failures.update(facts.failures)
    return ServerFacts(
        url,
        sum(f.asked for f in found),
        sum(f.answered for f in found),
        dict(failures.most_common()),
        sum(f.given_up for f in found),
        sum(f.pauses for f in found),
        sum(f.paused_s for f in found),
    )


def _evaluation(
    attempts: Iterable[EvalTrace],
    problems: Mapping[str, Problem],
    ceilings: Mapping[str, Ceiling],
    config: Mapping[str, Any],
) -> EvalSummary | None:
    families = {p.id: p.meta["family"] for p in problems.values() if "family" in p.meta}
    return summarise(
        attempts,
        ceilings,
        families,
        resamples=int(config.get("evaluate", {}).get("bootstrap", 10_000)),
        seed=int(config.get("seed", 0)),
        arms=config.get("arms", ()),
    )


def _verdicts(
    problems: Mapping[str, Problem], unaided: Mapping[str, Trace], checks: Mapping[str, Check]
) -> dict[Split, dict[Verdict, int]]:
    counts: dict[Split, Counter[Verdict]] = {split: Counter() for split in Split}
    for key, trace in unaided.items():
        if key in checks:
            counts[problems[trace.problem_id].split][checks[key].verdict] += 1
    return {split: dict(found) for split, found in counts.items()}


def _commitments(pure: Mapping[str, PureScore], config: Mapping[str, Any]) -> dict[str, int | None]:
    settings = Pure.model_validate(config.get("pure", {}))
    return {
        trace: commitment(score, settings)
        for trace, score in pure.items()
        if score.error is None and score.has_uncertainty
    }


def _plan_rows(store: Store, config: Mapping[str, Any]) -> tuple[PlanRow, ...]:
    """Of the first training seed; those of the others differ in what is shown more often."""
    first = f"-seed{next(iter(config.get('seeds', ())), 0)}"
    chosen = [store.live("selected", Selected, tag=arm) for arm in config.get("arms", ())]
    pool_of = {x.trace: x.pool for selected in chosen for x in selected.values()}
    rows = []
    for key, plan in store.live("plan", StagePlan).items():
        name = key.rsplit("-", 1)[0]
        if not name.endswith(first):
            continue
        shown = [trace for batch in plan.batches for trace in batch]
        rows.append(
            PlanRow(
                arm=name.removesuffix(first),
                stage=plan.index,
                steps=len(plan.batches),
                presentations=len(shown),
                distinct=len(set(shown)),
                shares=dict(Counter(pool_of[trace] for trace in shown)),
            )
        )
    return tuple(rows)


def _stage_ledger(
    store: Store,
    problems: Mapping[str, Problem],
    unaided: Mapping[str, Trace],
    hinted: Mapping[str, Trace],
    repaired: Mapping[str, Trace],
    checks: Mapping[str, Check],
    kept: set[str],
) -> tuple[LedgerRow, ...]:
    sides: dict[Split, list[Trace]] = {split: [] for split in Split}
    for trace in unaided.values():
        sides[problems[trace.problem_id].split].append(trace)
    scores = store.live("scores", TokenScores).values()
    hints, pure = store.live("hint", Hint).values(), store.live("pure", PureScore).values()
    rows = [
        _sampled("unaided traces", sides[Split.TRAIN], checks, kept),
        LedgerRow("locating breaks", 0, scored=sum(s.scored_tokens for s in scores)),
        LedgerRow("hints", sum(h.new_tokens for h in hints)),
        _sampled("whole traces under the answer", list(hinted.values()), checks, kept),
        _sampled("repairs", list(repaired.values()), checks, kept),
        LedgerRow("scoring for PURE", 0, scored=sum(s.scored_tokens for s in pure)),
    ]
    if sides[Split.HELD_OUT]:
        spent = sum(trace.new_tokens for trace in sides[Split.HELD_OUT])
        rows.append(LedgerRow("strata of held-out problems (in no arm's bill)", spent))
    return tuple(rows)


def _sampled(
    name: str, traces: list[Trace], checks: Mapping[str, Check], kept: set[str]
) -> LedgerRow:
    wasted = sum(
        trace.new_tokens
        for trace in traces
        if trace.key not in checks or checks[trace.key].verdict is not Verdict.CORRECT
    )
    accepted = sum(trace.key in kept for trace in traces)
    return LedgerRow(name, sum(t.new_tokens for t in traces), wasted=wasted, accepted=accepted)


def _buyers(store: Store, unaided: LedgerRow, checks: Mapping[str, Check]) -> Iterator[LedgerRow]:
    """The arms that spend HEAL's bill in their own way: unaided traces and what they bought."""
    for arm in ("rft_more", "star"):
        bought = list(store.live("bought", Trace, tag=arm).values())
        if not bought:
            continue
        chosen = store.live("selected", Selected, tag=arm).values()
        row = _sampled(arm, bought, checks, set())
        yield LedgerRow(
            arm,
            unaided.sampled + row.sampled,
            wasted=unaided.wasted + row.wasted,
            accepted=sum(x.drop is Drop.KEPT for x in chosen),
        )


def _arm_ledger(stages: tuple[LedgerRow, ...]) -> tuple[LedgerRow, ...]:
    billed = [row for row in stages if "no arm's bill" not in row.name]
    unaided = billed[0]
    heal = LedgerRow(
        "heal",
        sum(row.sampled for row in billed),
        sum(row.scored for row in billed),
        sum(row.wasted for row in billed),
        sum(row.accepted or 0 for row in billed),
    )
    rft = LedgerRow("rft", unaided.sampled, 0, unaided.wasted, unaided.accepted)
    return (rft, heal)
