"""The fast path: prefill, decode and tree scoring over our own forward pass.

In: token ids. Out: prefixes, logits, and the values of scored positions. Every prompt is prefilled
once; what scoring requests open with alike goes through the model once, and their probes are
branches of one tree (`trees`).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heal.engines.base import Scored
from heal.engines.local.body import Body
from heal.engines.local.cohort import Cohort, Prefix, consolidated
from heal.engines.local.matrices import Dense, Int8, Matrix, Packed, Watched, packing_pays
from heal.engines.local.model import VALUES, Memory, Start, assemble, distribution
from heal.engines.local.prefixes import PrefixCache
from heal.engines.local.siblings import Family, tokens_of
from heal.engines.local.trees import Row, Sequences, Trunk, padded, tree_inputs, tree_mask

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
    def pack(self, library: str, rows: int) -> None:
        """Lay the matrices out for a library; "auto" takes what multiplies so many rows faster."""
        largest = self.body.layers[0].gate_up
        pays = library == "auto" and isinstance(largest, Dense) and packing_pays(largest, rows)
        if library == "onednn" or pays:
            self.body.change(_packed)

    @torch.inference_mode()
    def quantize(self) -> None:
        """Round every matrix to 8-bit integers.

        How large inputs are is seen on random tokens: text of the model's own gave no smaller error
        (LOG.md), and needs a tokenizer.
        """
        rng = np.random.default_rng(0)
        length = min(64, self.context)
        texts = rng.integers(self.vocabulary, size=(_WATCHED_TOKENS // 64, length))
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
        width = max(lengths)
        ids = padded(prompts, width)
        keeper = Sequences(self.body, (len(prompts), width), kept=True)
        hidden = self._hidden(ids, _positions(ids), keeper)
        last = torch.tensor([row * width + n - 1 for row, n in enumerate(lengths)])
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
    def score(self, batch: Sequence[Family]) -> list[Scored]:
        """One pass over what siblings share, and one padded pass over all the rest."""
        rows = [Row(request, family.shared) for family in batch for request in family.requests]
        main, twigs = max(len(row.ids) for row in rows), max(len(row.twigs) for row in rows)
        trunks, mask = self._trunks(batch), tree_mask(rows, main, twigs)
        attention = Sequences(self.body, (len(rows), main), mask, [t for t in trunks if t])
        hidden = self._hidden(*tree_inputs(rows, main, twigs), attention)
        waiting = iter(zip(rows, hidden.unflatten(0, (len(rows), main + twigs)), strict=True))
        results = []
        for family, trunk in zip(batch, trunks, strict=True):
            shared = None if trunk is None else self._shared_values(family, trunk)
            for row, own in islice(waiting, len(family.requests)):
                results.append(self._scored(row, own, main, trunk, shared))
        return results

    def _trunks(self, batch: Sequence[Family]) -> list[Trunk | None]:
        """What each family shares, all in one padded pass."""
        shared = [family for family in batch if family.shared]
        if not shared:
            return [None] * len(batch)
        width = max(family.shared for family in shared)
        keeper = Sequences(self.body, (len(shared), width), kept=True)
        ids = padded([family.trunk for family in shared], width)
        hidden = self._hidden(ids, _positions(ids), keeper).unflatten(0, (len(shared), width))
        k, v = torch.stack(keeper.k), torch.stack(keeper.v)
        trunks, first, number = list[Trunk | None](), 0, 0
        for family in batch:
            rows = slice(first, first := first + len(family.requests))
            if not family.shared:
                trunks.append(None)
                continue
            n = family.shared
            trunks.append(Trunk(rows, k[:, number, :, :n], v[:, number, :, :n], hidden[number, :n]))
            number += 1
        return trunks

    def _shared_values(self, family: Family, trunk: Trunk) -> Tensor:
        """Values of the trunk's tokens but the first, [VALUES, shared − 1]."""
        start = min(len(request.context_ids) for request in family.requests)
        values = torch.zeros(VALUES, family.shared - 1)
        if start < family.shared:
            targets = torch.tensor(family.trunk[start:])
            ranks = any(request.ranks for request in family.requests)
            values[:, start - 1 :] = distribution(
                trunk.hidden[start - 1 : -1], targets, self.body.logits, self.vocabulary, ranks
            )
        return values

    def _scored(
        self,
        row: Row,
        hidden: Tensor,
        main: int,
        trunk: Trunk | None,
        shared: Tensor | None,
    ) -> Scored:
        (where, targets), (branch_where, branch_targets) = row.targets(), row.probes(main)
        sources = torch.tensor(where + branch_where, dtype=torch.long, device=self.device)
        states = hidden[sources]
        if trunk is not None:
            states[sources < 0] = trunk.hidden[-1]
        wanted = torch.tensor(targets + branch_targets, dtype=torch.long)
        request = row.request
        values = distribution(states, wanted, self.body.logits, self.vocabulary, request.ranks)
        if shared is not None:
            values = torch.cat([shared[:, len(request.context_ids) - 1 :], values], dim=1)
        return assemble(request, values, tokens_of(request))

    def _hidden(self, ids: Tensor, positions: Tensor, attention: Sequences) -> Tensor:
        flat = ids.flatten().to(self.device), positions.flatten().to(self.device)
        return self.body.hidden(*flat, attention)


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1]).expand(ids.shape)


def _packed(matrix: Matrix) -> Matrix:
    return Packed.of(matrix) if isinstance(matrix, Dense) else matrix


def _watched(matrix: Matrix) -> Matrix:
    return Watched.of(matrix) if isinstance(matrix, Dense) else matrix


def _rounded(matrix: Matrix) -> Matrix:
    return Int8.of(matrix) if isinstance(matrix, Watched) else matrix


def _prefix(start: Start | None) -> Prefix:
    assert isinstance(start, Prefix)
    return start


def _cohort(memory: Memory) -> Cohort:
    assert isinstance(memory, Cohort)
    return memory
