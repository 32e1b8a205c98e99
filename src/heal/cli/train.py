"""`heal train`: the run up to its students, or with `--dry-run` what that would be."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heal.cli.console import echo, one_file, read_recipe
from heal.cli.options import Adopt, AllowCode, ConfigFile, Overrides, RecipeFile
from heal.cli.run import run_until

if TYPE_CHECKING:
    from heal.before.machine import Machine
    from heal.config import Config

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show steps, time, memory and an example; train nothing.")
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
    dry_run: DryRun = False,
    gpus: Gpus = None,
    allow_code: AllowCode = False,
) -> None:
    """… and train the students."""
    recipe = one_file(file, config)
    if dry_run:
        _foresee(read_recipe(recipe, overrides, allow_code), recipe, gpus)
        return
    _only_for_a_dry_run(gpus)
    run_until("train", recipe, overrides, adopt, allow_code)


def _foresee(config: "Config", file: Path, gpus: str | None) -> None:
    """Print a plan. Raises: UserError when it cannot be, or does not fit."""
    from heal.before import training
    from heal.before.machine import look
    from heal.errors import UserError

    if config.student is None:
        raise UserError(f"{file}: no student, so nothing is trained", hint="--set student.model=…")
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
