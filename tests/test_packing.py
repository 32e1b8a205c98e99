"""Packing: no padding goes through the student, and every trace learns what it learns alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from heal.config import Launch, Train
from heal.errors import UserError
from heal.records import Example, StagePlan
from heal.students import packing
from heal.students.parts import end_to_end, following, shares
from heal.students.rendering import IGNORED, Renderer
from heal.students.train import Opener, read_model, train_arm

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import make_checkpoint
from tiny_student import make_student, make_tokenizer

EXAMPLES = {
    key: Example(key, f"p-{key}", "D1", f"{i} + {i}?", "so " * (4 * i + 1) + str(2 * i))
    for i, key in enumerate("abcd")
}
BATCHES = (("a", "b", "d"), ("c", "a"), ("d", "b", "c", "a"), ("d",))
PLANS = (StagePlan(1, BATCHES, 1.0), StagePlan(2, BATCHES[:3], 0.7))
SETTINGS = Train(learning_rate=3e-3, max_length=200, threads=1)


def train(
    student: Path,
    folder: Path,
    opener: Opener | None = None,
    note: Callable[[str], None] = lambda text: pytest.fail(text),
    **more: Any,
) -> list[float]:
    """Losses by step."""
    losses: list[float] = []
    settings = SETTINGS.model_copy(update=more)
    arm = train_arm(
        *("heal", 0, PLANS, EXAMPLES, student, settings, folder),
        lambda step, total, loss: losses.append(loss),
        opener=opener,
        on_note=note,
    )
    assert len([*arm]) == len(PLANS)
    return losses


def alike(a: Path, b: Path) -> None:
    one, two = (read_model(f / "stage2").state_dict() for f in (a, b))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-5)


def make_kind(folder: Path, kind: str, **changes: Any) -> Path:
    """A random student of an architecture, with a tokenizer that knows padding."""
    tokenizer = make_tokenizer()
    make_checkpoint(folder, kind, vocab_size=len(tokenizer), pad_token_id=0, **changes)
    for file in folder.glob("*token*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    return folder


STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "a bias, tied": ("qwen2", {}),
    "norms of q and k": ("qwen3", {}),
    "learnt positions": ("gpt2", {"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}),
    "a window of 8 tokens": ("mistral", {"sliding_window": 8}),
    "a window in one layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_packed_is_padded_but_for_rounding(tmp_path: Path, name: str) -> None:
    kind, changes = STUDENTS[name]
    student = make_kind(tmp_path / "student", kind, **changes)
    packed = train(student, tmp_path / "packed", packing=True, learning_rate=1e-4)
    padded = train(student, tmp_path / "padded", packing=False, learning_rate=1e-4)
    assert packed == pytest.approx(padded, rel=1e-5)
    alike(tmp_path / "packed", tmp_path / "padded")


MORE: dict[str, dict[str, Any]] = {
    "adapters": {"lora_rank": 2},
    "weight-decomposed": {"lora_rank": 2, "dora": True},
    "computed twice": {"gradient_checkpointing": True},
    "in parts": {"forward_tokens": 70},
    "two processes": {"launch": Launch(processes=2), "forward_tokens": 120},
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
@pytest.mark.parametrize("name", MORE)
def test_packing_goes_with_every_other_setting(tmp_path: Path, name: str) -> None:
    student = make_student(tmp_path / "student")
    packed = train(student, tmp_path / "packed", packing=True, **MORE[name])
    padded = train(student, tmp_path / "padded", packing=False, **MORE[name])
    assert packed == pytest.approx(padded, rel=1e-5)
    alike(tmp_path / "packed", tmp_path / "padded")


def test_no_padding_goes_through_the_student(tmp_path: Path) -> None:
    student, read = make_student(tmp_path / "student"), list[int]()

    def opened(folder: Path) -> Any:
        model = read_model(folder)
        model.model.embed_tokens.register_forward_hook(lambda m, x, y: read.append(x[0].numel()))
        return model

    renderer = Renderer(make_tokenizer(), 200)
    sizes = {key: len(renderer.render(example).ids) for key, example in EXAMPLES.items()}
    shown = [sum(sizes[key] for key in batch) for batch in BATCHES]
    widths = [len(batch) * max(sizes[key] for key in batch) for batch in BATCHES]
    probes = [packing.PROBED[1], sum(packing.PROBED)]
    train(student, tmp_path / "packed", Opener(model=opened))
    assert read == probes + shown
    read.clear()
    train(student, tmp_path / "padded", Opener(model=opened), packing=False)
    assert read == widths
    assert sum(widths) > 1.3 * sum(shown)


def eager(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )


def test_a_student_that_cannot_be_packed_is_padded_and_that_is_said(tmp_path: Path) -> None:
    student, told = make_student(tmp_path / "student"), list[str]()
    losses = train(student, tmp_path / "eager", Opener(model=eager), told.append)
    assert told == [
        "batches are padded, for this student cannot be packed: "
        "its attention is 'eager', not PyTorch's sdpa"
    ]
    assert losses == pytest.approx(train(student, tmp_path / "plain"), rel=1e-5)
    with pytest.raises(UserError, match="cannot be packed: its attention is 'eager'"):
        train(student, tmp_path / "wanted", Opener(model=eager), packing=True)


def test_a_student_whose_rows_see_each_other_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    model = read_model(make_student(tmp_path))
    assert packing.obstacle(model) is None

    def seen(module: Any, q: Any, k: Any, v: Any, mask: Any, *, row_lengths: Any, **rest: Any):
        return sdpa_attention_forward(module, q, k, v, None, **rest)

    monkeypatch.setattr(packing, "_attend", seen)
    found = packing.obstacle(model)
    assert found is not None and "one row changed another" in found
    assert model.config._attn_implementation == "sdpa"
    assert model.training is False


def test_layers_that_carry_a_state_are_not_packed(tmp_path: Path) -> None:
    model = read_model(make_student(tmp_path))
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert packing.obstacle(model) == "it has layers of linear_attention"


def rows(*lengths: int) -> dict[str, torch.Tensor]:
    """A padded batch; row n holds n + 1 everywhere, and its first token is not taught."""
    width = max(lengths)
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    ids = mask * torch.arange(1, len(lengths) + 1)[:, None]
    labels = torch.where(mask.bool(), ids, IGNORED)
    labels[:, 0] = IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_rows_stand_end_to_end_with_positions_of_their_own() -> None:
    found = end_to_end(rows(3, 1, 2))
    assert found["input_ids"].tolist() == [[1, 1, 1, 2, 3, 3]]
    assert found["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert found["row_lengths"] == [3, 1, 2]
    places, wanted = following(found["labels"])
    assert places.tolist() == [0, 1, 4]
    assert wanted.tolist() == [[1, 1, 3]]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("limit", [16, 40, 10_000])
def test_packed_parts_hold_every_row_once_and_no_more_than_the_limit(
    world: int, limit: int
) -> None:
    lengths = [9, 3, 17, 4, 4, 12]
    dealt = shares(rows(*lengths), limit, world, packed=True)
    assert len({len(parts) for parts in dealt}) == 1
    whole = [end_to_end(part) for parts in dealt for part in parts]
    taught = torch.cat([part["labels"].flatten() for part in whole])
    for row, length in enumerate(lengths):
        assert int((taught == row + 1).sum()) == length - 1
    assert all(p["input_ids"].numel() <= limit or len(p["row_lengths"]) == 1 for p in whole)


def test_what_workers_say_comes_back(tmp_path: Path) -> None:
    from heal.students.launch import NOTES

    student, told = make_kind(tmp_path / "student", "gpt2"), list[str]()
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(
        json.dumps({**config, "layer_types": ["linear_attention"] * 2})
    )
    train(student, tmp_path / "out", note=told.append, launch=Launch(processes=2))
    assert told == [
        "batches are padded, for this student cannot be packed: it has layers of linear_attention"
    ]
    assert not [*tmp_path.rglob(NOTES)]
