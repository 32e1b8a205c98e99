"""`heal show`: a run folder in a few lines."""

from heal.cli.console import echo
from heal.cli.options import RunFolder


def show(folder: RunFolder) -> None:
    """What a run folder holds, stage by stage, and what may have been asked twice."""
    from heal.execute import overview
    from heal.store import Store

    with Store.open(folder, write=False) as store:
        for line in overview(store):
            echo(line)
