"""The report's tables as text: captions, columns and cells, without any markup.

In: a `RunView` and its figures. Out: `Table`s. A number that is an estimate stands with its n and
interval; one that counts something of this run stands alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from heal.method.retention import Retained
from heal.method.summary import ArmScore, Difference, EvalSummary
from heal.records import Split, Verdict
from heal.report import numbers, words
from heal.report.hint_words import choice_rows
from heal.report.numbers import FunnelRow, StratumRow
from heal.report.view import ExtremeRow, LedgerRow, RunView
from heal.wording import count, plural

_SPLITS = {Split.TRAIN: "Training", Split.HELD_OUT: "Held-out"}


@dataclass(frozen=True)
class Row:
    """One row; its first cell names it."""

    cells: tuple[str, ...]
    note: str = ""
    """Under the first cell."""
    strong: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Table:
    """Cells under named columns."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    texts: frozenset[str] = frozenset()
    """Columns of text, beside the first; all others hold numbers."""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """By column, whether it holds numbers."""
        return tuple(i > 0 and name not in self.texts for i, name in enumerate(self.columns))


def table(
    caption: str, columns: str, rows: Iterable[Sequence[str] | Row], texts: str = ""
) -> Table:
    """A table of plain rows; columns, and those among them that hold text, are parted by bars."""
    named = tuple(name.strip() for name in columns.split("|"))
    told = tuple(row if isinstance(row, Row) else Row(tuple(row)) for row in rows)
    return Table(caption, named, told, frozenset(name.strip() for name in texts.split("|")))


def strata(split: Split, rows: Sequence[StratumRow], verdicts: Mapping[Verdict, int]) -> Table:
    """Problems of one split by stratum, and what the verifier made of their traces."""
    total = sum(row.problems for row in rows)
    parts = " + ".join(f"{n:,} {str(v).replace('_', ' ')}" for v, n in verdicts.items() if n)
    caption = f"{_SPLITS[split]} problems: {total:,}"
    if parts:
        caption += f". Unaided traces: {sum(verdicts.values()):,} = {parts}"
    return table(
        caption,
        "stratum | problems | solved at least once",
        (
            Row(
                (str(row.stratum).replace("_", " "), count(row.problems), count(row.solved)),
                faint=not row.problems,
            )
            for row in rows
        ),
    )


def compared(caption: str, rows: Iterable[Difference], k: int) -> Table:
    """Paired differences."""
    return table(
        caption,
        "comparison | difference | problems | n | metric",
        (
            Row(
                (
                    f"{d.arm} − {d.against}" + (" (primary endpoint)" if d.primary else ""),
                    words.points_text(d.interval),
                    words.stratum_name(d.stratum),
                    count(d.interval.n_problems),
                    d.metric.replace("@k", f"@{k}"),
                ),
                strong=d.primary,
            )
            for d in rows
        ),
        texts="problems | metric",
    )


def kept(found: Sequence[Retained], summary: EvalSummary) -> Table:
    """What students still know of what the untouched one knew."""
    return table(
        "What training kept and took: each arm's students against the untouched one, in percentage"
        f" points, {plural(summary.seeds, 'training seed')}",
        "arm | after | problems | difference | n | metric",
        (
            (
                own.arm,
                "training" if own.stage is None else f"stage {own.stage}, watched problems",
                words.stratum_name(own.stratum),
                words.points_text(own.interval),
                count(own.interval.n_problems),
                f"avg@{summary.k}",
            )
            for own in found
        ),
        texts="after | problems | metric",
    )


def arms(summary: EvalSummary, rows: Iterable[ArmScore]) -> Table:
    """Every arm's figures on one or more groups of problems."""
    k = summary.k
    return table(
        "Every arm by stratum, in per cent",
        f"problems | arm | n | avg@{k} | pass@{k} | maj@{k} | truncated | mean tokens",
        (
            (
                words.stratum_name(s.stratum),
                s.arm,
                count(s.avg.n_problems),
                *map(words.estimate_text, (s.avg, s.pass_k, s.maj_k, s.truncated)),
                words.mean_text(s.tokens),
            )
            for s in rows
        ),
        texts="arm",
    )


def funnel(title: str, rows: Iterable[FunnelRow]) -> Table:
    """What is left after each stage, and what fell away."""
    return table(
        title,
        "stage | problems | cuts or traces",
        (
            Row(
                (
                    row.label,
                    count(row.problems),
                    "–" if row.traces is None else plural(row.traces, row.unit),
                ),
                note="out: " + " · ".join(f"{n:,} {why}" for why, n in row.lost)
                if row.lost
                else "",
            )
            for row in rows
        ),
    )


