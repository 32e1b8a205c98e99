"""Figures: on the page as inline SVG that follows it, in files as SVG and PNG.

In: plain numbers. Out: `Drawing`s, the same bytes for the same numbers. Matplotlib is imported when
one is drawn. On the page the colours are CSS variables, so that one figure serves light, dark and
paper, and text stays text; in files they are the page's light ones, and text is drawn as shapes,
so that a figure looks alike where its font is missing.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from heal.records import FloatArray, PureScore
from heal.wording import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Palette(NamedTuple):
    """The page's colours."""

    ink: str
    muted: str
    grid: str
    accent: str
    second: str
    broken: str
    shade: str
    paper: str


LIGHT = Palette("#1d2126", "#5c636d", "#e1e4e8", "#0b7a75", "#5d6f89", "#b8400e", "#eceff4", "#fff")
"""The colours of a file, and the page's by day."""
_STAND_INS = Palette(*(f"#0{n}0{n}0{n}" for n in range(1, 9)))
"""What matplotlib draws with where the page decides, and below what each becomes there."""
_VARIABLES = Palette(
    *(
        f"var(--{name})"
        for name in ["ink", "muted", "rule", "accent", "second", "break", "shade", "paper"]
    )
)

_PNG_DPI = 200
_WIDTH_IN = 3.9
"""Narrow enough for a phone at its own size; wide pages set several side by side."""

