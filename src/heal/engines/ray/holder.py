"""What runs inside an actor: one inner engine that several batches share.

Ray Data calls it from several threads, a batch each. A local model serves all of them in one
stream, so that its rows stay full across batches; servers get a stream per batch. A batch is
answered as a whole or not at all: half an answer, repeated in another order after a loss, could
neither be joined nor told apart.
"""

import os
import pickle
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from heal.config import Engines, ModelRef
from heal.engines.base import (
    Generated,
    GenRequest,
    Scored,
    ScoreRequest,
    failed_generation,
    failed_score,
)
from heal.engines.ray.batches import Identity, Member, Refusal
from heal.errors import CapabilityError, EngineError
from heal.wording import plural

POLL_S = 0.5
"""How soon an actor notices that a batch was cancelled; polling is local."""


@dataclass
class Batch:
    """One batch under way."""

    number: int
    kind: str
    """`generate` or `score`: the method of the inner engine."""
    requests: tuple[GenRequest | ScoreRequest, ...]
    results: list[Generated | Scored] = field(default_factory=list)
    refusal: Refusal | None = None
    cancelled: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def expected(self) -> int:
        """Results that make the batch complete."""
        return sum(len(r.seeds) if isinstance(r, GenRequest) else 1 for r in self.requests)

    def add(self, result: Generated | Scored) -> None:
        """One more result."""
        self.results.append(result)
        if len(self.results) == self.expected:
            self.over.set()

    def refuse(self, error: Exception) -> None:
        """End without an answer."""
        if not self.over.is_set():
            self.refusal = Refusal.of(error)
            self.over.set()


def failures(batch: Batch, reason: str) -> list[Generated | Scored]:
    """Error results for all a batch asks for."""
    found: list[Generated | Scored] = []
    for request in batch.requests:
        if isinstance(request, ScoreRequest):
            found.append(failed_score(request, reason))
        else:
            indices = range(len(request.seeds))
            found += [failed_generation(request, index, reason) for index in indices]
    return found


class Holder:
    """The callable class Ray Data makes one of per actor."""

    def __init__(self, batch_queue: Any, ref: ModelRef, engines: Engines) -> None:
        self.queue, self.tries = batch_queue, engines.ray.tries
        self.waiting: deque[Batch] = deque()
        self.changed = threading.Condition()
        self.refusal = self._open(ref, engines)
        streams = engines.ray.in_flight if ref.engine == "http" else 1
        for _ in range(streams):
            threading.Thread(target=self._serve, daemon=True).start()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one batch; the answer to a batch that was dropped is empty."""
        number = int(row["number"][0])
        answer = self._answer(number)
        packed = b"" if answer is None else pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        return {"number": np.array([number]), "answer": np.array([packed], dtype=object)}

    def _open(self, ref: ModelRef, engines: Engines) -> Refusal | None:
        """Open the inner engine and compare it with the pool's first."""
        import ray

        from heal.engines import open_engine

        holds: Identity | Refusal
        try:
            self.engine = open_engine(ref, engines)
            e = self.engine
            holds = Identity(e.model_id, e.capabilities, e.end_ids)
        except Exception as error:  # a model may fail to open in any way; the driver decides
            holds = Refusal.of(error)
        node = ray.get_runtime_context().get_node_id()
        first: Member = ray.get(self.queue.join.remote(Member(node, os.getpid(), holds)))
        if isinstance(holds, Refusal):
            return holds
        if first.holds == holds or isinstance(first.holds, Refusal):
            return None
        words = f"{holds} on node {node}, {first.holds} on node {first.node}"
        return Refusal.of(
            CapabilityError(
                f"the actors do not hold the same model: {words}",
                hint="give every node the same files, and the servers the same model",
            )
        )

    def _answer(self, number: int) -> list[Generated | Scored] | Refusal | None:
        import ray

        if self.refusal is not None:
            return self.refusal
        fetched: tuple[bytes, int] | None = ray.get(self.queue.fetch.remote(number))
        if fetched is None:
            return None
        work, losses = fetched
        batch = Batch(number, *pickle.loads(work))
        if losses >= self.tries:
            return failures(batch, f"the actor that worked on it was lost {plural(losses, 'time')}")
        if not batch.expected:
            return []
        dropped = self.queue.dropped.remote(number)
        with self.changed:
            self.waiting.append(batch)
            self.changed.notify()
        while not batch.over.wait(POLL_S):
            if ray.wait([dropped], timeout=0)[0]:
                batch.cancelled = True
                return None
        return batch.refusal or batch.results

    def _serve(self) -> None:
        """Run streams of the inner engine, one after the other, for as long as the actor lives."""
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                batch = self.waiting.popleft()
            self._stream(batch)

    def _stream(self, first: Batch) -> None:
        """One stream: the first batch, and those of its kind that come before the stream ends."""
        owners: dict[str, tuple[Batch, str]] = {}
        why: Exception = EngineError("the inner engine left results out")
        try:
            stream = getattr(self.engine, first.kind)(self._requests(first, owners))
            for result in stream:
                batch, name = owners[result.request]
                batch.add(replace(result, request=name))
                if batch.over.is_set():
                    for position in range(len(batch.requests)):
                        owners.pop(f"{batch.number}.{position}", None)
                elif all(batch.cancelled for batch, _ in owners.values()):
                    stream.close()
                    return
        except Exception as error:  # every batch of the stream fails, and the driver hears why
            why = error
        for batch, _ in owners.values():
            batch.refuse(why)

    def _requests(
        self, batch: Batch | None, owners: dict[str, tuple[Batch, str]]
    ) -> Iterator[GenRequest | ScoreRequest]:
        while batch is not None:
            for position, request in enumerate(() if batch.cancelled else batch.requests):
                # batches of two calls may use one name twice
                name = f"{batch.number}.{position}"
                owners[name] = (batch, request.id)
                yield replace(request, id=name)
            batch = self._next(batch.kind)

    def _next(self, kind: str) -> Batch | None:
        with self.changed:
            same = bool(self.waiting) and self.waiting[0].kind == kind
            return self.waiting.popleft() if same else None
