"""Training a student, and its exam."""

from typing import Literal

from pydantic import Field, model_validator

from heal.config.section import Section


class Launch(Section):
    """Training on several GPUs of this machine: HEAL calls `accelerate launch`."""

    processes: int = Field(ge=1)
    """One for each GPU. They share each of the plan's batches, so that their number changes neither
    the steps nor, but for rounding, the student. Without a GPU they share the cores."""
    config: str = "ddp"
    """`ddp`: each holds the whole student; `fsdp2`, `zero3` (needs the deepspeed package): each
    holds a part of it; or a file that `accelerate config` wrote."""


class Train(Section):
    """TRL's `SFTTrainer`, a run for each stage, loss on the assistant's tokens only."""

    learning_rate: float = Field(1e-5, gt=0)
    batch_size: int = Field(8, ge=1)
    """Traces per step on average; batches are sized in tokens, alike for every arm."""
    max_length: int = Field(4096, ge=16)
    """Longer examples are refused and counted, never truncated."""
    warmup: float = Field(0.03, ge=0, lt=1)
    min_lr: float = Field(0.1, ge=0, le=1)
    """The cosine ends at this share of the peak."""
    weight_decay: float = Field(0.0, ge=0)
    loss: Literal["nll", "dft"] = "nll"
    """`nll`: each taught token's −ln p. `dft`: that times p, without its gradient (dynamic
    fine-tuning): an improbable token moves the student least, so it unlearns less and learns less
    that is new. Needs logits or TRL's fused loss; both are the same loss."""
    anchor: float | None = Field(None, gt=0)
    """Adds so many times KL(untouched ‖ trained) to the loss, the mean over the step's taught
    tokens: what the untouched student would have tried stays likely. With `loss: dft` this is
    anchored SFT. Each device also holds the untouched student, whole, and a step takes a third
    longer by its operations. The losses that are told remain those of `loss` alone. None adds
    nothing."""
    lora_rank: int | None = Field(None, ge=1)
    """None trains all weights; a number trains LoRA adapters of that rank, keeps them in each
    stage's `adapter/`, and merges them."""
    lora_alpha: float | None = Field(None, gt=0)
    """Adapters count alpha / rank times. None takes twice the rank."""
    lora_targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which linear layers get adapters: names as peft's `target_modules` takes them, `[q_proj,
    v_proj]`; `all-linear` is all but the output head."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    dora: bool = False
    """Weight-decomposed adapters (DoRA): a magnitude for each output beside the direction."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products; weights, gradients and optimizer are float32. `auto` is bfloat16 on a GPU that
    has it, else float32. `bfloat16` takes it on a CPU that multiplies it too."""
    gradient_checkpointing: bool = False
    """Keep each layer's input alone and compute the rest twice: less memory, more
    time (docs/training.md), the same student."""
    packing: bool | None = None
    """Put a step's traces end to end in place of padding them. Each attends to itself alone and
    bears the loss it bears by itself, so this saves time and changes nothing else. None does it
    where the student's attention allows, and says where it does not; true refuses there."""
    forward_tokens: int | None = Field(None, ge=16)
    """Tokens per forward pass, padding counted. A larger batch goes through in parts whose
    gradients add up to the same step, so this bounds memory and changes nothing else. None is
    16,384 on a GPU and 1,024 on a CPU, which is no faster with more."""
    launch: Launch | None = None
    """None trains in this process, on one device."""
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Who else is told each step's loss, gradient norm and learning rate. TensorBoard's files lie
    in `students/ARM-seedN/logs/`; trackio and wandb follow their own environment variables and
    may send what they are told to their servers."""
    validation: int = Field(0, ge=0)
    """After each stage, the student's loss on so many correct teacher traces of held-out problems,
    which it is never trained on. 0: on none."""
    watch: int = Field(0, ge=0)
    """After each stage, an exam on so many held-out problems, `evaluate.samples` attempts each; of
    the last stage they count for the evaluation too. 0: none."""
    checkpoint_every: int | None = Field(200, ge=1)
    """Optimizer steps from one checkpoint to the next. A killed run goes on from the last, with the
    losses and weights of an undisturbed one. The newest alone is kept, 12 bytes per trained weight,
    until its stage is done. None writes none: a killed stage starts again."""
    threads: int | None = Field(None, ge=1)
    """PyTorch threads; None leaves PyTorch's own choice."""

    @model_validator(mode="after")
    def _adapters_have_a_rank(self) -> "Train":
        adapters = {"lora_alpha", "lora_targets", "lora_dropout", "dora"} & self.model_fields_set
        if self.lora_rank is None and any(
            getattr(self, name) != type(self).model_fields[name].default for name in adapters
        ):
            raise ValueError(f"{', '.join(sorted(adapters))}: of adapters; lora_rank is null")
        return self


class Evaluate(Section):
    """Held-out evaluation."""

    samples: int = Field(8, ge=1)
    """Attempts per held-out problem and arm."""
    teacher_n: int = Field(30, ge=1)
    """Unaided teacher traces per held-out problem, which only set its stratum; in no budget."""
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int | None = Field(None, ge=1)
    """None takes `sampling.max_new_tokens`."""
    bootstrap: int = Field(10_000, ge=100)
    scored_token_cost: float | None = Field(None, ge=0)
    """What a scored token counts beside a sampled one in the matched token budget of `rft_more` and
    `star`. None times both once and keeps the ratio, so two runs of a config may differ in it."""
