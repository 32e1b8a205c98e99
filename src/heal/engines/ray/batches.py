"""The queue of request batches: one small actor beside the driver, which all others fetch from.

A batch's number travels through Ray Data, its requests only through here. Asked again for the same
number, the queue gives the same requests, so whatever Ray repeats after a loss repeats the same
work; once a batch is dropped (answered, or cancelled) there is nothing left to repeat.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from heal.engines.base import Capabilities
from heal.errors import CapabilityError, EngineError, HealError, UserError

KINDS: tuple[type[HealError], ...] = (UserError, CapabilityError, EngineError)


@dataclass(frozen=True)
class Refusal:
    """An error on its way to the driver; anything unexpected arrives as an `EngineError`."""

    kind: str
    message: str
    hint: str | None

    @classmethod
    def of(cls, error: Exception) -> "Refusal":
        """An error as it is sent to the driver."""
        kind = next((k for k in KINDS if isinstance(error, k)), None)
        if kind is None:
            return cls("EngineError", f"{type(error).__name__}: {error}", None)
        return cls(kind.__name__, str(error), getattr(error, "hint", None))

    def error(self) -> HealError:
        """The error again."""
        kind = next(k for k in KINDS if k.__name__ == self.kind)
        return kind(self.message, hint=self.hint)


@dataclass(frozen=True)
class Identity:
    """What an actor holds; every actor of a pool must hold the same."""

    model_id: str
    capabilities: Capabilities
    end_ids: frozenset[int]


@dataclass(frozen=True)
class Member:
    """One actor: where it runs, and what it holds or why it holds nothing."""

    node: str
    pid: int
    holds: Identity | Refusal


class BatchQueue:
    """The actor's class; all its methods run in one event loop."""

    def __init__(self) -> None:
        self.work: dict[int, bytes] = {}
        self.fetched: Counter[int] = Counter()
        self.repeated = 0
        self.early: set[int] = set()
        self.last = -1
        self.closed = False
        self.members: list[Member] = []
        self.changed = asyncio.Condition()

    async def put(self, number: int, work: bytes) -> None:
        """Queue a batch; batches are numbered from 0 without gaps."""
        async with self.changed:
            self.work[number] = work
            # Ray promises no order among calls to an actor with an event loop
            self.early.add(number)
            while self.last + 1 in self.early:
                self.last += 1
                self.early.remove(self.last)
            self.changed.notify_all()

    async def drop(self, numbers: Sequence[int]) -> None:
        """Forget batches that are answered or cancelled."""
        async with self.changed:
            for number in numbers:
                self.work.pop(number, None)
                self.fetched.pop(number, None)
            self.changed.notify_all()

    async def issued(self, after: int) -> int | None:
        """The last number with none missing before it, once beyond `after`; None after `close`."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.closed or self.last > after)
            return None if self.closed else self.last

    async def fetch(self, number: int) -> tuple[bytes, int] | None:
        """A batch's requests and how often they were fetched before; None once it is dropped."""
        work = self.work.get(number)
        if work is None:
            return None
        self.repeated += number in self.fetched
        self.fetched[number] += 1
        return work, self.fetched[number] - 1

    async def counts(self) -> tuple[int, int]:
        """Batches under way in an actor, and how often one was started again."""
        return len(self.fetched), self.repeated

    async def dropped(self, number: int) -> None:
        """Return as soon as a batch is dropped."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.closed or number not in self.work)

    async def join(self, member: Member) -> Member:
        """An actor says what it holds, and hears what the first one does."""
        async with self.changed:
            self.members.append(member)
            self.changed.notify_all()
            return self.members[0]

    async def first(self) -> Member:
        """The first actor, once there is one."""
        async with self.changed:
            await self.changed.wait_for(lambda: bool(self.members))
            return self.members[0]

    async def all(self) -> list[Member]:
        """Every actor that ever joined, restarted ones again."""
        return list(self.members)

    async def close(self) -> None:
        """No batch will follow, and what is under way is cancelled."""
        async with self.changed:
            self.closed = True
            self.work.clear()
            self.changed.notify_all()
