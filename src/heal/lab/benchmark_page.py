"""The benchmarks as Markdown: what `heal lab` prints and README quotes.

In: a `Benchmark`, or `Budget`s. Out: text. Every figure with its interval and n.
"""

from collections.abc import Iterable, Sequence

from heal.lab.benchmark import Benchmark, CutQuality, Detection
from heal.lab.budgets import Budget
from heal.method.intervals import Interval
from heal.method.summary import HARD_AND_EXTREME, EvalSummary
from heal.report.numbers import SetRow

STRATA = ("easy", "hard", "extreme", HARD_AND_EXTREME)


def markdown(found: Benchmark) -> str:
    """All five tables."""
    parts = [
        f"Run `{found.run}`; 95 % intervals in brackets.",
        "**1. Ceiling**: extreme training problems with an accepted trace, and with a valid one",
        _table(("arm", "accepted", "valid", "valid traces"), _coverage(found)),
        f"**2. Breakpoint**: cuts of failed traces ({found.misaligned} misaligned left out)",
        _table(("breakpoint", "hit", "error kept", "steps off"), map(_cut, found.cuts)),
        "**3. PURE**: telling fudged from valid traces that passed the gates",
        _table(
            ("detector", "set", "AUROC", "fudged dropped at 95 % kept", "valid / fudged"),
            map(_detection, found.detection),
        ),
    ]
    if found.students is not None:
        parts += ["**4. Students**: avg@k by the teacher's stratum", students(found.students)]
        parts += [_table(("difference", "stratum", "points"), _differences(found.students))]
    parts += ["**5. Ledger**: teacher tokens sampled per valid trace of extreme problems"]
    parts += [_table(("arm", "tokens"), _ledger(found))]
    if found.sets:
        head = ("set", "problems", "traces", "mean tokens", "doubts per 1,000 words")
        parts += ["HEAL's sets", _table(head, map(_set, found.sets))]
    return "\n\n".join(parts) + "\n"


def budgets(found: Sequence[Budget]) -> str:
    """The plans of `heal lab budgets`, one a row."""
    head = (
        "plan",
        "sampled tokens",
        "repair tokens",
        "per valid repair past the gates",
        "per valid repair kept",
        "extreme problems covered",
        "other stratum",
    )
    return _table(head, map(_budget, found)) + "\n"


def _budget(b: Budget) -> tuple[str, ...]:
    costs = (_cost(b.per_passed), _cost(b.per_used))
    return (
        b.plan,
        f"{b.sampled:,}",
        f"{b.repaired:,}",
        *costs,
        percent(b.covered),
        percent(b.misplaced),
    )


def _cost(found: Interval | None) -> str:
    return f"{found.mean:,.0f} [{found.low:,.0f}, {found.high:,.0f}]" if found else "–"


def percent(found: Interval) -> str:
    """`62 % [55, 69], n = 240`"""
    return (
        f"{100 * found.mean:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}], "
        f"n = {found.n_problems:,}"
    )


def students(summary: EvalSummary) -> str:
    """avg@k per arm and stratum."""
    cells = {(row.arm, row.stratum): row.avg for row in summary.arms}
    strata = [s for s in STRATA if any(key[1] == s for key in cells)]
    rows = [
        (arm, *(percent(cells[arm, s]) for s in strata))
        for arm in dict.fromkeys(row.arm for row in summary.arms)
    ]
    head = (f"arm (avg@{summary.k}, {summary.seeds} seeds)", *strata)
    return _table(head, rows)


def _coverage(found: Benchmark) -> list[tuple[str, ...]]:
    return [
        (c.arm, percent(c.accepted), percent(c.valid), f"{c.valid_traces:,} of {c.traces:,}")
        for c in found.coverage
    ]


def _cut(cut: CutQuality) -> tuple[str, ...]:
    return (cut.name, percent(cut.hit), percent(cut.late), f"{cut.distance:.2f}")


def _detection(found: Detection) -> tuple[str, ...]:
    area = found.auroc
    shown = f"{area.mean:.3f} [{area.low:.3f}, {area.high:.3f}]" if area else "–"
    dropped = f"{100 * found.fudged_dropped:.0f} %" if area else "–"
    return (found.name, found.pool, shown, dropped, f"{found.valid:,} / {found.fudged:,}")


def _differences(summary: EvalSummary) -> list[tuple[str, ...]]:
    return [
        (
            f"{d.arm} − {d.against}" + (" (primary)" if d.primary else ""),
            d.stratum,
            f"{100 * d.interval.mean:+.1f} "
            f"[{100 * d.interval.low:+.1f}, {100 * d.interval.high:+.1f}], "
            f"n = {d.interval.n_problems:,}",
        )
        for d in summary.differences
        if "heal" in (d.arm, d.against)  # all pairs are in the JSON
    ]


def _ledger(found: Benchmark) -> list[tuple[str, ...]]:
    return [
        (arm, f"{tokens:,.0f}" if tokens is not None else "no valid trace")
        for arm, tokens in found.tokens_per_valid.items()
    ]


def _set(row: SetRow) -> tuple[str, ...]:
    counts = (f"{row.problems:,}", f"{row.traces:,}")
    return (row.pool, *counts, f"{row.mean_tokens:.0f}", f"{row.doubt_rate:.1f}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
