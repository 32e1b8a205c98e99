"""`heal problems`: how a problem file is read, before a recipe is written for it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heal.cli.console import echo, lines_aside, require_writable, write_figures
from heal.cli.options import JsonFile, Overrides

if TYPE_CHECKING:
    from heal.data.problems import ProblemSet

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A file, a folder, hub:NAME, or a recipe (.yaml).")
]
CHECKED = 1000


def problems(file: File, overrides: Overrides = [], json_file: JsonFile = None) -> None:  # noqa: B006
    """Show how a problem file is read: columns, verifier, examples, what is left out and why."""
    from heal.data.preview import lines_of, shown
    from heal.data.problems import read_problems
    from heal.recipe import load, load_over
    from heal.verifiers import open_verifier

    require_writable(json_file)
    aside = lines_aside(json_file)
    if Path(file).suffix.lower() in (".yaml", ".yml"):
        settings = load(file, overrides).problems
    else:
        named = {"hub": file[4:]} if file.startswith("hub:") else {"path": file}
        needed = {"run": "-", "teacher": {"model": "-"}, "problems": named}
        settings = load_over(needed, overrides).problems
    found = read_problems(settings, Path.cwd())
    for line in lines_of(file, found):
        echo(line, err=aside)
    checked = found.problems[:CHECKED]
    verifier = open_verifier(settings.model_copy(update={"verifier": found.verifier}))
    try:
        doubts = verifier.preflight(checked)
    finally:
        verifier.close()
    echo(f"\ndoubtful golds: {doubts.doubtful:,} of the first {len(checked):,}", err=aside)
    for line in doubts.named:
        echo(f"  {shown(line)}", err=aside)
    write_figures(json_file, _told(found, doubts.doubtful, len(checked)))


def _told(found: "ProblemSet", doubtful: int, checked: int) -> dict[str, Any]:
    return {
        "summary": found.summary,
        "shape": found.shape,
        "columns": found.columns,
        "verifier": found.verifier,
        "problems": len(found.problems),
        "facts": found.facts,
        "doubtful_golds": doubtful,
        "golds_checked": checked,
    }
