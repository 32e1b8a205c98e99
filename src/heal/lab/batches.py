"""Batches: lessons as padded tensors, with probes as branches of one tree.

In: lessons. Out: `Batch`es of about `batch_tokens` tokens, bucketed by length. A probe's tokens
stand after the trace in memory, but see only their own prefix and themselves, at the position they
would have had there; so one forward pass asks for the answer after several steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heal.lab import dialogue

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from heal.lab.lesson import Lesson

NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class Row:
    """One encoded lesson; all lists have one entry per token."""

    ids: list[int]
    learn: list[bool]
    positions: list[int]
    branch: list[int]
    """0 for the trace itself, then 1.. for each probe."""
    sees: list[int]
    """How many tokens of the trace this token may attend to."""


@dataclass(frozen=True)
class Batch:
    """ids, positions, labels: int64[B, L], labels -100 where not learnt; mask: bool[B, 1, L, L]."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    tokens: int


def encode(lessons: Sequence[Lesson], tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """Tokenise every segment on its own; steps join without merging (see `tokenizer`)."""
    texts = [text for lesson in lessons for text, _ in lesson.segments]
    texts += [_probe_text(lesson) for lesson in lessons]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    lead = len(tokenizer(dialogue.PROBE, add_special_tokens=False)["input_ids"])
    probes, pieces = iter(ids[len(texts) - len(lessons) :]), iter(ids)
    return [_row(lesson, pieces, next(probes), lead) for lesson in lessons]


def batches(
    rows: Sequence[Row],
    batch_tokens: int,
    pad: int,
    rng: random.Random,
) -> Iterator[Batch]:
    """Rows of like length together, in random order of batches."""
    ordered = sorted(rows, key=lambda row: len(row.ids) + rng.random())
    groups: list[list[Row]] = [[]]
    for row in ordered:
        if len(row.ids) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    for group in filter(None, groups):
        yield _collate(group, pad)


def _probe_text(lesson: Lesson) -> str:
    return f"{dialogue.PROBE}{lesson.answer}{dialogue.PROBE_CLOSE}"


def _row(lesson: Lesson, pieces: Iterator[list[int]], probe: list[int], lead: int) -> Row:
    row = Row([], [], [], [], [])
    ends = []
    for _, learn in lesson.segments:
        piece = next(pieces)
        start = len(row.ids)
        _extend(row, piece, [learn] * len(piece), start, 0, NO_LIMIT)
        ends.append(len(row.ids))
    answer = [False] * lead + [True] * (len(probe) - lead)
    for number, point in enumerate(lesson.probed, start=1):
        _extend(row, probe, answer, ends[point], number, ends[point])
    return row


def _extend(
    row: Row, ids: list[int], learn: list[bool], position: int, branch: int, sees: int
) -> None:
    row.ids.extend(ids)
    row.learn.extend(learn)
    row.positions.extend(range(position, position + len(ids)))
    row.branch.extend([branch] * len(ids))
    row.sees.extend([sees] * len(ids))


def _collate(rows: Sequence[Row], pad: int) -> Batch:
    import torch

    width = max(len(row.ids) for row in rows)

    def stack(lists: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*items, *[fill] * (width - len(items))] for items in lists])

    ids = stack([row.ids for row in rows], pad)
    learn = stack([row.learn for row in rows], 0).bool()
    branch = stack([row.branch for row in rows], -1)
    labels = torch.full_like(ids, -100)
    # A branch's first token never follows its neighbour in memory, and is never learnt.
    labels[:, :-1] = torch.where(learn[:, 1:], ids[:, 1:], labels[:, :-1])
    mask = _tree_mask(branch, stack([row.sees for row in rows], 0))
    positions = stack([row.positions for row in rows], 0)
    tokens = sum(len(row.ids) for row in rows)
    return Batch(ids, positions, labels, mask, tokens)


def _tree_mask(branch: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
    """bool[B, 1, L, L]: the trace is causal; a branch sees its prefix and itself."""
    import torch

    index = torch.arange(branch.shape[1])
    causal = index[None, :] <= index[:, None]
    on_trace = (branch[:, None, :] == 0) & (index[None, None, :] < sees[:, :, None])
    own = branch[:, :, None] == branch[:, None, :]
    return (causal & (on_trace | own))[:, None]
