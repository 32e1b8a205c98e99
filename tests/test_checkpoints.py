"""Checkpoints: a stage that is killed goes on to the bit, and a damaged one is told."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from heal.config import Train
from heal.records import Example, StagePlan
from heal.students.checkpoints import SEAL, Checkpoints
from heal.students.train import read_model, train_arm

sys.path.insert(0, str(Path(__file__).parent))
from tiny_student import make_student

SETTINGS = Train(learning_rate=3e-3, max_length=200, threads=1, checkpoint_every=2)
BATCHES = (("a", "b"), ("c",), ("a", "d"), ("d", "b"), ("c", "a"), ("b",), ("d",))
PLANS = (StagePlan(1, BATCHES[:2], 1.0), StagePlan(2, BATCHES, 0.7))
EXAMPLES = {
    key: Example(key, f"p-{key}", "D1", f"{i} + {i}?", "so " * (4 * i + 1) + str(2 * i))
    for i, key in enumerate("abcd")
}
KILLED_AT = 7  # the fifth step of the second stage
WITH_ADAPTERS = SETTINGS.model_copy(update={"lora_rank": 2})


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def train(student: Path, folder: Path, settings: Train = SETTINGS, kill_at: int | None = None):
    """Losses by step, and what was told."""
    losses: dict[int, float] = {}
    told: list[str] = []

    def watch(step: int, total: int, loss: float) -> None:
        losses[step] = loss
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    arm = train_arm(
        "heal", 0, PLANS, EXAMPLES, student, settings, folder, watch, on_note=told.append
    )
    return losses, told, list(arm)


def killed(student: Path, folder: Path, settings: Train = SETTINGS) -> Path:
    """Train in another process until it is killed inside the second stage; its checkpoints."""
    told = json.dumps([str(student), str(folder), settings.model_dump_json()])
    done = subprocess.run([sys.executable, __file__, told], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return folder / "stage2.checkpoints"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_model(folder).state_dict()


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("settings", [SETTINGS, WITH_ADAPTERS], ids=["all weights", "adapters"])
def test_a_killed_stage_goes_on_to_the_bit(student: Path, tmp_path: Path, settings: Train) -> None:
    whole, _, _ = train(student, tmp_path / "whole", settings)
    kept = killed(student, tmp_path / "cut", settings)
    assert [f.name for f in kept.glob("step-*")] == ["step-00000004"]
    rest, told, results = train(student, tmp_path / "cut", settings)
    assert rest == {step: whole[step] for step in range(KILLED_AT, 10)}
    assert same(tmp_path / "whole" / "stage2", tmp_path / "cut" / "stage2")
    assert told == []
    stage = [whole[step] for step in range(3, 10)]
    assert results[1].loss_first == pytest.approx(sum(stage) / len(stage), rel=1e-12)
    assert not kept.exists()


def test_without_checkpoints_a_killed_stage_starts_again(student: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"checkpoint_every": None})
    kept = killed(student, tmp_path, settings)
    assert not list(kept.glob("step-*"))
    rest, _, _ = train(student, tmp_path, settings)
    assert list(rest) == list(range(3, 10))


DAMAGE = [("model.safetensors", "flipped"), ("optimizer.pt", "cut short"), (SEAL, "gone")]


@pytest.mark.parametrize(("file", "how"), DAMAGE)
def test_a_damaged_checkpoint_is_told_and_the_stage_starts_again(
    student: Path, tmp_path: Path, file: str, how: str
) -> None:
    kept = killed(student, tmp_path / "cut")
    hurt = kept / "step-00000004" / file
    body = bytearray(hurt.read_bytes())
    body[len(body) // 2] ^= 255
    if how == "gone":
        hurt.unlink()
    else:
        hurt.write_bytes(body if how == "flipped" else body[: len(body) // 2])
    whole, _, _ = train(student, tmp_path / "whole")
    rest, told, _ = train(student, tmp_path / "cut")
    assert rest == {step: whole[step] for step in range(3, 10)}
    assert len(told) == 1
    assert "step-00000004: the checkpoint is damaged" in told[0]
    assert same(tmp_path / "whole" / "stage2", tmp_path / "cut" / "stage2")


def test_a_checkpoint_of_another_setting_is_told_and_not_used(
    student: Path, tmp_path: Path
) -> None:
    kept = killed(student, tmp_path)
    # stage1 as well: the stage before is of another setting too
    rest, told, _ = train(student, tmp_path, SETTINGS.model_copy(update={"learning_rate": 1e-3}))
    assert list(rest) == list(range(1, 10))
    assert ["another plan, student or setting" in line for line in told] == [True]
    assert not kept.exists()


def test_one_half_written_is_none_and_the_one_before_it_stays(tmp_path: Path) -> None:
    ours = Checkpoints(tmp_path, "key", 1)
    for step in (1, 2):
        ours.writing.mkdir(parents=True, exist_ok=True)
        written = ours.writing / "checkpoint"
        written.mkdir()
        (written / "weights").write_text(str(step))
        ours.seal(written, [0.5] * step, 1.0)
    (ours.writing / "checkpoint").mkdir()
    (ours.writing / "checkpoint" / "weights").write_text("3, and then the power was gone")
    told: list[str] = []
    found = ours.newest(told.append)
    assert found is not None
    assert (found.losses, (found.folder / "weights").read_text()) == ([0.5, 0.5], "2")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-00000002"]
    assert told == []


if __name__ == "__main__":
    home, target, given = json.loads(sys.argv[1])
    train(Path(home), Path(target), Train.model_validate_json(given), KILLED_AT)
