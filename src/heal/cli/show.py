"""`heal show`: a run folder in a few lines."""

from heal.cli.console import echo, lines_aside, require_writable, write_figures
from heal.cli.options import JsonFile, RunFolder


def show(folder: RunFolder, json_file: JsonFile = None) -> None:
    """What a run folder holds, stage by stage, and what may have been asked twice."""
    from heal.execute import overview, state
    from heal.store import Store

    require_writable(json_file)
    with Store.open(folder, write=False) as store:
        for line in overview(store):
            echo(line, err=lines_aside(json_file))
        figures = {
            "stored": store.counts(),
            **store.totals()._asdict(),
            "in_flight": store.claimed(),
            "state": state(store),
        }
    write_figures(json_file, figures)
