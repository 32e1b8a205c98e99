"""The `http` engine: our `Engine` over servers, one background event loop behind plain iterators.

Prompts are rendered here, by the served model's own tokenizer; only ids travel. Every request is
judged before it is sent and every answer before it is believed; what no retry mends is an error
result of that item, beside its good siblings. Requests are pulled in the caller's thread, as there
is room. What went wrong on the way is logged as one summary by cause when the engine is closed.
"""

import gc
import logging
import queue
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from heal.config import HttpEngine as Settings
from heal.engines.base import (
    Capabilities,
    Generated,
    GenRequest,
    Scored,
    ScoreRequest,
    failed_generation,
    failed_score,
)
from heal.engines.http.loop import Loop, cancel_all
from heal.engines.http.opening import Connected, connect
from heal.engines.http.pool import Call, Pool, Read
from heal.engines.http.tokenizer import ServedTokenizer, open_tokenizer
from heal.engines.http.work import (
    Deliver,
    Done,
    Served,
    probes_in_range,
    requests_of,
    score,
    write,
)
from heal.engines.local.tokens import Tokens
from heal.engines.text import Speaker
from heal.errors import CapabilityError, UserError
from heal.records import ServerFacts
from heal.wording import plural

SHOWN_CAUSES = 8

log = logging.getLogger("heal.engines.http")
Request = TypeVar("Request", GenRequest, ScoreRequest)
Result = TypeVar("Result", Generated, Scored)


