"""From the store to a `RunView`: everything a report shows, without opening a model.

In: a run folder, finished or not. Out: plain records and counts.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import yaml

from heal.config import Config, Pure
from heal.method.pure import LINED, commitment
from heal.method.summary import EvalSummary, summarise
from heal.records import (
    Ceiling,
    Check,
    Cut,
    Drop,
    EvalTrace,
    Gate,
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
from heal.report.view import Fact, LedgerRow, PlanRow, RunView, is_heal
from heal.store import Store


class _OfProblem(Protocol):
    @property
    def problem_id(self) -> str: ...


Row = TypeVar("Row", bound=_OfProblem)


def load_view(store: Store) -> RunView:
    """Read a run folder."""
    config: dict[str, Any] = store.meta("config") or {}
    problems = store.live("problem", Problem)

    def live(table: str, kind: type[Row], tag: str = "") -> dict[str, Row]:
        return _live(store, problems, table, kind, tag)

    unaided, hinted, repaired = (live(t, Trace) for t in ("sample", "hinted", "repair"))
    assisted = hinted | repaired
    checks = {check.trace: check for check in store.live("check", Check).values()}
    gates = {g.trace: g for g in store.live("gate", GateResult).values() if g.trace in assisted}
    selected = tuple(live("selected", Selected).values())
    pure = {s.trace: s for s in live("pure", PureScore).values()}
    cuts, ceilings = live("cut", Cut), live("ceiling", Ceiling)
    hints = live("hint", Hint) | live("answer_hint", Hint)
    kept = {x.trace for x in selected if x.drop is Drop.KEPT}
    shown = kept | {cut.trace for cut in cuts.values()}
    fates = _Fates(checks, gates, kept)
    stages = _stage_ledger(store, problems, config, unaided, hinted, repaired, fates)
    attempts = tuple(live("evaluate", EvalTrace).values())
    main_arm = Config.model_construct(**config).main_arm
    return RunView(
        name=str(config.get("run", store.folder.name)),
        date=store.meta("date") or "",
        seed=int(config.get("seed", 0)),
        teacher=config.get("teacher", {}).get("model", ""),
        student=(config.get("student") or {}).get("model"),
        main_arm=main_arm,
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
        checks=tuple(c for t, c in checks.items() if t in shown or t in assisted),
        gates=tuple(gates.values()),
        pure=tuple(pure.values()),
        commitments=_commitments(pure, config),
        selected=selected,
        plan=_plan_rows(store, config),
        training=tuple(store.live("train", TrainResult).values()),
        evaluation=_evaluation(attempts, problems, ceilings, config),
        stage_ledger=stages,
        arm_ledger=tuple(_arm_ledger(store, problems, config, main_arm, stages, fates)),
        facts=tuple(Fact(text, count) for text, count in (store.meta("facts") or {}).items()),
        servers=_servers(store),
        timings=store.meta("timings") or {},
    )


def _live(
    store: Store, problems: Collection[str], table: str, kind: type[Row], tag: str = ""
) -> dict[str, Row]:
    """Live rows of the problems there are now.

    A stage that has not run since the problems became fewer still holds rows of the others.
    """
    rows = store.live(table, kind, tag)
    return {key: row for key, row in rows.items() if row.problem_id in problems}


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
        if not pool_of.keys() >= set(shown):
            continue  # of sets chosen before: the stage has not run since
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


@dataclass(frozen=True)
class _Fates:
    """What became of traces."""

    checks: Mapping[str, Check]
    """By trace; bought ones among them."""
    gates: Mapping[str, GateResult]
    """By trace, hinted or repaired."""
    kept: Collection[str]
    """Traces in a training set of the arm shown."""

    def wasted(self, trace: Trace) -> bool:
        """Whether nothing came of it: not correct, or refused by a gate."""
        check, gate = self.checks.get(trace.key), self.gates.get(trace.key)
        refused = gate is not None and gate.gate is not Gate.PASSED
        return refused or check is None or check.verdict is not Verdict.CORRECT

    def row(self, name: str, traces: Collection[Trace]) -> LedgerRow:
        """What sampling these cost."""
        return LedgerRow(
            name,
            sum(t.new_tokens for t in traces),
            wasted=sum(t.new_tokens for t in traces if self.wasted(t)),
            accepted=sum(t.key in self.kept for t in traces),
        )


def _stage_ledger(
    store: Store,
    problems: Mapping[str, Problem],
    config: Mapping[str, Any],
    unaided: Mapping[str, Trace],
    hinted: Mapping[str, Trace],
    repaired: Mapping[str, Trace],
    fates: _Fates,
) -> tuple[LedgerRow, ...]:
    sides: dict[Split, list[Trace]] = {split: [] for split in Split}
    for trace in unaided.values():
        sides[problems[trace.problem_id].split].append(trace)
    scores = _live(store, problems, "scores", TokenScores).values()
    hints = _live(store, problems, "hint", Hint).values()
    pure, honest = (
        sum(s.scored_tokens for s in _live(store, problems, "pure", PureScore, tag).values())
        for tag in ("", "honest")
    )
    # HEAL pays for honest traces where its own selection draws its line by them.
    lined = Pure.model_validate(config.get("pure", {})).selection in LINED
    rows = [
        fates.row("unaided traces", sides[Split.TRAIN]),
        LedgerRow("locating breaks", 0, scored=sum(s.scored_tokens for s in scores)),
        LedgerRow("hints", sum(h.new_tokens for h in hints)),
        fates.row("whole traces under the answer", hinted.values()),
        fates.row("repairs", repaired.values()),
        LedgerRow("scoring for PURE", 0, scored=pure + lined * honest),
    ]
    if honest and not lined:
        name = "scoring of honest traces, to compare with"
        rows.append(LedgerRow(name, 0, scored=honest, billed=False))
    if sides[Split.HELD_OUT]:
        spent = sum(trace.new_tokens for trace in sides[Split.HELD_OUT])
        rows.append(LedgerRow("strata of held-out problems", spent, billed=False))
    return tuple(rows)


def _arm_ledger(
    store: Store,
    problems: Mapping[str, Problem],
    config: Mapping[str, Any],
    main_arm: str | None,
    stages: Sequence[LedgerRow],
    fates: _Fates,
) -> Iterator[LedgerRow]:
    """Each arm's whole bill; HEAL's only where its data is shown."""
    unaided, billed = stages[0], [row for row in stages if row.billed]
    if is_heal(main_arm) or "rft" in config.get("arms", ()):
        chosen = _accepted(store, problems, "rft")
        accepted = unaided.accepted if chosen is None else chosen
        yield LedgerRow("rft", unaided.sampled, 0, unaided.wasted, accepted)
    if main_arm is not None and is_heal(main_arm):
        yield LedgerRow(
            main_arm,
            sum(row.sampled for row in billed),
            sum(row.scored for row in billed),
            sum(row.wasted for row in billed),
            sum(row.accepted or 0 for row in billed),
        )
    # These spend HEAL's bill in their own way: unaided traces and what they bought.
    for arm in ("rft_more", "star"):
        bought = _live(store, problems, "bought", Trace, arm).values()
        if bought:
            row, accepted = fates.row(arm, bought), _accepted(store, problems, arm) or 0
            sampled, wasted = unaided.sampled + row.sampled, unaided.wasted + row.wasted
            yield LedgerRow(arm, sampled, wasted=wasted, accepted=accepted)


def _accepted(store: Store, problems: Collection[str], arm: str) -> int | None:
    """Traces in an arm's sets; None where it has not chosen among any."""
    chosen = _live(store, problems, "selected", Selected, arm).values()
    return sum(x.drop is Drop.KEPT for x in chosen) if chosen else None
