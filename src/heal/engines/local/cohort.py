"""Rows that were admitted together, and their keys and values.

All rows of a cohort have written equally many tokens, so their own keys and values need no padding
and no mask, and a new column is one strided copy. Each prompt's keys and values are stored once for
all its rows, which attend to them as one block of queries; the two parts are merged by log-sum-exp.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heal.engines.local.attention import attend, merge, padding_mask
from heal.engines.local.body import Heads

_FIRST_COLUMNS = 64


@dataclass(frozen=True)
class Prefix:
    """A prompt that went through the model once: k and v [layers, Hkv, P, D], logits [V]."""

    k: Tensor
    v: Tensor
    logits: Tensor

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.k.shape[2]


class Cohort:
    """KV of a set of rows; row r continues prompt `group_of[r]`."""

    def __init__(self, prefixes: Sequence[Prefix], counts: Sequence[int], heads: Heads) -> None:
        self.heads = heads
        self.prompt_k, self.prompt_v = _stacked(prefixes, heads)
        self.prompt_lengths = torch.tensor([p.length for p in prefixes])
        self.group_of: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)
        self.length = 0
        layers, _, kv, _, dim = self.prompt_k.shape
        shape = (layers, len(self.group_of), kv, _FIRST_COLUMNS, dim)
        self.k, self.v = self.prompt_k.new_empty(shape), self.prompt_k.new_empty(shape)
        self._arrange()

    @property
    def rows(self) -> int:
        """Rows still carried, finished ones included until `keep` drops them."""
        return len(self.group_of)

    def positions(self) -> Tensor:
        """Position of each row's next token."""
        return self.prompt_lengths[self._group_ids] + self.length

    def reserve(self) -> None:
        """Make room for one more column."""
        if self.length < self.k.shape[3]:
            return
        self.k, self.v = self._grown(self.k), self._grown(self.v)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One token per row: q [R, G, Hkv, D], k and v [R, Hkv, D] → like q."""
        rows, end, scale = self.rows, self.length + 1, self.heads.scale
        self.k[layer, :rows, :, self.length] = k
        self.v[layer, :rows, :, self.length] = v
        own_k, own_v = self.k[layer, :rows, :, :end], self.v[layer, :rows, :, :end]
        own, own_lse = attend(q.transpose(1, 2), own_k, own_v, scale=scale)
        asked = q if self._aligned else q.index_select(0, self._slots)
        groups = self.prompt_k.shape[1]
        asked = asked.reshape(groups, -1, *q.shape[2:]).transpose(1, 2)
        prompt_k, prompt_v = self.prompt_k[layer], self.prompt_v[layer]
        shared, lse = attend(asked, prompt_k, prompt_v, scale=scale, mask=self._mask)
        shared = shared.transpose(1, 2).reshape(-1, *q.shape[1:])
        lse = lse.transpose(1, 2).reshape(-1, *q.shape[1:3])
        if not self._aligned:
            shared = shared.index_select(0, self._places)
            lse = lse.index_select(0, self._places)
        return merge(own.transpose(1, 2), own_lse.transpose(1, 2), shared, lse)

    def keep(self, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Drop the other rows. Returns the old index of each row that stays, in its new order."""
        order = _filled_holes(alive)
        self._move(self.k, self.v, order)
        self.group_of = self.group_of[order]
        used = np.zeros(self.prompt_k.shape[1], dtype=np.bool_)
        used[self.group_of] = True
        if not used.all():
            self._drop_prompts(used)
        self._arrange()
        return order

    def _drop_prompts(self, used: NDArray[np.bool_]) -> None:
        order = _filled_holes(used)
        self._move(self.prompt_k, self.prompt_v, order)
        self.prompt_k = self.prompt_k[:, : len(order)]
        self.prompt_v = self.prompt_v[:, : len(order)]
        self.prompt_lengths = self.prompt_lengths[torch.from_numpy(order)]
        renumbered = np.zeros(len(used), dtype=np.int64)
        renumbered[order] = np.arange(len(order))
        self.group_of = renumbered[self.group_of]

    def _move(self, k: Tensor, v: Tensor, order: NDArray[np.int64]) -> None:
        # Only rows from the tail move, into the holes: far less than copying all that stay.
        for hole in np.flatnonzero(order != np.arange(len(order))).tolist():
            k[:, hole].copy_(k[:, int(order[hole])])
            v[:, hole].copy_(v[:, int(order[hole])])

    def _grown(self, slab: Tensor) -> Tensor:
        layers, _, kv, columns, dim = slab.shape
        grown = slab.new_empty((layers, self.rows, kv, 2 * columns, dim))
        grown[:, :, :, :columns] = slab[:, : self.rows]
        return grown

    def _arrange(self) -> None:
        """Which rows ask each prompt, padded to equally many per prompt."""
        groups = self.prompt_k.shape[1]
        counts = np.bincount(self.group_of, minlength=groups)
        slots = np.zeros((groups, int(counts.max(initial=1))), dtype=np.int64)
        places = np.empty(self.rows, dtype=np.int64)
        for group in range(groups):
            rows = np.flatnonzero(self.group_of == group)
            slots[group, : len(rows)] = rows
            places[rows] = group * slots.shape[1] + np.arange(len(rows))
        device = self.prompt_k.device
        self._aligned = np.array_equal(slots.ravel(), np.arange(self.rows))
        self._slots = torch.from_numpy(slots.ravel()).to(device)
        self._places = torch.from_numpy(places).to(device)
        self._group_ids = torch.from_numpy(self.group_of)
        width, dtype = self.prompt_k.shape[3], self.prompt_k.dtype
        self._mask = padding_mask(self.prompt_lengths.to(device), width, dtype)


def _filled_holes(alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Old indices in new order: rows within the kept count stay, the tail fills the holes."""
    count = int(alive.sum())
    order = np.arange(count)
    order[~alive[:count]] = count + np.flatnonzero(alive[count:])
    return order


def _stacked(prefixes: Sequence[Prefix], heads: Heads) -> tuple[Tensor, Tensor]:
    """Prompts side by side [layers, groups, Hkv, P, D], shorter ones padded with zeros."""
    first = prefixes[0].k
    width = max(p.length for p in prefixes)
    shape = (first.shape[0], len(prefixes), heads.kv, width, heads.dim)
    k, v = first.new_zeros(shape), first.new_zeros(shape)
    for index, prefix in enumerate(prefixes):
        k[:, index, :, : prefix.length] = prefix.k
        v[:, index, :, : prefix.length] = prefix.v
    return k, v
