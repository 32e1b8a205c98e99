"""The command line as a person meets it: exact words, exit codes, no traceback."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from heal.cli import app
from heal.errors import UserError

HEAL = [sys.executable, "-m", "heal"]

RECIPE: dict[str, Any] = {
    "run": "run",
    "problems": {"path": "problems.jsonl", "verifier": "exact"},
    "teacher": {"engine": "scripted", "model": "script.json"},
}


def heal(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HEAL, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


def recipe(folder: Path, **changes: Any) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipe(tmp_path)
    rows = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(4)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "script.json").write_text(json.dumps([{"match": "", "replies": ["\\boxed{2}"]}]))
    return tmp_path


def test_help_names_every_verb(tmp_path: Path) -> None:
    out = heal(tmp_path, "--help").stdout
    for verb in ("run", "sample", "repair", "select", "train", "evaluate", "report", "show", "lab"):
        assert f"\n  {verb} " in out
    assert all(len(line) <= 80 for line in out.splitlines())


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_missing_recipe(tmp_path: Path) -> None:
    assert refused(heal(tmp_path, "run", "-c", "nope.yaml")) == (
        "heal: nope.yaml: no such file\n  → start from one in recipes/\n"
    )


def test_an_unknown_key(folder: Path) -> None:
    message = refused(heal(folder, "run", "-c", "recipe.yaml", "--set", "gear.breakpont=zscore"))
    assert message == (
        "heal: recipe.yaml: unknown key 'gear.breakpont'; did you mean 'gear.breakpoint'?\n"
        "  → see every setting with: heal config\n"
    )


def test_a_missing_problem_file(folder: Path) -> None:
    message = refused(
        heal(folder, "run", "-c", "recipe.yaml", "--set", "problems.path=problem.jsonl")
    )
    assert "problem.jsonl" in message
    assert "problems.jsonl" in message


def test_an_empty_problem_file(folder: Path) -> None:
    (folder / "problems.jsonl").write_text("")
    assert "problems.jsonl" in refused(heal(folder, "run", "-c", "recipe.yaml"))


def test_broken_json_at_a_line(folder: Path) -> None:
    with (folder / "problems.jsonl").open("a") as file:
        file.write('{"problem": "x", "answer": \n')
    assert "problems.jsonl:5" in refused(heal(folder, "run", "-c", "recipe.yaml"))


def test_a_missing_model_folder(folder: Path) -> None:
    recipe(folder, teacher={"model": "no/such/model"})
    message = refused(heal(folder, "run", "-c", "recipe.yaml"))
    assert message.startswith("heal: no/such/model: no such model folder or .gguf file\n")


def test_a_model_folder_without_a_tokenizer(folder: Path) -> None:
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    recipe(folder, teacher={"model": "model"})
    message = refused(heal(folder, "run", "-c", "recipe.yaml"))
    assert message.startswith("heal: model: ")


def test_a_run_folder_of_another_config(folder: Path) -> None:
    done = heal(folder, "sample", "-c", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    (folder / "other.jsonl").write_text((folder / "problems.jsonl").read_text())
    message = refused(
        heal(folder, "run", "-c", "recipe.yaml", "--set", "problems.path=other.jsonl")
    )
    assert message == (
        "heal: run: belongs to another config (problems.path was problems.jsonl, is other.jsonl)\n"
        "  → choose another folder with --set run=DIR, or go on in this one with --adopt\n"
    )


def test_a_folder_that_is_no_run(folder: Path) -> None:
    assert refused(heal(folder, "show", ".")) == (
        "heal: .: not a run folder\n  → heal run -c FILE.yaml makes one\n"
    )


JSON_COMMANDS = {
    "heal.lab.audit.audit_pure": ("audit", "pure", "-c", "recipe.yaml"),
    "heal.lab.benchmark.compare": ("lab", "compare", "--quick"),
    "heal.lab.budgets.compare_budgets": ("lab", "budgets"),
}


@pytest.mark.parametrize("work", JSON_COMMANDS)
def test_a_place_for_the_figures_is_made_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    seen: list[bool] = []

    def long_work(*arguments: Any, **options: Any) -> None:
        seen.append((folder / "new" / "dir").is_dir())
        raise UserError("enough")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(work, long_work)
    command = [*JSON_COMMANDS[work], "--json"]
    assert invoked([*command, "new/dir/x.json"]) == "enough"
    assert seen == [True]
    assert invoked([*command, "problems.jsonl/x.json"]).startswith("problems.jsonl: ")
    assert invoked([*command, "new"]) == "new: is a folder"
    assert seen == [True]


def invoked(command: list[str]) -> str:
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, UserError), error
    return str(error)


def test_a_command_without_its_recipe(folder: Path) -> None:
    result = heal(folder, "run")
    assert result.returncode == 2
    assert "Missing option" in result.stderr
    assert "Traceback" not in result.stderr
