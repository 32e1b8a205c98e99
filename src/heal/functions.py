"""Users' own functions, named `module:function` in a setting.

The module is looked for where Python looks, then in the current directory. An exception raised
*inside* the module is the user's to see and passes through untouched.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from heal.errors import UserError


def load_function(spec: str, setting: str) -> Callable[..., Any]:
    """The function `spec` names. Raises: UserError naming the setting it came from."""
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise UserError(
            f"{setting}: {spec!r} is not module:function", hint=f"--set {setting}=my_module:my_name"
        )
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
    """
    module_name, colon, _ = spec.partition(":")
    if not colon:
        return spec
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
    if here not in sys.path:
        sys.path.append(here)
    return here
