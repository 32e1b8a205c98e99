"""`heal verify-answer`: the verdict on one answer, and the rule that decided."""

from typing import Annotated

import typer

from heal.cli.console import echo, lines_aside, require_writable, write_figures
from heal.cli.options import JsonFile

Answer = Annotated[str, typer.Argument(metavar="ANSWER", help="An answer, or a text with one.")]
Gold = Annotated[str, typer.Argument(metavar="GOLD", help="The answer it should be.")]
Name = Annotated[
    str, typer.Option("--verifier", help="math, exact, choice, code, or your own: module:function.")
]


def verify_answer(
    answer: Answer, gold: Gold, verifier: Name = "math", json_file: JsonFile = None
) -> None:
    """Say whether an answer is right, and which rule decided; exit 1 unless it is."""
    from heal.functions import allow_code
    from heal.records import Verdict
    from heal.verifiers import verify_answer as verdict_on

    if ":" in verifier:
        allow_code()  # the user, not a recipe, has named it
    require_writable(json_file)
    aside = lines_aside(json_file)
    found = verdict_on(answer, gold, verifier)
    echo(f"verdict: {found.verdict.value}", err=aside)
    echo(f"reason: {found.detail or '-'}", err=aside)
    echo(f"read as: {found.answer if found.answer is not None else '-'}", err=aside)
    told = {"verdict": found.verdict, "reason": found.detail, "read_as": found.answer}
    write_figures(json_file, told)
    if found.verdict is not Verdict.CORRECT:
        raise typer.Exit(1)
