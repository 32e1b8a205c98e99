"""Templates of pages: escaped, and strict about names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def templates(folder: Path, filters: Mapping[str, Callable[..., Any]]) -> jinja2.Environment:
    """The templates in a folder. A name that a page does not know is an error, not a blank."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment
