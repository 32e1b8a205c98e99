"""`heal run`: the whole method, or up to one of its stages."""

import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from heal.cli.console import (
    echo,
    lines_aside,
    one_file,
    outcome,
    print_view,
    read_recipe,
    require_writable,
    watched,
    write_figures,
)
from heal.cli.options import (
    Adopt,
    AllowCode,
    ConfigFile,
    DryRun,
    JsonFile,
    Overrides,
    RecipeFile,
    RespectMarks,
    Yes,
)

Again = Annotated[
    bool, typer.Option("--retry-unverifiable", help="Judge again what could not be judged.")
]


class Choices(NamedTuple):
    """What the verbs that run something have in common."""

    adopt: bool = False
    allow_code: bool = False
    dry_run: bool = False
    yes: bool = False
    json_file: Path | None = None


def run(
    file: RecipeFile = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
    adopt: Adopt = False,
    again: Again = False,
    allow_code: AllowCode = False,
    marks: RespectMarks = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json_file: JsonFile = None,
) -> None:
    """Run the whole method; run it again to continue."""
    more = ["limits.retry_unverifiable=true"] if again else []
    more += respecting(marks)
    choices = Choices(adopt, allow_code, dry_run, yes, json_file)
    run_until(None, one_file(file, config), [*overrides, *more], choices)


def respecting(marks: bool) -> list[str]:
    """What `--respect-marks` sets."""
    return ["pace.respect_marks=true"] if marks else []


def run_until(stage: str | None, config: Path, overrides: list[str], choices: Choices) -> None:
    """Run up to a stage, that one included, and show what is there; None runs all."""
    recipe = read_recipe(config, overrides, choices.allow_code)
    from heal.execute import execute, foreseen
    from heal.report.told import told

    if choices.dry_run:
        for line in foreseen(recipe):
            echo(line)
        return
    require_writable(choices.json_file)
    aside = lines_aside(choices.json_file)
    early = f"report    {recipe.run}/report.html, at the end; until then: heal show {recipe.run}"
    echo(early, err=aside)

    def asked(at_stake: str) -> bool:
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        return choices.yes or not terminal or typer.confirm("go on?", default=False)

    view = watched(
        lambda seen: execute(recipe, seen, until=stage, adopt=choices.adopt, consent=asked),
        aside=aside,
    )
    print_view(view, aside=aside)
    for line in outcome(recipe, view):
        echo(line, err=aside)
    write_figures(choices.json_file, told(view))
