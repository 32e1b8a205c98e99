"""The command line: parse, call, print. One module per verb or group of verbs.

Decides nothing. Every heavy import happens inside a command, so `heal --help` answers at once. The
verbs below appear in the help in this order; a new one is a module and its line here.
"""

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from heal.cli import (
    audit,
    check,
    config,
    demo,
    doctor,
    eval,
    export,
    import_traces,
    init,
    lab,
    problems,
    report,
    round,
    run,
    show,
    stages,
    train,
    verify_answer,
    view,
)
from heal.cli.console import Plainly, echo


def say_version(wanted: bool) -> None:
    """Print HEAL's version and end, if that is what was asked."""
    from heal import __version__

    if wanted:
        echo(f"heal {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="heal",
    help="Lift the teacher ceiling: repair failed traces, drop shortcuts, train in stages.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=say_version, help="Say which HEAL.")
]


@app.callback()
def options(version: Version = False) -> None:
    """Lift the teacher ceiling: repair failed traces, drop shortcuts, train in stages."""


app.command()(run.run)
for _stage in stages.HELP:
    app.command(name=_stage)(train.train if _stage == "train" else stages.up_to(_stage))
app.command()(demo.demo)
app.command()(init.init)
app.command()(problems.problems)
app.command(name="import")(import_traces.import_traces)
app.command()(check.check)
app.command(name="eval")(eval.evaluate)
app.command(name="round")(round.make)
app.command()(export.export)
app.command()(report.report)
app.command()(show.show)
app.command()(view.view)
app.command()(doctor.doctor)
app.command()(verify_answer.verify_answer)
app.command(name="config")(config.show_config)
app.add_typer(lab.app, name="lab")
app.add_typer(audit.app, name="audit")


def guarded(call: Callable[[], object]) -> int:
    """Run a command and turn what HEAL raises on purpose into a message and an exit code.

    What it did not foresee keeps its traceback, without the secrets that may stand in it.
    """
    from heal.errors import HealError

    try:
        call()
    except HealError as error:
        echo(f"heal: {error}", err=True)
        if error.hint:
            echo(f"  → {error.hint}", err=True)
        return error.exit_code
    except Exception:
        echo(traceback.format_exc().rstrip(), err=True)
        return 1
    return 0


def main() -> None:
    """Entry point of the `heal` command."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Plainly())
    sys.exit(guarded(app))


if __name__ == "__main__":
    main()
