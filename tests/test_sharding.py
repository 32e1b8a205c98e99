"""Weights shared out by the shipped `fsdp2` configuration, on two CPUs: the student of one process.

What GPUs alone show is not here: nccl, their memory, bfloat16.
"""

from pathlib import Path

import pytest
from tests.test_checkpoints import EXAMPLES, PLANS
from tests.test_checkpoints import train as train_in
from tests.test_launch import ALONE, SETTINGS, close
from tests.tiny_student import make_student

from heal.config import Launch, Train
from heal.students import launch
from heal.students.train import train_arm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARED = SETTINGS.model_copy(update={"launch": Launch(processes=2, config="fsdp2")})
STOPPED_AT = 7


class StoppedError(Exception):
    """Raised by whoever watches."""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(autouse=True)
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = launch.command

    def command(told: Launch, folder: Path) -> list[str]:
        worker = {"heal.students.worker": "tests.fsdp_on_cpu"}
        return [worker.get(word, word) for word in usual(told, folder)]

    monkeypatch.setattr(launch, "command", command)
    monkeypatch.setattr(launch, "require_devices", lambda told: None)


def changed(settings: Train, **more: object) -> Train:
    return settings.model_copy(update=more)


MORE = [{}, {"lora_rank": 2}, {"anchor": 0.5}]


@pytest.mark.parametrize("more", MORE, ids=["all weights", "adapters", "anchored"])
def test_processes_that_hold_half_the_student_each_make_the_student_of_one(
    student: Path, tmp_path: Path, more: dict[str, object]
) -> None:
    alone, _, _ = train_in(student, tmp_path / "one", changed(ALONE, **more))
    shared, told, _ = train_in(student, tmp_path / "two", changed(SHARED, **more))
    assert shared == pytest.approx(alone, rel=1e-5)
    close(tmp_path / "one" / "stage2", tmp_path / "two" / "stage2")
    assert told == []


def test_a_stopped_stage_goes_on_from_the_shards_put_together(
    student: Path, tmp_path: Path
) -> None:
    settings = changed(SHARED, checkpoint_every=2)

    def watch(step: int, total: int, loss: float) -> None:
        if step == STOPPED_AT:
            raise StoppedError

    with pytest.raises(StoppedError):
        list(train_arm("heal", 0, PLANS, EXAMPLES, student, settings, tmp_path / "cut", watch))
    assert list((tmp_path / "cut" / "stage2.checkpoints").glob("step-*"))
    rest, told, _ = train_in(student, tmp_path / "cut", settings)
    alone, _, _ = train_in(student, tmp_path / "one", ALONE)
    assert rest == pytest.approx({step: alone[step] for step in rest}, rel=1e-5)
    assert max(alone) in rest
    assert min(rest) >= STOPPED_AT
    close(tmp_path / "one" / "stage2", tmp_path / "cut" / "stage2")
    assert told == []
