"""`heal verify-answer`: a verdict, its reason and what was read, with an exit code."""

import typer
from typer.testing import CliRunner

from heal.cli.verify_answer import verify_answer

app = typer.Typer()
app.command()(verify_answer)


def test_a_right_answer_says_why_and_exits_0() -> None:
    done = CliRunner().invoke(app, ["The answer is 0.5.", "\\frac{1}{2}"])
    assert done.output == "verdict: correct\nreason: same number\nread as: 0.5\n"
    assert done.exit_code == 0


def test_a_wrong_answer_says_why_and_exits_1() -> None:
    done = CliRunner().invoke(app, ["3 kg", "3 km"])
    assert done.output == "verdict: wrong\nreason: different units\nread as: 3 kg\n"
    assert done.exit_code == 1


def test_a_choice_is_judged_by_its_letter() -> None:
    done = CliRunner().invoke(app, ["(C) the third", "c", "--verifier", "choice"])
    assert done.output.startswith("verdict: correct\nreason: same letters\n")