def extreme(rows: Iterable[ExtremeRow]) -> Table:
    """Problems at the ceiling, one by one."""
    return table(
        "Extreme problems, those furthest from a repair first",
        "problem | unaided correct | cuts | repairs | passed gates | in D3",
        (
            (row.text, f"{row.correct} of {row.n}", *map(str, (row.cuts, row.drawn, row.passed)),
             str(row.kept))
            for row in rows
        ),
    )  # fmt: skip


def ledger(title: str, rows: Iterable[LedgerRow]) -> Table:
    """Teacher tokens."""
    return table(
        title,
        "| sampled | of it wasted | scored | accepted traces | sampled per accepted",
        (
            (
                row.name + ("" if row.in_budget else " (outside the matched token budget)"),
                *map(count, (row.sampled, row.wasted, row.scored)),
                "–" if row.accepted is None else count(row.accepted),
                words.fixed(row.per_accepted),
            )
            for row in rows
        ),
    )


def spent(view: RunView) -> Iterator[Table]:
    """What the run cost, what came of it, and how the student was trained."""
    if view.stage_ledger:
        yield ledger("Teacher tokens by stage", view.stage_ledger)
    if view.arm_ledger:
        yield ledger("Teacher tokens by arm", view.arm_ledger)
    yields = numbers.hint_yields(view) if view.shows_heal else ()
    if view.hint_choice is not None and view.hint_choice.tried:
        problems = plural(view.hint_choice.problems, "extreme problem")
        yield table(
            f"Kinds of hints tried on {problems}, before {view.hint_choice.kind} was chosen",
            "kind | repairs | valid | tokens | hints refused | fell back | valid per 1,000 tokens",
            choice_rows(view.hint_choice),
        )
    if yields:
        yield table(
            "Repair yield by hint kind",
            "hint | hints | repairs | passed gates | kept by PURE | problems repaired",
            (
                (str(y.kind), *map(count, (y.hints, y.traces, y.passed, y.kept)),
                 words.share_text(y.problems))
                for y in yields
            ),
        )  # fmt: skip
    if view.pools:
        yield table(
            "The training sets, counted in full",
            "set | problems | traces | mean tokens | doubt words per 1,000",
            (
                (s.pool, count(s.problems), count(s.traces), words.fixed(s.mean_tokens),
                 words.fixed(s.doubt_rate, 1))
                for s in numbers.sets(view)
            ),
        )  # fmt: skip
    yield from _trained(view)


def _trained(view: RunView) -> Iterator[Table]:
    if view.plan:
        yield table(
            "Training stages as planned",
            "arm | stage | steps | presentations | distinct traces | by set",
            (
                (p.arm, str(p.stage), *map(count, (p.steps, p.presentations, p.distinct)),
                 " · ".join(f"{n:,} {pool}" for pool, n in p.shares.items()))
                for p in view.plan
            ),
            texts="by set",
        )  # fmt: skip
    if view.training:
        yield table(
            "Training as it went",
            "arm | seed | stage | steps | tokens | loss, first | loss, last | peak rate | time",
            (
                (t.arm, str(t.seed), str(t.stage), count(t.steps), count(t.tokens),
                 words.fixed(t.loss_first, 3), words.fixed(t.loss_last, 3),
                 f"{t.learning_rate:.2g}", words.duration(t.seconds))
                for t in view.training
            ),
        )  # fmt: skip


def noted(view: RunView) -> Iterator[Table]:
    """What was counted on the way, how servers fared, and how long the stages took."""
    facts = numbers.all_facts(view)
    if facts:
        yield table(
            "Counted on the way",
            "what | how many",
            (
                (f.text, count(f.count) + ("" if f.of is None else f" of {f.of:,}"))
                for f in facts
            ),
        )  # fmt: skip
    if view.servers:
        yield table(
            "Servers, over all processes of this run",
            "server | requests | answered | tries that failed | given up | pauses | paused",
            (
                (s.url, count(s.asked), count(s.answered),
                 " · ".join(f"{n:,} × {why}" for why, n in s.failures.items()) or "none",
                 count(s.given_up), count(s.pauses), words.duration(s.paused_s))
                for s in view.servers
            ),
            texts="tries that failed",
        )  # fmt: skip
    if view.timings:
        yield table(
            "Time by stage",
            "stage | time",
            ((stage, words.duration(seconds)) for stage, seconds in view.timings.items()),
        )
