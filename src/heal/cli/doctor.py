"""`heal doctor`: what of a run folder is whole, and what can be mended."""

import typer

from heal.cli.console import echo, lines_aside, require_writable, write_figures
from heal.cli.options import JsonFile, RunFolder


def doctor(folder: RunFolder, json_file: JsonFile = None) -> None:
    """Check a run folder, mend what can be mended, and name what was lost; needs no model.

    Exits with 0 where all is whole, and with 1 where something was lost: `heal run` makes it anew.
    """
    from heal.store.doctor import doctor as examine

    require_writable(json_file)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        echo(line, err=lines_aside(json_file))

    whole = examine(folder, say)
    write_figures(json_file, {"whole": whole, "said": said})
    if not whole:
        raise typer.Exit(1)
