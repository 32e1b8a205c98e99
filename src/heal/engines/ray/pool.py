"""One endless Ray Data pipeline per engine: batch numbers in, answers out.

    numbers (one actor)  →  map_batches over the actor pool  →  iter_batches, in a thread here

It lives as long as the engine, so every actor opens its model once. Ray Data restarts lost actors
and repeats their batches; a number stands for the same batch each time. An answer is handed on
once: the second one to a number is thrown away.
"""

import inspect
import logging
import pickle
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from heal.config import Engines, ModelRef
from heal.config import RayEngine as Settings
from heal.engines.base import GenRequest, ScoreRequest
from heal.engines.ray.batches import BatchQueue, Identity, Member, Refusal
from heal.engines.ray.cluster import connect, disconnect, require_ray
from heal.engines.ray.holder import Holder
from heal.errors import EngineError

CLOSE_S = 30.0
"""A closed pool waits so long for its actors to notice; on our own cluster they then end anyway."""
ANSWER_S = 30.0
"""The queue's actor runs beside the driver and answers at once, or is gone."""
QUEUE_CALLS = 100_000
"""Every batch under way has one call waiting at the queue's actor."""

log = logging.getLogger("heal.engines.ray")
Answers = queue.SimpleQueue[Any]


class Numbers:
    """The pipeline's source: the number of every batch, in order, as they are queued.

    Repeated from the start it yields the same numbers, which is what Ray asks of a source.
    """

    def __init__(self, batch_queue: Any) -> None:
        self.queue = batch_queue

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Blocks of one number each."""
        import ray

        given = -1
        while (last := ray.get(self.queue.issued.remote(given))) is not None:
            for number in range(given + 1, last + 1):
                yield {"number": np.array([number])}
            given = last


class Pool:
    """Batches to actors, and their answers back."""

    def __init__(self, inner: ModelRef, engines: Engines) -> None:
        self.settings = engines.ray
        self._ray = require_ray()
        self._ours = connect(self.settings)
        self._lock = threading.Lock()
        self._next = 0
        self._callers: dict[int, Answers] = {}
        self._failure: EngineError | None = None
        self._closed = False
        self._queue = _start_queue(self._ray)
        answers = _pipeline(self._queue, inner, engines)
        self._thread = threading.Thread(target=self._pump, args=(answers,), daemon=True)
        self._thread.start()

    def identity(self) -> Identity:
        """What the first actor holds, once it is open. Raises: why it could not be opened."""
        asked = self._queue.first.remote()
        while not self._ray.wait([asked], timeout=0.2)[0]:
            if self._failure is not None:
                raise self._failure
        first: Member = self._ray.get(asked)
        if isinstance(first.holds, Refusal):
            raise first.holds.error()
        return first.holds

    def members(self) -> list[Member]:
        """Every actor that ever joined, restarted ones again."""
        found: list[Member] = self._ray.get(self._queue.all.remote(), timeout=ANSWER_S)
        return found

    def counts(self) -> tuple[int, int]:
        """Batches under way in an actor now, and how often one was started again after a loss."""
        found: tuple[int, int] = self._ray.get(self._queue.counts.remote(), timeout=ANSWER_S)
        return found

    def submit(
        self, kind: str, requests: Sequence[GenRequest | ScoreRequest], caller: Answers
    ) -> int:
        """Queue a batch; its answer will be put into `caller` as (number, answer)."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        work = pickle.dumps((kind, tuple(requests)), pickle.HIGHEST_PROTOCOL)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            number, self._next = self._next, self._next + 1
            self._callers[number] = caller
        self._queue.put.remote(number, work)
        return number

    def cancel(self, numbers: Sequence[int]) -> None:
        """Cancel these batches; actors that work on them stop."""
        with self._lock:
            gone = [n for n in numbers if self._callers.pop(n, None) is not None]
        if gone and not self._closed:
            self._queue.drop.remote(gone)

    def close(self) -> None:
        """End the pipeline and its actors; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._say_losses()
        self._queue.close.remote()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("the Ray actors did not end within %g s of being closed", CLOSE_S)
        self._ray.kill(self._queue)
        disconnect(self.settings, self._ours)

    def _say_losses(self) -> None:
        """One line on what had to be repeated; silent if nothing had."""
        try:
            lost = max(0, len(self.members()) - self.settings.actors)
            repeated = self.counts()[1]
        except self._ray.exceptions.RayError:  # the cluster is gone, and so is the count
            return
        if lost or repeated:
            log.warning(
                "%d lost actors were started again; %d batches were started again", lost, repeated
            )

    def _pump(self, answers: Any) -> None:
        """Hand answers on as they come, until the pipeline ends."""
        why = EngineError("the Ray pipeline ended before its time")
        try:
            # prefetching would hold an answer back until the next one is there
            for batch in answers.iter_batches(batch_size=None, prefetch_batches=0):
                for number, answer in zip(batch["number"], batch["answer"], strict=True):
                    self._deliver(int(number), answer)
        except Exception as error:  # Ray's own errors are many; the run stops with their words
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            why = EngineError(
                f"the Ray pipeline failed: {last}",
                hint="the same command goes on from here; Ray's logs are in its session folder",
            )
        with self._lock:
            self._failure = why
            for number, caller in self._callers.items():
                caller.put((number, why))
            self._callers.clear()

    def _deliver(self, number: int, answer: bytes) -> None:
        with self._lock:
            caller = self._callers.pop(number, None)
        self._queue.drop.remote([number])
        if caller is not None:
            caller.put((number, pickle.loads(answer)))


def _start_queue(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # beside the driver: it dies with it and with nothing else
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_concurrency": QUEUE_CALLS, "scheduling_strategy": here}
    return ray.remote(**options)(BatchQueue).remote()


def _pipeline(batch_queue: Any, inner: ModelRef, engines: Engines) -> Any:
    """The Ray dataset of all answers; nothing runs until it is iterated."""
    import ray.data

    settings = engines.ray
    pool_threads, actor_threads = _threads(settings)
    source = ray.data.from_items([0], override_num_blocks=1).map_batches(
        Numbers,
        fn_constructor_args=(batch_queue,),
        batch_size=1,
        # an actor, because Ray Data would fuse a task into the pool behind it
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0,
    )
    answers = source.map_batches(
        Holder,
        fn_constructor_args=(batch_queue, inner, engines),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=settings.actors,
            max_tasks_in_flight_per_actor=settings.in_flight,
            enable_true_multi_threading=True,
            **pool_threads,
        ),
        num_cpus=settings.cpus,
        num_gpus=settings.gpus or None,
        **actor_threads,
    )
    _tune(answers.context)
    return answers


def _threads(settings: Settings) -> tuple[dict[str, int], dict[str, int]]:
    """Calls an actor takes at once, where this version of Ray wants to be told."""
    from ray.data import ActorPoolStrategy

    named = "max_concurrent_calls_per_actor"
    if named in inspect.signature(ActorPoolStrategy).parameters:
        return {named: settings.in_flight}, {}
    return {}, {"max_concurrency": settings.in_flight}


def _tune(context: Any) -> None:
    """Set this dataset's own copy of Ray Data's settings for a stream of small answers."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # by default rows wait until they fill a block of 128 MB; this passes each one on
    context.target_max_block_size = 1
    context.max_errored_blocks = 0  # anything else drops work in silence
    # the pool idles while students train, and a batch of long traces takes its time; Ray would
    # call half an hour of either a hang (older versions have no such limit and ignore this)
    context.execution_no_progress_timeout_s = -1
