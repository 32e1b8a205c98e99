"""`heal init`: a recipe for one's own problems that loads, is checked, and runs to its end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.scripted_run import unsynced
from tests.tiny_models import make_checkpoint
from tests.tiny_student import make_student

from heal.before import first_recipe, machine
from heal.before.machine import Machine, ModelFacts
from heal.cli import main
from heal.recipe import load, parse

Shell = Callable[..., tuple[int, str]]


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """Runs `heal …` in a folder with problems and two tiny models."""
    rows = [{"question": f"Three times {n}?", "result": 3 * n, "topic": "t"} for n in range(6)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = (tmp_path / "mine.jsonl").read_text().replace("result", "answer")
    (tmp_path / "mine.jsonl").write_text(text)
    make_checkpoint(tmp_path / "teacher")
    make_student(tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*command: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["heal", *command])
        with pytest.raises(SystemExit) as ended, unsynced():
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


GIVEN = ("init", "--problems", "mine.jsonl", "--teacher", "teacher", "--yes")


def test_what_is_written_is_checked_and_runs_to_its_end(shell: Shell) -> None:
    code, said = shell(*GIVEN, "--student", "student", "-n", "2", "--run", "out", "-o", "r.yaml")
    assert code == 0, said
    assert "6 of 6 rows are used" in said
    assert said.endswith("next      heal check r.yaml, then heal run r.yaml\n")
    assert load("r.yaml").sampling.n == 2
    code, said = shell("check", "r.yaml", "--offline")
    assert code == 0, said
    assert "FAILED" not in said
    quick = ("sampling.max_new_tokens=16", "evaluate.samples=1", "evaluate.teacher_n=2")
    short = [part for setting in quick for part in ("--set", setting)]
    code, said = shell("run", "r.yaml", *short, "--set", "arms=[base,rft,heal]")
    assert code == 0, said
    assert Path("out/report.html").is_file()


def test_a_recipe_that_is_there_is_kept(shell: Shell) -> None:
    assert shell(*GIVEN)[0] == 0
    before = Path("heal.yaml").read_text()
    code, said = shell(*GIVEN, "-n", "5")
    assert code == 2
    assert "is there already" in said
    assert Path("heal.yaml").read_text() == before
    assert shell(*GIVEN, "-n", "5", "--force")[0] == 0
    assert load("heal.yaml").sampling.n == 5


def test_columns_of_ones_own_are_named_and_written(shell: Shell) -> None:
    text = Path("mine.jsonl").read_text()
    Path("mine.jsonl").write_text(text.replace("question", "text").replace("answer", "result"))
    code, said = shell(*GIVEN)
    assert code == 2
    assert "--set problems.fields.problem=COLUMN" in said
    named = ("problems.fields.problem=text", "problems.fields.answer=result")
    assert shell(*GIVEN, *(part for one in named for part in ("--set", one)))[0] == 0
    assert load("heal.yaml").problems.fields.problem == "text"
    assert shell("check", "heal.yaml", "--offline")[0] == 0
    assert shell(*GIVEN, "--force", "--set", "sampling.n=3")[0] == 2


def test_what_nobody_tells_is_asked_for(shell: Shell) -> None:
    code, said = shell("init", "--problems", "mine.jsonl", "--yes")
    assert code == 2
    assert "--teacher is not given" in said
    code, said = shell("init", "--problems", "gone.jsonl", "--teacher", "teacher", "--yes")
    assert code == 2
    assert "gone.jsonl" in said
    assert not Path("heal.yaml").exists()


def test_five_questions_are_asked_on_a_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["mine.jsonl", "teacher", "none", "4", "runs/mine"])
    asked: list[str] = []

    def prompt(question: str, default: str | None) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", prompt)
    assert shell("init")[0] == 0
    assert [question[:3] for question in asked] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    found = load("heal.yaml")
    assert (found.sampling.n, found.run, found.student) == (4, "runs/mine", None)


def test_a_model_that_is_not_there_is_no_hindrance_and_how_to_get_it_is_said(shell: Shell) -> None:
    code, said = shell("init", "-p", "mine.jsonl", "--teacher", "Qwen/Qwen3-4B", "--yes")
    assert code == 0
    assert "hf download Qwen/Qwen3-4B --local-dir models/Qwen3-4B" in said
    code, said = shell("check", "heal.yaml", "--offline")
    assert code == 0
    assert "note    files" in said


BOX = Machine(64, 500.0, (80.0, 80.0))
LAPTOP = Machine(2, 8.0, ())
MODELS = {
    "think": ModelFacts(64.0, 40_960, thinks=True),
    "small": ModelFacts(0.5, 2048, thinks=False),
    "large": ModelFacts(16.0, 4096, thinks=False),
}
WANTED = [
    (teacher, student, box)
    for teacher in ("http://127.0.0.1:8000/v1", *MODELS)
    for student in (None, *MODELS)
    for box in (BOX, LAPTOP)
]


@pytest.mark.parametrize(("teacher", "student", "box"), WANTED)
def test_every_machine_and_model_gets_a_recipe_that_loads(
    teacher: str, student: str | None, box: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_recipe, "facts_or_none", MODELS.get)
    tokenizer = "think" if teacher.startswith("http") else None
    wanted = first_recipe.Wanted("no: 1.jsonl", teacher, tokenizer, student, 8, "runs/#1")
    text = first_recipe.recipe_text(wanted, box, 300, "6 of 6 rows")
    config = parse(yaml.safe_load(text))
    assert (config.run, config.problems.path) == ("runs/#1", "no: 1.jsonl")
    facts = MODELS[tokenizer or teacher]
    assert config.sampling.max_new_tokens < (facts.context or 0)
    assert (config.prompts.think_close is not None) == facts.thinks
    if student is not None:
        assert config.train.max_length >= config.sampling.max_new_tokens * 4 // 3
        memory = max(box.gpus, default=box.memory_gb)
        assert (config.train.lora_rank is None) == (MODELS[student].gb * 8 <= memory)
    used = config.teacher.engine == "local" or student is not None
    assert (config.engine.local.device == "cuda") == bool(box.gpus and used)


def test_gpus_are_those_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 81920\necho 40960\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for visible, gpus in ((None, [86, 43]), ("1", [43]), ("", [])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [round(gb) for gb in machine.look().gpus] == gpus
