"""The command line as a person meets it: exact words, exit codes, no traceback."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from heal import __version__
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
        "heal: nope.yaml: no such file\n  → heal init writes one for your problems\n"
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
    "heal.lab.checked.audit_gear": ("audit", "gear", "-c", "recipe.yaml"),
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
    assert refused(heal(folder, "sample")) == (
        "heal: no recipe named\n  → heal sample FILE.yaml; heal init writes one for your problems\n"
    )


@pytest.mark.parametrize("verb", ["run", "sample", "check", "config", "evaluate"])
def test_a_recipe_is_named_by_itself_or_after_c(folder: Path, verb: str) -> None:
    alone, option = (
        heal(folder, verb, *named) for named in (["recipe.yaml"], ["-c", "recipe.yaml"])
    )
    assert alone.returncode == option.returncode == 0, alone.stderr
    both = heal(folder, verb, "recipe.yaml", "-c", "other.yaml")
    assert "two recipes named" in refused(both)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_verb_knows_both_names_of_help(tmp_path: Path, flag: str) -> None:
    for verb in ((), ("run",), ("lab", "compare")):
        assert heal(tmp_path, *verb, flag).stdout.startswith("Usage: ")


def test_the_version_is_said(tmp_path: Path) -> None:
    assert heal(tmp_path, "--version").stdout == f"heal {__version__}\n"


SLIPS = {
    "teacher=X": "teacher: is a section of settings; write teacher.model=VALUE",
    "gear=3": "gear: is a section of settings; write gear.",
    "sampling.n=many": "sampling.n: must be a whole number",
    "sampling.temperature=[1]": "sampling.temperature: must be a number",
    "arms=heal": "arms: must be a list",
    "run=7": "run: must be text; quote it",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_setting_is_told_in_words(folder: Path, slip: str) -> None:
    message = refused(heal(folder, "run", "recipe.yaml", "--set", slip))
    assert SLIPS[slip] in message
    assert "Input should be" not in message


def test_a_run_ends_with_where_its_results_lie_and_what_comes_next(folder: Path) -> None:
    done = heal(folder, "run", "recipe.yaml").stdout
    assert done.startswith("report    run/report.html, at the end; until then: heal show run\n")
    report, data, student, following = done.splitlines()[-4:]
    assert report == "report    run/report.html"
    assert (folder / report.split()[1]).is_file()
    assert data == "data      run/data/ (3 stage files)"
    assert student == "student   none: student: null"
    assert following == "next      heal show run"
    assert heal(folder, *following.split()[2:]).returncode == 0


def test_a_failed_opening_leaves_no_folder(folder: Path) -> None:
    for wrong in ("teacher.model=nothing", "problems.path=nothing.jsonl"):
        refused(heal(folder, "run", "recipe.yaml", "--set", wrong))
        assert not (folder / "run").exists(), wrong


def test_a_model_of_the_hub_is_not_there_and_the_download_is_named(folder: Path) -> None:
    recipe(folder, teacher={"model": "Qwen/Qwen3-4B"})
    assert refused(heal(folder, "run", "recipe.yaml")).endswith(
        "hf download Qwen/Qwen3-4B --local-dir models/Qwen3-4B; then give models/Qwen3-4B\n"
    )


def test_no_hint_installs_what_no_registry_has() -> None:
    """`heal-distill` itself is installed from its own folder or wheel."""
    source = Path(__file__).parent.parent / "src" / "heal"
    for file in source.rglob("*.py"):
        for named in re.findall(r"pip install ([^\n`]+)", file.read_text(encoding="utf-8")):
            assert "heal-distill" not in named, f"{file}: {named}"
