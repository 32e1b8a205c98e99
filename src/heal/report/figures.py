"""Every figure of a run, by name: what the page shows, and what `heal report --figures` writes.

In: a `RunView`. Out: titled `Drawing`s, and files. Nothing is drawn before it is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heal.errors import UserError
from heal.method.summary import HARD_AND_EXTREME, ArmScore
from heal.report import card, charts, numbers, sentences, words
from heal.report.charts import Bar, Drawing
from heal.report.exhibits import Exhibit, exhibit
from heal.report.numbers import Share
from heal.report.view import RunView
from heal.wording import count


@dataclass(frozen=True)
class Figure:
    """A drawing and its title."""

    title: str
    drawing: Drawing


def by_stratum(view: RunView) -> dict[str, list[ArmScore]]:
    """Every arm's scores, stratum by stratum; that of the primary endpoint first."""
    groups: dict[str, list[ArmScore]] = {}
    for score in view.evaluation.arms if view.evaluation else ():
        groups.setdefault(score.stratum, []).append(score)
    first = {HARD_AND_EXTREME: groups[HARD_AND_EXTREME]} if HARD_AND_EXTREME in groups else {}
    return first | groups


def ceiling(view: RunView) -> Figure | None:
    """Extreme problems with a trace, before and after; None without such problems."""
    extreme = view.extreme.problems
    if not extreme:
        return None
    rows = [_share_bar("sampling alone", numbers.ceiling_before(view))]
    if view.shows_heal:
        rows.append(_share_bar("repairs alone", numbers.repaired_share(view)))
    if view.main_arm is not None:
        after = f"after {sentences.arm_title(view)}"
        rows.append(_share_bar(after, numbers.ceiling_after(view), strong=True))
    title = f"Extreme problems with a correct trace (n\u00a0=\u00a0{count(extreme)})"
    return Figure(title, charts.interval_chart(rows, title, bars=True))


def students(view: RunView) -> dict[str, Figure]:
    """avg@k of every arm, a figure per stratum, all on one scale so that they compare."""
    groups = by_stratum(view)
    highs = [100 * s.avg.high for scores in groups.values() for s in scores]
    top = max((high for high in highs if not np.isnan(high)), default=100.0)
    upper = min(100.0, 10 * np.ceil(top / 10 + 0.01))
    found = {}
    for stratum, scores in groups.items():
        bars = [
            Bar(s.arm, 100 * s.avg.mean, 100 * s.avg.low, 100 * s.avg.high, s.arm == view.main_arm)
            for s in scores
        ]
        n = count(scores[0].avg.n_problems)
        title = f"{words.stratum_name(stratum)} problems (n\u00a0=\u00a0{n})"
        found[stratum] = Figure(title, charts.interval_chart(bars, title, upper=upper))
    return found


def all_figures(view: RunView, exhibits: list[Exhibit]) -> dict[str, Drawing]:
    """Every figure, by the name of its file."""
    found = {}
    if (before_after := ceiling(view)) is not None:
        found["ceiling"] = before_after.drawing
    for stratum, figure in students(view).items():
        found[f"students-{stratum.replace('+', '-')}"] = figure.drawing
    for number, one in enumerate(exhibits, start=1):
        if one.failed_chart is not None:
            found[f"trace{number}-entropy"] = one.failed_chart
        if one.repaired_chart is not None:
            found[f"trace{number}-pure"] = one.repaired_chart
    if exhibits:
        found["card"] = card.draw(view, exhibits[0])
    return found


def write_all(view: RunView, folder: Path) -> list[Path]:
    """Every figure of a run as files. Raises: UserError where the folder cannot be written."""
    exhibits = [exhibit(case, view, view.pure_settings) for case in view.gallery]
    try:
        return write(all_figures(view, exhibits), folder)
    except OSError as error:
        hint = "copy the run folder to where you may write, and ask there"
        raise UserError(f"{folder}: {error.strerror}", hint=hint) from None


def write(figures: Mapping[str, Drawing], folder: Path) -> list[Path]:
    """Each figure as SVG and as PNG. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, drawing in figures.items():
        for kind, body in (("svg", drawing.svg().encode()), ("png", drawing.png())):
            paths.append(folder / f"{name}.{kind}")
            paths[-1].write_bytes(body)
    return paths


def _share_bar(label: str, share: Share, *, strong: bool = False) -> Bar:
    value, lo, hi = (100 * v for v in (share.value, share.lo, share.hi))
    return Bar(label, value, lo, hi, strong)
