"""`heal lab`: the small worlds, their models and their benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from heal.cli.console import allow, echo, require_writable, watched, write_figures
from heal.cli.options import AllowCode, JsonFile, Overrides, World

app = typer.Typer(
    no_args_is_help=True,
    help="Small worlds where the truth of every step is known.",
    rich_markup_mode=None,
)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Where teacher/ and student/ go.")] = Path("lab-models"),
    world: World = "rows",
    quick: Annotated[bool, typer.Option(help="A minute of training, to try the script.")] = False,
) -> None:
    """Train the lab's teacher and student base from their seeds."""
    from heal.lab.build import build as train

    train(out, world, quick=quick)


@app.command()
def compare(
    overrides: Overrides = [],  # noqa: B006
    world: World = "rows",
    seeds: Annotated[int, typer.Option(help="Training seeds.", min=1)] = 3,
    problems: Annotated[int, typer.Option(help="Lab problems.", min=13)] = 300,
    quick: Annotated[
        bool, typer.Option("--quick/--full", help="160 problems, 1 seed, 4 arms: minutes.")
    ] = False,
    json_file: JsonFile = None,
    allow_code: AllowCode = False,
) -> None:
    """Benchmark and ablation study: run every arm and compare with the known truth."""
    from heal.lab import benchmark
    from heal.lab.benchmark_page import markdown

    allow(allow_code)
    require_writable(json_file)
    given = [
        f"run=runs/{world}-{'quick' if quick else 'compare'}",
        f"seeds={[0] if quick else list(range(seeds))}",
        f"problems.args.n={160 if quick else problems}",
        *overrides,
    ]
    found = watched(lambda observer: benchmark.compare(world, given, observer, quick))
    echo(markdown(found))
    write_figures(json_file, benchmark.as_json(found))


@app.command()
def budgets(
    overrides: Overrides = [],  # noqa: B006
    world: World = "rows",
    problems: Annotated[int, typer.Option(help="Lab problems.", min=13)] = 300,
    json_file: JsonFile = None,
    allow_code: AllowCode = False,
) -> None:
    """What adaptive sampling and the early stop save against the fixed plan."""
    from dataclasses import asdict

    from heal.lab.benchmark_page import budgets as page
    from heal.lab.budgets import compare_budgets

    allow(allow_code)
    require_writable(json_file)
    given = [f"run=runs/{world}-budgets", f"problems.args.n={problems}", *overrides]
    found = watched(lambda observer: compare_budgets(world, given, observer))
    echo(page(found))
    write_figures(json_file, [asdict(b) for b in found])


@app.command()
def yields(
    overrides: Overrides = [],  # noqa: B006
    world: World = "rows",
    problems: Annotated[int, typer.Option(help="Lab problems.", min=13)] = 150,
    json_file: JsonFile = None,
    allow_code: AllowCode = False,
) -> None:
    """What each way of cutting failed traces yields: valid repairs, fudges, tokens."""
    from dataclasses import asdict

    from heal.lab.benchmark_page import yields as page
    from heal.lab.yields import compare_yields

    allow(allow_code)
    require_writable(json_file)
    given = [f"run=runs/{world}-yields", f"problems.args.n={problems}", *overrides]
    found = watched(lambda observer: compare_yields(world, given, observer))
    echo(page(found))
    write_figures(json_file, [asdict(y) for y in found])
