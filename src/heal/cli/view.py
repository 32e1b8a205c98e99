"""`heal view`: a run's traces in the browser."""

from typing import Annotated

import typer

from heal.cli.console import echo
from heal.cli.options import RunFolder

Port = Annotated[
    int | None,
    typer.Option(
        min=1, max=65_535, help="Listen here; by default on a free one.", show_default=False
    ),
]
NoOpen = Annotated[bool, typer.Option("--no-open", help="Print the address, open no browser.")]


def view(folder: RunFolder, port: Port = None, no_open: NoOpen = False) -> None:
    """Look at every trace of a run in the browser, and mark it; works while the run goes on."""
    from heal.view.server import Viewer, said_of

    with Viewer(folder, port or 0) as viewer:
        state = viewer.index.state
        echo(f"{said_of(state)}; read in {state.seconds:.1f} s")
        echo(viewer.address)
        echo("for this machine's browser alone; Ctrl-C ends it")
        if not no_open:
            import webbrowser

            webbrowser.open(viewer.address)
        try:
            viewer.serve_forever()
        except KeyboardInterrupt:
            echo("ended")
