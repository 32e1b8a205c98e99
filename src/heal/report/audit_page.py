"""The audits as text: one page of 80 columns each.

In: a `PureAudit` or a `GearAudit`. Out: lines. Every figure stands with its n and its 95 %
interval; a figure that the traces do not support is a dash.
"""

from textwrap import wrap

from heal.method.audit import (
    HIGH,
    KEEP,
    LOW,
    GearAudit,
    LocatedCut,
    PureAudit,
    Separation,
)
from heal.method.intervals import Interval
from heal.records import AuditOutcome, AuditSide, Outcome
from heal.report.words import ends_text
from heal.wording import plural

WIDTH = 80
_MISSED = {
    AuditOutcome.KEPT_TO_GOLD: "gave the gold answer all the same",
    AuditOutcome.OTHER_ANSWER: "another answer",
    AuditOutcome.NO_ANSWER: "no answer, or cut off",
    AuditOutcome.FAILED: "the engine failed",
}


def page(audit: PureAudit) -> str:
    """Counts, one row per detector, and what to keep in mind."""
    head = f"PURE against swapped answers: {plural(audit.problems, 'problem')} of {audit.run}"
    return "\n".join(
        [
            *wrap(head, WIDTH),
            *wrap(audit.note, WIDTH),
            "",
            *_counts(audit),
            "",
            *_table(audit),
            "",
            *_checked(audit),
            *_sampled(audit),
            *_tail(audit),
        ]
    )


def _counts(audit: PureAudit) -> list[str]:
    rows = [("continuations asked", [sum(audit.outcomes[side].values()) for side in AuditSide])]
    rows.append(("reached the hinted answer", [audit.reached(side) for side in AuditSide]))
    gates = sorted({gate for side in AuditSide for gate in audit.gates[side]})
    for gate in gates:
        counts = [audit.gates[side].get(gate, 0) for side in AuditSide]
        rows.append((f"  refused by a gate: {gate.replace('_', ' ')}", counts))
    rows.append(("  could not be scored", _of(audit, AuditOutcome.UNSCORED)))
    rows.append(("  scored", _of(audit, AuditOutcome.SCORED)))
    uncommitted = [audit.never_committed.get(side, 0) for side in AuditSide]
    rows.append(("    of these, never committed", uncommitted))
    rows += [(words, _of(audit, outcome)) for outcome, words in _MISSED.items()]
    shown = [row for row in rows if any(row[1]) or not row[0].startswith("  could")]
    body = [f"{words:<44} {a:>9,} {b:>9,}" for words, (a, b) in shown]
    return [f"{'':<44} {'swapped':>9} {'gold':>9}", *body]


def _of(audit: PureAudit, outcome: AuditOutcome) -> list[int]:
    return [audit.outcomes[side].get(outcome, 0) for side in AuditSide]


def _table(audit: PureAudit) -> list[str]:
    head = f"{'detector':<11}{'swapped/gold':>12}  {'AUROC':<17}  {'dropped':<17}  precision"
    rows = [_row(name, found) for name, found in audit.detectors.items()]
    return [head, "-" * WIDTH, *rows]


def _row(name: str, found: Separation) -> str:
    n = f"{found.swapped}/{found.gold}"
    figures = (found.auroc, found.dropped, found.precision)
    return f"{name:<11}{n:>12}  " + "  ".join(f"{_figure(f):<17}" for f in figures).rstrip()


def _figure(found: Interval | None) -> str:
    if found is None or not found.is_known:
        return "–"
    return f"{found.mean:.2f} [{ends_text(found.low, found.high, 2, between=', ')}]"


def _sampled(audit: PureAudit) -> list[str]:
    found = audit.sampled_u
    if found is None:
        return []
    text = (
        f"U as the entropy of {plural(found.samples, 'sampled answer')} after each of"
        f" {plural(found.steps, 'step')} ({plural(found.traces, 'trace')}): Spearman's correlation"
        f" with U {_figure(found.correlation)};"
        f" the ratio with it instead of U: AUROC {_figure(found.ratio.auroc)}."
        f" {plural(found.sampled_tokens, 'token')} sampled for that; failed:"
        f" {plural(found.failed, 'trace')}; cut off: {plural(found.unclosed, 'answer')}."
    )
    return [*wrap(text, WIDTH), ""]


def _checked(audit: PureAudit) -> list[str]:
    if not audit.checked:
        return []
    head = (
        "The same readings of the run's own hinted and repaired traces past the gates, by the step"
        " checker's word: over a wrong step / none found"
    )
    rows = [_row(name, found) for name, found in audit.checked.items()]
    return [*wrap(head, WIDTH), "-" * WIDTH, *rows, ""]


def gear_page(audit: GearAudit) -> str:
    """Where breakpoints cut, by the step checker's word."""
    named = audit.told.get(Outcome.WRONG_STEP, 0)
    told = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in audit.told.items())
    head = f"Breakpoints against the step checker's word: {audit.run}"
    lines = [*wrap(head, WIDTH), *wrap(f"{plural(sum(audit.told.values()), 'failed path')}: {told}",
                                       WIDTH)]  # fmt: skip
    if not named:
        return "\n".join([*lines, "No wrong step is named, so there is nothing to measure by."])
    where = (
        f"The wrong step starts at {audit.starts_at:.0%} of the trace at the median;"
        f" {audit.in_first_third:,} of {named:,} lie in the first third."
    )
    table = [f"{'breakpoint':<12} {'n':>5}  {'exact':<20} {'not after':<20} good part kept"]
    table += [_cut_row(name, cut) for name, cut in audit.cuts.items()]
    gaps = ", ".join(
        f"{name} {_signed(cut.above_main)}" for name, cut in audit.cuts.items() if cut.above_main
    )
    tail = (
        f"Exact, minus {audit.main}'s: {gaps}. exact: the step dropped first is the wrong one. In"
        " brackets, 95 % by bootstrap over"
        " problems. A trace that goes wrong in what the checker cannot read counts nowhere."
    )
    return "\n".join([*lines, *wrap(where, WIDTH), "", *table, "", *wrap(tail, WIDTH)])


def _signed(gap: Interval) -> str:
    return f"{gap.mean:+.2f} [{ends_text(gap.low, gap.high, 2, between=', ')}]"


def _cut_row(name: str, cut: LocatedCut) -> str:
    figures = [_figure(found) for found in (cut.exact, cut.not_after, cut.kept)]
    return f"{name:<12} {cut.cuts:>5}  {figures[0]:<20} {figures[1]:<20} {figures[2]}"


def _tail(audit: PureAudit) -> list[str]:
    inside = f"{audit.inside} of {plural(audit.problems, 'problem')} lie at {LOW} < ρ < {HIGH}"
    text = (
        f"AUROC: the chance that a swapped trace looks more suspicious than a gold one. dropped:"
        f" the share of swapped traces above the threshold that keeps {KEEP:.0%} of the gold ones;"
        f" precision: swapped among all above it. In brackets, 95 % by bootstrap over problems;"
        f" where all resamples agree, as wide as Wilson's interval for 0 of n."
        f" {inside}."
    )
    lines = wrap(text, WIDTH)
    lines += [
        line
        for fact, count in audit.facts.items()
        for line in wrap(f"{count:,} × {fact}", WIDTH, subsequent_indent="  ")
    ]
    lines.append(
        f"{plural(audit.sampled_tokens, 'token')} sampled and {audit.scored_tokens:,} scored"
    )
    return lines
