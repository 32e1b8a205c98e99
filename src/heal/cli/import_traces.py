"""`heal import`: traces sampled elsewhere, shown as they are read or brought into a run."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heal.cli.console import echo, outcome, print_view, read_recipe, watched
from heal.cli.options import Adopt, AllowCode, Overrides

if TYPE_CHECKING:
    from heal.config import Config

Form = Annotated[
    str,
    typer.Argument(
        metavar="FORMAT",
        help="auto, generic, open-r1, nemo-skills, ms-swift, openthoughts, verifiers or inspect.",
    ),
]
Where = Annotated[str, typer.Argument(metavar="PATH", help="A file, a folder or a quoted pattern.")]
File = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="The recipe of the run; without one they are only shown."),
]
Mapped = Annotated[
    str | None,
    typer.Option(
        "--fields",
        metavar="A=COLUMN,…",
        help="Columns: problem, answer, generation, finish_reason, verdict, id.",
    ),
]


def import_traces(
    form: Form,
    path: Where,
    config: File = None,
    fields: Mapped = None,
    overrides: Overrides = [],  # noqa: B006
    adopt: Adopt = False,
    allow_code: AllowCode = False,
) -> None:
    """Bring traces you have into a run, verified; or show how they are read."""
    told = _settings(form, path, fields)
    if config is None:
        _show([*told, *overrides])
        return
    recipe = read_recipe(config, [*overrides, *told], allow_code)
    from heal.execute import execute

    view = watched(lambda observer: execute(recipe, observer, until="verify", adopt=adopt))
    print_view(view)
    report, *_ = outcome(recipe, view)
    echo(report)
    for line in _next(recipe, config, overrides, told):
        echo(line)


def _settings(form: str, path: str, fields: str | None) -> list[str]:
    """The same as `--set`. Raises: UserError."""
    from heal.errors import UserError

    prefix = "problems.traces"
    told = [f"{prefix}.path={_scalar(path)}", f"{prefix}.format={_scalar(form)}"]
    for pair in fields.split(",") if fields else []:
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not (name and equals and column):
            raise UserError(
                f"--fields {pair}: expected name=COLUMN",
                hint="--fields problem=question,generation=response",
            )
        told.append(f"{prefix}.fields.{name}={_scalar(column)}")
    return told


_ALONE: dict[str, object] = {
    "run": "-",
    "problems": {"held_out": 0.0},
    "teacher": None,
    "arms": ["rft"],
}
"""What stands for a recipe where there is none."""


def _show(overrides: list[str]) -> None:
    from heal.data.trace_preview import lines_of
    from heal.recipe import load_over

    recipe = load_over(_ALONE, overrides)
    for line in lines_of(recipe.problems):
        echo(line)


def _next(recipe: "Config", file: Path, own: list[str], told: list[str]) -> list[str]:
    """The lines that make the import part of the recipe, and the command that goes on."""
    from heal.errors import HealError
    from heal.recipe import load

    try:
        written = load(file, own).problems.traces
    except HealError:  # a recipe that is whole only with what was told beside it
        written = None
    run = f"heal run {shlex.join([str(file), *_flags(own)])}"
    if written == recipe.problems.traces:
        return [f"next      {run}"]
    return [
        "",
        f"to make it part of the recipe, add to {file}:",
        "",
        *_shown(recipe),
        "",
        f"next      {run}",
        "or as the recipe is:",
        f"          {run} {shlex.join(_flags(told))}",
    ]


def _flags(overrides: list[str]) -> list[str]:
    return [word for one in overrides for word in ("--set", one)]


def _shown(recipe: "Config") -> list[str]:
    """The settings of the traces that are not the default, as they stand in a recipe."""
    import yaml

    traces = recipe.problems.traces
    assert traces is not None, "the verb names a file"
    chosen = {"problems": {"traces": traces.model_dump(exclude_defaults=True)}}
    return yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True).splitlines()


def _scalar(text: str) -> str:
    """Text as `--set` reads it back."""
    import json

    import yaml

    try:
        plain = yaml.safe_load(text) == text
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text)
