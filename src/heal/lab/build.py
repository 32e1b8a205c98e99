"""Building the lab's two models: a seeded script from dials to checkpoints.

In: dials. Out: `teacher/` and `student/` (Llama weights as fp16 safetensors, tokenizer, chat
template) and `build-log.json` with dials, versions, losses and measured figures. Same dials on the
same machine and thread count give the same weights; across machines only nearly so.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.lab.batches import Batch, batches, encode
from heal.lab.lesson import END, Lesson
from heal.lab.tokenizer import PAD, make_tokenizer
from heal.lab.world import Dials, World
from heal.lab.worlds import world_named

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CHUNK = 512
"""Lessons written at a time, then bucketed by length."""

REPORTED = 100
"""Batches between two figures of the loss curve."""


@dataclass(frozen=True)
class Plan:
    """One model to train."""

    name: str
    tokens: int
    learning_rate: float
    lesson: Callable[[random.Random, float], Lesson]
    """Writes one lesson, given how far training has come, in 0..1."""


def build(
    out_dir: Path | str,
    world: str = "rows",
    dials: Dials | None = None,
    quick: bool = False,
    measured: bool = True,
) -> dict[str, Any]:
    """Train teacher and student of one world into out_dir and return what build-log.json holds.

    quick trains on a hundredth of the tokens: it proves that the script runs, not that it teaches.
    """
    import torch
    import transformers

    home = world_named(world)
    dials = dials or home.dials
    scale = 0.01 if quick else 1.0
    out = Path(out_dir)
    tokenizer = make_tokenizer(home, dials.seed)
    log: dict[str, Any] = {
        "world": world,
        "dials": asdict(dials),
        "quick": quick,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": torch.get_num_threads(),
        "vocabulary": len(tokenizer),
    }
    model = make_model(dials, tokenizer)
    # The teacher goes on from the student base: two models that know the same operations and
    # differ in what they choose. From nothing, its mixture took three times the tokens.
    for plan in plans(home, dials, scale):
        log[plan.name] = train(model, plan, dials, tokenizer)
        save(model, tokenizer, out / plan.name)
        write_log(out, log)
    if measured:
        from heal.lab.measure import measure

        log["measured"] = measure(out, world, n=8 if quick else 150)
        write_log(out, log)
    return log


def plans(world: World, dials: Dials, scale: float = 1.0) -> tuple[Plan, Plan]:
    """The student base's plan, then the teacher's."""
    student = Plan(
        "student",
        int(dials.student_tokens * scale),
        dials.student_learning_rate,
        lambda rng, progress: world.student_lesson(rng, dials, progress),
    )
    teacher = Plan(
        "teacher",
        int(dials.teacher_tokens * scale),
        dials.teacher_learning_rate,
        lambda rng, progress: world.teacher_lesson(rng, dials),
    )
    return student, teacher


def train(
    model: LlamaForCausalLM, plan: Plan, dials: Dials, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """AdamW, 2 % warm-up, cosine to 2 %; returns the training figures."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    trunk = torch.compile(model.model, dynamic=True) if dials.compiled else model.model
    started, seen, curve, recent = time.monotonic(), 0, [], []
    for batch in _stream(plan, dials, tokenizer):
        progress = min(1.0, seen / plan.tokens)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * _schedule(progress)
        loss = _loss(trunk, model.lm_head, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += batch.tokens
        recent.append(loss.item())
        if len(recent) == REPORTED:
            curve.append([seen, round(sum(recent) / REPORTED, 4)])
            recent = []
            took = time.monotonic() - started
            print(
                f"{plan.name} {seen:>9,} tokens  loss {curve[-1][1]:.3f}  {took:.0f} s", flush=True
            )
        if seen >= plan.tokens:
            break
    took = time.monotonic() - started
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "parameters": parameters,
        "tokens": seen,
        "seconds": round(took, 1),
        "tokens_per_s": round(seen / took),
        "loss_curve": curve,
    }


def make_model(dials: Dials, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama of the size the dials set."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(dials.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=dials.width,
        intermediate_size=dials.width * 11 // 4,
        num_hidden_layers=dials.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        # The usual 0.02 is meant for wide models; at this width it costs a million tokens of delay.
        initializer_range=0.07,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return LlamaForCausalLM(config)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights as fp16 safetensors beside the tokenizer."""
    import torch

    model.to(torch.float16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    model.to(torch.float32)


def write_log(out: Path, log: dict[str, Any]) -> None:
    """The build's figures so far, as build-log.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "build-log.json").write_text(json.dumps(log, indent=1) + "\n")


def _stream(plan: Plan, dials: Dials, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Batches without end."""
    rng, written = random.Random(f"{plan.name}:{dials.seed}"), 0
    while True:
        lessons = [plan.lesson(rng, written / plan.tokens) for _ in range(CHUNK)]
        rows = encode(lessons, tokenizer)
        written += sum(len(row.ids) for row in rows)
        yield from batches(rows, dials.batch_tokens, tokenizer.pad_token_id, rng)


def _loss(trunk: Any, head: torch.nn.Module, batch: Batch) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    hidden = trunk(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    learnt = batch.labels != -100
    return cross_entropy(head(hidden[learnt]), batch.labels[learnt])


def _schedule(progress: float) -> float:
    warm = 0.02
    if progress < warm:
        return progress / warm + 1e-3
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))
