"""Many servers as one: who gets the next request, and what happens when one falters.

In: calls (how to ask, how to read). Out: what was read, or the error that no retry mended. A
request keeps its home server for its prefix cache and moves only when that one is down, fails at
it, or wants to be left alone for long. A server that is down is paused and asked after; whoever
waits for it goes elsewhere, or waits. A failure at a server that has said it is well, on trial too,
is a try of that request: what always fails ends as its error. It counts against the server as well
once a second request has failed with no answer between: only when all have been unwell for
`give_up_s` does everything stop. Lives in the event loop's thread.
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
from heal.engines.http.dialects.base import Dialect, Page
from heal.engines.http.endpoint import Endpoint, State, Waiter, backoff_s
from heal.engines.http.failures import (
    BadAnswerError,
    BrokenError,
    RefusedError,
    RejectedError,
    RequestError,
)
from heal.errors import EngineError

WATCH_S = 1.0
"""How often somebody looks whether everything has come to a halt."""
SILENT_S = 15.0
"""A server with work that has not answered for so long is asked whether it is well."""
TOO_MANY = 429
HELLOS = 3
"""So often, before what is under way there is given up."""
MOST_CAUSES = 30
"""So many are told apart at each server."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.2, 20.0

log = logging.getLogger("heal.engines.http")
Read = TypeVar("Read")


@dataclass(frozen=True)
class Call(Generic[Read]):
    """One request, for whichever server gets it."""

    page: Callable[[Dialect, str], Page]
    """From the dialect and the served name."""
    read: Callable[[Dialect, bytes], Read]
    """Raises: BrokenError for an answer that cannot be used."""
    timeout_s: float
    score: bool = False


