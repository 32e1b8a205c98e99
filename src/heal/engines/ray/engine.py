"""The `ray` engine: our `Engine` over a pool of actors, each holding one of our other engines.

Prompts are rendered here; requests travel in batches of `engine.ray.batch_size`, at most so many as
the actors can have in flight, and every batch is answered once. Traces, scores, capabilities and
`model_id` are the inner engine's own, so a run may go on with another engine in the same folder.
"""

import queue
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from heal.config import Engines, ModelRef
from heal.engines.base import Generated, GenRequest, Scored, ScoreRequest
from heal.engines.ray.batches import Member, Refusal
from heal.engines.ray.pool import Answers, Pool
from heal.engines.text import Speaker, Text
from heal.errors import CapabilityError, EngineError

Request = TypeVar("Request", GenRequest, ScoreRequest)


class RayEngine(Speaker):
    """An `Engine` over an actor pool."""

    def __init__(self, pool: Pool, text: Text) -> None:
        self.tokens, self._pool = text, pool
        held = pool.identity()
        self.model_id = held.model_id
        self.capabilities = held.capabilities
        self.end_ids = held.end_ids

    def generate(self, requests: Iterable[GenRequest | None]) -> Iterator[Generated | None]:
        """Continuations, batch by batch. Raises: EngineError when the pool fails."""
        return cast(Iterator[Generated | None], self._stream("generate", requests))

    def score(self, requests: Iterable[ScoreRequest | None]) -> Iterator[Scored | None]:
        """Scores, batch by batch. Raises: CapabilityError, EngineError."""
        if not self.capabilities.score:
            raise CapabilityError(
                "the engine inside the Ray actors gives no log-probs of given tokens, which PURE "
                "needs, and GEAR for cuts that are not random",
                hint="name a model that can: --set scorer.engine=local --set scorer.model=FOLDER",
            )
        return cast(Iterator[Scored | None], self._stream("score", requests))

    def members(self) -> list[Member]:
        """Every actor that ever joined, restarted ones again."""
        return self._pool.members()

    def counts(self) -> tuple[int, int]:
        """Batches under way in an actor now, and how often one was started again after a loss."""
        return self._pool.counts()

    def close(self) -> None:
        """End the actors, and the cluster if it was started for them."""
        self._pool.close()

    def _stream(self, kind: str, requests: Iterable[Request | None]) -> Iterator[Any]:
        """Keep the pool busy with batches, and yield what is in the answers."""
        settings = self._pool.settings
        room = settings.actors * settings.in_flight
        arrived: Answers = queue.SimpleQueue()
        source, done, paused = iter(requests), False, False
        waiting: set[int] = set()
        try:
            while True:
                while not done and len(waiting) < room:
                    batch, ended = _next_batch(source, settings.batch_size)
                    done, paused = ended is True, paused or ended is False
                    if batch:
                        waiting.add(self._pool.submit(kind, batch, arrived))
                    if ended is False:
                        break
                if not waiting and done:
                    return
                if paused and arrived.empty():
                    yield None
                    continue
                number, answer = arrived.get()
                waiting.discard(number)
                if isinstance(answer, Refusal):
                    raise answer.error()
                if isinstance(answer, EngineError):
                    raise answer
                yield from answer
        finally:
            self._pool.cancel([*waiting])


def _next_batch(source: Iterator[Request | None], size: int) -> tuple[list[Request], bool | None]:
    """Requests to send together, and whether the source has ended (True) or paused (False)."""
    batch: list[Request] = []
    while len(batch) < size:
        try:
            request = next(source)
        except StopIteration:
            return batch, True
        if request is None:
            return batch, False
        batch.append(request)
    return batch, None


class ScriptedText:
    """A script's way of reading and writing text, as `Text` asks for it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.encode, self.decode = engine.encode, engine.decode

    def render(self, user: str, system: str | None) -> tuple[int, ...]:
        """Ids up to the opened assistant turn."""
        ids: tuple[int, ...] = self.engine.render(user, system=system)
        return ids

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """Each id's bytes."""
        pieces: list[bytes] = self.engine.token_bytes(ids)
        return pieces


def open_ray(ref: ModelRef, engines: Engines) -> RayEngine:
    """Read the tokenizer here and open the model in every actor. Raises: UserError, EngineError."""
    found = Path(ref.model).expanduser()
    # actors run elsewhere: a relative path would be looked up in their own folder
    model = str(found.resolve()) if found.exists() else ref.model
    inner = ref.model_copy(update={"engine": engines.ray.inner, "model": model})
    text = _text(inner)
    pool = Pool(inner, engines)
    try:
        return RayEngine(pool, text)
    except BaseException:
        pool.close()
        raise


def _text(inner: ModelRef) -> Text:
    if inner.engine == "scripted":
        from heal.engines.scripted import open_scripted

        return ScriptedText(open_scripted(inner.model))
    if inner.engine == "http":
        from heal.engines.http.tokenizer import open_tokenizer

        return open_tokenizer(inner.model).tokens
    from heal.engines.local import loading
    from heal.engines.local.tokens import Tokens

    source = loading.locate(inner.model)
    # which ids end a turn is asked of the actors, which hold the whole model
    return Tokens(loading.load_tokenizer(source), str(source.path), ())
