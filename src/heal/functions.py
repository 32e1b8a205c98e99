"""Functions named `module:function` in a setting, and whether they may run.

A recipe is data, and may be somebody else's: what it names is run only if it is `TRUSTED`, comes
from an installed package, or the user has said so for this process (`allow_code`, which no setting
can say). Importing a module already runs it, so the question comes before the import.

The module is looked for where Python looks, then in the current directory. An exception raised
*inside* the module is the user's to see and passes through untouched.
"""

import difflib
import hashlib
import importlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from heal.errors import UserError

TRUSTED = frozenset(["heal.lab.source:problems", "reasoning_gym:create_dataset"])
"""Functions a recipe may name: they make problems, and reach neither files nor other programs."""
KNOWS_THE_TRUTH = {"heal.lab.source:problems": "heal.lab.source:first_wrong_step"}
"""Where problems are made by such a function, what knows the truth of every step of a trace."""

_allowed = False
_named: set[str] = set()


def allow_code() -> None:
    """The user trusts every function that this command's settings name."""
    global _allowed
    _allowed = True


def code_is_allowed() -> bool:
    """Whether the user has said so."""
    return _allowed


def functions_allowed() -> list[str]:
    """What ran, or may have, by the user's leave alone."""
    return sorted(_named)


def require_allowed(spec: str, setting: str, hint: str | None = None) -> None:
    """Raises: UserError for a function that may not run; nothing was imported by then."""
    trusted = spec in TRUSTED or spec in KNOWS_THE_TRUTH.values()
    if trusted and _is_installed(spec.partition(":")[0].partition(".")[0]):
        return
    if _allowed:
        _named.add(spec)
        return
    raise UserError(
        f"{setting}: {spec} is code, and a recipe may name only {' and '.join(sorted(TRUSTED))} "
        "as installed: reading a recipe must run nobody's program",
        hint=hint or "read that function; if you trust it, add --allow-code to the command",
    )


def require_command(command: str, setting: str, hint: str) -> None:
    """Raises: UserError for a command of a recipe that the user has not allowed."""
    if not _allowed:
        raise UserError(f"{setting}: starts a program that the recipe names: {command}", hint=hint)
    _named.add(command)


def _is_installed(package: str) -> bool:
    """Whether a package is our own or lies where packages are installed, not beside a recipe."""
    if package == __name__.partition(".")[0]:
        return True
    found = importlib.util.find_spec(package)  # of a top-level name: imports nothing
    if found is None or not found.origin:
        return False
    homes = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    homes.add(site.getusersitepackages())
    return any(Path(found.origin).is_relative_to(home) for home in homes)


def load_function(spec: str, setting: str) -> Callable[..., Any]:
    """The function `spec` names. Raises: UserError naming the setting it came from."""
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise UserError(
            f"{setting}: {spec!r} is not module:function", hint=f"--set {setting}=my_module:my_name"
        )
    require_allowed(spec, setting)
    here = _look_here()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"{setting}: no module {error.name!r} (looked in the Python path and {here})",
            hint=f"run from the folder that holds {error.name.partition('.')[0]}.py",
        ) from None
    found = getattr(module, name, None)
    if not callable(found):
        near = difflib.get_close_matches(name, [n for n in vars(module) if n[0] != "_"], n=1)
        raise UserError(
            f"{setting}: {module_name} has no function {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"define it in {getattr(module, '__file__', module_name)}",
        )
    return found


@cache
def edition(spec: str) -> str:
    """A function's name with a hash of its module's source; any other name as it is.

    What a user's function decided is stored by this: mended, it decides anew.
    Raises: UserError for a function that may not run: to find a module imports its packages.
    """
    module_name, colon, _ = spec.partition(":")
    if not colon:
        return spec
    require_allowed(spec, "problems.verifier")
    _look_here()
    try:
        found = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        found = None
    source = Path(found.origin) if found and found.origin else None
    if source is None or not source.is_file():
        return spec
    return f"{spec}@{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"


def _look_here() -> str:
    """Let modules be found in the current directory too, after all other places."""
    here = str(Path.cwd())
    if _allowed and here not in sys.path:
        sys.path.append(here)
    return here
