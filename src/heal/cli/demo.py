"""`heal demo`: the whole method on a small world that ships with HEAL."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from heal.cli.console import echo, lines_aside
from heal.cli.options import JsonFile, Overrides
from heal.cli.run import Choices, run_until

Recipe = Annotated[
    Path, typer.Option("-o", "--out", help="The recipe, written unless it is there.")
]


def demo(
    out: Recipe = Path("lab.yaml"),
    overrides: Overrides = [],  # noqa: B006
    json_file: JsonFile = None,
) -> None:
    """The whole method in minutes, with models that ship with HEAL; again: continue."""
    from heal.errors import UserError

    if not out.exists():
        try:
            out.write_bytes(files("heal.lab").joinpath("recipe.yaml").read_bytes())
        except OSError as error:
            hint = "heal demo -o FOLDER/lab.yaml --set run=FOLDER/lab"
            raise UserError(f"{out}: {error.strerror}", hint=hint) from None
        echo(f"recipe    {out}", err=lines_aside(json_file))
    run_until(None, out, overrides, Choices(json_file=json_file))
