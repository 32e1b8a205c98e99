"""Several processes train the plan's batches as one does."""

import time
from pathlib import Path

import pytest
import torch
from tests.test_checkpoints import KILLED_AT, killed
from tests.test_checkpoints import train as train_in
from tests.tiny_student import make_student

from heal.config import Launch, Train
from heal.errors import UserError
from heal.students.launch import SHIPPED, config_file, sharded
from heal.students.rendering import IGNORED
from heal.students.train import read_model
from heal.students.trainer import shares

SETTINGS = Train(
    learning_rate=3e-3,
    max_length=200,
    threads=1,
    forward_tokens=120,
    launch=Launch(processes=2),
    checkpoint_every=None,
)
ALONE = SETTINGS.model_copy(update={"launch": None})


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def close(a: Path, b: Path) -> None:
    one, two = read_model(a).state_dict(), read_model(b).state_dict()
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


BOTH = [
    pytest.param({}, id="all weights"),
    pytest.param({"lora_rank": 2}, id="adapters", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("more", BOTH)
def test_two_processes_make_the_student_of_one(
    student: Path, tmp_path: Path, more: dict[str, object]
) -> None:
    alone, _, _ = train_in(
        student, tmp_path / "one", SETTINGS.model_copy(update={**more, "launch": None})
    )
    shared, told, _ = train_in(student, tmp_path / "two", SETTINGS.model_copy(update=more))
    assert shared.keys() == alone.keys()
    for step, loss in alone.items():
        assert shared[step] == pytest.approx(loss, rel=1e-5)
    close(tmp_path / "one" / "stage2", tmp_path / "two" / "stage2")
    assert told == []
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["stage1", "stage2"]


@pytest.mark.slow
def test_a_killed_launch_leaves_no_process_and_goes_on(student: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"checkpoint_every": 2})
    kept = killed(student, tmp_path / "cut", settings)
    mine = str(tmp_path / "cut")
    for _ in range(200):
        left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if mine in _words(p)]
        if not left:
            break
        time.sleep(0.1)
    assert left == []
    # the workers may have gone on for a moment before they were ended
    last = max(int(f.name.removeprefix("step-")) for f in kept.glob("step-*"))
    assert last in (4, 6)
    rest, told, _ = train_in(student, tmp_path / "cut", settings)
    alone, _, _ = train_in(student, tmp_path / "one", ALONE)
    assert [*rest] == [*range(3 + last, 10)]
    assert min(rest) >= KILLED_AT
    assert [*rest.values()] == pytest.approx([alone[step] for step in rest], rel=1e-5)
    close(tmp_path / "one" / "stage2", tmp_path / "cut" / "stage2")
    assert told == []


def _words(cmdline: Path) -> str:
    try:
        return cmdline.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("name", SHIPPED)
def test_accelerate_takes_each_shipped_configuration(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    launch = Launch(processes=8, config=name)
    found = load_config_from_file(str(config_file(launch)))
    assert found.mixed_precision == "no"
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    assert found.distributed_type.value == kinds[name]
    assert sharded(launch) is (name != "ddp")
    if name == "fsdp2":
        assert found.fsdp_config["fsdp_version"] == 2
        assert found.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    if name == "zero3":
        assert found.deepspeed_config["zero_stage"] == 3
        assert found.deepspeed_config["zero3_save_16bit_model"] is True


def test_a_configuration_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file, and none of ddp, fsdp2, zero3"):
        config_file(Launch(processes=2, config="dpp"))
    (tmp_path / "own.yaml").write_text("distributed_type: SIDEWAYS\n")
    with pytest.raises(UserError, match="accelerate does not take it"):
        sharded(Launch(processes=2, config=str(tmp_path / "own.yaml")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there may be a GPU for each process")
@pytest.mark.parametrize("name", ["fsdp2", "zero3"])
def test_shards_without_a_gpu_is_refused(student: Path, tmp_path: Path, name: str) -> None:
    settings = SETTINGS.model_copy(update={"launch": Launch(processes=2, config=name)})
    with pytest.raises(UserError, match="none is here") as caught:
        train_in(student, tmp_path, settings)
    assert caught.value.hint == "--set train.launch.config=ddp"


def test_what_the_processes_refuse_is_said_here(student: Path, tmp_path: Path) -> None:
    more = {"lora_rank": 2, "lora_targets": ("query",)}
    with pytest.raises(UserError, match="has no layer query"):
        train_in(student, tmp_path, SETTINGS.model_copy(update=more))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("forward_tokens", [16, 40, 10_000])
def test_every_row_is_in_one_share_and_all_take_equally_many_turns(
    world: int, forward_tokens: int
) -> None:
    lengths = [9, 3, 17, 4, 4]
    ids = torch.zeros(5, 17, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, length in enumerate(lengths):
        ids[row, :length] = row + 1
        mask[row, :length] = 1
        labels[row, 1:length] = row + 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    dealt = shares(batch, forward_tokens, world)
    assert len(dealt) == world
    assert len({len(parts) for parts in dealt}) == 1
    parts = [part for own in dealt for part in own]
    taught = torch.cat([part["labels"].flatten() for part in parts])
    for row, length in enumerate(lengths):
        assert int((taught == row + 1).sum()) == length - 1
    assert all(p["input_ids"].numel() <= max(forward_tokens, 17) for p in parts if world > 1)
