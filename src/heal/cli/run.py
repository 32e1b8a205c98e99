"""`heal run`: the whole method, or up to one of its stages."""

from pathlib import Path
from typing import Annotated

import typer

from heal.cli.console import echo, one_file, outcome, print_view, read_recipe, watched
from heal.cli.options import Adopt, AllowCode, ConfigFile, Overrides, RecipeFile, RespectMarks

Again = Annotated[
    bool, typer.Option("--retry-unverifiable", help="Judge again what could not be judged.")
]


def run(
    file: RecipeFile = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
    adopt: Adopt = False,
    again: Again = False,
    allow_code: AllowCode = False,
    marks: RespectMarks = False,
) -> None:
    """Run the whole method; run it again to continue."""
    more = ["limits.retry_unverifiable=true"] if again else []
    more += respecting(marks)
    run_until(None, one_file(file, config), [*overrides, *more], adopt, allow_code)


def respecting(marks: bool) -> list[str]:
    """What `--respect-marks` sets."""
    return ["pace.respect_marks=true"] if marks else []


def run_until(
    stage: str | None, config: Path, overrides: list[str], adopt: bool, allow_code: bool
) -> None:
    """Run up to a stage, that one included, and show what is there; None runs all."""
    recipe = read_recipe(config, overrides, allow_code)
    echo(f"report    {recipe.run}/report.html, at the end; until then: heal show {recipe.run}")
    from heal.execute import execute

    view = watched(lambda observer: execute(recipe, observer, until=stage, adopt=adopt))
    print_view(view)
    for line in outcome(recipe, view):
        echo(line)
