"""What a run cost in teacher tokens, stage by stage and arm by arm.

In: a store's columns and the counts of its traces. Out: `LedgerRow`s. Tokens are wasted where
nothing came of their trace: not correct, not verified, or refused by a gate.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from heal.method.arms import TRAINED, Extra
from heal.records import Drop, Gate, Split, Verdict
from heal.report.view import LedgerRow, TraceCount, is_heal
from heal.store import Store

MATCHED = tuple(name for name, arm in TRAINED.items() if arm.extra is not Extra.NOTHING)
"""Arms that draw for the matched token budget."""


@dataclass(frozen=True)
class Scored:
    """Tokens that went through the scorer."""

    locating: int
    pure: int
    """Hinted traces and repairs, with their hint in view too where that was measured."""
    honest: int
    """Unaided traces that PURE's line is drawn by."""


def scored_tokens(store: Store, breakpoint: str) -> Scored:
    """What was scored for the arm shown."""
    (row,) = store.query(
        """SELECT TOTAL(scored_tokens * (stage = 'scores')),
        TOTAL(scored_tokens * (stage IN ('pure', 'reliance') AND tag IN (:breakpoint, 'hinted'))),
        TOTAL(scored_tokens * (stage = 'pure' AND tag = 'honest')) FROM scores""",
        {"breakpoint": breakpoint},
    )
    return Scored(*map(int, row))


def stage_ledger(
    store: Store, traces: Sequence[TraceCount], breakpoint: str, *, lined: bool
) -> tuple[LedgerRow, ...]:
    """In the order the stages ran. lined: the run's own selection draws a line by honest traces."""
    scored = scored_tokens(store, breakpoint)
    sql = "SELECT TOTAL(new_tokens) FROM hints WHERE tag = ?"
    ((hint_tokens,),) = store.query(sql, (breakpoint,))
    probed = _probed_tokens(store, breakpoint)
    unaided = [count for count in traces if count.stage == "sample"]
    held_out = [count for count in unaided if count.split is Split.HELD_OUT]
    rows = [
        _row("unaided traces", (c for c in unaided if c.split is Split.TRAIN)),
        LedgerRow("locating breaks", 0, scored=scored.locating),
        *([LedgerRow("trying kinds of hints", probed, wasted=probed)] if probed else []),
        LedgerRow("hints", int(hint_tokens)),
        _row("whole traces under the answer", (c for c in traces if c.stage == "hinted")),
        _row("repairs", (c for c in traces if c.stage == "repair")),
        LedgerRow("scoring for PURE", 0, scored=scored.pure + lined * scored.honest),
    ]
    if scored.honest and not lined:
        name = "scoring of honest traces, to compare with"
        rows.append(LedgerRow(name, 0, scored=scored.honest, in_budget=False))
    if held_out:
        spent = sum(count.new_tokens for count in held_out)
        rows.append(LedgerRow("strata of held-out problems", spent, in_budget=False))
    return tuple(rows)


def _probed_tokens(store: Store, breakpoint: str) -> int:
    """Sampled to choose a kind of hint, and of no use under the one that was chosen."""
    total = 0
    for table, stage in (("traces", "stage = 'repair' AND "), ("hints", "")):
        ((tokens,),) = store.query(
            f"""SELECT TOTAL(new_tokens) FROM (SELECT DISTINCT key, new_tokens FROM {table}
            WHERE {stage}tag LIKE 'probe-%'
            AND key NOT IN (SELECT key FROM {table} WHERE tag = ?))""",
            (breakpoint,),
        )
        total += int(tokens)
    return total


def arm_ledger(
    store: Store, main_arm: str | None, arms: Sequence[str], stages: Sequence[LedgerRow]
) -> Iterator[LedgerRow]:
    """Each arm's whole cost; HEAL's only where its data is shown."""
    unaided, counted = stages[0], [row for row in stages if row.in_budget]
    accepted = _accepted(store)
    if is_heal(main_arm) or "rft" in arms:
        own = accepted.get("rft", unaided.accepted)
        yield LedgerRow("rft", unaided.sampled, 0, unaided.wasted, own)
    if main_arm is not None and is_heal(main_arm):
        yield LedgerRow(
            main_arm,
            sum(row.sampled for row in counted),
            sum(row.scored for row in counted),
            sum(row.wasted for row in counted),
            sum(row.accepted or 0 for row in counted),
        )
    for arm, sampled, wasted in _matched(store):
        yield LedgerRow(
            arm,
            unaided.sampled + sampled,
            wasted=unaided.wasted + wasted,
            accepted=accepted.get(arm, 0),
        )


def _row(name: str, counts: Iterable[TraceCount]) -> LedgerRow:
    found = list(counts)
    return LedgerRow(
        name,
        sum(count.new_tokens for count in found),
        wasted=sum(count.new_tokens for count in found if _is_wasted(count)),
        accepted=sum(count.traces for count in found if count.drop is Drop.KEPT),
    )


def _is_wasted(count: TraceCount) -> bool:
    refused = count.gate is not None and count.gate is not Gate.PASSED
    return refused or count.verdict is not Verdict.CORRECT


def _accepted(store: Store) -> dict[str, int]:
    """Traces in each arm's sets; arms that have not chosen among any are left out."""
    return dict(store.query("""SELECT arm, SUM("drop" = 'kept') FROM selected GROUP BY arm"""))


def _matched(store: Store) -> list[tuple[str, int, int]]:
    """Tokens sampled and wasted for each arm that draws for the matched budget."""
    rows = store.query(
        """SELECT tag, SUM(new_tokens), SUM(new_tokens *
        (verdict IS NOT 'correct' OR IFNULL(gate, 'passed') <> 'passed'))
        FROM traces WHERE stage = 'matched' GROUP BY tag"""
    )
    found = {arm: (sampled, wasted) for arm, sampled, wasted in rows}
    return [(arm, *found[arm]) for arm in MATCHED if arm in found]
