"""`heal report`: report.html and report.json from a run folder, and its figures as files."""

from typing import Annotated

import typer

from heal.cli.console import echo, lines_aside, print_view, require_writable, write_figures
from heal.cli.options import JsonFile, RunFolder
from heal.wording import plural

Figures = Annotated[
    bool, typer.Option("--figures", help="Also every figure as SVG and PNG, in RUN/figures.")
]


def report(folder: RunFolder, figures: Figures = False, json_file: JsonFile = None) -> None:
    """Render report.html and report.json again from a run folder; needs no model."""
    from heal.execute import write_report
    from heal.report.told import told
    from heal.store import Store

    require_writable(json_file)
    aside = lines_aside(json_file)
    with Store.open(folder, write=False) as store:
        view = write_report(store)
        print_view(view, aside=aside)
        echo(f"wrote {folder / 'report.html'} and report.json", err=aside)
    if figures:
        from heal.report.figures import write_all

        written = write_all(view, folder / "figures")
        echo(f"wrote {plural(len(written), 'file')} in {folder / 'figures'}", err=aside)
    write_figures(json_file, told(view))
