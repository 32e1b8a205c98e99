"""One training run: TRL's `SFTTrainer`, made to show exactly the batches it is given.

In: a model, rendered examples and batches of their positions. Out: the trained model and one loss
per step. No shuffling, packing, truncation, log, model card or telemetry. Importing this module
imports torch and TRL.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import SFTConfig, SFTTrainer

from heal.config import Train
from heal.errors import UserError
from heal.students.checkpoints import Checkpoint, Checkpoints
from heal.students.rendering import IGNORED, Rendered

LOGITS_BYTES = 1 << 28
"""Float32 logits up to this size are built in full. TRL's fused head never builds them, but
computes them twice and adds metrics: 1.6 times the whole step for a student of the lab."""

OnLoss = Callable[[int, float], None]
"""Told each step's number (from 1) and loss."""


class PlanTrainer(SFTTrainer):
    """Shows `batches` in their order, a step each; the loss is the mean over a step's tokens."""

    def __init__(
        self,
        batches: Sequence[list[int]],
        forward_tokens: int,
        on_loss: OnLoss,
        checkpoints: Checkpoints,
        start: Checkpoint | None,
        **options: Any,
    ) -> None:
        self.losses: list[float] = list(start.losses) if start else []
        self._checkpoints = checkpoints
        self._started = time.monotonic()
        self._batches = batches
        self._forward_tokens = forward_tokens
        self._on_loss = on_loss
        super().__init__(**options)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The plan's batches. Not prepared by accelerate, which may split or repeat batches."""
        return DataLoader(
            self.train_dataset, batch_sampler=self._batches, collate_fn=self.data_collator
        )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Forward and backward of one batch, in parts of at most `forward_tokens`.

        Each part's loss is its sum over the whole batch's count, so the parts add up to the same
        gradient. Raises: UserError when the loss is not finite.
        """
        taught = (inputs["labels"][:, 1:] != IGNORED).sum()
        parts = _parts(inputs, self._forward_tokens)
        loss = sum(super(PlanTrainer, self).training_step(model, p, taught) for p in parts)
        self.losses.append(float(loss))
        if not math.isfinite(self.losses[-1]):
            raise UserError(
                f"the loss is {self.losses[-1]} at step {len(self.losses)}: training diverged",
                hint="lower it with --set train.learning_rate=…",
            )
        self._on_loss(len(self.losses), self.losses[-1])
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's own loss while its logits are small, else TRL's fused one: equal values."""
        logits_bytes = 4 * inputs["labels"].numel() * self.model.config.get_text_config().vocab_size
        if self.model_accepts_loss_kwargs and logits_bytes <= LOGITS_BYTES:
            return model(**inputs, use_cache=False, num_items_in_batch=num_items_in_batch).loss
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write one, without TRL's model card, and seal it."""
        super(SFTTrainer, self)._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            written = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self._checkpoints.seal(written, self.losses, time.monotonic() - self._started)
        self.accelerator.wait_for_everyone()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Nothing: progress goes through `on_loss`."""

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""


def fit(
    model: Any,
    tokenizer: Any,
    rendered: Sequence[Rendered],
    batches: Sequence[list[int]],
    *,
    learning_rate: float,
    seed: int,
    settings: Train,
    checkpoints: Checkpoints,
    start: Checkpoint | None,
    adapter: Path,
    on_loss: OnLoss,
) -> tuple[Any, list[float]]:
    """Train on batches of positions in `rendered`; the model, adapters merged, and the losses.

    `learning_rate` is the peak; `start` is where to go on, None: at the first batch. The losses
    include those before `start`. Adapters are also saved by themselves, in `adapter`.
    """
    require_one_device()
    _require_targets(model, settings)
    columns = {
        "input_ids": [list(r.ids) for r in rendered],
        "labels": [r.labels for r in rendered],
    }
    trainer = PlanTrainer(
        batches,
        settings.forward_tokens,
        on_loss,
        checkpoints,
        start,
        model=model,
        args=_arguments(len(batches), learning_rate, seed, settings, checkpoints),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        peft_config=_adapters(settings),
    )
    trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    if settings.lora_rank is None:
        return trainer.model, trainer.losses
    trainer.model.save_pretrained(adapter)
    return trainer.model.merge_and_unload(), trainer.losses


def _arguments(
    steps: int, learning_rate: float, seed: int, settings: Train, checkpoints: Checkpoints
) -> SFTConfig:
    return SFTConfig(
        output_dir=str(checkpoints.writing),
        max_steps=steps,
        seed=seed,
        learning_rate=learning_rate,
        # the plain cosine_with_min_lr spends the first step at a learning rate of zero
        lr_scheduler_type="cosine_warmup_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.min_lr},
        warmup_steps=settings.warmup,  # below 1 it is a share of all steps
        weight_decay=settings.weight_decay,
        # TRL's default is bfloat16, which is far slower than float32 on most CPUs
        bf16=in_bfloat16(settings),
        gradient_checkpointing=None,  # a bool counts as the deprecated spelling
        activation_checkpointing=settings.gradient_checkpointing,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=False,
        save_strategy="steps" if checkpoints.every else "no",
        save_steps=checkpoints.every or 500,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )


def _adapters(settings: Train) -> Any:
    """peft's configuration; None: all weights are trained."""
    if settings.lora_rank is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise UserError("train.lora_rank needs the peft package", hint="pip install peft") from None
    targets = settings.lora_targets
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
        lora_dropout=settings.lora_dropout,
        use_dora=settings.dora,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def _require_targets(model: Any, settings: Train) -> None:
    """Whether adapters would find their layers. Raises: UserError."""
    if settings.lora_rank is None or isinstance(settings.lora_targets, str):
        return
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    ours = [t for t in settings.lora_targets if not any(f".{n}".endswith(f".{t}") for n in linear)]
    if ours:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise UserError(
            f"train.lora_targets: the student has no layer {', '.join(ours)}",
            hint=f"it has {', '.join(known)}; or --set train.lora_targets=all-linear",
        )


def in_bfloat16(settings: Train) -> bool:
    """Whether products are bfloat16. Raises: UserError where the device has none."""
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if settings.precision == "bfloat16" and not able:
        raise UserError(
            "train.precision is bfloat16, and no GPU here computes in it",
            hint="--set train.precision=auto takes what the device has",
        )
    return able and settings.precision != "float32"


def require_one_device() -> None:
    """Several would share out the plan's batches, and the steps would no longer be the plan's.

    Raises: UserError.
    """
    if torch.cuda.device_count() > 1:
        raise UserError(
            f"training uses one GPU, but {torch.cuda.device_count()} are visible",
            hint="CUDA_VISIBLE_DEVICES=0 heal run …",
        )


def _parts(inputs: dict[str, torch.Tensor], forward_tokens: int) -> list[dict[str, torch.Tensor]]:
    """Rows grouped by length so that no part's padded size exceeds `forward_tokens`.

    A single row may exceed it.
    """
    if inputs["input_ids"].numel() <= forward_tokens:
        return [inputs]
    lengths = inputs["attention_mask"].sum(1)
    groups: list[list[int]] = []
    for row in lengths.argsort(descending=True).tolist():
        full = not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > forward_tokens
        if full:
            groups.append([])
        groups[-1].append(row)
    return [{k: v[rows, : lengths[rows[0]]] for k, v in inputs.items()} for rows in groups]
