"""Figures as inline SVG that follow the page: its colours, its font, its width.

In: plain numbers. Out: `<svg>` text, the same bytes for the same numbers. Matplotlib is imported
on the first figure. It draws with stand-in colours that become CSS variables, so one figure serves
light, dark and paper; text stays text.
"""

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from heal.records import FloatArray, PureScore
from heal.wording import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Asked = ParamSpec("_Asked")

INK, MUTED, GRID, ACCENT, SECOND, BREAK, SHADE = (f"#0{n}0{n}0{n}" for n in range(1, 8))
_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    BREAK: "var(--break)",
    SHADE: "var(--shade)",
}
"""Stand-ins matplotlib draws with, and what each becomes in the page."""

_WIDTH_IN = 3.9
"""Narrow enough for a phone at its own size; wide pages set several side by side."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "heal",
    "font.size": 8.5,
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.transparent": True,
}


@dataclass(frozen=True)
class Bar:
    """One row of an interval chart, in per cent."""

    label: str
    value: float
    lo: float
    hi: float
    strong: bool = False


def _in_style(draw: Callable[_Asked, str]) -> Callable[_Asked, str]:
    """Draw and save under our style alone: matplotlib reads its settings at both moments."""

    @functools.wraps(draw)
    def styled(*args: _Asked.args, **kwargs: _Asked.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@_in_style
def interval_chart(
    rows: Sequence[Bar], name: str, description: str, *, bars: bool = False, upper: float = 100.0
) -> str:
    """Points (or bars from zero) with their intervals, one labelled row each, in per cent."""
    figure = _figure(0.36 + 0.27 * len(rows))
    axes: Axes = figure.add_subplot()
    for place, row in enumerate(rows):
        colour = ACCENT if row.strong else SECOND
        if np.isnan((row.value, row.lo, row.hi)).any():
            axes.text(0, place, "  no interval", va="center", color=MUTED)
            continue
        if bars:
            axes.barh(place, row.value, height=0.56, color=colour, alpha=0.35)
        axes.plot([row.lo, row.hi], [place, place], color=colour, solid_capstyle="round")
        axes.plot(row.value, place, "o", color=colour)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, upper)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.set_major_formatter("{x:.0f} %")
    return _svg(figure, name, f"{description}, with 95 % intervals")


@_in_style
def entropy_chart(
    low: FloatArray, high: FloatArray, window: Sequence[int], cut: int, name: str, *, note: str = ""
) -> str:
    """Step entropies E_k of a failed trace with their bounds, the window shaded, the cut marked.

    `window` holds the steps (from 1) whose surge was compared; `note` names a fallback.
    """
    steps = np.arange(1, len(low) + 1)
    figure = _figure(1.6)
    axes: Axes = figure.add_subplot()
    if len(window):
        axes.axvspan(min(window) - 0.5, max(window) + 0.5, color=SHADE, lw=0)
    middle = (np.asarray(low) + np.asarray(high)) / 2
    if np.nanmax(np.abs(np.asarray(high) - np.asarray(low)), initial=0) > 1e-6:
        axes.fill_between(steps, low, high, color=SECOND, alpha=0.3, lw=0)
    axes.plot(steps, middle, "o-", color=SECOND, ms=_marker(len(steps)))
    axes.axvline(cut - 0.5, color=BREAK, ls=(0, (4, 2)))
    _label_line(axes, cut - 0.5, len(steps), "cut" + (f" ({note})" if note else ""), BREAK)
    _step_axis(axes, len(steps))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("entropy (nats)")
    return _svg(
        figure, name, f"step entropies of {plural(len(steps), 'step')}, cut before step {cut}"
    )


@_in_style
def pure_chart(pure: PureScore, commitment: int | None, name: str) -> str:
    """A repair's profile: ln PPL_k by step above; below, U_k after each step if it was asked for,
    else the surprisal of the answer in the steps that mention it.
    """
    log_ppl, first_step, steps = pure.log_ppl, pure.first_step, len(pure.log_ppl)
    below, label = pure.uncertainty, "U (nats)"
    if not pure.has_uncertainty and pure.answer_surprisal is not None:
        below, label = np.concatenate([[np.nan], pure.answer_surprisal]), "answer, −ln p"
    figure = _figure(2.35)
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(range(1, steps + 1), log_ppl, "o-", color=SECOND, ms=_marker(steps))
    top.set_ylabel("ln PPL (nats)")
    known = np.flatnonzero(~np.isnan(below))
    bottom.plot(known, np.asarray(below)[known], "o-", color=SECOND, ms=_marker(steps))
    bottom.set_ylabel(label)
    for axes in (top, bottom):
        axes.axvspan(-0.5, first_step - 0.5, color=SHADE, lw=0)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if commitment is not None:
            axes.axvline(commitment, color=ACCENT, ls=(0, (4, 2)))
    if commitment is not None:
        _label_line(top, commitment, steps, "commits", ACCENT)
    _step_axis(bottom, steps, first=0)
    return _svg(figure, name, f"PURE's profile over {plural(steps, 'step')}, new from {first_step}")


def _figure(height_in: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")


def _marker(steps: int) -> float:
    """Dots that do not run into each other."""
    return max(0.0, min(4.0, 90 / max(steps, 1)))


def _label_line(axes: "Axes", at: float, steps: int, text: str, colour: str) -> None:
    """Write beside the top of a vertical line, on the side with more room."""
    side = "left" if at <= steps / 2 else "right"
    axes.annotate(
        text,
        (at, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha=side,
        va="bottom",
        color=colour,
    )


def _step_axis(axes: "Axes", steps: int, first: int = 1) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(first - 0.5, steps + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    axes.set_xlabel("step")
    axes.grid(axis="y")


def _svg(figure: "Figure", name: str, description: str) -> str:
    buffer = io.StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing)
    return _inline(buffer.getvalue(), name, description)


def _inline(svg: str, name: str, description: str) -> str:
    """Matplotlib's standalone SVG as a part of a page: own ids, CSS colours, the page's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|xlink:href=")#', lambda m: f"{m[1].replace('xlink:', '')}#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    svg = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1inherit", svg)
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r"\n\s*", "\n", svg)
    # the page's content policy lets no element bring its own style
    svg = re.sub(r' style="([^"]*)"', lambda m: _attributes(m[1]), svg)
    viewbox = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    # the namespace is implied inside HTML, and a page without addresses is easy to trust
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "")
    head = (
        f'<svg class="figure" role="img" aria-label="{description}" {viewbox[0] if viewbox else ""}'
    )
    return re.sub(r"<svg [^>]*?viewBox=\"0 0 [\d.]+", lambda _: head, svg, count=1)


def _attributes(style: str) -> str:
    """`fill: none; stroke: red` as attributes, which SVG has for all that matplotlib sets."""
    pairs = (part.partition(":") for part in style.split(";") if part.strip())
    return "".join(f' {name.strip()}="{value.strip()}"' for name, _, value in pairs)
