"""The command line: parse, call, print.

Decides nothing. Every heavy import happens inside a command, so `heal --help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="heal",
    help="Lift the teacher ceiling: repair failed traces, drop shortcuts, train in stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
lab_app = typer.Typer(
    no_args_is_help=True,
    help="Small worlds where the truth of every step is known.",
    rich_markup_mode=None,
)
app.add_typer(lab_app, name="lab")
audit_app = typer.Typer(
    no_args_is_help=True,
    help="Ask whether the method's parts do what they say, on any run.",
    rich_markup_mode=None,
)
app.add_typer(audit_app, name="audit")

ConfigFile = Annotated[Path, typer.Option("-c", "--config", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="A.B=VALUE", help="Override a setting; repeatable.")
]
Adopt = Annotated[
    bool, typer.Option("--adopt", help="Use the run folder although another config made it.")
]
World = Annotated[
    str, typer.Option(help="rows: the rule gives the answer away; walks: it takes work after it.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def _verb(stage: str, text: str) -> None:
    """One command per stage: it does that stage and whatever before it is still owed."""

    def command(config: ConfigFile, overrides: Overrides = [], adopt: Adopt = False) -> None:  # noqa: B006
        _run(config, overrides, until=stage, adopt=adopt)

    command.__doc__ = text
    app.command(name=stage, help=text)(command)


@app.command()
def run(config: ConfigFile, overrides: Overrides = [], adopt: Adopt = False) -> None:  # noqa: B006
    """Run the whole method; run it again to continue."""
    _run(config, overrides, until=None, adopt=adopt)


_verb("sample", "Sample the teacher unaided.")
_verb("verify", "… and judge every trace; find each problem's ceiling.")
_verb("locate", "… and find where failed traces broke.")
_verb("guide", "… and write a hint for each.")
_verb("repair", "… and let the teacher try again.")
_verb("score", "… and measure perplexity and surprisal of what passed the gates.")
_verb("select", "… and choose the training sets; writes the stage JSONL files.")
_verb("train", "… and train the students.")
_verb("evaluate", "… and evaluate them on held-out problems.")


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = [],  # noqa: B006
    trace_tokens: Annotated[
        float | None, typer.Option(help="Mean trace, for the estimate; else as measured.", min=1)
    ] = None,
    extreme: Annotated[float, typer.Option(help="Assumed share of extreme problems.")] = 0.1,
    hard: Annotated[float, typer.Option(help="Assumed share solved less than half.")] = 0.3,
    price_in: Annotated[float | None, typer.Option(help="Per million tokens read.")] = None,
    price_out: Annotated[float | None, typer.Option(help="Per million tokens written.")] = None,
) -> None:
    """Before spending: can the engines do what the recipe needs, and what will it cost?"""
    from heal.before import check as checking
    from heal.recipe import load

    recipe = load(config, overrides)
    found: list[checking.Place] = []
    for place in checking.check(recipe):
        if place.prompt and not any(p.prompt for p in found):
            typer.echo(f"The first prompt, {place.prompt_tokens} tokens:\n\n{place.prompt}\n")
        typer.echo("\n".join(checking.lines_of(place)))
        found.append(place)
    for line in checking.estimate(recipe, found, trace_tokens, extreme, hard, price_in, price_out):
        typer.echo(line)
    if any(place.failed for place in found):
        raise typer.Exit(2)


@app.command()
def report(folder: RunFolder) -> None:
    """Render report.html again from a run folder; needs no model."""
    from heal.execute import write_report
    from heal.store import Store

    with Store.open(folder, write=False) as store:
        _print_view(write_report(store))
        typer.echo(f"wrote {folder / 'report.html'}")


@app.command()
def show(folder: RunFolder) -> None:
    """What a run folder holds: results per stage, and what may have been paid twice."""
    from heal.execute import overview
    from heal.store import Store

    with Store.open(folder, write=False) as store:
        for line in overview(store):
            typer.echo(line)


@app.command(name="config")
def config_command(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A recipe.")] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Every setting with its meaning; with -c, a recipe as HEAL resolves it."""
    from heal.cli.settings_page import reference, resolved_yaml

    if config is None:
        typer.echo(reference())
        return
    from heal.recipe import load

    typer.echo(resolved_yaml(load(config, overrides)))


