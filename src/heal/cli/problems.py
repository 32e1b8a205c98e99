"""`heal problems`: how a problem file is read, before a recipe is written for it."""

from pathlib import Path
from typing import Annotated

import typer

from heal.cli.options import Overrides

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A file, a folder, hub:NAME, or a recipe (.yaml).")
]
CHECKED = 1000


def problems(file: File, overrides: Overrides = []) -> None:  # noqa: B006
    """Show how a problem file is read: columns, verifier, examples, what is left out and why."""
    from heal.data.preview import lines_of, shown
    from heal.data.problems import read_problems
    from heal.recipe import load, load_over
    from heal.verifiers import open_verifier

    if Path(file).suffix.lower() in (".yaml", ".yml"):
        settings = load(file, overrides).problems
    else:
        named = {"hub": file[4:]} if file.startswith("hub:") else {"path": file}
        needed = {"run": "-", "teacher": {"model": "-"}, "problems": named}
        settings = load_over(needed, overrides).problems
    found = read_problems(settings, Path.cwd())
    for line in lines_of(file, found):
        typer.echo(line)
    checked = found.problems[:CHECKED]
    verifier = open_verifier(settings.model_copy(update={"verifier": found.verifier}))
    try:
        doubts = verifier.preflight(checked)
    finally:
        verifier.close()
    typer.echo(f"\ndoubtful golds: {doubts.doubtful:,} of the first {len(checked):,}")
    for line in doubts.named:
        typer.echo(f"  {shown(line)}")
