"""Arguments and options that several verbs share, so that they read alike everywhere."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="The recipe, a YAML file.", show_default=False)
]
ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="The recipe, as FILE.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="A.B=VALUE", help="Override a setting; repeatable.")
]
Adopt = Annotated[
    bool, typer.Option("--adopt", help="Use the run folder although another config made it.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the functions the recipe names; read them first.")
]
RespectMarks = Annotated[
    bool, typer.Option("--respect-marks", help="Leave out traces marked bad in heal view.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what changed settings would redo, and stop.")
]
Yes = Annotated[
    bool, typer.Option("-y", "--yes", help="Redo paid work for changed settings without asking.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
World = Annotated[
    str,
    typer.Option(
        help="rows: one choice gives the answer away; walks: work follows it; moves: five choices."
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write all figures here; - for standard output.")
]
