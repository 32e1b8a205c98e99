"""The fast path: prefill, decode and tree scoring over our own forward pass.

In: token ids. Out: prefixes, logits, and hidden states of scored positions. Every prompt is
prefilled once; a scoring request's probes are branches of one tree: each attends to the context,
the target tokens before it and itself, at the positions it would have had.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heal.engines.base import Scored, ScoreRequest
from heal.engines.local.attention import attend, attend_causal
from heal.engines.local.body import Body
from heal.engines.local.cohort import Cohort, Prefix, consolidated
from heal.engines.local.matrices import Dense, Int8, Matrix, Watched
from heal.engines.local.model import Memory, Start, assemble, distribution
from heal.engines.local.prefixes import PrefixCache

_WATCHED_TOKENS = 512
"""So many show how large a matrix's inputs get, before it is quantized."""


class NativeModel:
    """A `Model` over a Llama-like decoder's re-laid weights."""

    shares_prompts = True

    def __init__(self, module: Any, context: int, prefix_bytes: int = 0) -> None:
        self.body = Body(module, context)
        self.context = context
        self.vocabulary = self.body.vocabulary
        self.device = self.body.device
        heads = self.body.heads
        elements = 2 * len(self.body.layers) * heads.kv * heads.dim
        self.token_bytes = elements * self.body.dtype.itemsize
        self.prefixes = PrefixCache(prefix_bytes)
        self.prefilled = 0
        """Prompt tokens that went through the model so far."""

    @torch.inference_mode()
    def quantize(self) -> None:
        """Round every matrix to 8-bit integers.

        How large inputs are is seen on random tokens: text of the model's own gave no smaller error
        (LOG.md), and needs a tokenizer.
        """
        dice = np.random.default_rng(0)
        length = min(64, self.context)
        texts = dice.integers(self.vocabulary, size=(_WATCHED_TOKENS // 64, length))
        self.body.change(_watched)
        self._prefilled([tuple(text) for text in texts.tolist()])
        self.body.change(_rounded)
        self.prefixes = PrefixCache(self.prefixes.limit)  # what it held is the old model's

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Sequence[Start]:
        """Run each prompt that is not kept from before, equal ones once."""
        found = {prompt: self.prefixes.find(prompt) for prompt in prompts}
        owed = [prompt for prompt, prefix in found.items() if prefix is None]
        for prompt, prefix in zip(owed, self._prefilled(owed), strict=True):
            found[prompt] = prefix
            self.prefixes.keep(prompt, prefix)
        return [_prefix(found[prompt]) for prompt in prompts]

    def _prefilled(self, prompts: Sequence[tuple[int, ...]]) -> list[Prefix]:
        """One right-padded batch; causal attention never sees the padding."""
        if not prompts:
            return []
        lengths = [len(p) for p in prompts]
        shape = (len(prompts), max(lengths))
        ids, positions = _padded(prompts, shape)
        keeper = _Sequences(self.body, shape, kept=True)
        hidden = self._hidden(ids, positions, keeper)
        last = torch.tensor([row * shape[1] + n - 1 for row, n in enumerate(lengths)])
        logits = self.body.logits(hidden[last.to(self.device)])
        k, v = torch.stack(keeper.k), torch.stack(keeper.v)
        self.prefilled += sum(lengths)
        return [
            Prefix(k[:, row, :, :n], v[:, row, :, :n], logits[row]) for row, n in enumerate(lengths)
        ]

    @torch.inference_mode()
    def fork(self, starts: Sequence[Start], counts: Sequence[int]) -> Memory:
        """Rows that share the prefixes."""
        return Cohort([_prefix(s) for s in starts], counts, self.body.heads)

    @torch.inference_mode()
    def consolidate(self, memories: Sequence[Memory]) -> list[Memory]:
        """Stragglers of several cohorts as one, where that makes a step cheaper."""
        return list(consolidated([_cohort(m) for m in memories]))

    @torch.inference_mode()
    def step(self, memories: Sequence[Memory], tokens: Tensor) -> Tensor:
        """Feed one token per row; logits [R, V] of the next, overwritten by the next step."""
        cohorts = [_cohort(m) for m in memories]
        for cohort in cohorts:
            cohort.reserve()
        positions = torch.cat([c.positions() for c in cohorts]).clamp_(max=self.context - 1)
        sizes = [c.rows for c in cohorts]

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if len(cohorts) == 1:
                return cohorts[0].attend(layer, q, k, v)
            parts = zip(cohorts, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
            return torch.cat([c.attend(layer, *part) for c, *part in parts])

        hidden = self.body.hidden(tokens, positions.to(self.device), attention)
        for cohort in cohorts:
            cohort.length += 1
        return self.body.step_logits(hidden)

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> list[Scored]:
        """One padded pass over all requests, probes included."""
        mains = [(*r.context_ids, *r.target_ids) for r in requests]
        branches = [tuple(i for p in r.probes for i in p.ids) for r in requests]
        main, twigs = max(map(len, mains)), max(map(len, branches))
        ids, positions = _tree_inputs(requests, mains, branches, main, twigs)
        attention = _Sequences(self.body, (len(requests), main), _tree_mask(requests, main, twigs))
        hidden = self._hidden(ids, positions, attention)
        results = []
        for row, request in enumerate(requests):
            where, targets = _scored_positions(request, main)
            mine = hidden[row * (main + twigs) : (row + 1) * (main + twigs)]
            values = distribution(
                mine[where.to(self.device)], targets, self.body.logits, self.vocabulary
            )
            results.append(assemble(request, *values, len(mains[row]) + len(branches[row])))
        return results

    def _hidden(self, ids: Tensor, positions: Tensor, attention: "_Sequences") -> Tensor:
        flat = ids.flatten().to(self.device), positions.flatten().to(self.device)
        return self.body.hidden(*flat, attention)


class _Sequences:
    """Attention of whole sequences, each followed by `mask.shape[2]` branch tokens (or none)."""

    def __init__(
        self, body: Body, shape: tuple[int, int], mask: Tensor | None = None, kept: bool = False
    ) -> None:
        self.scale, self.shape = body.heads.scale, shape
        self.mask = None if mask is None else mask.to(body.device, body.dtype)
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        self.kept = kept

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, main = self.shape
        q = q.unflatten(0, (batch, -1))  # [B, S, G, Hkv, D]
        # Copies always: the next layer writes over what lies here.
        k = _cloned(k.unflatten(0, (batch, -1)).transpose(1, 2))  # [B, Hkv, S, D]
        v = _cloned(v.unflatten(0, (batch, -1)).transpose(1, 2))
        if self.kept:
            self.k.append(k)
            self.v.append(v)
        out = attend_causal(q[:, :main], k[:, :, :main], v[:, :, :main], scale=self.scale)
        if self.mask is not None:
            out = torch.cat([out, self._branches(q[:, main:], k, v)], dim=1)
        return out.flatten(0, 1)

    def _branches(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [
            attend(q[:, :, g].transpose(1, 2), k, v, scale=self.scale, mask=self.mask)[0]
            for g in range(q.shape[2])
        ]
        return torch.stack([part.transpose(1, 2) for part in parts], dim=2)


def _watched(matrix: Matrix) -> Matrix:
    return Watched.of(matrix) if isinstance(matrix, Dense) else matrix


def _rounded(matrix: Matrix) -> Matrix:
    return Int8.of(matrix) if isinstance(matrix, Watched) else matrix


def _cloned(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _padded(rows: Sequence[Sequence[int]], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Ids and positions of right-padded rows."""
    ids = np.zeros(shape, dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    positions = np.broadcast_to(np.arange(shape[1]), shape)
    return torch.from_numpy(ids), torch.from_numpy(positions.copy())


def _tree_inputs(
    requests: Sequence[ScoreRequest],
    mains: Sequence[tuple[int, ...]],
    branches: Sequence[tuple[int, ...]],
    main: int,
    twigs: int,
) -> tuple[Tensor, Tensor]:
    ids, positions = _padded(mains, (len(mains), main))
    twig_ids, twig_positions = _padded(branches, (len(mains), twigs))
    for row, request in enumerate(requests):
        start = 0
        for probe in request.probes:
            first = len(request.context_ids) + probe.at
            end = start + len(probe.ids)
            twig_positions[row, start:end] = torch.arange(first, first + len(probe.ids))
            start = end
    return torch.cat([ids, twig_ids], dim=1), torch.cat([positions, twig_positions], dim=1)


def _tree_mask(requests: Sequence[ScoreRequest], main: int, twigs: int) -> Tensor | None:
    """Additive [B, 1, twigs, main + twigs]: what each branch token may attend to."""
    if not twigs:
        return None
    seen = torch.zeros(len(requests), twigs, main + twigs, dtype=torch.bool)
    seen[:, :, main:] = torch.eye(twigs, dtype=torch.bool)  # padding sees itself, not nothing
    for row, request in enumerate(requests):
        start = 0
        for probe in request.probes:
            end = start + len(probe.ids)
            seen[row, start:end, : len(request.context_ids) + probe.at] = True
            own = torch.ones(end - start, end - start, dtype=torch.bool).tril()
            seen[row, start:end, main + start : main + end] = own
            start = end
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf")).unsqueeze(1)


def _scored_positions(request: ScoreRequest, main: int) -> tuple[Tensor, Tensor]:
    """Where each scored token is predicted from, and the token: targets, then probe by probe."""
    context = len(request.context_ids)
    where = list(range(context - 1, context - 1 + len(request.target_ids)))
    targets = list(request.target_ids)
    start = main
    for probe in request.probes:
        sources = [context + probe.at - 1, *range(start, start + len(probe.ids) - 1)]
        where += sources[probe.score_from :]
        targets += probe.ids[probe.score_from :]
        start += len(probe.ids)
    return torch.tensor(where, dtype=torch.long), torch.tensor(targets, dtype=torch.long)


def _prefix(start: Start | None) -> Prefix:
    assert isinstance(start, Prefix)
    return start


def _cohort(memory: Memory) -> Cohort:
    assert isinstance(memory, Cohort)
    return memory
