"""Many servers as one: load balancing, retries, health checks.

In: calls (how to ask, how to read). Out: what was read, or the error that no retry mended. A
request keeps its preferred server, for the prefix cache there, and moves only when that one is
down, fails at it, or asks for a long wait. A server that is down is paused and its health checked
until it recovers; calls queued for it are queued at another, or wait. A failure at a server that
passed its health check, half-open too, is a try of that request: what always fails ends as its
error. It counts against the server as well once a second request has failed with no answer between,
unless a *probe* succeeds then, a request so plain that any server that works can do it: any number
of requests may be at fault themselves. Only when all servers have been unhealthy for `give_up_s`
does everything stop. Lives in the event loop's thread.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from heal.config import HttpEngine as Settings
from heal.engines.base import Sampling
from heal.engines.http.dialects.base import Dialect, HttpRequest, SampleRequest
from heal.engines.http.endpoint import Endpoint, SlotRequest, State, backoff_s
from heal.engines.http.failures import (
    BadAnswerError,
    BrokenError,
    RefusedError,
    RejectedError,
    RequestError,
)
from heal.errors import EngineError
from heal.wording import plural

MONITOR_S = 1.0
"""How often silent servers are looked for."""
SILENT_S = 15.0
"""A server with work that has not answered for so long has its health checked."""
TOO_MANY_REQUESTS = 429
HEALTH_CHECKS = 3
"""Failed in a row by a silent server before what is under way there is given up."""
MOST_CAUSES = 30
"""Causes counted apart at each server."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.2, 20.0

log = logging.getLogger("heal.engines.http")
Read = TypeVar("Read")


@dataclass(frozen=True)
class Call(Generic[Read]):
    """One request, for whichever server gets it."""

    request: Callable[[Dialect, str], HttpRequest]
    """From the dialect and the served name."""
    read: Callable[[Dialect, bytes], Read]
    """Raises: BrokenError for an answer that cannot be used."""
    timeout_s: float
    score: bool = False


