"""`heal init`: a recipe for one's own problems, after five questions or from flags."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heal.cli.console import echo
from heal.cli.options import Overrides

if TYPE_CHECKING:
    from heal.data.problems import ProblemSet

Problems = Annotated[
    str | None, typer.Option("-p", "--problems", help="A problem file, a folder, or hub:NAME.")
]
Teacher = Annotated[
    str | None,
    typer.Option(help="A model folder, a .gguf file, pkg://…, or a server's http://host:port."),
]
Tokenizer = Annotated[
    str | None, typer.Option(help="Folder with the tokenizer of a teacher behind a server.")
]
Student = Annotated[str | None, typer.Option(help="The model to train; none makes data only.")]
Traces = Annotated[int | None, typer.Option("-n", "--traces", min=1, help="Traces per problem.")]
Run = Annotated[str | None, typer.Option(help="The run folder.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="The recipe to write.")]
Yes = Annotated[
    bool, typer.Option("-y", "--yes", help="Ask nothing; take what is proposed for the rest.")
]
Force = Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")]


def init(
    problems: Problems = None,
    teacher: Teacher = None,
    tokenizer: Tokenizer = None,
    student: Student = None,
    traces: Traces = None,
    run: Run = None,
    out: Out = Path("heal.yaml"),
    yes: Yes = False,
    force: Force = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write a recipe for your problems, models and machine; asks what no option tells."""
    from heal.before.first_recipe import Wanted, default_run, recipe_text, usual_traces
    from heal.before.machine import look
    from heal.data.preview import shown
    from heal.errors import UserError

    if out.exists() and not force:
        raise UserError(f"{out}: is there already", hint="heal init -o other.yaml, or --force")
    asks = not yes and sys.stdin.isatty()
    machine = look()
    echo(f"this machine: {machine.words}")
    problems = _answer(problems, "--problems", "1/5  problems (a file, a folder, hub:NAME)", asks)
    found, fields = _preview(problems, overrides)
    teacher = _answer(teacher, "--teacher", "2/5  teacher (a folder, .gguf, http://…)", asks)
    served = teacher.startswith(("http://", "https://"))
    if served:
        tokenizer = _answer(tokenizer, "--tokenizer", "     folder of its tokenizer", asks)
    _describe("teacher", tokenizer if served and tokenizer else teacher)
    student = _answer(student, "--student", "3/5  student (a folder, or none)", asks, "none")
    if student != "none":
        _describe("student", student)
    proposed = usual_traces(machine, served)
    n = int(_answer(traces, "--traces", "4/5  traces per problem", asks, str(proposed)))
    folder = _answer(run, "--run", "5/5  run folder", asks, default_run(problems))
    wanted = Wanted(
        problems, teacher, tokenizer, None if student == "none" else student, n, folder, fields
    )
    longest = max(len(p.problem) for p in found.problems)
    text = recipe_text(wanted, machine, longest, shown(found.summary))
    _write(out, text)
    echo(f"wrote     {out}\nnext      heal check {out}, then heal run {out}")


def _answer(
    given: str | int | None, option: str, question: str, asks: bool, proposed: str | None = None
) -> str:
    """What an option says, else a person, else what is proposed. Raises: UserError for nothing."""
    from heal.errors import UserError

    if given is not None:
        return str(given)
    if asks:
        return str(typer.prompt(question, default=proposed)).strip()
    if proposed is None:
        words = f"{option} is not given, and nobody is there to ask"
        raise UserError(words, hint=f"heal init {option} … (heal init -h)")
    return proposed


def _preview(problems: str, overrides: list[str]) -> tuple["ProblemSet", dict[str, str]]:
    """Read the problems and show how; with the columns that were named. Raises: UserError."""
    from heal.data.preview import shown
    from heal.data.problems import read_problems
    from heal.errors import UserError
    from heal.recipe import load_over

    source = {"hub": problems[4:]} if problems.startswith("hub:") else {"path": problems}
    tree = {"run": "-", "teacher": {"model": "-"}, "problems": {**source, "held_out": 0.0}}
    for text in overrides:
        if not text.startswith("problems.fields."):
            hint = "write it into the recipe, or give it to heal run"
            raise UserError(f"--set {text.partition('=')[0]}: only problems.fields here", hint=hint)
    settings = load_over(tree, overrides).problems
    found = read_problems(settings, Path.cwd())
    first = found.problems[0]
    echo(f"  {shown(found.summary)}; verifier: {found.verifier}")
    echo(f"  first: {shown(first.problem[:60])} → {shown(first.answer[:40])}")
    return found, settings.fields.model_dump(exclude_none=True)


def _describe(role: str, model: str) -> None:
    """Say what is known of a model, or how to get it."""
    from heal.before.machine import model_facts
    from heal.errors import UserError

    try:
        facts = model_facts(model)
    except UserError as error:
        echo(f"  {error}\n  → {error.hint}")
        return
    context = f"context {facts.context:,}" if facts.context else "context not told"
    thinks = ", a think-model" if facts.thinks else ""
    echo(f"  {role}: {facts.gb:.2f} GB of weights, {context}{thinks}")


def _write(out: Path, text: str) -> None:
    """Write a recipe that HEAL has read itself. Raises: UserError."""
    from heal.bounded import read_yaml
    from heal.errors import UserError
    from heal.recipe import parse

    parse(read_yaml(text, str(out)), where=str(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}", hint="heal init -o FILE.yaml") from None
