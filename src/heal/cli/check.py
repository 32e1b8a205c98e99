"""`heal check`: whether the engines can do what a recipe needs, and what it will cost."""

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from heal.cli.console import echo, one_file, print_side_by_side, read_recipe
from heal.cli.options import AllowCode, ConfigFile, Overrides, RecipeFile
from heal.wording import plural

if TYPE_CHECKING:
    from heal.config import Config


def check(
    file: RecipeFile = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
    trace_tokens: Annotated[
        float | None, typer.Option(help="Mean trace, for the estimate; else as measured.", min=1)
    ] = None,
    extreme: Annotated[float, typer.Option(help="Assumed share of extreme problems.")] = 0.1,
    hard: Annotated[float, typer.Option(help="Assumed share solved less than half.")] = 0.3,
    price_in: Annotated[float | None, typer.Option(help="Per million tokens read.")] = None,
    price_out: Annotated[float | None, typer.Option(help="Per million tokens written.")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Read files only: open no model, ask no server.")
    ] = False,
    allow_code: AllowCode = False,
) -> None:
    """Before a run: can the engines do what the recipe needs, and what will it cost?"""
    from heal.before import check as checking
    from heal.before.findings import Target, lines_of
    from heal.before.readings import readings

    recipe = read_recipe(one_file(file, config), overrides, allow_code)
    if offline:
        _offline(recipe, trace_tokens, (extreme, hard))
        return
    echo(f"checking {one_file(file, config)}: reading the problems and the tokenizers …")
    _meet(recipe)
    echo("opening the models …")
    found: list[Target] = []
    for target in checking.check(recipe):
        if target.prompt and not any(p.prompt for p in found):
            echo(f"The first prompt, {plural(target.prompt_tokens, 'token')}:\n\n{target.prompt}\n")
        echo("\n".join(lines_of(target)))
        found.append(target)
    for line in readings(recipe, found):
        echo(line)
    for line in checking.estimate(recipe, found, trace_tokens, extreme, hard, price_in, price_out):
        echo(line)
    if any(target.failed for target in found):
        raise typer.Exit(2)


def _meet(recipe: "Config") -> None:
    """Teacher and student side by side. Raises: Exit with 2 if the student cannot be trained."""
    from heal.before.findings import lines_of
    from heal.before.meeting import meet

    meeting = meet(recipe)
    echo("\nThe first problem as each reads it; the trace stands in: nothing is sampled yet.\n")
    print_side_by_side(meeting)
    echo("")
    if meeting.found is None:
        return
    echo("\n".join(lines_of(meeting.found)))
    if meeting.found.failed:
        again = shlex.join(["heal", *sys.argv[1:]])
        echo(f"The student cannot be trained, so no model was opened. Once it can:\n  {again}")
        raise typer.Exit(2)


def _offline(recipe: "Config", trace_tokens: float | None, shares: tuple[float, float]) -> None:
    """What files alone tell. Raises: Exit with 2 if something is wrong."""
    from heal.before.findings import lines_of
    from heal.before.offline import check_offline, tokens_at_most

    found = []
    for target in check_offline(recipe):
        echo("\n".join(lines_of(target)))
        found.append(target)
    for line in tokens_at_most(recipe, trace_tokens, shares):
        echo(line)
    if any(target.failed for target in found):
        raise typer.Exit(2)
