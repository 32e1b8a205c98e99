"""One server: its connection, its concurrency limit and its health.

In: a request to post. Out: the response's bytes, or one of the errors in `failures`. The limit
adapts: halved when the server says it is busy, then raised a little with each round of answers.
Knows nothing of other servers, nor of what the bytes mean.
"""

import asyncio
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from heal.config import HttpEndpoint
from heal.engines.http.client import Client
from heal.engines.http.dialects import DIALECTS
from heal.engines.http.dialects.base import Dialect, HttpRequest, ServerInfo
from heal.engines.http.failures import (
    RefusedError,
    RequestError,
    UnreachableError,
    check_status,
    from_exception,
)
from heal.records import ServerFacts

FAILURES = 3
"""So many failures in a row, with no success between, and a server is taken to be down."""
HEALTH_TIMEOUT_S = 20.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
ROUNDS = 16
"""Rounds of answers in which a halved limit is back at its full value."""


class State(StrEnum):
    """Health of a server, as a circuit breaker sees it."""

    LIVE = "live"
    TRIAL = "trial"
    """Half-open: it passed its health check, and gets one request at a time until one succeeds."""
    PAUSED = "paused"


@dataclass(eq=False)
class SlotRequest:
    """A call that waits for a free slot at a server."""

    future: "asyncio.Future[Endpoint]"
    score: bool


@dataclass(eq=False)
class Endpoint:
    """A server and its state; used from the event loop's thread only."""

    settings: HttpEndpoint
    client: Client
    in_flight_setting: int
    state: State = State.PAUSED
    model: str = ""
    context: int | None = None
    scores: bool = False
    in_flight: int = 0
    assigned: int = 0
    """Requests that prefer it and are not done."""
    limit: float = 1.0
    trial_in_flight: bool = False
    """The one request allowed in the state `TRIAL` is under way."""
    not_before: float = 0.0
    wake_scheduled: bool = False
    failures: int = 0
    refusals: int = 0
    pauses: int = 0
    unhealthy_since: float | None = None
    """When it first refused, was not there or failed at a second request since its last success."""
    suspect: object = None
    """The first request it failed at since its last success; alone, it may itself be at fault."""
    cause: str = ""
    last_answer: float = 0.0
    """When, on the monotonic clock."""
    asked: int = 0
    answers: int = 0
    given_up: int = 0
    times_paused: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Requests that brought nothing, by cause; none of them need have cost a result."""
    queue: deque[SlotRequest] = field(default_factory=deque)
    running: set[asyncio.Timeout] = field(default_factory=set)
    _last_cut: float = 0.0
    _paused_s: float = 0.0
    _paused_at: float | None = None

    def __post_init__(self) -> None:
        self.dialect: Dialect = DIALECTS[self.settings.dialect]()
        self.scores = self.dialect.scores
        self.max_in_flight = max(1, round(self.in_flight_setting * self.settings.weight))
        self.limit = float(self.max_in_flight)

    @property
    def url(self) -> str:
        """Its address, as it may be shown."""
        return self.settings.url

    @property
    def login(self) -> str | None:
        """What it asks for in place of a key."""
        login = self.settings.login
        return login.get_secret_value() if login is not None else None

    @property
    def load(self) -> float:
        """Requests assigned to it, as a share of its limit."""
        return self.assigned / self.limit

    @property
    def accepts_requests(self) -> bool:
        """Whether it is up, and did not ask for a wait too long to queue for."""
        if self.state is State.PAUSED:
            return False
        return self.not_before - time.monotonic() <= LONGEST_WAIT_S

    @property
    def has_free_slot(self) -> bool:
        """Whether one more request may be sent now."""
        if self.state is State.TRIAL:
            return not self.trial_in_flight
        return self.state is State.LIVE and self.in_flight < int(self.limit)

    async def post(self, request: HttpRequest, timeout_s: float) -> bytes:
        """The body of a 200, for a request that counts. Raises: RequestError."""
        self.asked += 1
        return await self.ask(request, timeout_s)

    async def ask(self, request: HttpRequest, timeout_s: float) -> bytes:
        """The body of a 200. Raises: RequestError."""
        body = msgspec.json.encode(request.body)
        try:
            # The total, which also ends an answer that drips in byte by byte.
            async with asyncio.timeout(timeout_s) as scope:
                self.running.add(scope)
                try:
                    response = await self.client.post(
                        self.settings.address + request.path, body, self.login
                    )
                finally:
                    self.running.discard(scope)
        except TimeoutError as error:
            raise from_exception(error) from None
        check_status(response, time.time())
        return response.content

    async def check_health(self) -> ServerInfo:
        """Whether it is healthy, and what it serves. Raises: RequestError."""
        for path in self.dialect.health:
            try:
                async with asyncio.timeout(HEALTH_TIMEOUT_S):
                    response = await self.client.get(self.settings.address + path, self.login)
            except TimeoutError as error:
                raise from_exception(error) from None
            check_status(response, time.time())
        return self.dialect.info(response.content)

    def pause(self, now: float) -> None:
        """Take it to be down."""
        self.state, self._paused_at = State.PAUSED, now
        self.times_paused += 1

    def resume(self, state: State, now: float) -> None:
        """It is half-open, or live again."""
        self.state = state
        if self._paused_at is not None:
            self._paused_s += now - self._paused_at
            self._paused_at = None

    def facts(self, now: float) -> ServerFacts:
        """Its counts so far; a pause that goes on counts up to now."""
        paused_s = self._paused_s + (now - self._paused_at if self._paused_at is not None else 0.0)
        return ServerFacts(
            self.url,
            self.asked,
            self.answers,
            dict(self.errors),
            self.given_up,
            self.times_paused,
            round(paused_s, 3),
        )

    def succeeded(self, now: float) -> None:
        """The server is healthy; raise its limit a little."""
        self.failures = self.refusals = self.pauses = 0
        self.unhealthy_since = self.suspect = None
        self.last_answer = now
        if self.state is State.LIVE:
            step = max(1.0, self.max_in_flight / ROUNDS) / self.limit
            self.limit = min(float(self.max_in_flight), self.limit + step)
        else:
            self.resume(State.LIVE, now)
            self.limit = float(self.max_in_flight)

    def refused(self, error: RefusedError, sent: float, now: float) -> None:
        """It is busy: wait, and halve its limit, once for all requests of the same moment."""
        self.refusals += 1
        self.mark_unhealthy(error.cause, now)
        wait = backoff_s(self.refusals) if error.wait_s is None else error.wait_s
        self.not_before = max(self.not_before, now + wait)
        if sent >= self._last_cut:
            self.limit = max(1.0, self.limit / 2)
            self._last_cut = now

    def failed(self, error: RequestError, request: object, now: float) -> bool:
        """Note a failure; whether the server should be taken to be down."""
        self.failures += 1
        self.cause = error.cause
        if isinstance(error, UnreachableError):
            self.mark_unhealthy(error.cause, now)
            return True
        self.suspect = self.suspect or request
        if self.suspect is not request:
            self.mark_unhealthy(error.cause, now)
        return self.state is State.TRIAL or self.failures >= FAILURES

    def mark_unhealthy(self, cause: str, now: float) -> None:
        """It is unhealthy, and no single request can be to blame."""
        self.cause = cause
        self.unhealthy_since = self.unhealthy_since or now

    def time_out_all(self) -> None:
        """End what is under way, as a time-out of each."""
        now = asyncio.get_running_loop().time()
        for scope in tuple(self.running):
            scope.reschedule(now)


def backoff_s(times: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter."""
    return float(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (times - 1)) * random.uniform(0.5, 1.0))
