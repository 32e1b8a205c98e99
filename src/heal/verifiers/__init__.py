"""Verifiers: five verdicts on a trace, never two.

`open_verifier` is the way in. Importing this package loads neither math-verify nor reasoning-gym:
those live in the worker processes.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from heal.errors import UserError
from heal.verifiers.base import Finding, Item, Preflight, Verifier
from heal.verifiers.worker import WorkerPool

if TYPE_CHECKING:
    from heal.config import Problems

__all__ = ["NAMES", "Finding", "Item", "Preflight", "Verifier", "open_verifier"]

NAMES = ("math", "exact", "choice", "gym")


def open_verifier(settings: Problems) -> Verifier:
    """The verifier a config asks for; close it when done. Raises: UserError if there is none."""
    name = settings.verifier
    if name == "exact":
        from heal.verifiers import exact

        return Verifier(name, exact.read, exact.read_gold)
    if name == "choice":
        from heal.verifiers import choice

        return Verifier(name, choice.read, choice.read_gold)
    return _open_with_workers(name, settings)


def _open_with_workers(name: str, settings: Problems) -> Verifier:
    from heal.verifiers import custom, gym, math

    modules: dict[str, Any] = {"math": math, "gym": gym}
    if ":" not in name and name not in modules:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise UserError(
            f"problems.verifier: no verifier {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"choose one of {', '.join(NAMES)}, or give your own as module:function",
        )
    module = modules.get(name, custom)
    args = [name] if module is custom else []
    pool = WorkerPool(settings.verify_workers, settings.verify_timeout_s, module.OPENER, args)
    return Verifier(name, module.read, module.read_gold, pool)
