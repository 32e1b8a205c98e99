"""A scoring batch as one pass: trunks that siblings share, their own tokens, probes as branches.

Each request's own tokens attend to its trunk and, causally, to themselves; a probe attends to the
trunk, to the tokens before it and to itself, at the positions it would have had. Here is where
everything lies: ids, positions, masks, and which hidden state predicts which token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heal.engines.base import ScoreRequest
from heal.engines.local.attention import attend, attend_causal, merge
from heal.engines.local.body import Body
from heal.engines.local.siblings import ids_of

BLOCK = 64
"""Branch tokens per block."""


@dataclass(frozen=True)
class Row:
    """A request in a batch, without the first `shared` of its ids."""

    request: ScoreRequest
    shared: int

    @property
    def ids(self) -> tuple[int, ...]:
        """Its own part of context and target."""
        return ids_of(self.request)[self.shared :]

    @property
    def twigs(self) -> tuple[int, ...]:
        """All its probes' ids."""
        return tuple(i for probe in self.request.probes for i in probe.ids)

    def targets(self) -> tuple[list[int], list[int]]:
        """Own positions that predict, and what: target tokens, not those of the trunk.

        Position −1 is the trunk's last.
        """
        context = len(self.request.context_ids)
        first = max(context, self.shared)
        where = list(range(first - 1 - self.shared, len(self.ids) - 1))
        return where, list(self.request.target_ids[first - context :])

    def probes(self, main: int) -> tuple[list[int], list[int]]:
        """The same of its probes, one after the other; branches begin at column `main`."""
        where, targets, start = list[int](), list[int](), main
        for probe in self.request.probes:
            before = len(self.request.context_ids) + probe.at - 1 - self.shared
            sources = [before, *range(start, start + len(probe.ids) - 1)]
            where += sources[probe.score_from :]
            targets += probe.ids[probe.score_from :]
            start += len(probe.ids)
        return where, targets


@dataclass(frozen=True)
class Trunk:
    """What some consecutive rows share: k and v [layers, Hkv, P, D], hidden states [P, d]."""

    rows: slice
    k: Tensor
    v: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Block:
    """Branch tokens in a row, and the columns that any of them sees."""

    tokens: slice
    columns: Tensor
    mask: Tensor
    """Additive [B, 1, tokens, columns]."""


def branch_blocks(mask: Tensor) -> list[Block]:
    """Cut `tree_mask` so that early probes are not multiplied with what comes after them."""
    blocks = []
    for start in range(0, mask.shape[2], BLOCK):
        part = mask[:, :, start : start + BLOCK]
        columns = (part == 0).flatten(0, 2).any(dim=0).nonzero().squeeze(1)
        tokens = slice(start, start + part.shape[2])
        blocks.append(Block(tokens, columns, part[..., columns].contiguous()))
    return blocks


class Sequences:
    """Attention of whole sequences, each followed by `mask.shape[2]` branch tokens (or none)."""

    def __init__(
        self,
        body: Body,
        shape: tuple[int, int],
        mask: Tensor | None = None,
        trunks: Sequence[Trunk] = (),
        kept: bool = False,
    ) -> None:
        self.scale, self.shape, self.trunks = body.heads.scale, shape, trunks
        self.blocks = [] if mask is None else branch_blocks(mask.to(body.device, body.dtype))
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        self.kept = kept

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `body.Attention`."""
        batch, main = self.shape
        q = q.unflatten(0, (batch, -1))  # [B, S, G, Hkv, D]
        # Copies always: the next layer writes over what lies here.
        k = _cloned(k.unflatten(0, (batch, -1)).transpose(1, 2))  # [B, Hkv, S, D]
        v = _cloned(v.unflatten(0, (batch, -1)).transpose(1, 2))
        if self.kept:
            self.k.append(k)
            self.v.append(v)
        out, lse = attend_causal(q[:, :main], k[:, :, :main], v[:, :, :main], scale=self.scale)
        if self.blocks:
            parts = [self._branches(block, q[:, main:], k, v) for block in self.blocks]
            out = torch.cat([out, *(branches for branches, _ in parts)], dim=1)
            lse = torch.cat([lse, *(branches for _, branches in parts)], dim=1)
        for trunk in self.trunks:
            rows = trunk.rows
            above = self._above(q[rows], trunk.k[layer], trunk.v[layer])
            out[rows] = merge(out[rows], lse[rows], *above)
        return out.flatten(0, 1)

    def _branches(self, block: "Block", q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        q = q[:, block.tokens]
        k, v = k.index_select(2, block.columns), v.index_select(2, block.columns)
        parts = [
            attend(q[:, :, g].transpose(1, 2), k, v, scale=self.scale, mask=block.mask)
            for g in range(q.shape[2])
        ]
        outs, lses = zip(*parts, strict=True)
        return (
            torch.stack([out.transpose(1, 2) for out in outs], dim=2),
            torch.stack([lse.transpose(1, 2) for lse in lses], dim=2),
        )

    def _above(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All rows' queries [n, S, G, Hkv, D] on a trunk, as one block."""
        shape = q.shape[:3]
        block = q.flatten(0, 2).transpose(0, 1)[None]  # [1, Hkv, n·S·G, D]
        out, lse = attend(block, k[None], v[None], scale=self.scale)
        return (
            out[0].transpose(0, 1).unflatten(0, shape),
            lse[0].transpose(0, 1).unflatten(0, shape),
        )


def padded(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    """Ids [len(rows), width], zeros on the right."""
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return torch.from_numpy(ids)


def tree_inputs(rows: Sequence[Row], main: int, twigs: int) -> tuple[Tensor, Tensor]:
    """Ids and positions [B, main + twigs]; a padded token's position means nothing."""
    positions = np.zeros((len(rows), main + twigs), dtype=np.int64)
    for index, row in enumerate(rows):
        positions[index, : len(row.ids)] = np.arange(row.shared, row.shared + len(row.ids))
        start = main
        for probe in row.request.probes:
            first, end = len(row.request.context_ids) + probe.at, start + len(probe.ids)
            positions[index, start:end] = np.arange(first, first + len(probe.ids))
            start = end
    ids = [padded([row.ids for row in rows], main), padded([row.twigs for row in rows], twigs)]
    return torch.cat(ids, dim=1), torch.from_numpy(positions)


def tree_mask(rows: Sequence[Row], main: int, twigs: int) -> Tensor | None:
    """Additive [B, 1, twigs, main + twigs]: what of its row each branch token may attend to."""
    if not twigs:
        return None
    seen = torch.zeros(len(rows), twigs, main + twigs, dtype=torch.bool)
    seen[:, :, main:] = torch.eye(twigs, dtype=torch.bool)  # padding sees itself, not nothing
    for index, row in enumerate(rows):
        start = 0
        for probe in row.request.probes:
            end, before = start + len(probe.ids), len(row.request.context_ids) + probe.at
            seen[index, start:end, : before - row.shared] = True
            own = torch.ones(end - start, end - start, dtype=torch.bool).tril()
            seen[index, start:end, main + start : main + end] = own
            start = end
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf")).unsqueeze(1)


def _cloned(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)
