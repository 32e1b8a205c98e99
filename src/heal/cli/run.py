"""`heal run`: the whole method, or up to one of its stages."""

from pathlib import Path

from heal.cli.console import print_view, watched
from heal.cli.options import Adopt, ConfigFile, Overrides


def run(config: ConfigFile, overrides: Overrides = [], adopt: Adopt = False) -> None:  # noqa: B006
    """Run the whole method; run it again to continue."""
    run_until(None, config, overrides, adopt)


def run_until(stage: str | None, config: Path, overrides: list[str], adopt: bool) -> None:
    """Run up to a stage, that one included, and show what is there; None runs all."""
    from heal.execute import execute
    from heal.recipe import load

    view = watched(
        lambda observer: execute(load(config, overrides), observer, until=stage, adopt=adopt)
    )
    print_view(view)
