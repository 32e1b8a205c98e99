"""`heal config`: every setting, or a recipe as HEAL resolves it."""

from heal.cli.console import echo, lines_aside, one_file, require_writable, write_figures
from heal.cli.options import ConfigFile, JsonFile, Overrides, RecipeFile


def show_config(
    file: RecipeFile = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
    json_file: JsonFile = None,
) -> None:
    """Every setting with its meaning; with FILE, a recipe as HEAL resolves it."""
    from heal.cli.settings_page import reference, resolved_yaml

    if file is None and config is None and json_file is None:
        echo(reference())
        return
    from heal.recipe import load

    require_writable(json_file)
    recipe = load(one_file(file, config), overrides)
    echo(resolved_yaml(recipe), err=lines_aside(json_file))
    write_figures(json_file, recipe.model_dump(mode="json"))
