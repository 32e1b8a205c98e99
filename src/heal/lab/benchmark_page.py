"""The benchmarks as Markdown: what `heal lab` prints and README quotes.

In: a `Benchmark`, `Budget`s or `Yield`s. Out: text. Every figure with its interval and n.
"""

from collections.abc import Iterable, Sequence

from heal.lab.benchmark import Benchmark, CutQuality, Detection
from heal.lab.budgets import Budget
from heal.lab.yields import Yield
from heal.method.intervals import Interval
from heal.method.summary import HARD_AND_EXTREME, EvalSummary
from heal.report.numbers import SetRow
from heal.report.words import ends_text, mean_text, no_interval, points_text
from heal.wording import plural

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


def yields(found: Sequence[Yield]) -> str:
    """The ways of `heal lab yields`, one a row."""
    head = (
        "way",
        "at the first bad step",
        "after it",
        "good part kept",
        "past the gates",
        "fudged of those",
        "valid per 1,000 tokens",
        "− random",
        "extreme problems with a valid one",
    )
    return _table(head, map(_yield, found)) + "\n"


def _yield(y: Yield) -> tuple[str, ...]:
    where = ("–", "–", "–")
    if y.places is not None:
        where = (percent(y.places.hit), percent(y.places.late), f"{100 * y.places.kept:.0f} %")
    shares = (_share(y.passed), _share(y.fudged))
    return (y.way, *where, *shares, _plain(y.per_1000), _plain(y.gain), percent(y.covered))


def _share(found: Interval | None) -> str:
    return "–" if found is None else percent(found)


def _cost(found: Interval | None) -> str:
    return "–" if found is None else mean_text(found)


def percent(found: Interval) -> str:
    """`62.0 % [55.1, 69.0], n = 240`"""
    if not found.is_known:
        return no_interval(found)
    ends = ends_text(100 * found.low, 100 * found.high, between=", ")
    return f"{100 * found.mean:.1f} % [{ends}], n = {found.n_problems:,}"


def students(summary: EvalSummary) -> str:
    """avg@k per arm and stratum."""
    cells = {(row.arm, row.stratum): row.avg for row in summary.arms}
    strata = [s for s in STRATA if any(key[1] == s for key in cells)]
    rows = [
        (arm, *(percent(cells[arm, s]) for s in strata))
        for arm in dict.fromkeys(row.arm for row in summary.arms)
    ]
    head = (f"arm (avg@{summary.k}, {plural(summary.seeds, 'seed')})", *strata)
    return _table(head, rows)


def _coverage(found: Benchmark) -> list[tuple[str, ...]]:
    return [
        (c.arm, percent(c.accepted), percent(c.valid), f"{c.valid_traces:,} of {c.traces:,}")
        for c in found.coverage
    ]


def _cut(cut: CutQuality) -> tuple[str, ...]:
    return (cut.name, percent(cut.hit), percent(cut.late), _plain(cut.distance))


def _detection(found: Detection) -> tuple[str, ...]:
    dropped = "–" if found.fudged_dropped is None else percent(found.fudged_dropped)
    counts = f"{found.valid:,} / {found.fudged:,}"
    return (found.name, found.pool, _plain(found.auroc, 3), dropped, counts)


def _plain(found: Interval | None, digits: int = 2) -> str:
    """`0.874 [0.812, 0.921]`, a figure that is neither a share nor a mean of many."""
    if found is None:
        return "–"
    if not found.is_known:
        return no_interval(found)
    return f"{found.mean:.{digits}f} [{ends_text(found.low, found.high, digits, between=', ')}]"


def _differences(summary: EvalSummary) -> list[tuple[str, ...]]:
    return [
        (
            f"{d.arm} − {d.against}" + (" (primary)" if d.primary else ""),
            d.stratum,
            f"{points_text(d.interval)}, n = {d.interval.n_problems:,}",
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
