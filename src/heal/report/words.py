"""Numbers as a reader meets them: each with its n and its interval, or with why it has none.

In: shares, intervals, durations. Out: text without any markup.
"""

import math
from collections.abc import Mapping
from typing import Any

from heal.method.intervals import Interval
from heal.report.numbers import Share
from heal.wording import count

MAX_EXCERPT_CHARS = 140
_MOST_DIGITS = 4


def excerpt(text: str) -> str:
    """The beginning of a text on one line."""
    # a text is a thousand times longer than its excerpt at worst: only its head is looked at
    head = " ".join(text[: 4 * MAX_EXCERPT_CHARS].split())
    if len(head) <= MAX_EXCERPT_CHARS and len(text) <= 4 * MAX_EXCERPT_CHARS:
        return head
    return f"{head[:MAX_EXCERPT_CHARS]} …"


def percent(share: float) -> str:
    """`0.486` → `49 %`; one decimal where rounding would claim a bare 0 or 100."""
    value = 100 * share
    bare = round(value) in (0, 100) and round(value) != value
    return f"{value:.1f} %" if bare else f"{value:.0f} %"


def share_text(share: Share) -> str:
    """`39 of 44 (89 % [76–95])`."""
    if share.n == 0:
        return "0 of 0"
    bounds = ends_text(100 * share.lo, 100 * share.hi, 0)
    return f"{count(share.hits)} of {count(share.n)} ({percent(share.value)} [{bounds}])"


def estimate_text(interval: Interval) -> str:
    """`34.1 [28.9–39.6]` in per cent, or why there is no interval to print."""
    if not interval.is_known:
        return no_interval(interval)
    return f"{100 * interval.mean:.1f} [{ends_text(100 * interval.low, 100 * interval.high)}]"


def mean_text(interval: Interval) -> str:
    """`118 [110–126]`: a mean that is no share; `512 (all alike)` where nothing varied."""
    if not interval.is_known:
        alike = not math.isnan(interval.mean) and interval.n_problems > 1
        return f"{interval.mean:,.0f} (all alike)" if alike else no_interval(interval)
    return f"{interval.mean:,.0f} [{ends_text(interval.low, interval.high, 0)}]"


def whole_text(interval: Interval) -> str:
    """`34 [29–40]` in per cent, where there is little room."""
    if not interval.is_known:
        return "no interval"
    bounds = ends_text(100 * interval.low, 100 * interval.high, 0)
    return f"{100 * interval.mean:.0f} [{bounds}]"


def points_text(interval: Interval) -> str:
    """`+6.1 [+1.2, +11.0]` in percentage points, or why there is no interval to print."""
    if not interval.is_known:
        return no_interval(interval)
    bounds = ends_text(100 * interval.low, 100 * interval.high, 1, "+", ", ")
    return f"{100 * interval.mean:+.1f} [{bounds}]".replace("-", "−")


def whole_points_text(interval: Interval) -> str:
    """`−23 [−33, −14]` in percentage points, where there is little room."""
    if not interval.is_known:
        return "no interval"
    bounds = ends_text(100 * interval.low, 100 * interval.high, 0, "+", ", ")
    return f"{100 * interval.mean:+.0f} [{bounds}]".replace("-", "−")


def no_interval(interval: Interval) -> str:
    """What stands in place of a figure whose interval nobody knows."""
    return f"no interval (n = {count(interval.n_problems)})"


def ends_text(low: float, high: float, digits: int = 1, sign: str = "", between: str = "–") -> str:
    """Both ends of an interval, with more digits where they would read alike."""
    ends = [f"{end:{sign},.{digits}f}" for end in (low, high)]
    if ends[0] == ends[1] and digits < _MOST_DIGITS:
        return ends_text(low, high, digits + 1, sign, between)
    return between.join(ends)


def duration(seconds: float) -> str:
    """`75.4` → `1 min 15 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def stratum_name(stratum: str) -> str:
    """`hard+extreme` → `hard and extreme`."""
    return stratum.replace("+", " and ").replace("_", " ")


def fixed(value: float | None, digits: int = 0) -> str:
    """A plain number, or a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def problems_name(config: Mapping[str, Any]) -> str:
    """What a run's problems are called: the first of their sources that its settings name."""
    problems = config.get("problems", {})
    gym = (problems.get("gym") or {}).get("task")
    return str(
        problems.get("hub")
        or problems.get("path")
        or gym
        or problems.get("source")
        or (problems.get("traces") or {}).get("path")
    )
