"""`heal config`: every setting, or a recipe as HEAL resolves it."""

from pathlib import Path
from typing import Annotated

import typer

from heal.cli.console import echo
from heal.cli.options import Overrides


def show_config(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A recipe.")] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Every setting with its meaning; with -c, a recipe as HEAL resolves it."""
    from heal.cli.settings_page import reference, resolved_yaml

    if config is None:
        echo(reference())
        return
    from heal.recipe import load

    echo(resolved_yaml(load(config, overrides)))
