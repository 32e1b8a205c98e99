"""`heal eval`: any model, folder, GGUF or server, on any problems."""

from pathlib import Path
from typing import Annotated, Any

import typer

from heal.cli.console import allow, echo, watched
from heal.cli.options import AllowCode, JsonFile, Overrides

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder, a .gguf file, pkg://package/path; with --url, the served tokenizer's.",
    ),
]
Problems = Annotated[
    str,
    typer.Option("-p", "--problems", help="A problem file or folder, hub:NAME, or a benchmark."),
]
Urls = Annotated[
    list[str], typer.Option("--url", help="A server that holds the model; repeatable.")
]
Served = Annotated[str | None, typer.Option(help="The model's name on the servers.")]
Samples = Annotated[int, typer.Option("-k", "--samples", min=1, help="Attempts per problem.")]
Against = Annotated[
    list[Path],
    typer.Option(
        help="A folder of heal eval or heal run: compare with its attempts, and take its teacher's "
        "strata; repeatable."
    ),
]
Recipe = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="Take prompts, verifier and sampling from this recipe."),
]
Out = Annotated[Path | None, typer.Option(help="Where to keep attempts; the same command resumes.")]
Name = Annotated[str | None, typer.Option(help="What to call the model in tables.")]


def evaluate(
    model: Model,
    problems: Problems,
    urls: Urls = [],  # noqa: B006
    served: Served = None,
    samples: Samples = 8,
    against: Against = [],  # noqa: B006
    out: Out = None,
    name: Name = None,
    recipe: Recipe = None,
    json_file: JsonFile = None,
    overrides: Overrides = [],  # noqa: B006
    allow_code: AllowCode = False,
) -> None:
    """Examine a model: avg@k, pass@k, maj@k, with intervals."""
    import shutil

    from rich.console import Console

    from heal.examine import FIGURES, examine
    from heal.recipe import load_over
    from heal.report.exam_table import print_exam

    allow(allow_code)
    label = name or Path(model.rstrip("/")).name
    folder = out or Path("runs") / f"eval-{label}-{Path(problems).stem}".replace(":", "-")
    tree = _borrowed(recipe)
    own: dict[str, Any] = {
        "run": str(folder),
        "problems": {**tree.pop("problems", {}), **_source(problems)},
        "teacher": {"engine": "http" if urls else "local", "model": model, "served": served},
        "student": None,
        "evaluate": {**tree.pop("evaluate", {}), "samples": samples},
    }
    if urls:
        own["engine"] = {"http": {"endpoints": [{"url": url} for url in urls]}}
    config = load_over(tree | own, overrides, where="heal eval")
    examined = watched(lambda observer: examine(config, observer, label, against))
    print_exam(examined, Console())
    if json_file is not None:
        shutil.copyfile(examined.folder / FIGURES, json_file)
    echo(f"figures: {examined.folder / FIGURES} · attempts: {examined.folder / 'details.parquet'}")


def _borrowed(recipe: Path | None) -> dict[str, Any]:
    """What an exam shares with a run: how problems are put and answers are judged."""
    from heal.recipe import read_tree

    if recipe is None:
        return {}
    tree = read_tree(recipe)
    found = {k: v for k, v in tree.items() if k in ("prompts", "sampling", "evaluate", "engine")}
    judged = {k: v for k, v in (tree.get("problems") or {}).items() if k in ("verifier", "fields")}
    return {**found, "problems": judged}


def _source(problems: str) -> dict[str, Any]:
    """Where the problems are, as the recipe would say it. Raises: UserError."""
    from heal.data.benchmarks import settings_of

    whole = {"held_out": 0.0, "decontaminate": None}
    if problems.startswith("hub:"):
        return {**whole, "hub": problems.removeprefix("hub:")}
    if Path(problems).exists() or Path(problems).suffix:
        return {**whole, "path": problems}
    return {**whole, **settings_of(problems)}