class Pool:
    """The servers of one engine."""

    def __init__(
        self, endpoints: Sequence[Endpoint], settings: Settings, probe: tuple[int, ...] = ()
    ) -> None:
        self.endpoints = endpoints
        self.settings = settings
        self.probe = probe
        """Ids of a few plain words; none, and nothing tells a bad server from bad requests."""
        self._unassigned: deque[SlotRequest] = deque()
        """Calls made while no server was up that could serve them."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to monitor; servers not live are checked until they recover."""
        self._spawn(self._monitor())
        for endpoint in self.endpoints:
            if endpoint.state is State.PAUSED:
                endpoint.pause(time.monotonic())
                self._spawn(self._recover(endpoint))

    async def stop(self) -> None:
        """End the monitoring."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def choose(self, score: bool, avoid: Endpoint | None = None) -> Endpoint | None:
        """The least loaded server that is up and can do it; None if there is none."""
        able = [
            e for e in self.endpoints if e.state is not State.PAUSED and (e.scores or not score)
        ]
        ready = [e for e in able if e.accepts_requests] or able
        others = [e for e in ready if e is not avoid]
        return min(others or ready, key=lambda e: e.load, default=None)

    async def ask(self, call: Call[Read], preferred: Endpoint | None) -> Read:
        """The answer to a call. Raises: BrokenError after `tries`, RejectedError, EngineError."""
        try:
            try:
                return await self._ask_once(call, preferred)
            except BrokenError as error:
                return await self._ask_again(call, preferred, error)
        except RequestError as error:
            error.where.given_up += 1
            raise

    async def _ask_again(
        self, call: Call[Read], preferred: Endpoint | None, failure: BrokenError
    ) -> Read:
        """What follows a first try that failed: tenacity costs more than the try itself."""
        from tenacity import (
            AsyncRetrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_random_exponential,
        )

        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self.settings.tries),
            wait=wait_random_exponential(multiplier=FIRST_RETRY_S, max=LONGEST_RETRY_S),
            retry=retry_if_exception_type(BrokenError),
            reraise=True,
        ):
            with attempt:
                try:
                    if attempt.retry_state.attempt_number == 1:
                        raise failure
                    return await self._ask_once(call, preferred)
                except BrokenError:
                    preferred = self.choose(call.score, avoid=preferred)
                    raise
        raise AssertionError("unreachable: tries is at least 1")

    async def _ask_once(self, call: Call[Read], preferred: Endpoint | None) -> Read:
        """One counted try: being told to wait, or finding nobody there, is not one."""
        while True:
            async with self._slot(preferred, call.score) as endpoint:
                sent, state = time.monotonic(), endpoint.state
                try:
                    body = await endpoint.post(
                        call.request(endpoint.dialect, endpoint.model), call.timeout_s
                    )
                    answer = call.read(endpoint.dialect, body)
                except (RejectedError, BadAnswerError) as error:
                    # Not the server's state, or one odd request would stop all the others.
                    self._count(endpoint, error)
                    self._mark_healthy(endpoint)
                    raise
                except RequestError as error:
                    self._count(endpoint, error)
                    self._note_failure(endpoint, error, call, sent)
                    # A server that was down before this was sent is to blame, not the request.
                    if isinstance(error, BrokenError) and state is not State.PAUSED:
                        raise
                else:
                    endpoint.answers += 1
                    self._mark_healthy(endpoint)
                    return answer

    def _count(self, endpoint: Endpoint, error: RequestError) -> None:
        found, cause = endpoint.errors, error.cause
        # Some servers put a request's own number into their words.
        found[cause if cause in found or len(found) < MOST_CAUSES else "other causes"] += 1
        error.where = endpoint

    def _note_failure(
        self, endpoint: Endpoint, error: RequestError, call: Call[Any], sent: float
    ) -> None:
        now = time.monotonic()
        if isinstance(error, RefusedError):
            endpoint.refused(error, sent, now)
            if not endpoint.accepts_requests:
                self._requeue(endpoint)
            return
        if endpoint.failed(error, call, now) and endpoint.state is not State.PAUSED:
            self._pause(endpoint)

    def _mark_healthy(self, endpoint: Endpoint) -> None:
        was = endpoint.state
        endpoint.succeeded(time.monotonic())
        if was is not State.LIVE:
            log.warning("%s: back", endpoint.url)
            self._requeue_unassigned()

    # ── slots ───────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _slot(self, preferred: Endpoint | None, score: bool) -> AsyncIterator[Endpoint]:
        """Hold one of a server's slots, the preferred one's if it is up."""
        endpoint = await self._acquire(preferred, score)
        try:
            yield endpoint
        finally:
            self._release(endpoint)

    def _release(self, endpoint: Endpoint) -> None:
        endpoint.in_flight -= 1
        endpoint.trial_in_flight = False
        self._dispatch(endpoint)

    async def _acquire(self, preferred: Endpoint | None, score: bool) -> Endpoint:
        pending = SlotRequest(asyncio.get_running_loop().create_future(), score)
        self._enqueue(pending, preferred)
        try:
            return await pending.future
        except asyncio.CancelledError:
            if pending.future.done() and not pending.future.cancelled():
                self._release(pending.future.result())
            raise

    def _enqueue(self, pending: SlotRequest, preferred: Endpoint | None = None) -> None:
        up = preferred is not None and preferred.accepts_requests
        endpoint = preferred if up else self.choose(pending.score)
        if endpoint is None:
            self._unassigned.append(pending)
            return
        endpoint.queue.append(pending)
        self._dispatch(endpoint)

    def _dispatch(self, endpoint: Endpoint) -> None:
        """Give a server's free slots to the calls queued for it."""
        delay = endpoint.not_before - time.monotonic()
        if delay > 0:
            if endpoint.queue and not endpoint.wake_scheduled:
                endpoint.wake_scheduled = True
                asyncio.get_running_loop().call_later(delay, self._wake, endpoint)
            return
        while endpoint.has_free_slot and endpoint.queue:
            pending = endpoint.queue.popleft()
            if not pending.future.done():
                endpoint.in_flight += 1
                endpoint.trial_in_flight = endpoint.state is State.TRIAL
                pending.future.set_result(endpoint)

    def _wake(self, endpoint: Endpoint) -> None:
        endpoint.wake_scheduled = False
        self._dispatch(endpoint)

    def _requeue_unassigned(self) -> None:
        """A server is up: calls that had none are queued again."""
        waiting, self._unassigned = self._unassigned, deque()
        for pending in waiting:
            self._enqueue(pending)

    # ── servers that are down ───────────────────────────────────────────────────────────────────

    def _pause(self, endpoint: Endpoint) -> None:
        endpoint.pause(time.monotonic())
        endpoint.pauses += 1
        up = sum(e.state is not State.PAUSED for e in self.endpoints)
        if endpoint.pauses == 1:
            rest = f"going on with {plural(up, 'other')}" if up else "waiting for it"
            log.warning("%s: paused after: %s; %s", endpoint.url, endpoint.cause, rest)
        self._requeue(endpoint)
        self._spawn(self._recover(endpoint))

    def _requeue(self, endpoint: Endpoint) -> None:
        """Calls queued for it are queued at another server, if there is one."""
        moved, endpoint.queue = endpoint.queue, deque()
        for pending in moved:
            self._enqueue(pending)

    async def _recover(self, endpoint: Endpoint) -> None:
        """Check a server until it is healthy and serves the model; then one request is tried."""
        while True:
            endpoint.pauses += 1
            await asyncio.sleep(backoff_s(endpoint.pauses))
            if endpoint.state is not State.PAUSED:
                return  # an answer arrived after all
            try:
                info = await endpoint.check_health()
            except RequestError as error:
                endpoint.mark_unhealthy(error.cause, time.monotonic())
                continue
            if endpoint.model in info.models:
                if await self._passes_probe(endpoint):
                    self._mark_healthy(endpoint)
                    return
                break
            cause = f"it serves {', '.join(info.models) or 'nothing'}"
            endpoint.mark_unhealthy(cause, time.monotonic())
        endpoint.resume(State.TRIAL, time.monotonic())
        endpoint.limit, endpoint.failures = 1.0, 0
        endpoint.trial_in_flight = False
        self._requeue_unassigned()

    async def _passes_probe(self, endpoint: Endpoint) -> bool:
        """Whether a server at which requests failed can do a plain one of the same kind."""
        if not isinstance(endpoint.suspect, Call) or not self.probe:
            return False
        dialect, ids = endpoint.dialect, self.probe
        try:
            if endpoint.suspect.score:
                asked = dialect.score(endpoint.model, ids, 1, 1)
                dialect.scored(await endpoint.ask(asked, self.settings.timeout_s), ids, 1, 1)
                return True
            plain = SampleRequest(ids, Sampling(temperature=0.0, max_new_tokens=1), (), seed=0)
            asked = dialect.write(endpoint.model, plain)
            return bool(dialect.written(await endpoint.ask(asked, self.settings.timeout_s)))
        except RequestError:
            return False

    async def _monitor(self) -> None:
        while True:
            await asyncio.sleep(min(MONITOR_S, self.settings.give_up_s / 4))
            for endpoint in self.endpoints:
                if self._is_silent(endpoint):
                    await self._check_silent(endpoint)
            self._give_up()

    def _is_silent(self, endpoint: Endpoint) -> bool:
        if endpoint.state is State.PAUSED or not endpoint.in_flight:
            return False
        return time.monotonic() - endpoint.last_answer > SILENT_S

    async def _check_silent(self, endpoint: Endpoint) -> None:
        """Long traces take long; a server that fails its health checks will not finish them."""
        before, cause = endpoint.last_answer, ""
        for times in range(HEALTH_CHECKS):
            if times:
                await asyncio.sleep(backoff_s(times))
            if endpoint.last_answer > before:
                return
            try:
                await endpoint.check_health()
            except RequestError as error:
                # Too busy for the check is alive; 503 is what vLLM says when its engine is dead.
                if not (isinstance(error, RefusedError) and error.status == TOO_MANY_REQUESTS):
                    cause = f"failed its health check: {error.cause}"
                    continue
            endpoint.last_answer = time.monotonic()
            return
        endpoint.mark_unhealthy(cause, time.monotonic())
        if endpoint.state is not State.PAUSED:
            self._pause(endpoint)
        endpoint.time_out_all()

    def _give_up(self) -> None:
        """Fail every queued call once all servers for it have been unhealthy for too long."""
        for score in (False, True):
            able = [e for e in self.endpoints if e.scores or not score]
            if not all(self._is_lost(e) for e in able):
                continue
            causes = "; ".join(f"{e.url}: {e.cause}" for e in able)
            error = EngineError(
                f"no server has answered for engine.http.give_up_s = {self.settings.give_up_s:g}: "
                f"{causes}",
                hint="bring one back, then run the same command again; what is done is stored",
            )
            for pending in (*self._unassigned, *(p for e in able for p in e.queue)):
                if pending.score is score and not pending.future.done():
                    pending.future.set_exception(error)

    def _is_lost(self, endpoint: Endpoint) -> bool:
        since = endpoint.unhealthy_since
        if since is None or time.monotonic() - since < self.settings.give_up_s:
            return False
        return endpoint.state is State.PAUSED or not endpoint.in_flight

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
