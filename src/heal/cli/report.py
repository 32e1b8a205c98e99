"""`heal report`: report.html from a run folder."""

from heal.cli.console import echo, print_view
from heal.cli.options import RunFolder


def report(folder: RunFolder) -> None:
    """Render report.html again from a run folder; needs no model."""
    from heal.execute import write_report
    from heal.store import Store

    with Store.open(folder, write=False) as store:
        print_view(write_report(store))
        echo(f"wrote {folder / 'report.html'}")
