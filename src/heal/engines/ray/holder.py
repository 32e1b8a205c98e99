"""What runs inside an actor: one inner engine that several tickets share.

Ray Data calls it from several threads, a ticket each. A local model serves all of them in one
stream, so that its rows stay full across tickets; servers get a stream per ticket. A ticket is
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
from heal.engines.ray.feed import Identity, Member, Refusal
from heal.errors import CapabilityError, EngineError

LOOK_S = 0.5
"""How soon an actor notices that a ticket was cancelled; the look itself is local."""


@dataclass
class Job:
    """One ticket under way."""

    ticket: int
    kind: str
    """`generate` or `score`: the method of the inner engine."""
    requests: tuple[GenRequest | ScoreRequest, ...]
    results: list[Generated | Scored] = field(default_factory=list)
    refusal: Refusal | None = None
    cancelled: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def expected(self) -> int:
        """Results that make the ticket complete."""
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


def failures(job: Job, reason: str) -> list[Generated | Scored]:
    """Error results for all a ticket asks for."""
    found: list[Generated | Scored] = []
    for request in job.requests:
        if isinstance(request, ScoreRequest):
            found.append(failed_score(request, reason))
        else:
            indices = range(len(request.seeds))
            found += [failed_generation(request, index, reason) for index in indices]
    return found


class Holder:
    """The callable class Ray Data makes one of per actor."""

    def __init__(self, feed: Any, ref: ModelRef, engines: Engines) -> None:
        self.feed, self.tries = feed, engines.ray.tries
        self.waiting: deque[Job] = deque()
        self.changed = threading.Condition()
        self.refusal = self._open(ref, engines)
        streams = engines.ray.in_flight if ref.engine == "http" else 1
        for _ in range(streams):
            threading.Thread(target=self._serve, daemon=True).start()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one ticket; an empty answer is for a ticket nobody wants any more."""
        ticket = int(batch["ticket"][0])
        answer = self._answer(ticket)
        packed = b"" if answer is None else pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        return {"ticket": np.array([ticket]), "answer": np.array([packed], dtype=object)}

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
        first: Member = ray.get(self.feed.join.remote(Member(node, os.getpid(), holds)))
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

    def _answer(self, ticket: int) -> list[Generated | Scored] | Refusal | None:
        import ray

        if self.refusal is not None:
            return self.refusal
        fetched: tuple[bytes, int] | None = ray.get(self.feed.fetch.remote(ticket))
        if fetched is None:
            return None
        work, losses = fetched
        job = Job(ticket, *pickle.loads(work))
        if losses >= self.tries:
            return failures(job, f"the actor that worked on it was lost {losses} times")
        if not job.expected:
            return []
        dropped = self.feed.dropped.remote(ticket)
        with self.changed:
            self.waiting.append(job)
            self.changed.notify()
        while not job.over.wait(LOOK_S):
            if ray.wait([dropped], timeout=0)[0]:
                job.cancelled = True
                return None
        return job.refusal or job.results

    def _serve(self) -> None:
        """Run streams of the inner engine, one after the other, for as long as the actor lives."""
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                job = self.waiting.popleft()
            self._stream(job)

    def _stream(self, first: Job) -> None:
        """One stream: the first job, and those of its kind that come before the stream ends."""
        owners: dict[str, tuple[Job, str]] = {}
        why: Exception = EngineError("the inner engine left results out")
        try:
            stream = getattr(self.engine, first.kind)(self._requests(first, owners))
            for result in stream:
                job, name = owners[result.request]
                job.add(replace(result, request=name))
                if job.over.is_set():
                    for position in range(len(job.requests)):
                        owners.pop(f"{job.ticket}.{position}", None)
                elif all(job.cancelled for job, _ in owners.values()):
                    stream.close()
                    return
        except Exception as error:  # every ticket of the stream fails, and the driver hears why
            why = error
        for job, _ in owners.values():
            job.refuse(why)

    def _requests(
        self, job: Job | None, owners: dict[str, tuple[Job, str]]
    ) -> Iterator[GenRequest | ScoreRequest]:
        while job is not None:
            for position, request in enumerate(() if job.cancelled else job.requests):
                # tickets of two calls may use one name twice
                name = f"{job.ticket}.{position}"
                owners[name] = (job, request.id)
                yield replace(request, id=name)
            job = self._next(job.kind)

    def _next(self, kind: str) -> Job | None:
        with self.changed:
            same = bool(self.waiting) and self.waiting[0].kind == kind
            return self.waiting.popleft() if same else None
