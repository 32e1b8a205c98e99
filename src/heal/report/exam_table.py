"""An exam in one look: figures by group of problems, and differences to those compared with.

In: figures and a rich console. Out: at most 80 columns of text, in whole per cent.
"""

from typing import Any

from rich.console import Console

from heal.method.summary import ALL, ArmScore, EvalSummary
from heal.report import words
from heal.report.table import new_table, say, show
from heal.wording import count, plural


def print_exam(examined: Any, console: Console) -> None:
    """Print what an exam came to, whatever was left out included."""
    say(console, f"{examined.name}: {examined.rows}")
    if examined.not_shared:
        lost = plural(examined.not_shared, "problem")
        say(console, f"{lost} left out of the comparison: the others have no attempt at them.")
    summary: EvalSummary | None = examined.summary
    if summary is None:
        say(console, "No attempt could be made; nothing is to be counted.")
        return
    for group in dict.fromkeys(score.stratum for score in summary.arms):
        rows = [score for score in summary.arms if score.stratum == group]
        show(console, _title(group, rows[0], summary), _figures(rows, summary.k))
    if summary.differences:
        show(console, f"avg@{summary.k}, paired, in points", _differences(summary))
    if summary.failed:
        say(console, f"{plural(summary.failed, 'attempt')} left out: the engine failed.")
    if summary.left_out:
        lost = plural(summary.left_out, "problem")
        say(console, f"{lost} left out: somebody has no attempt at them.")


def _title(group: str, score: ArmScore, summary: EvalSummary) -> str:
    problems = plural(score.avg.n_problems, "problem")
    whose = "all problems" if group == ALL else f"{group} for the teacher"
    return f"{whose}: {problems} × {plural(summary.k, 'attempt')}, % [95 % interval]"


def _figures(rows: list[ArmScore], k: int) -> Any:
    found = new_table("", *(row.arm for row in rows))
    found.add_row(f"avg@{k}", *(words.whole_text(row.avg) for row in rows))
    for j in rows[0].pass_at if k > 1 else ():
        found.add_row(f"pass@{j}", *(words.whole_text(row.pass_at[j]) for row in rows))
    if k > 1:
        found.add_row(f"maj@{k}", *(words.whole_text(row.maj_k) for row in rows))
    found.add_row("no answer", *(words.whole_text(row.no_answer) for row in rows))
    found.add_row("truncated", *(words.whole_text(row.truncated) for row in rows))
    found.add_row("… by repeating itself", *(words.whole_text(row.repeating) for row in rows))
    found.add_row("tokens, mean", *(words.mean_text(row.tokens) for row in rows))
    return found


def _differences(summary: EvalSummary) -> Any:
    found = new_table("", "problems", "n", "difference [95 % interval]")
    for one in summary.differences:
        n = count(one.interval.n_problems)
        found.add_row(f"{one.arm} − {one.against}", one.stratum, n, words.points_text(one.interval))
    return found