class Pool:
    """The servers of one engine."""

    def __init__(self, endpoints: Sequence[Endpoint], settings: Settings) -> None:
        self.endpoints = endpoints
        self.settings = settings
        self._homeless: deque[Waiter] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to watch; everything not live is asked after."""
        self._spawn(self._watch())
        for endpoint in self.endpoints:
            if endpoint.state is State.PAUSED:
                endpoint.pause(time.monotonic())
                self._spawn(self._revive(endpoint))

    async def stop(self) -> None:
        """End the watching."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def choose(self, score: bool, avoid: Endpoint | None = None) -> Endpoint | None:
        """The least loaded server that is up and can do it; None if there is none."""
        able = [
            e for e in self.endpoints if e.state is not State.PAUSED and (e.scores or not score)
        ]
        ready = [e for e in able if e.takes_work] or able
        others = [e for e in ready if e is not avoid]
        return min(others or ready, key=lambda e: e.load, default=None)

    async def ask(self, call: Call[Read], home: Endpoint | None) -> Read:
        """The answer to a call. Raises: BrokenError after `tries`, RejectedError, EngineError."""
        try:
            try:
                return await self._ask_once(call, home)
            except BrokenError as error:
                return await self._ask_again(call, home, error)
        except RequestError as error:
            error.where.given_up += 1
            raise

    async def _ask_again(
        self, call: Call[Read], home: Endpoint | None, failure: BrokenError
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
                    return await self._ask_once(call, home)
                except BrokenError:
                    home = self.choose(call.score, avoid=home)
                    raise
        raise AssertionError("unreachable: tries is at least 1")

    async def _ask_once(self, call: Call[Read], home: Endpoint | None) -> Read:
        """One counted try: being told to wait, or finding nobody there, is not one."""
        while True:
            async with self._place(home, call.score) as endpoint:
                sent, state = time.monotonic(), endpoint.state
                try:
                    body = await endpoint.post(
                        call.page(endpoint.dialect, endpoint.model), call.timeout_s
                    )
                    answer = call.read(endpoint.dialect, body)
                except (RejectedError, BadAnswerError) as error:
                    # Not the server's state, or one odd request would stop all the others.
                    self._count(endpoint, error)
                    self._is_well(endpoint)
                    raise
                except RequestError as error:
                    self._count(endpoint, error)
                    self._note(endpoint, error, call, sent)
                    # A server that was down before this was sent is to blame, not the request.
                    if isinstance(error, BrokenError) and state is not State.PAUSED:
                        raise
                else:
                    endpoint.answers += 1
                    self._is_well(endpoint)
                    return answer

    def _count(self, endpoint: Endpoint, error: RequestError) -> None:
        found, cause = endpoint.troubles, error.cause
        # Some servers put a request's own number into their words.
        found[cause if cause in found or len(found) < MOST_CAUSES else "other causes"] += 1
        error.where = endpoint

    def _note(self, endpoint: Endpoint, error: RequestError, call: Call[Any], sent: float) -> None:
        now = time.monotonic()
        if isinstance(error, RefusedError):
            endpoint.refused(error, sent, now)
            if not endpoint.takes_work:
                self._move(endpoint)
            return
        if endpoint.failed(error, call, now) and endpoint.state is not State.PAUSED:
            self._pause(endpoint)

    def _is_well(self, endpoint: Endpoint) -> None:
        was = endpoint.state
        endpoint.succeeded(time.monotonic())
        if was is not State.LIVE:
            log.warning("%s: back", endpoint.url)
            self._house()

    # ── places ──────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _place(self, home: Endpoint | None, score: bool) -> AsyncIterator[Endpoint]:
        """Hold one of a server's places, the home's if it is up."""
        endpoint = await self._lease(home, score)
        try:
            yield endpoint
        finally:
            self._leave(endpoint)

    def _leave(self, endpoint: Endpoint) -> None:
        endpoint.in_flight -= 1
        endpoint.on_trial = False
        self._serve(endpoint)

    async def _lease(self, home: Endpoint | None, score: bool) -> Endpoint:
        waiter = Waiter(asyncio.get_running_loop().create_future(), score)
        self._queue(waiter, home)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                self._leave(waiter.future.result())
            raise

    def _queue(self, waiter: Waiter, home: Endpoint | None = None) -> None:
        up = home is not None and home.takes_work
        endpoint = home if up else self.choose(waiter.score)
        if endpoint is None:
            self._homeless.append(waiter)
            return
        endpoint.waiting.append(waiter)
        self._serve(endpoint)

    def _serve(self, endpoint: Endpoint) -> None:
        """Hand out what places a server has."""
        delay = endpoint.not_before - time.monotonic()
        if delay > 0:
            if endpoint.waiting and not endpoint.will_wake:
                endpoint.will_wake = True
                asyncio.get_running_loop().call_later(delay, self._wake, endpoint)
            return
        while endpoint.has_room and endpoint.waiting:
            waiter = endpoint.waiting.popleft()
            if not waiter.future.done():
                endpoint.in_flight += 1
                endpoint.on_trial = endpoint.state is State.TRIAL
                waiter.future.set_result(endpoint)

    def _wake(self, endpoint: Endpoint) -> None:
        endpoint.will_wake = False
        self._serve(endpoint)

    def _house(self) -> None:
        """A server is up: those that had none try again."""
        waiting, self._homeless = self._homeless, deque()
        for waiter in waiting:
            self._queue(waiter)

    # ── servers that are down ───────────────────────────────────────────────────────────────────

    def _pause(self, endpoint: Endpoint) -> None:
        endpoint.pause(time.monotonic())
        endpoint.pauses += 1
        up = sum(e.state is not State.PAUSED for e in self.endpoints)
        if endpoint.pauses == 1:
            rest = f"going on with {up} other{'s' * (up != 1)}" if up else "waiting for it"
            log.warning("%s: paused after: %s; %s", endpoint.url, endpoint.cause, rest)
        self._move(endpoint)
        self._spawn(self._revive(endpoint))

    def _move(self, endpoint: Endpoint) -> None:
        """Those who wait for it go elsewhere, if there is an elsewhere."""
        moved, endpoint.waiting = endpoint.waiting, deque()
        for waiter in moved:
            self._queue(waiter)

    async def _revive(self, endpoint: Endpoint) -> None:
        """Ask after a server until it is well and serves the model; then one request is tried."""
        while True:
            endpoint.pauses += 1
            await asyncio.sleep(backoff_s(endpoint.pauses))
            if endpoint.state is not State.PAUSED:
                return  # an answer arrived after all
            try:
                said = await endpoint.hello()
            except RequestError as error:
                endpoint.unwell(error.cause, time.monotonic())
                continue
            if endpoint.model in said.models:
                break
            cause = f"it serves {', '.join(said.models) or 'nothing'}"
            endpoint.unwell(cause, time.monotonic())
        endpoint.resume(State.TRIAL, time.monotonic())
        endpoint.limit, endpoint.failures = 1.0, 0
        endpoint.on_trial = False
        self._house()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(WATCH_S, self.settings.give_up_s / 4))
            for endpoint in self.endpoints:
                if self._is_silent(endpoint):
                    await self._check_on(endpoint)
            self._give_up()

    def _is_silent(self, endpoint: Endpoint) -> bool:
        if endpoint.state is State.PAUSED or not endpoint.in_flight:
            return False
        return time.monotonic() - endpoint.answered > SILENT_S

    async def _check_on(self, endpoint: Endpoint) -> None:
        """Long traces take long; a server that is not even well will not finish them."""
        before, cause = endpoint.answered, ""
        for times in range(HELLOS):
            if times:
                await asyncio.sleep(backoff_s(times))
            if endpoint.answered > before:
                return
            try:
                await endpoint.hello()
            except RequestError as error:
                # Too busy for a visit is alive; 503 is what vLLM says when its engine is dead.
                if not (isinstance(error, RefusedError) and error.status == TOO_MANY):
                    cause = f"not well: {error.cause}"
                    continue
            endpoint.answered = time.monotonic()
            return
        endpoint.unwell(cause, time.monotonic())
        if endpoint.state is not State.PAUSED:
            self._pause(endpoint)
        endpoint.abandon()

    def _give_up(self) -> None:
        """Fail everyone who waits for servers that have all been silent for too long."""
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
            for waiter in (*self._homeless, *(w for e in able for w in e.waiting)):
                if waiter.score is score and not waiter.future.done():
                    waiter.future.set_exception(error)

    def _is_lost(self, endpoint: Endpoint) -> bool:
        since = endpoint.unwell_since
        if since is None or time.monotonic() - since < self.settings.give_up_s:
            return False
        return endpoint.state is State.PAUSED or not endpoint.in_flight

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
