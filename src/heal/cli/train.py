"""`heal train`: the run up to its students, or with `--dry-run` what that would be."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heal.cli.console import echo, one_file, read_recipe
from heal.cli.options import (
    Adopt,
    AllowCode,
    ConfigFile,
    JsonFile,
    Overrides,
    RecipeFile,
    RespectMarks,
    Yes,
)
from heal.cli.run import Choices, respecting, run_until

if TYPE_CHECKING:
    from heal.before.machine import Machine
    from heal.config import Config

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what is redone, and what training takes; then stop.")
]
Gpus = Annotated[
    str | None,
    typer.Option(metavar="NxGB", help="For --dry-run: GPUs to plan for, 8x80; else those here."),
]


def train(
    file: RecipeFile = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
    adopt: Adopt = False,
    allow_code: AllowCode = False,
    marks: RespectMarks = False,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    yes: Yes = False,
    json_file: JsonFile = None,
) -> None:
    """… and train the students."""
    recipe, settings = one_file(file, config), [*overrides, *respecting(marks)]
    choices = Choices(adopt, allow_code, dry_run, yes, json_file)
    if not dry_run:
        _only_for_a_dry_run(gpus)
        run_until("train", recipe, settings, choices)
        return
    run_until("train", recipe, settings, choices)
    _foresee(read_recipe(recipe, settings, allow_code), recipe, gpus)


def _foresee(config: "Config", file: Path, gpus: str | None) -> None:
    """Print a plan. Raises: UserError when it cannot be, or does not fit."""
    from heal.before import training
    from heal.before.machine import look
    from heal.errors import UserError

    if config.student is None:
        raise UserError(f"{file}: no student, so nothing is trained", hint="--set student.model=…")
    echo("")
    machine = look() if gpus is None else _machine(gpus)
    for line in training.lines_of(config, machine, training.foresee(config)):
        echo(line)
    echo(f"next      heal train {file}")


def _machine(gpus: str) -> "Machine":
    from dataclasses import replace

    from heal.before.machine import look
    from heal.errors import UserError

    count, mark, size = gpus.partition("x")
    try:
        if not mark or int(count) < 1 or float(size) <= 0:
            raise ValueError
    except ValueError:
        raise UserError(f"--gpus {gpus}: not GPUs times GB", hint="--gpus 8x80") from None
    return replace(look(), gpus=(float(size),) * int(count))


def _only_for_a_dry_run(gpus: str | None) -> None:
    from heal.errors import UserError

    if gpus is not None:
        raise UserError("--gpus plans for GPUs, which only --dry-run does", hint="add --dry-run")