_STYLE = {
    "svg.hashsalt": "heal",
    "font.size": 8.5,
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
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


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn for the page or for a file."""

    description: str
    """What a reader who does not see it is told."""
    draw: Callable[[Palette], "Figure"]

    def inline(self, name: str) -> str:
        """`<svg>` text for a page; `name` keeps its ids apart from other figures'."""
        svg = self._drawn(_STAND_INS, "svg", {"svg.fonttype": "none"}).decode()
        return _inline(svg, name, self.description)

    def svg(self) -> str:
        """A file of its own."""
        return self._drawn(LIGHT, "svg", {"svg.fonttype": "path"}).decode()

    def png(self) -> bytes:
        """The same in pixels."""
        return self._drawn(LIGHT, "png", {"savefig.dpi": _PNG_DPI, "savefig.transparent": False})

    def _drawn(self, colours: Palette, kind: str, more: Mapping[str, Any]) -> bytes:
        """Draw and save under our style alone: matplotlib reads its settings at both moments."""
        import matplotlib

        buffer = io.BytesIO()
        nothing = {"png": ("Software",), "svg": ("Date", "Creator", "Format", "Type")}[kind]
        with matplotlib.rc_context({**_STYLE, **_coloured(colours), **more}):
            figure = self.draw(colours)
            figure.savefig(buffer, format=kind, metadata=dict.fromkeys(nothing))
        return buffer.getvalue()


def _coloured(colours: Palette) -> dict[str, str]:
    """Matplotlib's settings of colour."""
    ink = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    muted = ("axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(ink, colours.ink),
        **dict.fromkeys(muted, colours.muted),
        "grid.color": colours.grid,
        "savefig.facecolor": colours.paper,
    }


def interval_chart(
    rows: Sequence[Bar], description: str, *, bars: bool = False, upper: float = 100.0
) -> Drawing:
    """Points (or bars from zero) with their intervals, one labelled row each, in per cent."""
    read = "; ".join(f"{row.label} {_told(row)}" for row in rows)
    told = f"{description}, with 95 % intervals: {read}"
    return Drawing(told, partial(_draw_intervals, rows, bars, upper))


def _told(row: Bar) -> str:
    if np.isnan((row.value, row.lo, row.hi)).any():
        return "no interval"
    return f"{row.value:.0f} % ({row.lo:.0f} to {row.hi:.0f})"


def _draw_intervals(rows: Sequence[Bar], bars: bool, upper: float, c: Palette) -> "Figure":
    figure = _figure(0.36 + 0.27 * len(rows))
    axes: Axes = figure.add_subplot()
    for place, row in enumerate(rows):
        colour = c.accent if row.strong else c.second
        if np.isnan((row.value, row.lo, row.hi)).any():
            axes.text(0, place, "  no interval", va="center", color=c.muted)
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
    return figure


def entropy_chart(
    low: FloatArray, high: FloatArray, window: Sequence[int], cut: int, *, note: str = ""
) -> Drawing:
    """Step entropies E_k of a failed trace with their bounds, the window shaded, the cut marked.

    `window` holds the steps (from 1) whose surge was compared; `note` names a fallback.
    """
    told = f"step entropies of {plural(len(low), 'step')}, cut before step {cut}"
    return Drawing(told, partial(_draw_entropies, low, high, window, cut, note))


def _draw_entropies(
    low: FloatArray, high: FloatArray, window: Sequence[int], cut: int, note: str, c: Palette
) -> "Figure":
    steps = np.arange(1, len(low) + 1)
    figure = _figure(1.6)
    axes: Axes = figure.add_subplot()
    if len(window):
        axes.axvspan(min(window) - 0.5, max(window) + 0.5, color=c.shade, lw=0)
    middle = (np.asarray(low) + np.asarray(high)) / 2
    if np.nanmax(np.abs(np.asarray(high) - np.asarray(low)), initial=0) > 1e-6:
        axes.fill_between(steps, low, high, color=c.second, alpha=0.3, lw=0)
    axes.plot(steps, middle, "o-", color=c.second, ms=_marker(len(steps)))
    axes.axvline(cut - 0.5, color=c.broken, ls=(0, (4, 2)))
    _label_line(axes, cut - 0.5, len(steps), "cut" + (f" ({note})" if note else ""), c.broken)
    _step_axis(axes, len(steps))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("entropy (nats)")
    return figure


def pure_chart(pure: PureScore, commitment: int | None) -> Drawing:
    """A repair's profile: ln PPL_k by step above; below, U_k after each step if it was asked for,
    else the surprisal of the answer in the steps that mention it.
    """
    steps = plural(len(pure.log_ppl), "step")
    told = f"PURE's profile over {steps}, new from {pure.first_step}"
    return Drawing(told, partial(_draw_profile, pure, commitment))


def _draw_profile(pure: PureScore, commitment: int | None, c: Palette) -> "Figure":
    log_ppl, first_step, steps = pure.log_ppl, pure.first_step, len(pure.log_ppl)
    below, label = pure.uncertainty, "U (nats)"
    if not pure.has_uncertainty and pure.answer_surprisal is not None:
        below, label = np.concatenate([[np.nan], pure.answer_surprisal]), "answer, −ln p"
    figure = _figure(2.35)
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(range(1, steps + 1), log_ppl, "o-", color=c.second, ms=_marker(steps))
    top.set_ylabel("ln PPL (nats)")
    known = np.flatnonzero(~np.isnan(below))
    bottom.plot(known, np.asarray(below)[known], "o-", color=c.second, ms=_marker(steps))
    bottom.set_ylabel(label)
    for axes in (top, bottom):
        axes.axvspan(-0.5, first_step - 0.5, color=c.shade, lw=0)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if commitment is not None:
            axes.axvline(commitment, color=c.accent, ls=(0, (4, 2)))
    if commitment is not None:
        _label_line(top, commitment, steps, "commits", c.accent)
    _step_axis(bottom, steps, first=0)
    return figure


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


def _inline(svg: str, name: str, description: str) -> str:
    """Matplotlib's standalone SVG as a part of a page: own ids, CSS colours, the page's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|xlink:href=")#', lambda m: f"{m[1].replace('xlink:', '')}#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    svg = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1inherit", svg)
    for stand_in, colour in zip(_STAND_INS, _VARIABLES, strict=True):
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r"\n\s*", "\n", svg)
    # the page's content policy lets no element bring its own style
    svg = re.sub(r' style="([^"]*)"', lambda m: _attributes(m[1]), svg)
    viewbox = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    # the namespace is implied inside HTML, and a page without addresses is easy to trust
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "")
    told, box = escape(description), viewbox[0] if viewbox else ""
    head = f'<svg class="figure" role="img" aria-label="{told}" {box}'
    return re.sub(r"<svg [^>]*?viewBox=\"0 0 [\d.]+", lambda _: head, svg, count=1)


def _attributes(style: str) -> str:
    """`fill: none; stroke: red` as attributes, which SVG has for all that matplotlib sets."""
    pairs = (part.partition(":") for part in style.split(";") if part.strip())
    return "".join(f' {name.strip()}="{value.strip()}"' for name, _, value in pairs)
