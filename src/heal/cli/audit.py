"""`heal audit`: whether the method's parts do what they say, on any run."""

from typing import Annotated

import typer

from heal.cli.console import echo, one_file, read_recipe, require_writable, watched, write_figures
from heal.cli.options import AllowCode, ConfigFile, JsonFile, Overrides, RecipeFile

app = typer.Typer(
    no_args_is_help=True,
    help="Ask whether the method's parts do what they say, on any run.",
    rich_markup_mode=None,
)


@app.command()
def gear(
    file: RecipeFile = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
    json_file: JsonFile = None,
    allow_code: AllowCode = False,
) -> None:
    """Where failed traces are cut, against the step checker's word; asks no model."""
    from dataclasses import asdict

    from heal.lab.checked import audit_gear
    from heal.report.audit_page import gear_page

    require_writable(json_file)
    recipe = read_recipe(one_file(file, config), overrides, allow_code)
    found = audit_gear(recipe)
    echo(gear_page(found))
    write_figures(json_file, asdict(found))


@app.command()
def pure(
    file: RecipeFile = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
    n: Annotated[int, typer.Option("--n", help="Problems, at most.", min=1)] = 40,
    sampled_u: Annotated[
        bool, typer.Option("--sampled-u", help="Sample answers after every step, too.")
    ] = False,
    json_file: JsonFile = None,
    allow_code: AllowCode = False,
) -> None:
    """Hint wrong answers: does PURE tell what follows from what is reasoned?"""
    from dataclasses import asdict

    from heal.lab.audit import audit_pure
    from heal.report.audit_page import page

    require_writable(json_file)
    recipe = read_recipe(one_file(file, config), overrides, allow_code)
    found = watched(lambda observer: audit_pure(recipe, n, observer, sampled_u=sampled_u))
    echo(page(found))
    write_figures(json_file, asdict(found))
