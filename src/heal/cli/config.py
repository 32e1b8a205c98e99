"""`heal config`: every setting, or a recipe as HEAL resolves it."""

from heal.cli.console import echo, one_file
from heal.cli.options import ConfigFile, Overrides, RecipeFile


def show_config(
    file: RecipeFile = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Every setting with its meaning; with FILE, a recipe as HEAL resolves it."""
    from heal.cli.settings_page import reference, resolved_yaml

    if file is None and config is None:
        echo(reference())
        return
    from heal.recipe import load

    echo(resolved_yaml(load(one_file(file, config), overrides)))
