"""The decode loop: many prompts, many seeds, one batch that is kept full.

In: requests, pulled only when there is room; None says that there is none for the moment. Out:
continuations, each as soon as it ends. Rows are
admitted in cohorts once an eighth of the batch is free; every prompt is prefilled once for all its
seeds. A failed request becomes error results; the rows beside it go on.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from heal.engines.base import Generated, GenRequest, failed_generation
from heal.engines.local.model import Memory, Model, Start
from heal.engines.local.rows import Rows
from heal.engines.local.sampling import draw
from heal.records import Finish


@dataclass(frozen=True)
class Policy:
    """When rows are admitted, and when they end."""

    rows: int
    """Rows decoded at once."""
    end_ids: frozenset[int]
    prefill_tokens: int
    """Padded prompt tokens per prefill batch."""
    kv_bytes: int | None = None
    """Memory for keys and values if every row wrote all it may; None sets no limit. A row that
    would not fit by itself runs alone."""
    loop_ngram: int | None = None
    loop_repeats: int = 4


@dataclass
class _Pending:
    """A request whose seeds are not all admitted yet."""

    request: GenRequest
    next: int = 0
    start: Start | None = None
    taken: list[int] = field(default_factory=list)
    """Indices admitted in this round."""


class DecodeLoop:
    """One run over one iterable of requests."""

    def __init__(
        self,
        model: Model,
        policy: Policy,
        requests: Iterable[GenRequest | None],
        refuse: Callable[[GenRequest], str | None],
    ) -> None:
        self.model, self.policy, self.refuse = model, policy, refuse
        self.source = iter(requests)
        self.pending: deque[_Pending] = deque()
        self.exhausted = False
        self.paused = False
        """The source has said that there was nothing for the moment: its owner has other work."""
        self.memories: list[Memory] = []
        self.rows = Rows.none(model.device)
        self.starved = False
        """The next row does not fit in memory until another ends."""

    def run(self) -> Iterator[Generated | None]:
        """Every continuation asked for, as it ends; None between steps once the source paused."""
        while True:
            if self._has_room():
                self._compact()
                yield from self._admit()
            if len(self.rows):
                yield from self._step()
                if self.rows.dead * 8 >= len(self.rows):
                    self._compact()
            elif self.exhausted and not self.pending:
                return
            if self.paused:
                yield None

    def _has_room(self) -> bool:
        if self.exhausted and not self.pending:
            return False
        if self.starved and self.rows.alive_count:
            return False
        free = self.policy.rows - self.rows.alive_count
        return free >= max(1, self.policy.rows // 8)

    @torch.inference_mode()
    def _compact(self) -> None:
        if not self.rows.dead:
            return
        orders, kept, start = [], [], 0
        for memory in self.memories:
            alive = self.rows.alive[start : start + memory.rows]
            size = memory.rows
            if alive.any():
                orders.append(start + memory.keep(alive))
                kept.append(memory)
            start += size
        self.memories = self.model.consolidate(kept)
        self.rows = self.rows.take(np.concatenate(orders) if orders else np.zeros(0, np.int64))

    def _admit(self) -> Iterator[Generated]:
        chosen: list[_Pending] = []
        self.starved = False
        yield from self._choose(chosen, self.policy.rows - len(self.rows))
        for group in _cohorts(chosen, self.policy.prefill_tokens):
            yield from self._prefill(group)
            ready = [p for p in group if p.start is not None]
            if ready:
                yield from self._fork(ready)

    def _choose(self, chosen: list[_Pending], room: int) -> Iterator[Generated]:
        while room > 0:
            if not self.pending:
                try:
                    request = next(self.source)
                except StopIteration:
                    self.exhausted = True
                    return
                if request is None:
                    self.paused = True
                    return
                reason = self.refuse(request)
                if reason is not None:
                    yield from _failures(request, range(len(request.seeds)), reason)
                    continue
                if not request.seeds:
                    continue
                self.pending.append(_Pending(request))
            head = self.pending[0]
            fitting = self._fitting(head.request, chosen)
            if not fitting:
                self.starved = True
                return
            end = min(len(head.request.seeds), head.next + min(room, fitting))
            head.taken = list(range(head.next, end))
            room -= end - head.next
            head.next = end
            chosen.append(head)
            if end == len(head.request.seeds):
                self.pending.popleft()

    def _fitting(self, request: GenRequest, chosen: Sequence[_Pending]) -> int:
        """Further rows of the request for which there is memory; one if there are none at all."""
        if self.policy.kv_bytes is None:
            return len(request.seeds)
        held = sum(self._kv_bytes(p.request, len(p.taken)) for p in chosen)
        owners: dict[str, list[GenRequest]] = {}
        for row in np.flatnonzero(self.rows.alive).tolist():
            owner = self.rows.owners[row][0]
            owners.setdefault(owner.id, []).append(owner)
        held += sum(self._kv_bytes(group[0], len(group)) for group in owners.values())
        free = self.policy.kv_bytes - held - self._kv_bytes(request, 0)
        one = self._kv_bytes(request, 1) - self._kv_bytes(request, 0)
        return max(free // one, 0 if held else 1)

    def _kv_bytes(self, request: GenRequest, rows: int) -> int:
        """What so many rows of a request may come to hold."""
        prompt = len(request.prompt_ids)
        new = min(request.sampling.max_new_tokens, self.model.context - prompt)
        tokens = prompt + rows * new if self.model.shares_prompts else rows * (prompt + new)
        return tokens * self.model.token_bytes

    def _prefill(self, group: Sequence[_Pending]) -> Iterator[Generated]:
        owed = [p for p in group if p.start is None]
        if not owed:
            return
        try:
            starts = self.model.prefill([p.request.prompt_ids for p in owed])
            for pending, start in zip(owed, starts, strict=True):
                pending.start = start
        except Exception as error:
            if len(owed) > 1:  # find the one that fails
                for pending in owed:
                    yield from self._prefill([pending])
                return
            yield from self._give_up(owed[0], error)

    def _give_up(self, pending: _Pending, error: Exception) -> Iterator[Generated]:
        if pending in self.pending:
            self.pending.remove(pending)
        indices = range(pending.taken[0], len(pending.request.seeds))
        yield from _failures(pending.request, indices, _reason(error))

    def _fork(self, ready: Sequence[_Pending]) -> Iterator[Generated]:
        counts = [len(p.taken) for p in ready]
        starts = [p.start for p in ready if p.start is not None]
        new = Rows.of(
            [(p.request, index) for p in ready for index in p.taken],
            context=self.model.context,
            device=self.model.device,
        )
        try:
            memory = self.model.fork(starts, counts)
            logits = torch.stack([s.logits for s in starts])
            repeats = torch.tensor(counts, device=logits.device)
            first = _draw(logits.repeat_interleave(repeats, dim=0), new)
        except Exception as error:
            for pending in ready:
                yield from self._give_up(pending, error)
            return
        self.memories.append(memory)
        yield from self._accept(new, first)
        self.rows = self.rows.join(new)
        for pending in ready:
            if pending.next == len(pending.request.seeds):
                pending.start = None

    def _step(self) -> Iterator[Generated]:
        try:
            last = torch.from_numpy(self.rows.last).to(self.model.device)
            tokens = _draw(self.model.step(self.memories, last), self.rows)
        except Exception as error:
            for row in np.flatnonzero(self.rows.alive).tolist():
                yield failed_generation(*self.rows.owners[row], _reason(error))
            self.memories, self.rows = [], Rows.none(self.model.device)
            return
        yield from self._accept(self.rows, tokens)

    def _accept(self, rows: Rows, tokens: np.ndarray) -> Iterator[Generated]:
        policy = self.policy
        ended = rows.append(tokens, policy.end_ids)
        if policy.loop_ngram is not None:
            ended |= rows.mark_loops(policy.loop_ngram, policy.loop_repeats)
        if ended.any():
            self.starved = False
        for row in np.flatnonzero(ended).tolist():
            request, index = rows.owners[row]
            finish = rows.finish(row, policy.end_ids)
            if finish is Finish.ERROR:
                yield failed_generation(request, index, "the model returned non-finite logits")
            else:
                yield Generated(request.id, index, rows.ids_of(row), finish)


@torch.inference_mode()
def _draw(logits: Tensor, rows: Rows) -> np.ndarray:
    return draw(logits, rows.filters, rows.seeds, rows.counts)


def _cohorts(chosen: Sequence[_Pending], budget: int) -> Iterator[list[_Pending]]:
    """Requests of like prompt length together, so that little padding is computed or attended."""
    group: list[_Pending] = []
    for pending in sorted(chosen, key=lambda p: len(p.request.prompt_ids)):
        length = len(pending.request.prompt_ids)
        if group:
            shortest = len(group[0].request.prompt_ids)
            if (len(group) + 1) * length > budget or length > 2 * shortest + 64:
                yield group
                group = []
        group.append(pending)
    if group:
        yield group


def _failures(request: GenRequest, indices: Iterable[int], reason: str) -> Iterator[Generated]:
    for index in indices:
        yield failed_generation(request, index, reason)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