class HttpEngine(Speaker):
    """An `Engine` over one or many servers of one model."""

    tokens: Tokens

    def __init__(
        self,
        loop: Loop,
        connected: Connected,
        tokenizer: ServedTokenizer,
        settings: Settings,
        known_as: str | None = None,
    ) -> None:
        self.settings, self.tokens = settings, tokenizer.tokens
        self.end_ids = tokenizer.tokens.end_ids
        self.model_id = f"{known_as or connected.model}-{tokenizer.fingerprint}"
        self._loop, self._client = loop, connected.client
        self._pool = Pool(connected.endpoints, settings, connected.probe)
        self._served = Served(self.end_ids, connected.context, tokenizer.vocabulary)
        self._closed, self._then = False, _nothing
        # Half of the driver's time went into looking through all that torch and others had loaded
        # for garbage, every few hundred requests.
        gc.freeze()
        self.capabilities = _capabilities(connected, tokenizer, settings)
        loop.run(_started(self._pool))

    def generate(self, requests: Iterable[GenRequest | None]) -> Iterator[Generated | None]:
        """Continuations as they arrive. Raises: EngineError once no server answers any more."""

        def refused(request: GenRequest) -> list[Generated]:
            reason = self._why_not_generate(request)
            indices = range(len(request.seeds)) if reason else ()
            return [failed_generation(request, index, reason or "") for index in indices]

        def cost(request: GenRequest) -> int:
            return -(-len(request.seeds) // self.settings.samples_per_request)

        return self._stream(requests, refused, cost, write)

    def score(self, requests: Iterable[ScoreRequest | None]) -> Iterator[Scored | None]:
        """Scores as they arrive. Raises: CapabilityError, EngineError."""
        if not self.capabilities.score:
            kinds = sorted({e.settings.dialect for e in self._pool.endpoints})
            raise CapabilityError(
                f"servers of the kind {', '.join(kinds)} give no log-probs of given tokens, which "
                "PURE needs, and GEAR for cuts that are not random",
                hint="name a model that can: --set scorer.engine=local --set scorer.model=FOLDER",
            )

        def refused(request: ScoreRequest) -> list[Scored]:
            reason = self._why_not_score(request)
            return [failed_score(request, reason)] if reason else []

        return self._stream(requests, refused, requests_of, score)

    def ask(self, call: Call[Read]) -> Read:
        """One call outside of any stream. Raises: RequestError, EngineError."""
        return self._loop.run(self._pool.ask(call, None))

    def servers(self) -> list[ServerFacts]:
        """How each server has fared."""
        now = time.monotonic()
        return [endpoint.facts(now) for endpoint in self._pool.endpoints]

    def summary(self) -> str | None:
        """What went wrong on the way, by cause; None if nothing did."""
        found = Counter[str]()
        for server in self.servers():
            found.update({f"{cause} ({server.url})": n for cause, n in server.failures.items()})
            found[f"paused ({server.url})"] += server.pauses
        causes = [(cause, count) for cause, count in found.most_common() if count]
        if not causes:
            return None
        shown = "; ".join(f"{count:,} × {cause}" for cause, count in causes[:SHOWN_CAUSES])
        rest = sum(count for _, count in causes[SHOWN_CAUSES:])
        more = f"; {rest:,} more" if rest else ""
        answered = sum(server.answered for server in self.servers())
        return f"{plural(answered, 'request')} answered; on the way: {shown}{more}"

    def when_closed(self, then: Callable[[], None]) -> None:
        """Do this after everything is closed, whatever closing comes to."""
        self._then = then

    def close(self) -> None:
        """End what is under way and say what went wrong; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            self._close()
        finally:
            self._then()

    def _close(self) -> None:
        gc.unfreeze()
        if summary := self.summary():
            log.warning("%s", summary)
        # First, or what is under way would count as connections that were lost.
        self._loop.run(cancel_all())
        self._loop.run(self._client.aclose())
        self._loop.close()

    def _stream(
        self,
        requests: Iterable[Request | None],
        refused: Callable[[Request], list[Result]],
        cost: Callable[[Request], int],
        work: Callable[[Pool, Served, Request, Deliver], Coroutine[Any, Any, None]],
    ) -> Iterator[Result | None]:
        """Keep the servers busy with requests, and yield what comes back."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        under_way, running = 0, set[Future[None]]()
        room = sum(endpoint.max_in_flight for endpoint in self._pool.endpoints)
        source, done, paused = iter(requests), False, False
        try:
            while True:
                while not done and under_way < room:
                    try:
                        request = next(source)
                    except StopIteration:
                        done = True
                        break
                    if request is None:
                        paused = True
                        break
                    if failed := refused(request):
                        yield from failed
                        continue
                    under_way += cost(request)
                    coroutine = work(self._pool, self._served, request, arrived.put)
                    task = self._loop.submit(coroutine)
                    running.add(task)
                    task.add_done_callback(running.discard)
                if not under_way and done:
                    return
                if paused and arrived.empty():
                    yield None
                    continue
                came = arrived.get()
                if isinstance(came, Done):
                    under_way -= came.requests
                    continue
                if isinstance(came, BaseException):
                    raise came
                yield came
        finally:
            self._loop.cancel(running)

    def _why_not_generate(self, request: GenRequest) -> str | None:
        s, context = request.sampling, self.capabilities.context
        if not request.prompt_ids:
            return "the prompt is empty"
        if len(request.prompt_ids) >= context:
            length = len(request.prompt_ids)
            return f"prompt of {plural(length, 'token')} leaves no room in a context of {context:,}"
        if s.temperature < 0 or not 0 < s.top_p <= 1 or s.top_k < 0 or not 0 <= s.min_p <= 1:
            return f"impossible sampling settings: {s}"
        if s.max_new_tokens < 1:
            return f"max_new_tokens is {s.max_new_tokens}"
        if (s.top_k or s.min_p) and not all(e.dialect.filters for e in self._pool.endpoints):
            return "the openai dialect knows neither top_k nor min_p"
        return self._foreign(request.prompt_ids)

    def _why_not_score(self, request: ScoreRequest) -> str | None:
        context, target = request.context_ids, request.target_ids
        if not context:
            return "the context is empty, so nothing predicts the first token"
        if not requests_of(request):
            return "nothing to score"
        if reason := probes_in_range(request.probes, len(target)):
            return reason
        ends = [len(target), *(probe.at + len(probe.ids) for probe in request.probes)]
        longest, limit = len(context) + max(ends), self.capabilities.context
        if longest >= limit:
            return (
                f"{plural(longest, 'token')} exceed a context of {limit} (a server needs one more)"
            )
        return self._foreign((*context, *target, *(i for p in request.probes for i in p.ids)))

    def _foreign(self, ids: Sequence[int]) -> str | None:
        low, high = min(ids), max(ids)
        if low < 0 or high >= self.capabilities.vocabulary:
            wrong = low if low < 0 else high
            return f"id {wrong} is outside the vocabulary of {self.capabilities.vocabulary}"
        return None


def open_http(
    model: str, served: str | None, settings: Settings, known_as: str | None = None
) -> HttpEngine:
    """Open the tokenizer and reach the servers. Raises: UserError, CapabilityError.

    known_as: names the model in what is stored; None takes the name the servers give it.
    """
    if not settings.endpoints:
        raise UserError(
            "engine: http needs at least one server",
            hint='--set engine.http.endpoints="[{url: http://HOST:8000, dialect: vllm}]"',
        )
    tokenizer = open_tokenizer(model)
    loop = Loop()
    try:
        connected = loop.run(connect(served, settings, tokenizer.tokens.encode("one two three")))
        return HttpEngine(loop, connected, tokenizer, settings, known_as)
    except BaseException:
        loop.close()
        raise


def _capabilities(
    connected: Connected, tokenizer: ServedTokenizer, settings: Settings
) -> Capabilities:
    scoring = [endpoint for endpoint in connected.endpoints if endpoint.scores]
    can_score = bool(scoring)
    exact = settings.top_logprobs >= tokenizer.vocabulary
    return Capabilities(
        score=can_score,
        entropy=("exact" if exact else "topk") if can_score else "none",
        seeds=settings.samples_per_request == 1
        and all(endpoint.dialect.seeds for endpoint in connected.endpoints),
        context=connected.context,
        vocabulary=tokenizer.vocabulary,
        ranks=can_score and all(endpoint.dialect.ranks for endpoint in scoring),
    )


def _nothing() -> None:
    """Nothing is left to do."""


async def _started(pool: Pool) -> None:
    pool.start()
