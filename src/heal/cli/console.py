"""What verbs share around their work: progress on the terminal, a clean Ctrl-C, files for figures.

Whatever a verb prints goes through `echo`, and whatever a library logs through `Plainly`: no secret
and no control character of a model's or a server's text reaches the terminal.

Heavy imports stay inside the functions: `heal --help` imports this module.
"""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from heal.redaction import redact, visible
from heal.wording import plural

if TYPE_CHECKING:
    from heal.config import Config


STANDARD_OUTPUT = Path("-")
"""What `--json -` names."""


def echo(text: str, *, err: bool = False) -> None:
    """Print text that may quote anybody."""
    typer.echo(visible(redact(text)), err=err)


class Plainly(logging.Formatter):
    """Log lines as `echo` would print them."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and the traceback where there is one."""
        return visible(redact(super().format(record)))


def allow(code: bool) -> None:
    """Take `--allow-code` as the user's word for this command."""
    from heal import functions

    if code:
        functions.allow_code()


def one_file(file: Path | None, config: Path | None) -> Path:
    """The recipe, named by itself or after `-c`. Raises: UserError unless exactly one is."""
    from heal.errors import UserError

    named = [path for path in (file, config) if path is not None]
    verb = " ".join(a for a in sys.argv[1:2] if not a.startswith("-")) or "run"
    if not named:
        hint = f"heal {verb} FILE.yaml; heal init writes one for your problems"
        raise UserError("no recipe named", hint=hint)
    if len(named) > 1:
        raise UserError(f"two recipes named, {file} and {config}", hint=f"heal {verb} {config}")
    return named[0]


def read_recipe(file: Path, overrides: Sequence[str], allow_code: bool) -> "Config":
    """The recipe a verb is about to act on. Raises: UserError if it names code nobody allowed."""
    from heal.recipe import load

    allow(allow_code)
    recipe = load(file, overrides)
    require_code(recipe)
    return recipe


def require_code(recipe: "Config") -> None:
    """Raises: UserError if a recipe names a function or a command that nobody allowed."""
    from heal import functions

    command = shlex.join(["heal", *sys.argv[1:], "--allow-code"])
    problems = recipe.problems
    named = {
        "problems.source": problems.source or "",
        "problems.verifier": problems.verifier,
        "steps.checker": recipe.steps.checker or "",
    }
    for setting, spec in named.items():
        if ":" in spec:
            hint = f"read that function; if you trust it: {command}"
            functions.require_allowed(spec, setting, hint)
    for role in ("teacher", "scorer", "student"):
        ref = getattr(recipe, role)
        if ref is not None and ref.serve is not None:
            hint = f"read that command; if you trust it: {command}"
            functions.require_command(ref.serve.command, f"{role}.serve.command", hint)


def watched(work: Callable[[Any], Any], *, aside: bool = False) -> Any:
    """What `work` returns, given an observer that shows its progress; Ctrl-C stops it cleanly.

    aside: progress goes to standard error.
    """
    from rich.console import Console

    from heal.cli.progress import ConsoleObserver

    observer = ConsoleObserver(Console(stderr=aside))
    try:
        return work(observer)
    except KeyboardInterrupt:
        observer.close()
        echo("stopped; what is done is stored, and the same command continues", err=True)
        raise typer.Exit(130) from None
    finally:
        observer.close()


def print_view(view: Any, *, aside: bool = False) -> None:
    """A run's results as a table; aside: on standard error."""
    from rich.console import Console

    from heal.report.table import print_table

    print_table(view, Console(stderr=aside))


def print_side_by_side(meeting: Any, *, aside: bool = False) -> None:
    """Teacher and student on one page, what bears loss in reverse where the terminal has colour.

    aside: on standard error.
    """
    from rich.console import Console
    from rich.text import Text

    from heal.before.side_by_side import lines_of

    console = Console(highlight=False, stderr=aside)
    colour = console.is_terminal and console.color_system is not None and not console.no_color
    for line in lines_of(meeting, colour=colour):
        runs = [(text, "reverse" if bears and colour else "") for text, bears in line]
        console.print(Text.assemble(*runs), soft_wrap=True)


def outcome(recipe: "Config", view: Any) -> list[str]:
    """Where a run's results lie, and the one command that comes next."""
    run, written = Path(recipe.run), sorted(Path(recipe.run, "data").glob("stage*.jsonl"))
    students = sorted(run.glob("students/*"))
    untrained = "none: student: null" if recipe.student is None else "not trained yet"
    trained = f"{run / 'students'}/ ({len(students):,})" if students else untrained
    data = f"{run / 'data'}/ ({plural(len(written), 'stage file')})" if written else "not yet"
    again = shlex.join(["heal", "run", *sys.argv[2:]])
    return [
        f"report    {run / 'report.html'}",
        f"data      {data}",
        f"student   {trained}",
        f"next      {again if view.stopped else f'heal show {shlex.quote(str(run))}'}",
    ]


def require_writable(file: Path | None) -> None:
    """Make the folder of a file before hours of work go into it. Raises: UserError."""
    from heal.errors import UserError

    if file is None or file == STANDARD_OUTPUT:
        return
    hint = "write the figures elsewhere with --json FILE"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{file.parent}: {error.strerror}", hint=hint) from None
    if file.is_dir():
        raise UserError(f"{file}: is a folder", hint=hint)
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"{file}: cannot be written to", hint=hint)


def write_figures(file: Path | None, figures: Any) -> None:
    """Figures as JSON; `-`: on standard output; None: nowhere."""
    from heal.figures import as_json

    if file == STANDARD_OUTPUT:
        echo(as_json(figures).rstrip("\n"))
    elif file is not None:
        file.write_text(as_json(figures), encoding="utf-8")


def lines_aside(json_file: Path | None) -> bool:
    """Whether lines for a person go to standard error, since JSON goes to standard output."""
    return json_file == STANDARD_OUTPUT
