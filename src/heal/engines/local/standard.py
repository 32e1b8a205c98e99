"""The plain path: any causal language model through transformers' own forward and cache.

Slower than `native`, and the reference it is tested against. A prompt is prefilled once and its
cache copied for every row; rows of one prompt are stepped together, so nothing is padded. A probe
is scored by a pass of its own.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from heal.engines.base import Scored, ScoreRequest
from heal.engines.local.model import VALUES, Memory, Start, assemble, distribution
from heal.engines.local.siblings import Family

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What transformers calls a model's cache; it was renamed in 5.24."""


@dataclass(frozen=True)
class _Cached:
    """A prompt's transformers cache and first logits."""

    cache: Any
    logits: Tensor
    length: int


class _Rows:
    """One prompt's rows in a transformers cache."""

    def __init__(self, start: _Cached, count: int) -> None:
        self.cache = copy.deepcopy(start.cache)
        self.cache.batch_repeat_interleave(count)
        self.rows, self.length = count, start.length

    def keep(self, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        order = np.flatnonzero(alive)
        self.cache.batch_select_indices(torch.from_numpy(order))
        self.rows = len(order)
        return order


class _Bundle:
    """Several prompts' rows, admitted together."""

    def __init__(self, parts: list[_Rows]) -> None:
        self.parts = parts

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def keep(self, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        kept, orders, start = [], [], 0
        for part in self.parts:
            end = start + part.rows
            if alive[start:end].any():
                orders.append(start + part.keep(alive[start:end]))
                kept.append(part)
            start = end
        self.parts = kept
        return np.concatenate(orders)


class StandardModel:
    """A `Model` over a transformers module."""

    shares_prompts = False

    def __init__(self, module: Any, context: int) -> None:
        self.module = module
        self.context = context
        self.vocabulary = int(module.get_output_embeddings().weight.shape[0])
        self.device = module.device
        self.token_bytes = _token_bytes(module)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Sequence[Start]:
        """Each prompt by itself."""
        starts = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=self.device)
            out = self.module(input_ids=ids, use_cache=True, logits_to_keep=1)
            starts.append(_Cached(out[CACHE], out.logits[0, -1].float(), len(prompt)))
        return starts

    @torch.inference_mode()
    def fork(self, starts: Sequence[Start], counts: Sequence[int]) -> Memory:
        """Copies of each prompt's cache."""
        pairs = zip(starts, counts, strict=True)
        return _Bundle([_Rows(start, n) for start, n in pairs if isinstance(start, _Cached)])

    def consolidate(self, memories: Sequence[Memory]) -> list[Memory]:
        """As they are: every prompt is a forward of its own."""
        return list(memories)

    @torch.inference_mode()
    def step(self, memories: Sequence[Memory], tokens: Tensor) -> Tensor:
        """One forward per prompt."""
        parts = [part for m in memories if isinstance(m, _Bundle) for part in m.parts]
        logits = []
        for part, ids in zip(parts, tokens.split([p.rows for p in parts]), strict=True):
            positions = torch.full((part.rows, 1), min(part.length, self.context - 1))
            out = self.module(
                input_ids=ids[:, None],
                position_ids=positions.to(self.device),
                use_cache=True,
                **{CACHE: part.cache},
            )
            part.length += 1
            logits.append(out.logits[:, -1].float())
        return torch.cat(logits)

    @torch.inference_mode()
    def score(self, batch: Sequence[Family]) -> list[Scored]:
        """Each request, and each of its probes, by itself."""
        return [self._score(request) for family in batch for request in family.requests]

    def _score(self, request: ScoreRequest) -> Scored:
        passes = [(request.context_ids, request.target_ids)]
        for p in request.probes:
            before = (*request.context_ids, *request.target_ids[: p.at], *p.ids[: p.score_from])
            passes.append((before, p.ids[p.score_from :]))
        found = [self._values(*each, request.ranks) for each in passes if each[1]]
        values = torch.cat([torch.empty(VALUES, 0), *found], dim=1)
        tokens = sum(len(context) + len(target) for context, target in passes if target)
        return assemble(request, values, tokens)

    def _values(self, context: tuple[int, ...], target: tuple[int, ...], ranks: bool) -> Tensor:
        ids = torch.tensor([[*context, *target]], device=self.device)
        out = self.module(input_ids=ids, use_cache=False, logits_to_keep=len(target) + 1)
        logits = out.logits[0, :-1]
        return distribution(
            logits, torch.tensor(target), lambda part: part.float(), self.vocabulary, ranks
        )


def _token_bytes(module: Any) -> int:
    """Bytes of one token's keys and values, by the usual names of a configuration's fields."""
    config = module.config.get_text_config()
    heads = int(config.num_attention_heads)
    dim = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    kv = int(getattr(config, "num_key_value_heads", None) or heads)
    return 2 * int(config.num_hidden_layers) * kv * int(dim) * int(module.dtype.itemsize)
