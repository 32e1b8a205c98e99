"""A value per step as a small drawing.

In: numbers by step. Out: `Curve`s, whose coordinates a template writes as SVG that follows the
page's colours. Needs no drawing library: a page is drawn while somebody waits for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from heal.wording import plural

WIDTH, HEIGHT = 640, 132
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 16, 22
_MOST_TICKS = 12


class Dot(NamedTuple):
    """A value where it is drawn."""

    x: float
    y: float
    step: int
    value: float


class Tick(NamedTuple):
    """A label on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """One drawing; lengths are those of its `viewBox`."""

    title: str
    told: str
    """What a reader who does not see it is told."""
    runs: tuple[tuple[Dot, ...], ...]
    """Neighbouring steps that have values."""
    band: str
    """Points of the area between bounds; '' where values are exact."""
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    kept_to: float | None
    """Right end of the kept steps."""
    cut: float | None
    commits: float | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM

    @property
    def dots(self) -> tuple[Dot, ...]:
        """Those of a drawing with room for them."""
        found = tuple(dot for run in self.runs for dot in run)
        return found if len(found) <= 120 else ()


def curve(
    title: str,
    values: Sequence[float],
    *,
    first: int = 1,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    kept: int = 0,
    cut: int | None = None,
    commits: int | None = None,
) -> Curve | None:
    """`values` by step from `first` on, NaN where there is none; None if all are.

    kept: steps shared with the parent; cut: the first step dropped; commits: k_c.
    """
    given = np.asarray(values, np.float64)
    if not np.isfinite(given).any():
        return None
    ends = [given] if high is None else [given, np.asarray(high, np.float64)]
    top = max(float(np.nanmax(a[np.isfinite(a)], initial=0)) for a in ends) or 1.0
    bottom = min(0.0, float(np.nanmin(given[np.isfinite(given)])))
    frame = _Frame(first, first + len(given) - 1, bottom, top)
    return Curve(
        title=title,
        told=_told(title, given, first, cut),
        runs=tuple(_runs(given, first, frame)),
        band=_band(low, high, first, frame),
        across=tuple(Tick(frame.x(k), str(k)) for k in frame.steps()),
        up=tuple(Tick(frame.y(v), _label(v, top)) for v in (bottom, (bottom + top) / 2, top)),
        kept_to=frame.x(kept + 0.5) if kept else None,
        cut=frame.x(cut - 0.5) if cut is not None else None,
        commits=frame.x(commits) if commits is not None else None,
    )


def _label(value: float, top: float) -> str:
    """With as many digits as tell the labels of an axis apart."""
    return f"{value:.2f}" if top >= 0.05 else f"{value:.4f}"


class _Frame(NamedTuple):
    """From values to places."""

    first: int
    last: int
    low: float
    high: float

    def x(self, step: float) -> float:
        span = max(1, self.last - self.first) + 1
        return round(_LEFT + (step - self.first + 0.5) / span * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)

    def steps(self) -> range:
        return range(self.first, self.last + 1, -(-(self.last - self.first + 1) // _MOST_TICKS))


def _runs(values: np.ndarray, first: int, frame: _Frame) -> list[tuple[Dot, ...]]:
    runs: list[tuple[Dot, ...]] = []
    run: list[Dot] = []
    for step, value in enumerate(values.tolist(), start=first):
        if np.isfinite(value):
            run.append(Dot(frame.x(step), frame.y(value), step, value))
        elif run:
            runs.append(tuple(run))
            run = []
    return [*runs, tuple(run)] if run else runs


def _band(
    low: Sequence[float] | None, high: Sequence[float] | None, first: int, frame: _Frame
) -> str:
    if low is None or high is None:
        return ""
    pairs = [(k, a, b) for k, (a, b) in enumerate(zip(low, high, strict=True), start=first)]
    pairs = [(k, a, b) for k, a, b in pairs if np.isfinite(a) and np.isfinite(b)]
    if all(b - a < 0.005 for _, a, b in pairs):
        return ""
    over = [(frame.x(k), frame.y(b)) for k, _, b in pairs]
    under = [(frame.x(k), frame.y(a)) for k, a, _ in reversed(pairs)]
    return " ".join(f"{x},{y}" for x, y in (*over, *under))


def _told(title: str, values: np.ndarray, first: int, cut: int | None) -> str:
    top = int(np.nanargmax(values)) + first
    where = f"; cut before step {cut}" if cut is not None else ""
    known = plural(int(np.isfinite(values).sum()), "value")
    return f"{title}: {known}, largest {np.nanmax(values):.2f} at step {top}{where}"
