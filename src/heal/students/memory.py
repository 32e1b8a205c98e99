"""What training a student takes of a device's memory, by the formula of docs/training.md.

In: a model's config.json, built without weights, and the settings. Out: bytes of each part. An
upper bound of what PyTorch holds for the model's own numbers; what the allocator and the libraries
take beside it is `RESERVED`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal.config import Train
from heal.errors import UserError

__all__ = [
    "Memory",
    "Shape",
    "helping",
    "logits_limit",
    "memory_of",
    "shape_of",
    "tokens_at_once",
]

FLOAT = 4
"""Bytes of a number: weights, gradients and optimizer are float32 whatever `train.precision` is."""
LOGITS_BYTES, CPU_LOGITS_BYTES = 1 << 28, 1 << 30
"""Float32 logits of what is taught are built up to this size. TRL's fused head never builds them,
but computes them twice and adds metrics, and on a CPU those of prompts too."""
FORWARD_TOKENS, CPU_FORWARD_TOKENS = 16_384, 1_024
"""What goes through at once where `train.forward_tokens` leaves it open."""
RESERVED = 0.08
"""Share of a device that is left to the driver, the allocator's gaps and the libraries."""
RANK = 16
"""The rank that is proposed where all weights do not fit."""


@dataclass(frozen=True)
class Shape:
    """What the formula needs of a model."""

    parameters: int
    layers: int
    layer: int
    """Parameters of its largest layer, the embedding included."""
    elements: int
    """Numbers kept for the backward pass, per token and layer."""
    hidden: int
    vocabulary: int
    linear: tuple[tuple[str, int, int], ...]
    """Name, inputs and outputs of each linear layer but the head."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    gathered: float = 0.0
    """Of sharded models: the layer that is whole at a time, with its gradient."""
    untouched: float = 0.0
    """The untouched student of `train.anchor`, whole on each device."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """By name, those that are not empty."""
        return {name: size for name, size in vars(self).items() if size}


def shape_of(model: Path) -> Shape:
    """A model's shape from its config.json (or its `.gguf` header) alone.

    Raises: UserError when that cannot be read or names no sizes.
    """
    config, module = _without_weights(model)
    text = config.get_text_config()
    try:
        hidden, layers = text.hidden_size, text.num_hidden_layers
        heads = text.num_attention_heads
        head = getattr(text, "head_dim", None) or hidden // heads
        keys = (getattr(text, "num_key_value_heads", None) or heads) * head
        inner = getattr(text, "intermediate_size", None) or 4 * hidden
    except AttributeError as error:
        raise UserError(f"{model}: its config names no sizes we know ({error})") from None
    if experts := getattr(text, "num_experts_per_tok", None):
        inner = (getattr(text, "moe_intermediate_size", None) or inner) * experts
    # measured on Llama and Qwen3 layers, see docs/training.md
    elements = 6 * hidden + 6 * heads * head + 2 * keys + 5 * inner
    sizes = [sum(p.numel() for p in part.parameters()) for part in _layers(module)]
    return Shape(
        sum(p.numel() for p in module.parameters()),
        layers,
        max(sizes),
        elements,
        hidden,
        text.vocab_size,
        tuple(_linear(module)),
    )


def tokens_at_once(settings: Train, *, cpu: bool) -> int:
    """The most tokens of a part of a batch; a longer row goes through by itself."""
    return settings.forward_tokens or (CPU_FORWARD_TOKENS if cpu else FORWARD_TOKENS)


def logits_limit(cpu: bool) -> int:
    """Bytes of the largest logits that are built in full."""
    return CPU_LOGITS_BYTES if cpu else LOGITS_BYTES


def memory_of(shape: Shape, settings: Train, *, shards: int = 1, cpu: bool = False) -> Memory:
    """Bytes on each device that holds a 1/`shards` of weights, gradients and optimizer."""
    trained = shape.parameters
    if settings.lora_rank is not None:
        trained = _adapter(shape, settings)
    whole = shape.parameters + (trained if settings.lora_rank is not None else 0)
    tokens = max(tokens_at_once(settings, cpu=cpu), settings.max_length)
    kept = shape.layers * shape.elements
    if settings.gradient_checkpointing:
        kept = shape.layers * shape.hidden + shape.elements
    return Memory(
        parameters=FLOAT * whole / shards,
        gradients=FLOAT * trained / shards,
        optimizer=2 * FLOAT * trained / shards,
        activations=FLOAT * tokens * kept,
        logits=_logits(FLOAT * tokens * shape.vocabulary, logits_limit(cpu), settings),
        gathered=2 * FLOAT * shape.layer if shards > 1 else 0,
        untouched=FLOAT * shape.parameters if settings.anchor is not None else 0,
    )


def _logits(whole: int, limit: int, settings: Train) -> int:
    """Bytes of all that is as large as the logits, of which `whole` are those of a part."""
    if settings.anchor is None:
        return 3 * min(whole, limit)  # as computed, normalised, and their gradient
    # both students', and the gradient in groups and then together; a group's own beside them
    return 5 * whole + 3 * min(whole, limit)


def helping(
    shape: Shape, settings: Train, room: float, *, shards: int = 1, cpu: bool = False
) -> dict[str, Any]:
    """The least that makes it fit into `room` bytes, the mildest first; empty: nothing does."""
    changes: dict[str, Any] = {}
    for name, value in _milder(settings, cpu):
        changes[name] = value
        for tried in ({name: value}, changes):
            milder = settings.model_copy(update=tried)
            if memory_of(shape, milder, shards=shards, cpu=cpu).total <= room:
                return tried
    return {}


def _milder(settings: Train, cpu: bool) -> Iterator[tuple[str, Any]]:
    """What costs time first, what changes the student last."""
    if tokens_at_once(settings, cpu=cpu) > settings.max_length:
        yield "forward_tokens", settings.max_length
    if not settings.gradient_checkpointing:
        yield "gradient_checkpointing", True
    if settings.lora_rank is None:
        yield "lora_rank", RANK


def _adapter(shape: Shape, settings: Train) -> int:
    """Numbers in the adapters."""
    targets, rank = settings.lora_targets, settings.lora_rank or 0
    ours = [
        (inputs, outputs)
        for name, inputs, outputs in shape.linear
        if isinstance(targets, str) or any(f".{name}".endswith(f".{t}") for t in targets)
    ]
    return sum(rank * (i + o) + (o if settings.dora else 0) for i, o in ours)


def _without_weights(model: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, file = (model, None) if model.is_dir() else (model.parent, model.name)
    extra = {"gguf_file": file} if file else {}
    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **extra
        )
        with torch.device("meta"):
            return config, AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{model}: its config.json builds no model: {error}",
            hint="is it a causal language model that this transformers knows?",
        ) from None


def _layers(module: Any) -> Iterator[Any]:
    """What a sharding trainer gathers at a time: each block, and the embedding."""
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.ModuleList):
            yield from part
    yield module.get_input_embeddings()


def _linear(module: Any) -> Iterator[tuple[str, int, int]]:
    head = module.get_output_embeddings()
    for name, part in module.named_modules():
        weight = getattr(part, "weight", None)
        if part is head or weight is None or weight.ndim != 2 or "Embedding" in type(part).__name__:
            continue
        yield name, weight.shape[1], weight.shape[0]
