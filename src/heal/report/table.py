"""The end of a run in one look: ceiling before and after, arms by stratum, tokens per trace.

In: a `RunView` and a rich console. Out: at most 80 columns of text, with rules and weight only
where somebody watches; piped into a file it is plain. What a run does not have, it says.
"""

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from heal.method.retention import Retained
from heal.method.summary import HARD_AND_EXTREME, EvalSummary
from heal.records import Stratum
from heal.redaction import redact, visible
from heal.report import numbers, sentences, words
from heal.report.choice_words import trace_choice_sentences
from heal.report.view import LedgerRow, RunView
from heal.wording import count, plural

WIDTH = 80

STRATA = (Stratum.EASY, Stratum.HARD, Stratum.EXTREME, HARD_AND_EXTREME)
"""Columns that fit; the page has the others too."""

_ASCII = str.maketrans({"–": "-", "−": "-", "·": "|", "≤": "<=", "…": "..."})
"""What a terminal without UTF-8 is shown instead."""


def print_table(view: RunView, console: Console) -> None:
    """Print the run's outcome."""
    if view.running:
        say(console, sentences.running_sentence(view.running))
    say(console, *sentences.teacher_sentences(view))
    if view.extreme.problems:
        title = "The ceiling: extreme problems with a trace to learn from"
        show(console, title, _ceiling(view))
    if view.choice is not None:
        say(console, *trace_choice_sentences(view.choice))
    say(console, *sentences.student_sentences(view))
    if view.evaluation is not None and view.evaluation.arms:
        seeds = plural(view.evaluation.seeds, "training seed")
        title = f"Held-out avg@{view.evaluation.k} in % by the teacher's stratum, {seeds}"
        show(console, title, _arms(view.evaluation))
    if easy := [kept for kept in view.retention if kept.stratum == Stratum.EASY]:
        n = plural(max(kept.interval.n_problems for kept in easy), "held-out problem")
        title = f"Easy problems against the untouched student, in points, {n}"
        show(console, title, _kept(easy))
    costs = [row for row in view.arm_ledger if row.sampled or row.scored]
    if costs:
        show(console, "Teacher tokens", _costs(costs))
    if view.stopped:
        say(console, f"Not complete: {view.stopped}")


def _ceiling(view: RunView) -> Table:
    table = new_table("", "problems [95 % interval]")
    table.add_row("before: rejection sampling", words.share_text(numbers.ceiling_before(view)))
    if view.main_arm is not None:
        after = words.share_text(numbers.ceiling_after(view))
        table.add_row(f"after: {sentences.arm_title(view)}", after)
    return table


def _arms(summary: EvalSummary) -> Table:
    found = {score.stratum: score.avg.n_problems for score in summary.arms}
    problems = {name: n for name, n in found.items() if name in STRATA} or found
    table = new_table("arm", *problems)
    # Whole per cent: five strata have to fit beside the arm's name.
    cells = {(score.arm, score.stratum): words.whole_text(score.avg) for score in summary.arms}
    for arm in dict.fromkeys(score.arm for score in summary.arms):
        table.add_row(arm, *(cells.get((arm, stratum), "–") for stratum in problems))
    table.add_row("n problems", *(count(n) for n in problems.values()))
    return table


def _kept(found: list[Retained]) -> Table:
    """Arms by stage; a watched stage has fewer problems than the end, so its n stands beside."""
    own = {(kept.arm, kept.stage): kept.interval for kept in found}
    stages = sorted({kept.stage for kept in found if kept.stage is not None})
    table = new_table("arm", *(f"after stage {stage}" for stage in stages), "trained")
    for arm in dict.fromkeys(kept.arm for kept in reversed(found)):
        cells = [own.get((arm, stage)) for stage in (*stages, None)]
        table.add_row(arm, *("–" if i is None else words.whole_points_text(i) for i in cells))
    if stages:
        sizes = [max(k.interval.n_problems for k in found if k.stage == s) for s in (*stages, None)]
        table.add_row("n problems", *map(count, sizes))
    return table


def _costs(rows: list[LedgerRow]) -> Table:
    table = new_table("arm", "sampled", "scored", "accepted traces", "sampled per accepted")
    for row in rows:
        accepted = "–" if row.accepted is None else count(row.accepted)
        per = "–" if row.per_accepted is None else f"{row.per_accepted:,.0f}"
        table.add_row(row.name, count(row.sampled), count(row.scored), accepted, per)
    return table


def new_table(first: str, *others: str) -> Table:
    """An empty table whose first column holds names and whose others hold numbers."""
    table = Table(pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def show(console: Console, title: str, table: Table) -> None:
    """A ruled table for eyes, a Markdown one for files."""
    table.box = box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN
    table.show_edge = table.pad_edge = not console.is_terminal
    _write(console, Text(title, style="bold"), table)


def say(console: Console, *sentences: str) -> None:
    """Print a paragraph that may quote anybody."""
    _write(console, *(Text(visible(redact(sentence))) for sentence in sentences))


def _write(console: Console, *parts: RenderableType) -> None:
    """Print a paragraph no wider than `WIDTH`, in characters the console has."""
    with console.capture() as captured:
        console.print(*parts, sep="\n", width=min(WIDTH, console.width), highlight=False)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    text = "\n".join(line for line in lines if line) + "\n"
    if not console.encoding.lower().startswith("utf"):
        text = text.translate(_ASCII).encode("ascii", "replace").decode()
    console.print(Text.from_ansi(text), soft_wrap=True)
