"""HEAL: hindsight entropy-assisted learning, an independent implementation.

`heal.find_breakpoint`, `heal.pure`, `heal.distill` and the others of `heal.api` are found here by
name; each is loaded when it is asked for, so `import heal` stays instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heal.api import *  # noqa: F403

__version__ = "0.3.0"


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name in import_module("heal.api").__all__:
        return getattr(import_module("heal.api"), name)
    raise AttributeError(f"module 'heal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*import_module("heal.api").__all__, "__version__"])
