"""What the decode loop and the scorer need from a model, and exact values from its logits.

Two models exist: `native` (our forward pass, Llama-like decoders) and `standard` (any causal
language model through transformers' own forward). Values are natural logarithms at temperature 1
over the full vocabulary, in float32.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heal.engines.base import Scored, ScoreRequest
from heal.engines.local.siblings import Family
from heal.records import FloatArray

_CHUNK_ELEMENTS = 1 << 23
"""Logits held at once while scoring (32 MB of float32)."""
VALUES = 3
"""What is known of a scored token: its log-prob, its distribution's entropy, its rank."""


class Start(Protocol):
    """A prompt that went through the model once."""

    @property
    def logits(self) -> Tensor:
        """float32 [V]: what may come first."""
        ...


class Memory(Protocol):
    """The keys and values of some rows."""

    @property
    def rows(self) -> int:
        """Rows carried."""
        ...

    def keep(self, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Drop the other rows; old indices of those that stay, in their new order."""
        ...


class Model(Protocol):
    """Prefill, decode and score by token ids."""

    context: int
    vocabulary: int
    device: torch.device
    token_bytes: int
    """Keys and values of one token."""
    shares_prompts: bool
    """Whether the rows of a prompt hold its keys and values once."""

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Sequence[Start]:
        """Run each prompt once."""
        ...

    def fork(self, starts: Sequence[Start], counts: Sequence[int]) -> Memory:
        """`counts[i]` rows that continue `starts[i]`, in order."""
        ...

    def consolidate(self, memories: Sequence[Memory]) -> list[Memory]:
        """The same rows in the same order, in memories that are cheaper to step."""
        ...

    def step(self, memories: Sequence[Memory], tokens: Tensor) -> Tensor:
        """Feed one token per row of all memories; float32 [R, V], valid until the next step."""
        ...

    def score(self, batch: Sequence[Family]) -> list[Scored]:
        """Exact log-probs and entropies of every request."""
        ...


def distribution(
    hidden: Tensor,
    targets: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    vocabulary: int,
    ranks: bool = False,
) -> Tensor:
    """Log-prob and rank of each target and the entropy of its distribution: float32[VALUES, T].

    Ranks, exact below 2²⁴, are zeros where they are not asked for. A chunk of rows at a time.
    """
    logprob, entropy, rank = torch.zeros(VALUES, len(targets))
    rows = max(1, _CHUNK_ELEMENTS // vocabulary)
    for start in range(0, len(targets), rows):
        end = min(start + rows, len(targets))
        logits = logits_of(hidden[start:end])
        chosen = targets[start:end].to(logits.device)
        top = logits.amax(-1, keepdim=True)
        centred = logits - top
        own = centred.gather(1, chosen[:, None])
        if ranks:
            rank[start:end] = 1 + (centred > own).sum(-1)
        weights = torch.exp(centred)
        total = weights.sum(-1)
        logprob[start:end] = own.squeeze(1) - total.log()
        # 0 · −inf of an impossible token is 0 in an entropy.
        spread = (weights * centred.clamp_min_(-1e30)).sum(-1) / total
        entropy[start:end] = total.log() - spread
    return torch.stack([logprob, entropy, rank])


def assemble(request: ScoreRequest, values: Tensor, tokens: int) -> Scored:
    """Cut `distribution`'s values, targets first and then probe by probe, into a result."""
    logprob, entropy, rank = values
    split = len(request.target_ids)
    probes: list[FloatArray] = []
    start = split
    for probe in request.probes:
        end = start + len(probe.ids) - probe.score_from
        probes.append(logprob[start:end].numpy().copy())
        start = end
    entropies = entropy[:split].numpy().copy()
    if not bool(torch.isfinite(entropy).all()):
        raise FloatingPointError("the model returned non-finite logits")
    return Scored(
        request.id,
        logprob[:split].numpy().copy(),
        entropies,
        entropies,
        tuple(probes),
        tokens,
        rank=rank[:split].numpy().astype(np.int32) if request.ranks else None,
    )
