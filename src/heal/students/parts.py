"""A batch's parts: what goes through the student at a time, without changing the step.

In: a padded batch. Out: each process's parts of it, as rows or end to end.
"""

from collections.abc import Sequence
from typing import Any

import torch

from heal.students.rendering import IGNORED

__all__ = ["end_to_end", "following", "shares"]

Rows = dict[str, torch.Tensor]
"""`input_ids`, `labels` and `attention_mask`, [rows, tokens], padded behind."""


def shares(batch: Rows, limit: int, world: int, *, packed: bool = False) -> list[list[Rows]]:
    """A batch's parts for each of `world` processes, equally many for all.

    Each row stands in one part once. No part holds more than `limit` tokens, its padding counted
    unless it will be packed, but a single row may. A process without a row for its turn goes
    through the shortest one without loss: all must take part when gradients are exchanged.
    """
    lengths = batch["attention_mask"].sum(1)
    order = lengths.argsort(descending=True, stable=True).tolist()
    dealt = [_groups(order[rank::world], lengths.tolist(), limit, packed) for rank in range(world)]
    turns = max(map(len, dealt))
    idle = {k: v[order[-1:], : lengths[order[-1]]] for k, v in batch.items()}
    idle["labels"] = torch.full_like(idle["labels"], IGNORED)
    return [
        [{k: v[rows, : lengths[rows[0]]] for k, v in batch.items()} for rows in groups]
        + [idle] * (turns - len(groups))
        for groups in dealt
    ]


def _groups(
    order: Sequence[int], lengths: Sequence[int], limit: int, packed: bool
) -> list[list[int]]:
    """Rows, longest first, so that no group but a single row's exceeds the limit."""
    groups: list[list[int]] = []
    held = 0
    for row in order:
        longest = lengths[groups[-1][0]] if groups else 0
        added = lengths[row] if packed else longest
        if not groups or held + added > limit:
            groups.append([])
            held, added = 0, lengths[row]
        groups[-1].append(row)
        held += added
    return groups


def end_to_end(rows: Rows) -> dict[str, Any]:
    """The same rows as one, [1, tokens], with positions that begin anew in each.

    The first label of every row must be ignored, or the row before would be taught it.
    """
    kept = rows["attention_mask"].bool()
    positions = rows["attention_mask"].cumsum(1) - 1
    return {
        "input_ids": rows["input_ids"][kept][None],
        "labels": rows["labels"][kept][None],
        "position_ids": positions[kept][None],
        "row_lengths": kept.sum(1).tolist(),
    }


def following(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places after which any row is taught a token, [K], and those tokens, [rows, K]."""
    wanted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    places = (wanted != IGNORED).any(0).nonzero().squeeze(1)
    return places, wanted[:, places]
