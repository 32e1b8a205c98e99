"""`heal doctor`: what of a run folder is whole, and what can be mended."""

from pathlib import Path
from typing import Annotated

import typer

from heal.cli.console import echo

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def doctor(folder: RunFolder) -> None:
    """Check a run folder, mend what can be mended, and name what was lost; needs no model.

    Exits with 0 where all is whole, and with 1 where something was lost: `heal run` makes it anew.
    """
    from heal.store.doctor import doctor as examine

    if not examine(folder, echo):
        raise typer.Exit(1)
