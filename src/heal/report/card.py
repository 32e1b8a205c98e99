"""The card: one broken and mended trace on a picture, for a README or a slide.

In: an exhibit and its run. Out: a `Drawing` of 1200 × 630 at one pixel a point. What does not fit
is left out and says so.
"""

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from heal.redaction import visible
from heal.report import numbers, sentences
from heal.report.charts import Drawing, Palette
from heal.report.exhibits import Exhibit, Line
from heal.report.view import RunView
from heal.report.words import excerpt, share_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 1200, 630
_LEFT, _RIGHT = 48, 630
_COLUMN = 520
_CHARACTERS = 58
"""A line of a column holds so many."""
_ROW = 21
_BAR = 92


def draw(view: RunView, exhibit: Exhibit) -> Drawing:
    """The picture of one exhibit."""
    case = exhibit.case
    told = f"A failed trace cut before step {case.cut.step}"
    if case.repair is not None:
        told += f", and its repair ({exhibit.outcome})"
    return Drawing(told, partial(_draw, view, exhibit))


def _draw(view: RunView, exhibit: Exhibit, c: Palette) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), dpi=100, facecolor=c.paper)
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(_HEIGHT, 0))
    axes.axis("off")
    _text(axes, _LEFT, 44, "A reasoning trace, broken and mended", c.ink, 19, bold=True)
    asked = _shown(exhibit.case.problem.problem, 118)
    answer = _shown(exhibit.case.problem.answer, 24)
    _text(axes, _LEFT, 76, f"Problem: {asked}   Answer: {answer}", c.muted, 11)
    _failed(axes, exhibit, c)
    _repaired(axes, exhibit, c)
    for row, said in enumerate(_ceiling(view)):
        _text(axes, _LEFT, _HEIGHT - 52 + row * _ROW, said, c.ink, 13, bold=True)
    return figure


def _failed(axes: "Axes", exhibit: Exhibit, c: Palette) -> None:
    said = _shown(exhibit.case.answer or "no answer", 24)
    _text(axes, _LEFT, 118, f"Failed: answered {said}", c.broken, 13, bold=True)
    top = _LEFT + _COLUMN
    if exhibit.failed_chart is not None:
        _text(axes, top, 118, "entropy (nats)", c.muted, 9, right=True)
    y = 146.0
    for line in _fitting(exhibit.failed, exhibit.case.cut.step):
        if line.mark == "cut":
            axes.plot([_LEFT, top], [y - 10, y - 10], color=c.broken, ls=(0, (5, 3)), lw=1.4)
            _text(axes, top, y - 18, "cut here", c.broken, 9, bold=True, right=True)
            y += 8
        colour = c.muted if line.kept else c.ink
        if line.level is not None:
            _bar(axes, top, y, line.level, line.note, c.second if line.kept else c.broken)
        y = _lines(axes, _LEFT, y, line, colour, _CHARACTERS - 14)


def _repaired(axes: "Axes", exhibit: Exhibit, c: Palette) -> None:
    y, hint, repair = 118.0, exhibit.case.hint, exhibit.case.repair
    if hint is not None:
        _text(axes, _RIGHT, y, f"Hint ({hint.kind})", c.accent, 13, bold=True)
        y += 26
        for part in _wrapped(hint.text, _CHARACTERS, 2):
            _text(axes, _RIGHT, y, part, c.ink, 11)
            y += _ROW
        y += 12
    if repair is None:
        _text(axes, _RIGHT, y, "No repair was drawn.", c.muted, 11)
        return
    said = _shown(repair.answer or "no answer", 24)
    verdict = str(repair.verdict).replace("_", " ") if repair.verdict else "not verified"
    _text(axes, _RIGHT, y, f"Repaired: answers {said}, {verdict}", c.accent, 13, bold=True)
    y += 28
    for line in _fitting(exhibit.repaired, exhibit.case.cut.step, room=(520 - y) / _ROW):
        y = _lines(axes, _RIGHT, y, line, c.muted if line.kept else c.ink, _CHARACTERS)


def _fitting(lines: Sequence[Line], cut: int, room: float = 17) -> list[Line]:
    """The steps from one before the cut on, as many as there is room for, and the last."""
    first = next((i for i, line in enumerate(lines) if line.number >= cut - 1), 0)
    shown, left = list[Line](), room - 3
    for line in lines[first:-1]:
        left -= _height(line)
        if left < 0:
            shown.append(Line(0, "…", False))
            break
        shown.append(line)
    before = [Line(0, "…", True)] if first else []
    return [*before, *shown, *lines[-1:]]


def _height(line: Line) -> float:
    return len(_wrapped(line.text, _CHARACTERS - 14, 2)) + 0.4


def _lines(axes: "Axes", x: float, y: float, line: Line, colour: str, characters: int) -> float:
    """Write a step; the answer: where the next begins."""
    number = f"{line.number}" if line.number else ""
    _text(axes, x, y, number, colour, 9)
    for part in _wrapped(line.text, characters, 2):
        _text(axes, x + 22, y, part, colour, 11)
        y += _ROW
    return y + 0.4 * _ROW


def _bar(axes: "Axes", right: float, y: float, level: float, note: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    width = max(1.0, _BAR * level)
    axes.add_patch(Rectangle((right - _BAR, y - 6), width, 9, color=colour, alpha=0.55, lw=0))
    _text(axes, right - _BAR - 6, y, note, colour, 9, right=True)


def _ceiling(view: RunView) -> tuple[str, ...]:
    """Before and after, a line each."""
    if not view.extreme.problems:
        return ("No problem was beyond the teacher's reach.",)
    before, after = numbers.ceiling_before(view), numbers.ceiling_after(view)
    return (
        f"Hardest problems with a correct trace: {share_text(before)} by sampling alone,",
        f"{share_text(after)} after {sentences.arm_title(view)}",
    )


def _shown(text: str, most: int) -> str:
    flat = excerpt(visible(text))
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _wrapped(text: str, characters: int, rows: int) -> list[str]:
    found = textwrap.wrap(" ".join(visible(text[:4000]).split()), characters) or [""]
    if len(found) <= rows:
        return found
    return [*found[: rows - 1], f"{found[rows - 1][: characters - 2]} …"]


def _text(
    axes: "Axes", x: float, y: float, text: str, colour: str, size: float, *,
    bold: bool = False, right: bool = False,
) -> None:  # fmt: skip
    axes.text(
        x, y, text, color=colour, fontsize=size, fontweight="bold" if bold else "normal",
        ha="right" if right else "left", va="center",
    )  # fmt: skip
