"""`heal round`: a second round, in which the teacher repairs what a trained student still fails."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heal.cli.console import (
    allow,
    echo,
    lines_aside,
    require_code,
    require_writable,
    watched,
    write_figures,
)
from heal.cli.options import AllowCode, JsonFile, RunFolder

if TYPE_CHECKING:
    from heal.rounds import Round

Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="The recipe to write; default: RUN-round2.yaml."),
]
ArmOption = Annotated[str | None, typer.Option("--arm", help="Whose student; default: HEAL's own.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Its training seed; default: the first.")]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="A.B=VALUE", help="A setting of the second run's recipe; repeatable."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")]

FEW = 20
"""Problems with something to repair, below which a second round has little to teach."""


def make(
    folder: RunFolder,
    out: Out = None,
    arm: ArmOption = None,
    seed: Seed = None,
    overrides: Settings = [],  # noqa: B006
    force: Force = False,
    json_file: JsonFile = None,
    allow_code: AllowCode = False,
) -> None:
    """Sample a trained student; write the recipe that repairs its traces."""
    from heal.rounds import make_round, plan_round

    allow(allow_code)
    require_writable(json_file)
    aside = lines_aside(json_file)
    plan = plan_round(folder, out, arm=arm, seed=seed, overrides=overrides, force=force)
    require_code(plan.config)
    echo(f"student   {plan.student.model}", err=aside)
    made = watched(lambda observer: make_round(plan, observer), aside=aside)
    for line in lines_of(made):
        echo(line, err=aside)
    write_figures(json_file, made)


def lines_of(made: "Round") -> Iterator[str]:
    """What a student made of the training problems, and the one command that comes next."""
    from heal.report.lines import tally
    from heal.wording import plural

    problems = plural(made.problems, "training problem")
    yield f"sampled   {problems} · {plural(made.tokens, 'token')}"
    yield f"          {tally('', 'trace', made.verdicts)}"
    yield f"          {tally('', 'problem', made.strata)}"
    if made.failed:
        yield f"          {plural(made.failed, 'attempt')} lost to the engine, in no file"
    extreme = plural(made.repairable, "extreme problem")
    yield f"repair    {plural(made.wrong, 'wrong trace')} of {extreme}"
    yield from _few(made.repairable)
    theirs = plural(made.held_out_traces, "trace")
    held_out = plural(made.held_out, "problem")
    yield f"held out  the same {held_out}, in strata by {theirs} of the teacher's"
    if made.moved:
        yield f"          {plural(made.moved, 'problem')} in another stratum: traces were lost"
    yield f"wrote     {made.traces}"
    yield f"wrote     {made.recipe}"
    yield f"next      heal run {shlex.quote(made.recipe)}"


def _few(repairable: int) -> Iterator[str]:
    if not repairable:
        yield "          nothing for the teacher to repair: the second round would train the"
        yield "          student on its own correct traces alone; repairs want harder problems"
    elif repairable < FEW:
        yield "          few: a second round has little to teach; give it harder problems"
