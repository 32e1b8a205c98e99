"""`heal export`: a run's data in the form another trainer reads."""

from pathlib import Path
from typing import Annotated

import typer

from heal.cli.console import echo, lines_aside, require_writable, write_figures
from heal.cli.options import JsonFile, RunFolder

Format = Annotated[
    str,
    typer.Argument(
        metavar="FORMAT",
        help="trl, trl-plan, llamafactory, swift, axolotl, sharegpt, verl, datasets, privileged, "
        "dpo or prompts.",
    ),
]
Out = Annotated[
    Path | None, typer.Option("-o", "--out", help="A folder; default: RUN/export/FORMAT.")
]
ArmOption = Annotated[str | None, typer.Option("--arm", help="Whose data; default: HEAL's own.")]


def export(
    name: Format,
    folder: RunFolder,
    out: Out = None,
    arm: ArmOption = None,
    json_file: JsonFile = None,
) -> None:
    """Write a run's training data for another trainer, with lineage and the stages in order."""
    from heal.export.formats import SUMMARY
    from heal.export.formats import export as write
    from heal.wording import plural

    require_writable(json_file)
    aside = lines_aside(json_file)
    made = write(folder, name, out or folder / "export" / name, arm)
    for file, rows in made.files.items():
        echo(f"{file:<32}{'' if rows is None else plural(rows, 'row')}".rstrip(), err=aside)
    for reason, count in made.refused.items():
        echo(f"left out: {count:,} × {reason}", err=aside)
    for setting in made.settings_left_out:
        echo(f"left out: {setting}", err=aside)
    echo(f"in {made.folder}, summed up in {SUMMARY}; next: {made.next_step}", err=aside)
    write_figures(json_file, made)
