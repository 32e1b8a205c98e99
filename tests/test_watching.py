"""Training is watched: loss on unseen traces, a small exam per stage, and whoever else is told."""

from pathlib import Path

import pytest
import torch
import yaml
from tests.test_checkpoints import EXAMPLES, PLANS
from tests.test_run_arms import with_student
from tests.tiny_student import make_student, make_tokenizer

from heal.config import Train
from heal.errors import UserError
from heal.records import Example, Split, TrainResult
from heal.store import AttemptRow, TraceRow
from heal.students import reporting
from heal.students.rendering import Renderer
from heal.students.train import read_model, train_arm

SETTINGS = Train(learning_rate=3e-3, max_length=200, threads=1)
UNSEEN = [Example(f"u{i}", f"q{i}", "D1", f"{i} - {i}?", "no " * i + "0") for i in (1, 3, 9)]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def train(student: Path, folder: Path, settings: Train = SETTINGS, unseen=UNSEEN):
    told: list[str] = []
    results = list(
        train_arm(
            "heal", 0, PLANS, EXAMPLES, student, settings, folder, on_note=told.append,
            validation=unseen,
        )
    )  # fmt: skip
    return results, told


def loss_of(folder: Path) -> float:
    """As a bare loop finds it, without leaving any logits out."""
    renderer, model = Renderer(make_tokenizer(), 200), read_model(folder).eval()
    total, taught = 0.0, 0
    for example in UNSEEN:
        row = renderer.render(example)
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            log_probs = model(ids).logits[0].log_softmax(-1)
        for place in range(row.prompt_tokens, len(row.ids)):
            total -= float(log_probs[place - 1, row.ids[place]])
            taught += 1
    return total / taught


def test_each_stage_ends_with_its_loss_on_unseen_traces(student: Path, tmp_path: Path) -> None:
    results, told = train(student, tmp_path)
    assert told == []
    assert [r.validation_traces for r in results] == [3, 3]
    assert results[1].validation_loss == pytest.approx(loss_of(tmp_path / "stage2"), rel=1e-5)
    assert results[0].validation_loss != results[1].validation_loss
    without, _ = train(student, tmp_path / "without", unseen=())
    assert [r.validation_loss for r in without] == [None, None]
    assert [r.loss_last for r in without] == [r.loss_last for r in results]


def test_unseen_traces_the_student_refuses_are_counted(student: Path, tmp_path: Path) -> None:
    long = Example("long", "q", "D1", "?", "long " * 100)
    results, told = train(student, tmp_path, unseen=[*UNSEEN, long])
    assert results[0].validation_traces == 3
    assert told == ["1 validation trace of 4 left out: the student must refuse them"]


def test_stages_of_a_run_are_watched(tmp_path: Path) -> None:
    run = with_student(tmp_path)
    more = ("arms=[heal]", "seeds=[0]", "problems.held_out=0.7", "train.validation=99")
    watch = run.go(*more, "train.watch=2", until="train")
    said = [line for line in watch.said if line.startswith("heal seed 0 stage ")]
    assert len(said) == 6  # a loss and an exam in each of three stages
    held_out = {name for name, split in run.split().items() if split is Split.HELD_OUT}
    rows = run.rows(TraceRow)
    solved = [r for r in rows if r.problem in held_out and r.verdict == "correct"]
    assert 0 < len(solved) < 99
    assert all(f" on {len(solved)} held-out traces" in line for line in said[::2])
    asked = f"train.validation: {len(solved)} of 99; the teacher solved no more"
    assert [line.startswith(asked) for line in watch.said].count(True) == 1
    assert all("0 of 4 attempts correct on 2 watched problems (0% to " in x for x in said[1::2])
    assert not run.rows(AttemptRow)
    assert watch.done["train"] == watch.totals["train"]


def test_a_student_carries_its_card(tmp_path: Path) -> None:
    run = with_student(tmp_path)
    run.go("arms=[base,heal]", "train.validation=1", "problems.held_out=0.7")
    for seed in (0, 1):
        folder = run.folder / f"students/heal-seed{seed}/stage3"
        text = (folder / "README.md").read_text()
        head, body = text.removeprefix("---\n").split("\n---\n", 1)
        assert yaml.safe_load(head)["library_name"] == "transformers"
        results = [r for r in run.read("train", TrainResult) if r.seed == seed]
        for r in results:
            row = f"| {r.steps:,} | {r.tokens:,} | {r.distinct:,} | {r.learning_rate:g} |"
            assert row in body
            assert f"{r.validation_loss:.4f} (n = 1)" in body
        assert f"training seed {seed}." in body
        assert "`train.learning_rate`: `1e-05`" in body
        assert "| heal | 0 [" in body and "| base | 0 [" in body
        assert "transformers " in body and str(tmp_path) not in body
    assert not (run.folder / "students/heal-seed0/stage1/README.md").exists()


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_named_with_its_command(
    student: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_is_installed", lambda package: False)
    settings = SETTINGS.model_copy(update={"report_to": (name,)})
    with pytest.raises(UserError, match=f"needs the {name} package") as caught:
        train(student, tmp_path, settings)
    assert caught.value.hint == f"pip install {name}"
    assert not list(tmp_path.iterdir())


def test_tensorboard_is_told_every_step_and_changes_nothing(
    student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = SETTINGS.model_copy(update={"report_to": ("tensorboard",)})
    told, _ = train(student, tmp_path / "told", settings)
    capfd.readouterr()
    plain, _ = train(student, tmp_path / "plain")
    assert capfd.readouterr().out == ""
    assert [r.loss_last for r in told] == [r.loss_last for r in plain]
    found = EventAccumulator(str(tmp_path / "told" / "logs" / "stage2"))
    found.Reload()
    losses = [event.value for event in found.Scalars("train/loss")]
    assert len(losses) == len(PLANS[1].batches)
    assert sum(losses) / len(losses) == pytest.approx(told[1].loss_last, rel=1e-4)


def test_the_student_stops_at_the_end_of_its_turn_and_at_what_it_stopped_at_before(
    student: Path, tmp_path: Path
) -> None:
    import json

    train(student, tmp_path)
    told = json.loads((tmp_path / "stage2" / "generation_config.json").read_text())
    ends = told["eos_token_id"]
    assert make_tokenizer().eos_token_id in (ends if isinstance(ends, list) else [ends])
