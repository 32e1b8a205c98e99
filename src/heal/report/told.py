"""A report as figures: what `report.json` holds, and `--json` of every verb that works on a run.

In: a `RunView`. Out: plain values, in the page's order. Texts of traces are left to the page and to
`heal view`; everything counted on the page is here, by the names of `heal.report.view`.
"""

from dataclasses import asdict, fields
from typing import Any

from heal.report import numbers
from heal.report.view import RunView

SCHEMA = 1
"""Grows when a name here changes its meaning or goes."""
_TEXTS = frozenset({"gallery"})


def told(view: RunView) -> dict[str, Any]:
    """What the report counts; of a share, 95 % lie between `lo` and `hi`."""
    known = {f.name: getattr(view, f.name) for f in fields(view) if f.name not in _TEXTS}
    shares = {"before": numbers.ceiling_before(view), "after": numbers.ceiling_after(view)}
    ceiling = {name: {**asdict(share), "value": share.value} for name, share in shares.items()}
    shown = [case.failed.key for case in view.gallery]
    return {"schema": SCHEMA, **known, "ceiling": ceiling, "traces_shown": shown}
