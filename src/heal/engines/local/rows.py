"""The rows of the batch: whose they are, what they have written, and why they ended.

A struct of arrays, one entry per row; rows that ended stay, dead, until the batch is compacted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from heal.engines.base import GenRequest
from heal.engines.local.sampling import BAD_ROW, Filters
from heal.records import Finish, IntArray

Owner = tuple[GenRequest, int]
"""A request and the index of one of its seeds."""


@dataclass
class Rows:
    """R rows; arrays are aligned."""

    owners: list[Owner]
    seeds: NDArray[np.uint64]
    limits: NDArray[np.int64]
    """Tokens each row may write."""
    counts: NDArray[np.int64]
    """Tokens each row has written."""
    alive: NDArray[np.bool_]
    looped: NDArray[np.bool_]
    last: NDArray[np.int64]
    ids: IntArray
    """int32 [R, capacity]."""
    filters: Filters

    @classmethod
    def of(cls, owners: Sequence[Owner], context: int, device: torch.device) -> "Rows":
        """Fresh rows; a row's budget ends at the context's end."""
        limits = [
            min(request.sampling.max_new_tokens, context - len(request.prompt_ids))
            for request, _ in owners
        ]
        count = len(owners)
        return cls(
            owners=list(owners),
            seeds=np.array([r.seeds[i] % 2**64 for r, i in owners], dtype=np.uint64),
            limits=np.array(limits, dtype=np.int64),
            counts=np.zeros(count, dtype=np.int64),
            alive=np.ones(count, dtype=np.bool_),
            looped=np.zeros(count, dtype=np.bool_),
            last=np.zeros(count, dtype=np.int64),
            ids=np.zeros((count, 64), dtype=np.int32),
            filters=Filters.of([r.sampling for r, _ in owners], device),
        )

    @classmethod
    def none(cls, device: torch.device) -> "Rows":
        """No rows."""
        return cls.of([], 0, device)

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def alive_count(self) -> int:
        """Rows still writing."""
        return int(self.alive.sum())

    @property
    def dead(self) -> int:
        """Rows that ended and are still carried."""
        return len(self) - self.alive_count

    def append(self, tokens: NDArray[np.int64], end_ids: frozenset[int]) -> NDArray[np.bool_]:
        """Write one token to every live row. Returns which rows ended by it."""
        if self.counts.max(initial=0) >= self.ids.shape[1]:
            self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)], axis=1)
        bad = tokens == BAD_ROW
        self.last = np.where(bad, 0, tokens)
        live = np.flatnonzero(self.alive)
        self.ids[live, self.counts[live]] = tokens[live]
        self.counts[live] += 1
        stops = np.isin(tokens, np.fromiter(end_ids, dtype=np.int64))
        ended = self.alive & (bad | stops | (self.counts >= self.limits))
        self.alive &= ~ended
        return ended

    def mark_loops(self, ngram: int, repeats: int) -> NDArray[np.bool_]:
        """End rows whose last ngram·repeats tokens have a period of at most `ngram`."""
        # Looked at every `ngram` tokens of a row, so that where it ends depends on it alone.
        due = self.alive & (self.counts % ngram == 0) & (self.counts >= ngram * repeats)
        for row in np.flatnonzero(due).tolist():
            end = int(self.counts[row])
            due[row] = repeats_itself(self.ids[row, end - ngram * repeats : end], ngram)
        self.looped |= due
        self.alive &= ~due
        return due

    def finish(self, row: int, end_ids: frozenset[int]) -> Finish:
        """Why an ended row ended."""
        last = int(self.ids[row, self.counts[row] - 1])
        if last == BAD_ROW:
            return Finish.ERROR
        if last in end_ids:
            return Finish.STOP
        return Finish.LOOP if self.looped[row] else Finish.LENGTH

    def ids_of(self, row: int) -> IntArray:
        """What a row has written."""
        return self.ids[row, : self.counts[row]].copy()

    def take(self, order: NDArray[np.int64]) -> "Rows":
        """These rows, in this order."""
        return Rows(
            [self.owners[i] for i in order.tolist()],
            self.seeds[order],
            self.limits[order],
            self.counts[order],
            self.alive[order],
            self.looped[order],
            self.last[order],
            self.ids[order],
            self.filters.of_rows(torch.from_numpy(order)),
        )

    def join(self, other: "Rows") -> "Rows":
        """Both sets of rows, one after the other."""
        width = max(self.ids.shape[1], other.ids.shape[1])
        return Rows(
            self.owners + other.owners,
            np.concatenate([self.seeds, other.seeds]),
            np.concatenate([self.limits, other.limits]),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.alive, other.alive]),
            np.concatenate([self.looped, other.looped]),
            np.concatenate([self.last, other.last]),
            np.concatenate([_widened(self.ids, width), _widened(other.ids, width)]),
            self.filters.joined(other.filters),
        )


def repeats_itself(tail: IntArray, longest: int) -> bool:
    """Whether the ids have a period of at most `longest`."""
    return any(np.array_equal(tail[p:], tail[:-p]) for p in range(1, longest + 1))


def _widened(ids: IntArray, width: int) -> IntArray:
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])))
