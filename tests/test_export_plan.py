"""Exports that TRL itself runs: the plan with HEAL's own losses, and distillation's settings."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.scripted_run import ScriptedRun, easy, extreme, world
from tests.tiny_student import make_student

from heal.cli import export as cli_export
from heal.errors import UserError
from heal.export.formats import export
from heal.records import StagePlan, TrainResult

STAGES = ("foundation", "bridge", "frontier")
TRAIN: dict[str, Any] = {"threads": 1, "max_length": 900, "learning_rate": 1e-3}


def trained(folder: Path, **train: Any) -> ScriptedRun:
    """A run whose tiny student was trained by HEAL."""
    config = make_student(folder / "student") / "config.json"
    config.write_text(config.read_text().replace('_embeddings": 256', '_embeddings": 1024'))
    settings = {
        "student": {"model": str(folder / "student")}, "arms": ["heal"], "pace": {"epochs": 0.5},
        "train": TRAIN | train, "problems": {"held_out": 0},
        "engine": {"local": {"threads": 1}},
    }  # fmt: skip
    run = ScriptedRun(folder, world(easy("apples"), extreme("plums")), settings)
    run.go()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    return trained(tmp_path_factory.mktemp("plan"))


def losses_of(text: str) -> list[float]:
    """What TRL printed for each step."""
    told = [ast.literal_eval(line) for line in text.splitlines() if line.startswith("{'loss'")]
    return [float(row["loss"]) for row in told]


def mean(losses: list[float]) -> float:
    """As HEAL's results have it: over ten steps, or all."""
    return sum(losses[:10]) / len(losses[:10])


@pytest.mark.filterwarnings("ignore")  # trl's own, of a tokenizer's names and deprecated spellings
def test_trl_gives_the_losses_of_heals_own_training(
    run: ScriptedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from trl.scripts import sft

    export(run.folder, "trl-plan", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    settings = yaml.safe_load(Path("stage1_foundation.yaml").read_text())
    parsed = sft.make_parser().parse_args_and_config(
        ["--config", "stage1_foundation.yaml", "--use_cpu", "true"], fail_with_unknown_args=True
    )
    capsys.readouterr()
    sft.main(*parsed)
    found = losses_of(capsys.readouterr().out)
    own = next(r for r in run.read("train", TrainResult) if r.stage == 1)
    assert len(found) == settings["max_steps"] == own.steps
    assert mean(found) == pytest.approx(own.loss_first, rel=1e-3)
    assert mean(found[-10:]) == pytest.approx(own.loss_last, rel=1e-3)
    assert (tmp_path / "out" / settings["output_dir"] / "model.safetensors").is_file()


def test_a_row_is_a_step_of_the_plan(run: ScriptedRun, tmp_path: Path) -> None:
    made = export(run.folder, "trl-plan", tmp_path)
    plans = {p.index: p for p in run.read("plan", StagePlan)}
    for number, name in enumerate(STAGES, 1):
        path = tmp_path / f"stage{number}_{name}.steps.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [len(r["seq_lengths"]) for r in rows] == [len(b) for b in plans[number].batches]
        assert all(sum(r["seq_lengths"]) == len(r["input_ids"]) == len(r["labels"]) for r in rows)
        assert made.files[path.name] == len(rows)
    text = (tmp_path / "train.sh").read_text()
    assert text.count("trl sft --config") == 3


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 2], ids=["all weights", "adapters"])
def test_the_script_trains_all_stages_with_heals_losses(tmp_path: Path, rank: int | None) -> None:
    made = trained(tmp_path, lora_rank=rank)
    export(made.folder, "trl-plan", tmp_path / "out")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", str(tmp_path / "out/train.sh")],
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = losses_of(done.stdout)
    results = sorted(made.read("train", TrainResult), key=lambda r: r.stage)
    assert len(found) == sum(r.steps for r in results)
    for result in results:
        own, found = found[: result.steps], found[result.steps :]
        assert mean(own) == pytest.approx(result.loss_first, rel=2e-3)


def test_an_anchor_that_trl_does_not_have_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, anchor=0.5)
    told = {}
    for name in ("trl-plan", "trl", "llamafactory", "sharegpt"):
        made = export(run.folder, name, tmp_path / name)
        told[name] = made.settings_left_out
        summary = json.loads((tmp_path / name / "export.json").read_text())
        assert summary["settings left out"] == [*made.settings_left_out]
    assert told.pop("sharegpt") == (), "it brings no configuration"
    for name, said in told.items():
        assert said == (f"train.anchor=0.5: what {name} writes trains without an anchor",)
    cli_export.export("trl", run.folder, tmp_path / "again")
    assert f"left out: {told['trl'][0]}" in capsys.readouterr().out


def test_without_a_student_there_is_no_plan(tmp_path: Path) -> None:
    bare = ScriptedRun(tmp_path, world(easy("apples")), {"arms": ["rft"]})
    bare.go()
    with pytest.raises(UserError, match="has no plan"):
        export(bare.folder, "trl-plan", tmp_path / "out")


@pytest.mark.parametrize("rank", [None, 4])
def test_trl_takes_the_settings_of_on_policy_distillation(
    run: ScriptedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int | None
) -> None:
    from trl import get_dataset
    from trl.scripts import distillation

    from heal.config import Config
    from heal.export import distillation as ours

    export(run.folder, "prompts", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    if rank:
        needed = {"run": "r", "problems": {"path": "p"}, "teacher": {"model": "t.gguf"}}
        config = Config.model_validate({**needed, "train": {"lora_rank": rank}})
        Path(ours.ON_POLICY).write_text(ours.on_policy(config)[ours.ON_POLICY])
    _, settings, model, data = distillation.make_parser().parse_args_and_config(
        ["--config", ours.ON_POLICY, "--use_cpu", "true"], fail_with_unknown_args=True
    )
    assert settings.beta == 1.0
    assert model.model_name_or_path.endswith("student")
    assert bool(model.use_peft) is bool(rank)
    rows = get_dataset(data)["train"]
    assert rows.num_rows > 0
    assert rows[0]["prompt"][-1]["role"] == "user"
    if rank:
        assert settings.teacher_model_name_or_path == ours.TEACHER


def test_trl_takes_the_settings_of_self_distillation(
    run: ScriptedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl import ModelConfig, TrlParser
    from trl.experimental.sdft import SDFTConfig

    export(run.folder, "privileged", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    parser = TrlParser((SDFTConfig, ModelConfig))
    settings, model = parser.parse_args_and_config(
        ["--config", "sdft.yaml", "--use_cpu", "true"], fail_with_unknown_args=True
    )
    row = json.loads(Path("privileged.jsonl").read_text().splitlines()[0])
    shown = settings.teacher_prompt_template.format(
        prompt=row["prompt"][-1]["content"], privileged_context=row["privileged_context"]
    )
    assert shown.endswith(f"\n\nHint: {row['privileged_context']}")
    assert model.model_name_or_path.endswith("student")
    compile(Path("sdft.py").read_text(), "sdft.py", "exec")
