"""One training run: TRL's `SFTTrainer`, made to show exactly the batches it is given.

In: a model, rendered examples and batches of their positions. Out: the trained model and one loss
per step. No shuffling, truncation, log, model card or telemetry; packing stays within a step.
Importing this module imports torch and TRL.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from heal.config import Train
from heal.errors import UserError
from heal.students.anchor import anchored_sums, read_untouched
from heal.students.checkpoints import Note
from heal.students.launch import Job
from heal.students.memory import logits_limit, tokens_at_once
from heal.students.packing import packing, row_by_row
from heal.students.parts import end_to_end, following, shares
from heal.students.rendering import IGNORED, Rendered

OnLoss = Callable[[int, float], None]
"""Told each step's number (from 1) and loss."""


class PlanTrainer(SFTTrainer):
    """Shows `batches` in their order, a step each; the loss is the mean over a step's tokens."""

    def __init__(
        self,
        job: Job,
        on_loss: OnLoss,
        packs: bool,
        untouched: Any = None,
        **options: Any,
    ) -> None:
        self.losses: list[float] = list(job.start.losses) if job.start else []
        """Of the SFT loss alone, also where an anchor pulls."""
        self._job, self._on_loss, self._packs = job, on_loss, packs
        self._told = torch.zeros(2)
        """Of a part: its loss, and its KL from the untouched student."""
        self._away = 0.0
        """The last step's KL."""
        self._started = time.monotonic()
        super().__init__(**options)
        self._untouched: Any = untouched and untouched.to(self.args.device)
        if self._untouched is not None and self.aux_loss_enabled:
            raise UserError(
                "train.anchor: the student balances its experts by a loss of its own, which is"
                " not computed beside an anchor",
                hint="--set train.anchor=null",
            )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The plan's batches. Not prepared by accelerate, which may split or repeat batches."""
        return DataLoader(
            self.train_dataset, batch_sampler=self._job.batches, collate_fn=self.data_collator
        )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Forward and backward of this process's share of one batch, in parts.

        Each part's loss is its sum over the whole batch's count, so the parts of all processes add
        up to the same gradient. Raises: UserError when the loss is not finite.
        """
        taught = (inputs["labels"][:, 1:] != IGNORED).sum()
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        limit = tokens_at_once(self._job.settings, cpu=self.args.device.type == "cpu")
        parts = shares(inputs, limit, world, packed=self._packs)[rank]
        if self._packs:
            parts = [end_to_end(part) for part in parts]
        told = sum(
            self._part(model, part, taught, last=i == len(parts) - 1)
            for i, part in enumerate(parts)
        )
        # a share counts as often as there are processes, for their gradients are averaged
        loss, away = (self.accelerator.reduce(told, "sum") / world if world > 1 else told).tolist()
        self.losses.append(loss)
        if not math.isfinite(loss + away):
            what = f"the loss is {loss}" + (f", its anchor {away}" if self._untouched else "")
            raise UserError(
                f"{what} at step {len(self.losses)}: training diverged",
                hint="lower it with --set train.learning_rate=…",
            )
        self._away = away
        self._on_loss(len(self.losses), loss)
        return told[0]

    def _part(self, model: Any, part: Any, taught: Any, *, last: bool) -> Any:
        """[2]: its loss, and its KL (0 without an anchor).

        Gradients are exchanged behind the last part alone.
        """
        state = self.accelerator.gradient_state
        state._set_sync_gradients(last)  # DeepSpeed steps by it
        with nullcontext() if last else self.accelerator.no_sync(model):
            loss = super().training_step(model, part, taught)
        state._set_sync_gradients(True)
        return self._told if self._untouched else torch.stack([loss, torch.zeros_like(loss)])

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss over what is taught, whose logits alone are computed; with what anchors it."""
        places, wanted = following(inputs["labels"])
        vocabulary = self.model.config.get_text_config().vocab_size
        limit, settings = logits_limit(self.args.device.type == "cpu"), self._job.settings
        fits = 4 * wanted.numel() * vocabulary <= limit
        if self._untouched is None and (self.aux_loss_enabled or not fits):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        read = {name: value for name, value in inputs.items() if name != "labels"}
        read |= {"use_cache": False, "logits_to_keep": places}
        # before the student, whose activations are kept until its gradients are known
        before = None if self._untouched is None else self._logits_before(read)
        logits = model(**read).logits.float()
        if before is None:
            loss = summed_loss(logits, wanted, settings.loss)
            return loss / num_items_in_batch * self.accelerator.num_processes
        sums = anchored_sums(before, logits, wanted, settings.loss, limit)
        sums = sums / num_items_in_batch * self.accelerator.num_processes
        self._told = sums.detach()
        return sums[0] + settings.anchor * sums[1]

    @torch.no_grad()
    def _logits_before(self, read: Any) -> torch.Tensor:
        """What the untouched student makes of a part, in the precision of training."""
        kind, lower = self.args.device.type, in_bfloat16(self._job.settings)
        with torch.autocast(kind, torch.bfloat16, enabled=lower):
            return self._untouched(**read).logits.float()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write one, without TRL's model card, and seal it."""
        super(SFTTrainer, self)._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            written = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self._job.checkpoints.seal(written, self.losses, time.monotonic() - self._started)
        self.accelerator.wait_for_everyone()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Only to whom `train.report_to` names: progress goes through `on_loss`."""
        if self._job.settings.report_to:
            anchored = self._untouched is not None and "loss" in logs
            super().log(logs | ({"anchor_kl": self._away} if anchored else {}), start_time)

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""


def fit(
    model: Any, tokenizer: Any, job: Job, on_loss: OnLoss, note: Note
) -> tuple[Any, list[float]]:
    """Train in this process; the model, adapters merged, and the losses of all steps.

    Adapters are also saved by themselves, in `job.adapter`. Raises: UserError.
    """
    require_one_device()
    trainer = trained(model, tokenizer, job, on_loss, note)
    if job.settings.lora_rank is None:
        return trainer.model, trainer.losses
    trainer.model.save_pretrained(job.adapter)
    return trainer.model.merge_and_unload(), trainer.losses


def trained(model: Any, tokenizer: Any, job: Job, on_loss: OnLoss, note: Note) -> PlanTrainer:
    """A trainer that has trained the job, in this process or as one of several that share it."""
    _require_targets(model, job.settings)
    columns = {
        "input_ids": [list(r.ids) for r in job.rendered],
        "labels": [r.labels for r in job.rendered],
    }
    untouched = None
    if job.settings.anchor is not None:
        assert job.untouched is not None, "a job with an anchor says where it is"
        untouched = read_untouched(job.untouched, model)
    with packing(model, job.settings.packing, note) as packs, ExitStack() as also:
        if packs and untouched:
            also.enter_context(row_by_row(untouched))
        trainer = PlanTrainer(
            job,
            on_loss,
            packs,
            untouched,
            model=model,
            args=_arguments(job),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=adapters(job.settings),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(job.start.folder) if job.start else None)
    return trainer


def mean_loss(model: Any, rendered: Sequence[Rendered]) -> float:
    """Nats per taught token, all of them alike; row by row, as the model is."""
    device, total, taught = next(model.parameters()).device, 0.0, 0
    model.eval()
    with torch.inference_mode():
        for row in rendered:
            ids = torch.tensor([row.ids], device=device)
            # logits of what is taught alone: those of a long prompt would fill a GPU
            kept = len(row.ids) - row.prompt_tokens + 1
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[0, :-1]
            wanted = ids[0, row.prompt_tokens :]
            total += float(
                torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
            )
            taught += len(wanted)
    return total / taught


def summed_loss(logits: torch.Tensor, wanted: torch.Tensor, kind: str) -> torch.Tensor:
    """`train.loss` over all taught tokens: logits [rows, K, vocabulary], wanted [rows, K]."""
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        wanted.flatten(),
        ignore_index=IGNORED,
        reduction="none" if kind == "dft" else "sum",
    )
    return (nll * torch.exp(-nll.detach())).sum() if kind == "dft" else nll


def save_shared(trainer: PlanTrainer, job: Job) -> None:
    """What several processes trained, put together: the weights, or the adapters by themselves."""
    trainer.save_model(str(job.out if job.settings.lora_rank is None else job.adapter))
    trainer.accelerator.wait_for_everyone()


def merged(model: Any, adapter: Path) -> Any:
    """A model with adapters that were saved by themselves."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def _arguments(job: Job) -> SFTConfig:
    settings, checkpoints = job.settings, job.checkpoints
    return SFTConfig(
        output_dir=str(checkpoints.writing),
        max_steps=len(job.batches),
        seed=job.seed,
        learning_rate=job.learning_rate,
        use_cpu=not torch.cuda.is_available(),
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
        logging_steps=1,
        save_strategy="steps" if checkpoints.every else "no",
        save_steps=checkpoints.every or 500,
        logging_strategy="steps" if settings.report_to else "no",
        logging_nan_inf_filter=False,
        loss_type=settings.loss,  # of TRL's own loss, where the logits would not fit
        report_to=list(settings.report_to) or "none",
        run_name=job.out.name.removesuffix(".part"),
        disable_tqdm=True,
    )


def adapters(settings: Train) -> Any:
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
    """Whether products are bfloat16. Raises: UserError where the device has none.

    A CPU that has them takes them when asked, not by `auto`: losses should not depend on the CPU.
    """
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if settings.precision != "bfloat16":
        return gpu and settings.precision == "auto"
    if not gpu and (torch.cuda.is_available() or not _cpu_has_bfloat16()):
        raise UserError(
            "train.precision is bfloat16, and the device here has no such products",
            hint="--set train.precision=auto takes what the device has",
        )
    return True


def _cpu_has_bfloat16() -> bool:
    """Whether it multiplies them itself (AVX-512, AMX, Arm); torch would stand in for it slowly."""
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has is True and name.endswith("bf16") for name, has in told.items())


def require_one_device() -> None:
    """Several would share out the plan's batches, and the steps would no longer be the plan's.

    Raises: UserError.
    """
    if (found := torch.cuda.device_count()) > 1:
        raise UserError(
            f"training in this process uses one GPU, but {found} are visible",
            hint=f"--set train.launch.processes={found} uses all; CUDA_VISIBLE_DEVICES=0 the first",
        )