@audit_app.command(name="pure")
def audit_pure_command(
    config: ConfigFile,
    overrides: Overrides = [],  # noqa: B006
    n: Annotated[int, typer.Option("--n", help="Problems, at most.", min=1)] = 40,
    sampled_u: Annotated[
        bool, typer.Option("--sampled-u", help="Sample answers after every step, too.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.")
    ] = None,
) -> None:
    """Hint wrong answers: does PURE tell what follows from what is reasoned?"""
    import json
    from dataclasses import asdict

    from heal.lab.audit import audit_pure
    from heal.recipe import load
    from heal.report.audit_page import page

    _make_room(json_file)
    found = _watched(
        lambda observer: audit_pure(load(config, overrides), n, observer, sampled_u=sampled_u)
    )
    typer.echo(page(found))
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")


@lab_app.command(name="build")
def lab_build(
    out: Annotated[Path, typer.Option(help="Where teacher/ and student/ go.")] = Path("lab-models"),
    world: World = "rows",
    quick: Annotated[bool, typer.Option(help="A minute of training, to try the script.")] = False,
) -> None:
    """Train the lab's teacher and student base from their seeds."""
    from heal.lab.build import build

    build(out, world, quick=quick)


@lab_app.command(name="compare")
def lab_compare(
    overrides: Overrides = [],  # noqa: B006
    world: World = "rows",
    seeds: Annotated[int, typer.Option(help="Training seeds.", min=1)] = 3,
    problems: Annotated[int, typer.Option(help="Lab problems.", min=13)] = 300,
    quick: Annotated[
        bool, typer.Option("--quick/--full", help="160 problems, 1 seed, 4 arms: minutes.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.")
    ] = None,
) -> None:
    """Hold court: run the lab and measure HEAL against what is known to be true."""
    import json

    from heal.lab.benchmark import as_json, compare
    from heal.lab.benchmark_page import markdown

    _make_room(json_file)
    given = [
        f"run=runs/{world}-{'quick' if quick else 'compare'}",
        f"seeds={[0] if quick else list(range(seeds))}",
        f"problems.args.n={160 if quick else problems}",
        *overrides,
    ]
    court = _watched(lambda observer: compare(world, given, observer, quick))
    typer.echo(markdown(court))
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(court), indent=1, default=str), encoding="utf-8")


@lab_app.command(name="budgets")
def lab_budgets(
    overrides: Overrides = [],  # noqa: B006
    world: World = "rows",
    problems: Annotated[int, typer.Option(help="Lab problems.", min=13)] = 300,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.")
    ] = None,
) -> None:
    """What adaptive sampling and the early stop save against the fixed plan."""
    import json
    from dataclasses import asdict

    from heal.lab.benchmark_page import budgets
    from heal.lab.budgets import compare_budgets

    _make_room(json_file)
    given = [f"run=runs/{world}-budgets", f"problems.args.n={problems}", *overrides]
    found = _watched(lambda observer: compare_budgets(world, given, observer))
    typer.echo(budgets(found))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(b) for b in found], indent=1), encoding="utf-8")


def _make_room(file: Path | None) -> None:
    """Make the folder of a file before hours of work go into it. Raises: UserError."""
    from heal.errors import UserError

    if file is None:
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


def _run(config: Path, overrides: list[str], until: str | None, adopt: bool) -> None:
    from heal.execute import execute
    from heal.recipe import load

    view = _watched(
        lambda observer: execute(load(config, overrides), observer, until=until, adopt=adopt)
    )
    _print_view(view)


def _watched(work: Callable[[Any], Any]) -> Any:
    """Do something under the eyes of the terminal; Ctrl-C stops it cleanly."""
    from rich.console import Console

    from heal.cli.progress import ConsoleObserver

    observer = ConsoleObserver(Console())
    try:
        return work(observer)
    except KeyboardInterrupt:
        observer.close()
        typer.echo("stopped; what is done is stored, and the same command continues", err=True)
        raise typer.Exit(130) from None
    finally:
        observer.close()


def _print_view(view: Any) -> None:
    from rich.console import Console

    from heal.report.table import print_table

    print_table(view, Console())


def guarded(call: Callable[[], object]) -> int:
    """Run a command and turn what HEAL raises on purpose into a message and an exit code."""
    from heal.errors import HealError

    try:
        call()
    except HealError as error:
        typer.echo(f"heal: {error}", err=True)
        if error.hint:
            typer.echo(f"  → {error.hint}", err=True)
        return error.exit_code
    return 0


def main() -> None:
    """Entry point of the `heal` command."""
    sys.exit(guarded(app))


if __name__ == "__main__":
    main()
