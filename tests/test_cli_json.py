"""What scripts read: `--json` of every verb, `--dry-run`, the question before work is redone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_run import ScriptedRun, small_batches, unsynced

from heal.cli import main
from heal.engines.scripted import ScriptedEngine

Shell = Callable[[str], tuple[int, str, str]]
CHANGED = (
    "changed: gear.hint guided → answer; redoes what it reaches from 'guide' on\n"
    "to redo at most: 18 traces of 2,504 tokens and 18 scored traces; what fits the new settings"
    " is kept\n"
)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """Runs a `heal …` command; its exit code, standard output, standard error."""
    ScriptedRun(tmp_path)
    monkeypatch.chdir(tmp_path)

    def call(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", command.split())
        with pytest.raises(SystemExit) as ended, unsynced(), small_batches():
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def test_json_of_every_verb_stands_alone_on_standard_output(shell: Shell) -> None:
    def told(command: str) -> Any:
        code, out, err = shell(f"{command} --json -")
        assert code == 0, err
        assert err, "lines for a person are still there, on standard error"
        return json.loads(out)

    whole = told("heal run recipe.yaml")
    assert whole["schema"] == 1
    assert whole["ceiling"]["after"]["value"] == 1.0
    assert whole["ceiling"]["before"]["lo"] == 0.0
    assert told("heal report run") == json.loads(Path("run/report.json").read_text("utf-8"))
    shown = told("heal show run")
    assert (shown["stored"]["sample"], shown["state"]) == (120, "complete")
    assert told("heal doctor run")["whole"] is True
    assert told("heal config recipe.yaml")["sampling"]["n"] == 40
    assert told("heal verify-answer 1/2 0.5")["verdict"] == "correct"
    assert told("heal export trl run")["files"]
    checked = told("heal check recipe.yaml --offline")
    assert not checked["failed"] and checked["checked"][0]["name"] == "problems"
    code, out, _ = shell("heal check recipe.yaml --json -")  # a script cannot answer every probe
    assert (code, json.loads(out)["failed"]) == (2, True)
    assert told("heal problems recipe.yaml")["problems"] == 3


def test_json_goes_into_a_file_and_a_folder_that_is_made(shell: Shell) -> None:
    code, out, _ = shell("heal verify-answer 4 5 --json made/told.json")
    assert code == 1
    assert "verdict: wrong" in out
    assert json.loads(Path("made/told.json").read_text("utf-8"))["verdict"] == "wrong"


def test_a_report_says_no_text_of_a_trace_in_json(shell: Shell) -> None:
    shell("heal run recipe.yaml")
    told = json.loads(Path("run/report.json").read_text("utf-8"))
    assert "gallery" not in told and told["traces_shown"]


def test_figures_are_written_in_two_forms(shell: Shell) -> None:
    shell("heal run recipe.yaml")
    code, out, _ = shell("heal report run --figures")
    names = sorted(path.name for path in Path("run/figures").iterdir())
    assert code == 0 and f"wrote {len(names)} files in run/figures" in out
    assert {"ceiling.png", "ceiling.svg", "card.png", "card.svg"} <= set(names)
    assert Path("run/figures/card.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("run/figures/card.svg").read_text("utf-8")


def test_a_dry_run_says_what_would_be_redone_and_touches_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("heal run recipe.yaml --dry-run") == (
        0,
        "run: nothing is there yet; heal check says what a run costs\n",
        "",
    )
    assert not Path("run").exists()
    shell("heal run recipe.yaml")
    before = Path("run/run.sqlite").read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(ScriptedEngine, "__init__", never)
    same = "complete\nno setting has changed: stored work is kept\n"
    assert shell("heal run recipe.yaml --dry-run") == (0, same, "")
    changed = shell("heal run recipe.yaml --dry-run --set gear.hint=answer")
    assert changed == (0, f"complete\n{CHANGED}", "")
    assert Path("run/run.sqlite").read_bytes() == before


def test_more_of_the_same_redoes_nothing(shell: Shell) -> None:
    shell("heal run recipe.yaml")
    _, out, _ = shell("heal run recipe.yaml --dry-run --set gear.candidates=3")
    assert "changed: gear.candidates 2 → 3" in out and "to redo at most" not in out


def test_a_terminal_is_asked_before_paid_work_is_redone(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("heal run recipe.yaml")
    asked: list[str] = []

    def no(question: str, default: bool) -> bool:
        asked.append(question)
        return default

    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", no)
    code, _, err = shell("heal run recipe.yaml --set gear.hint=answer")
    assert (code, asked) == (2, ["go on?"])
    assert "nothing was changed; --set run=DIR" in err
    assert shell("heal run recipe.yaml --dry-run")[1].endswith("stored work is kept\n")
    assert shell("heal run recipe.yaml")[0] == 0  # unchanged: nothing to ask
    assert shell("heal run recipe.yaml --set gear.hint=answer --yes")[0] == 0
    assert len(asked) == 1


def test_the_demo_writes_its_recipe_where_none_is_and_runs_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes: list[Path] = []
    monkeypatch.setattr("heal.cli.demo.run_until", lambda _, out, *__: recipes.append(out))
    code, out, _ = shell("heal demo -o mine.yaml")
    assert (code, out, recipes) == (0, "recipe    mine.yaml\n", [Path("mine.yaml")])
    Path("mine.yaml").write_text("run: own\n", "utf-8")
    assert shell("heal demo -o mine.yaml")[:2] == (0, "")
    assert Path("mine.yaml").read_text("utf-8") == "run: own\n"


def test_the_shipped_demo_is_the_recipe_of_the_folder() -> None:
    shipped = Path(__file__).parent.parent / "src" / "heal" / "lab" / "recipe.yaml"
    folder = Path(__file__).parent.parent / "recipes" / "lab.yaml"
    assert folder.read_bytes() == shipped.read_bytes()
