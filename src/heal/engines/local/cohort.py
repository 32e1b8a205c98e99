"""Rows that were admitted together, and their keys and values.

All rows of a cohort have written equally many tokens, so their own keys and values need no padding
and no mask, and a new column is one strided copy. What is left of several cohorts is put together
once that is cheaper than a round of attention for each; shorter rows are then padded on the left.
Each prompt's keys and values are stored once for
all its rows, which attend to them as one block of queries; the two parts are merged by log-sum-exp.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from heal.engines.local.attention import attend, merge, padding_mask
from heal.engines.local.body import Heads

_FIRST_COLUMNS = 64
_READ_FOR_A_ROUND = 1 << 20
"""Bytes of keys and values of one layer that are read in the time a further cohort costs there:
some 25 operations, about 0.1 ms."""
_COPIED_FOR_A_ROUND = 24 << 20
"""Bytes that are copied in the time a further cohort costs in about 64 steps, per layer."""
_SLACK = 0.75
"""A slab is cut down once its rows fill no more of it."""


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

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.k.nbytes + self.v.nbytes + self.logits.nbytes

    def copied(self) -> "Prefix":
        """The same in memory of its own."""
        return Prefix(self.k.clone(), self.v.clone(), self.logits.clone())


class Cohort:
    """KV of a set of rows; row r continues prompt `group_of[r]`."""

    def __init__(self, prefixes: Sequence[Prefix], counts: Sequence[int], heads: Heads) -> None:
        self.heads = heads
        self.prompt_k, self.prompt_v = _stacked(prefixes, heads)
        self.prompt_lengths = torch.tensor([p.length for p in prefixes])
        self.group_of: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)
        self.length = 0
        """Columns in use."""
        self.padding: NDArray[np.int64] = np.zeros(len(self.group_of), dtype=np.int64)
        """Columns before each row's first own token."""
        layers, _, kv, _, dim = self.prompt_k.shape
        shape = (layers, len(self.group_of), kv, _FIRST_COLUMNS, dim)
        self.k, self.v = self.prompt_k.new_empty(shape), self.prompt_k.new_empty(shape)
        if self.rows == 1:
            self._take_in_prompt()
        self._arrange()

    @property
    def rows(self) -> int:
        """Rows still carried, finished ones included until `keep` drops them."""
        return len(self.group_of)

    def positions(self) -> Tensor:
        """Position of each row's next token."""
        return self.prompt_lengths[self._group_ids] + (self.length - torch.from_numpy(self.padding))

    def reserve(self) -> None:
        """Make room for one more column."""
        if self.length < self.k.shape[3]:
            return
        self.k, self.v = self._grown(self.k), self._grown(self.v)
        self._own_mask = self._hidden_padding()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One token per row: q [R, G, Hkv, D], k and v [R, Hkv, D] → like q."""
        rows, end, scale = self.rows, self.length + 1, self.heads.scale
        self.k[layer, :rows, :, self.length] = k
        self.v[layer, :rows, :, self.length] = v
        own_k, own_v = self.k[layer, :rows, :, :end], self.v[layer, :rows, :, :end]
        mask = None if self._own_mask is None else self._own_mask[..., :end]
        own, own_lse = attend(q.transpose(1, 2), own_k, own_v, scale=scale, mask=mask)
        if not self.prompt_k.shape[3]:
            return own.transpose(1, 2)
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
        if len(order) <= _SLACK * self.k.shape[1]:
            self.k, self.v = self.k[:, : len(order)].clone(), self.v[:, : len(order)].clone()
        self.group_of, self.padding = self.group_of[order], self.padding[order]
        used = np.zeros(self.prompt_k.shape[1], dtype=np.bool_)
        used[self.group_of] = True
        if not used.all():
            self._drop_prompts(used)
        self._arrange()
        return order

    def joined(self, other: "Cohort") -> "Cohort":
        """Both cohorts' rows as one, in this order; the parts are not to be used any more."""
        whole = copy.copy(self)
        whole.length = max(self.length, other.length)
        whole.prompt_k = _side_by_side(self.prompt_k, other.prompt_k)
        whole.prompt_v = _side_by_side(self.prompt_v, other.prompt_v)
        whole.prompt_lengths = torch.cat([self.prompt_lengths, other.prompt_lengths])
        groups = self.prompt_k.shape[1]
        whole.group_of = np.concatenate([self.group_of, other.group_of + groups])
        whole.padding = np.concatenate([c.padding + whole.length - c.length for c in (self, other)])
        columns = max(self.k.shape[3], other.k.shape[3])
        whole.k = _ends_aligned(self.k, other.k, (self, other), columns)
        whole.v = _ends_aligned(self.v, other.v, (self, other), columns)
        whole._arrange()
        return whole

    def _take_in_prompt(self) -> None:
        """A row alone shares its prompt with nobody: it opens the row's own columns.

        One round of attention instead of two that are merged.
        """
        self.length = self.prompt_k.shape[3]
        self.k = F.pad(self.prompt_k, (0, 0, 0, _FIRST_COLUMNS))
        self.v = F.pad(self.prompt_v, (0, 0, 0, _FIRST_COLUMNS))
        self.prompt_k, self.prompt_v = self.prompt_k[:, :, :, :0], self.prompt_v[:, :, :, :0]
        self.prompt_lengths = torch.zeros_like(self.prompt_lengths)

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
        self._own_mask = self._hidden_padding()

    def _hidden_padding(self) -> Tensor | None:
        """Additive mask [R, 1, 1, capacity] over the columns before each row's first; or None."""
        if not self.padding.any():
            return None
        padding = torch.from_numpy(self.padding).to(self.k.device)
        hidden = torch.arange(self.k.shape[3], device=self.k.device)[None] < padding[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.k.dtype, device=self.k.device)
        return mask.masked_fill_(hidden, float("-inf"))[:, None, None]


