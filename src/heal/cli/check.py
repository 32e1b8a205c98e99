"""`heal check`: whether the engines can do what a recipe needs, and what it will cost."""

import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heal.cli.console import (
    echo,
    lines_aside,
    one_file,
    print_side_by_side,
    read_recipe,
    require_writable,
    write_figures,
)
from heal.cli.options import AllowCode, ConfigFile, JsonFile, Overrides, RecipeFile
from heal.wording import plural

if TYPE_CHECKING:
    from heal.before.findings import Target
    from heal.config import Config

Say = Callable[[str], None]


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
    json_file: JsonFile = None,
) -> None:
    """Before a run: can the engines do what the recipe needs, and what will it cost?"""
    require_writable(json_file)
    say = partial(echo, err=lines_aside(json_file))
    recipe = read_recipe(one_file(file, config), overrides, allow_code)
    if offline:
        found = _offline(recipe, say, trace_tokens, (extreme, hard))
        _end(json_file, found)
        return
    say(f"checking {one_file(file, config)}: reading the problems and the tokenizers …")
    met = _meet(recipe, say, aside=lines_aside(json_file))
    if any(target.failed for target in met):
        again = shlex.join(["heal", *sys.argv[1:]])
        say(f"The student cannot be trained, so no model was opened. Once it can:\n  {again}")
        _end(json_file, met)
    say("opening the models …")
    found = _open(recipe, say)
    given = (trace_tokens, extreme, hard, price_in, price_out)
    for line in _costs(recipe, found, given):
        say(line)
    _end(json_file, [*met, *found])


def _meet(recipe: "Config", say: Say, *, aside: bool) -> "list[Target]":
    """Teacher and student side by side; what is found of the student."""
    from heal.before.findings import lines_of
    from heal.before.meeting import meet

    meeting = meet(recipe)
    say("\nThe first problem as each reads it; the trace stands in: nothing is sampled yet.\n")
    print_side_by_side(meeting, aside=aside)
    say("")
    if meeting.found is None:
        return []
    say("\n".join(lines_of(meeting.found)))
    return [meeting.found]


def _open(recipe: "Config", say: Say) -> "list[Target]":
    from heal.before import check as checking
    from heal.before.findings import lines_of

    found: list[Target] = []
    for target in checking.check(recipe):
        if target.prompt and not any(p.prompt for p in found):
            say(f"The first prompt, {plural(target.prompt_tokens, 'token')}:\n\n{target.prompt}\n")
        say("\n".join(lines_of(target)))
        found.append(target)
    return found


def _costs(recipe: "Config", found: "list[Target]", given: tuple[Any, ...]) -> Iterator[str]:
    from heal.before import check as checking
    from heal.before.readings import readings

    yield from readings(recipe, found)
    yield from checking.estimate(recipe, found, *given)


def _offline(
    recipe: "Config", say: Say, trace_tokens: float | None, shares: tuple[float, float]
) -> "list[Target]":
    """What files alone tell."""
    from heal.before.findings import lines_of
    from heal.before.offline import check_offline, tokens_at_most

    found = []
    for target in check_offline(recipe):
        say("\n".join(lines_of(target)))
        found.append(target)
    for line in tokens_at_most(recipe, trace_tokens, shares):
        say(line)
    return found


def _end(json_file: Path | None, found: "list[Target]") -> None:
    """Write what was found. Raises: Exit with 2 if something is wrong."""
    shown = ("name", "findings", "prompt_tokens", "speed")
    told = [{name: getattr(target, name) for name in shown} for target in found]
    failed = any(target.failed for target in found)
    write_figures(json_file, {"failed": failed, "checked": told})
    if failed:
        raise typer.Exit(2)
