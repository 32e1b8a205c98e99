"""`heal train --dry-run`: what training would take, and a refusal of what cannot fit."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.test_run_arms import with_student
from tests.tiny_student import make_student, make_tokenizer

from heal.before.machine import Machine
from heal.before.training import foresee, lines_of, masked
from heal.cli import main
from heal.config import Train
from heal.errors import UserError
from heal.recipe import load
from heal.records import TrainResult
from heal.students.memory import helping, memory_of, shape_of
from heal.students.rendering import Rendered

QWEN3_4B = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}
"""Its sizes; there are no weights and there is no tokenizer."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(QWEN3_4B))
    rows = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(1000)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"run: {tmp_path}/run\nproblems: {{path: {tmp_path}/p.jsonl}}\n"
        f"teacher: {{model: {tmp_path}/qwen}}\nstudent: {{model: {tmp_path}/qwen}}\n"
    )
    return file


def heal(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["heal", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_4b_student_is_planned_from_its_config_alone(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--set", "train.forward_tokens=4096", "--set", "train.gradient_checkpointing=true"]
    assert heal(monkeypatch, "train", "--dry-run", "-c", recipe, "--gpus", "8x80", *more) == 0
    said = capsys.readouterr().out
    assert "4.02 G parameters, all weights" in said
    assert "parameters        16.09 GB" in said
    assert "optimizer         32.18 GB" in said
    assert "80 GB on the smallest of 8 GPUs" in said
    assert "Time is unknown: nothing was trained in this run folder yet" in said
    assert "no tokenizer (tokenizer.json) is there yet" in said
    problems = int(said.split("in all")[1].split()[0].replace(",", "")) * 8 / 5 / 4
    assert 780 <= problems <= 820  # 80 % of 1,000 problems, 4 traces each, 5 times, 8 a step
    assert all(len(line) <= 80 for line in said.splitlines() if str(recipe.parent) not in line)


def test_what_cannot_fit_is_refused_with_the_settings_that_fit(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--dry-run", "-c", recipe, "--gpus", "8x80"]
    assert heal(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    hint = said.split("→")[1].split()
    assert hint == [
        *("--set", "train.forward_tokens=4096"),
        *("--set", "train.gradient_checkpointing=true"),
    ]
    assert heal(monkeypatch, *words, *hint) == 0
    assert heal(monkeypatch, *words[:-1], "1x8", *hint) == 2
    assert "take a smaller student, or a larger device" in capsys.readouterr().err


def test_a_tokenizer_beside_no_weights_shows_the_example(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tokenizer().save_pretrained(recipe.parent / "qwen")
    heal(monkeypatch, "train", "--dry-run", "-c", recipe, "--gpus", "8x80")
    said = capsys.readouterr().out
    assert "no trace is there yet: the gold answer stands in its place" in said
    assert "no    <|start|>user⏎" in said
    assert "yes   \\boxed{" in said


@pytest.mark.parametrize("gpus", ["80", "0x80", "8x", "x", "8x-1"])
def test_gpus_that_are_none_are_refused(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpus: str
) -> None:
    assert heal(monkeypatch, "train", "--dry-run", "-c", recipe, "--gpus", gpus) == 2
    assert "--gpus 8x80" in capsys.readouterr().err


def test_a_run_that_has_its_sets_is_planned_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_student(tmp_path)
    run.go(until="train")
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path / "recipe.yaml")
    seen = foresee(config)
    results = {r.stage: r for r in run.read("train", TrainResult) if (r.arm, r.seed) == ("heal", 0)}
    assert [s.steps for s in seen.stages] == [results[i].steps for i in (1, 2, 3)]
    assert [s.tokens for s in seen.stages] == [results[i].tokens for i in (1, 2, 3)]
    assert seen.measured and seen.tokens_s is not None
    said = "\n".join(lines_of(config, Machine(2, 16.0, ()), seen))
    assert "tokens/s" in said
    assert "  yes   " in said
    assert "16 GB, the machine's own (no GPU)" in said


def test_the_mask_is_shown_line_by_line() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer.encode("one\ntwo\nsay three", add_special_tokens=False)
    rows = [*masked(Rendered(tuple(ids), 12), tokenizer)]
    assert rows == [(4, False, "one⏎"), (4, False, "two⏎"), (4, False, "say "), (5, True, "three")]
    assert sum(count for count, _, _ in rows) == len(ids)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_formula_bounds_what_pytorch_keeps(tmp_path: Path, checkpointed: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    LlamaConfig(
        vocab_size=500,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
    ).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).train()
    if checkpointed:
        model.activation_checkpointing_enable()
    ids = torch.arange(4 * 96).reshape(4, 96)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    assert out.last_hidden_state.requires_grad
    settings = Train(forward_tokens=384, max_length=16, gradient_checkpointing=checkpointed)
    bound = memory_of(shape_of(tmp_path), settings).activations
    one_layer = 4 * 384 * shape_of(tmp_path).elements if checkpointed else 0
    assert sum(kept.values()) <= bound <= 1.4 * sum(kept.values()) + one_layer


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
def test_adapters_are_counted_as_peft_makes_them(tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from heal.students.trainer import adapters

    student = make_student(tmp_path)
    for more in ({}, {"lora_targets": ("q_proj", "v_proj")}, {"dora": True}):
        settings = Train(lora_rank=4, **more)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(student), adapters(settings))
        made = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert memory_of(shape_of(student), settings).gradients == 4 * made


def test_an_anchor_counts_the_untouched_student_and_logits_in_full(tmp_path: Path) -> None:
    shape = shape_of(make_student(tmp_path))
    settings = Train(forward_tokens=4096)
    plain = memory_of(shape, settings).parts()
    for more, shards in (({}, 1), ({"lora_rank": 2}, 1), ({}, 4)):
        free = settings.model_copy(update=more)
        held = free.model_copy(update={"anchor": 0.1})
        before, now = (memory_of(shape, s, shards=shards).parts() for s in (free, held))
        assert now.pop("untouched") == 4 * shape.parameters, "whole on each device"
        assert now.pop("logits") == 8 * 4 * 4096 * shape.vocabulary
        before.pop("logits")
        assert now == before
    assert "untouched" not in plain
    large = replace(shape, vocabulary=150_000)
    assert memory_of(large, held).logits == 5 * 4 * 4096 * 150_000 + 3 * (1 << 28)


def test_an_anchor_that_does_not_fit_is_refused_before_it_begins(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--dry-run", "-c", recipe, "--gpus", "1x80"]
    words += ["--set", "train.forward_tokens=4096", "--set", "train.gradient_checkpointing=true"]
    assert heal(monkeypatch, *words) == 0
    capsys.readouterr()
    assert heal(monkeypatch, *words, "--set", "train.anchor=0.1") == 2
    said, refused = capsys.readouterr()
    assert "untouched         16.09 GB" in said
    assert "about a third more time" in said
    assert "may fill 73.6 GB" in refused
    assert "--set train.lora_rank=16" in refused
    assert (
        heal(monkeypatch, *words, "--set", "train.anchor=0.1", *("--set", "train.lora_rank=16"))
        == 0
    )


def test_a_config_that_builds_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(UserError, match="builds no model"):
        shape_of(tmp_path)


def test_the_mildest_setting_that_fits_is_named(tmp_path: Path) -> None:
    shape, settings = shape_of(make_student(tmp_path)), Train()
    whole = memory_of(shape, settings).total
    assert helping(shape, settings, whole) == {"forward_tokens": 4096}
    assert helping(shape, settings, 1.0) == {}


def test_several_gpus_share_a_student_that_none_holds(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--dry-run", "-c", recipe, "--gpus", "8x24"]
    assert heal(monkeypatch, *words) == 2
    hint = capsys.readouterr().err.split("→")[1].split()
    sets = ["--set", "train.launch.processes=8", "--set", "train.launch.config=fsdp2"]
    assert hint[:4] == sets
    assert not any("lora" in word for word in hint)
    assert heal(monkeypatch, *words, *hint) == 0
    said = capsys.readouterr().out
    assert "parameters         2.01 GB" in said
    assert "each holds 1/8 of weights" in said