def consolidated(cohorts: Sequence[Cohort]) -> list[Cohort]:
    """The same rows in the same order, neighbours joined where a step gets cheaper by it."""
    found: list[Cohort] = []
    for cohort in cohorts:
        if found and _pays(found[-1], cohort):
            found[-1] = found[-1].joined(cohort)
        else:
            found.append(cohort)
    return found


def _pays(a: Cohort, b: Cohort) -> bool:
    width = max(a.prompt_k.shape[3], b.prompt_k.shape[3])
    if width and not (a.prompt_k.shape[3] and b.prompt_k.shape[3]):
        return False  # a prompt of no tokens has no softmax to merge
    length = max(a.length, b.length)
    padded = sum(
        c.rows * (length - c.length) + c.prompt_k.shape[1] * (width - c.prompt_k.shape[3])
        for c in (a, b)
    )
    token = 2 * a.heads.kv * a.heads.dim * a.k.element_size()
    held = sum(c.rows * c.length + c.prompt_k.shape[1] * c.prompt_k.shape[3] for c in (a, b))
    return padded * token <= _READ_FOR_A_ROUND and held * token <= _COPIED_FOR_A_ROUND


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


def _side_by_side(a: Tensor, b: Tensor) -> Tensor:
    """Prompts of both, the narrower ones padded with zeros."""
    width = max(a.shape[3], b.shape[3])
    return torch.cat([F.pad(x, (0, 0, 0, width - x.shape[3])) for x in (a, b)], dim=1)


def _ends_aligned(a: Tensor, b: Tensor, owners: tuple[Cohort, Cohort], columns: int) -> Tensor:
    """Slabs of both, so that the last column in use is the same; zeros before the shorter."""
    length = max(c.length for c in owners)
    layers, _, kv, _, dim = a.shape
    slab = a.new_empty((layers, sum(c.rows for c in owners), kv, columns, dim))
    row = 0
    for part, c in zip((a, b), owners, strict=True):
        mine = slab[:, row : row + c.rows]
        mine[:, :, :, : length - c.length] = 0  # masked, and 0 · NaN is NaN
        mine[:, :, :, length - c.length : length] = part[:, : c.rows, :, : c.length]
        row += c.rows
    return slab
