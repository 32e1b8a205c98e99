"""`heal run`: the whole method, or up to one of its stages."""

from pathlib import Path
from typing import Annotated

import typer

from heal.cli.console import print_view, watched
from heal.cli.options import Adopt, ConfigFile, Overrides

Again = Annotated[
    bool, typer.Option("--retry-unverifiable", help="Judge again what could not be judged.")
]


def run(
    config: ConfigFile,
    overrides: Overrides = [],  # noqa: B006
    adopt: Adopt = False,
    again: Again = False,
) -> None:
    """Run the whole method; run it again to continue."""
    more = ["limits.retry_unverifiable=true"] if again else []
    run_until(None, config, [*overrides, *more], adopt)


def run_until(stage: str | None, config: Path, overrides: list[str], adopt: bool) -> None:
    """Run up to a stage, that one included, and show what is there; None runs all."""
    from heal.execute import execute
    from heal.recipe import load

    view = watched(
        lambda observer: execute(load(config, overrides), observer, until=stage, adopt=adopt)
    )
    print_view(view)
