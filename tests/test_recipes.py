"""The recipes that ship: each is read and checked without a model, a server or a network."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heal.cli import app

ROOT = Path(__file__).parent.parent
RECIPES = sorted(ROOT.glob("recipes/*.yaml"))


def test_the_usual_cases_have_one() -> None:
    wanted = {"lab", "own", "think-vllm", "many-boxes", "paper-like", "choice", "code"}
    assert wanted <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes_the_check_that_opens_nothing(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, code_allowed: None
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(socket.socket, "connect", refused)
    done = CliRunner().invoke(app, ["check", str(recipe.relative_to(ROOT)), "--offline"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "problems\n  ok      read" in done.output
    assert "FAILED" not in done.output
    assert "tokens written" in done.output
