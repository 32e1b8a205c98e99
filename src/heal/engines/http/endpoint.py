"""One server: its connection, how much it is given, and how it is doing.

In: a page to post. Out: the response's bytes, or one of the errors in `failures`. How much it is
given adapts: halved when it says it is busy, then a little more with each round of answers. Knows
nothing of other servers, nor of what the bytes mean.
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
from heal.engines.http.dialects.base import Dialect, Hello, Page
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
HELLO_TIMEOUT_S = 20.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
ROUNDS = 16
"""Rounds of answers in which a server gets all its places back."""


class State(StrEnum):
    """How a server is doing."""

    LIVE = "live"
    TRIAL = "trial"
    """It says it is well again, and gets one request at a time until one succeeds."""
    PAUSED = "paused"


@dataclass(eq=False)
class Waiter:
    """Someone who wants a place at a server."""

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
    promised: int = 0
    """Requests that have it as their home and are not done."""
    limit: float = 1.0
    on_trial: bool = False
    """The one request of its trial is under way."""
    not_before: float = 0.0
    will_wake: bool = False
    failures: int = 0
    refusals: int = 0
    pauses: int = 0
    unwell_since: float | None = None
    """When it first refused, was not there or failed at a second request since its last success."""
    suspect: object = None
    """The first request it failed at since its last success; alone, it may itself be at fault."""
    cause: str = ""
    answered: float = 0.0
    asked: int = 0
    answers: int = 0
    given_up: int = 0
    times_paused: int = 0
    troubles: Counter[str] = field(default_factory=Counter)
    """Requests that brought nothing, by cause; none of them need have cost a result."""
    waiting: deque[Waiter] = field(default_factory=deque)
    running: set[asyncio.Timeout] = field(default_factory=set)
    _last_cut: float = 0.0
    _paused_s: float = 0.0
    _paused_at: float | None = None

    def __post_init__(self) -> None:
        self.dialect: Dialect = DIALECTS[self.settings.dialect]()
        self.scores = self.dialect.scores
        self.ceiling = max(1, round(self.in_flight_setting * self.settings.weight))
        self.limit = float(self.ceiling)

    @property
    def url(self) -> str:
        """Its address."""
        return self.settings.url

    @property
    def load(self) -> float:
        """Work it has, as a share of what it may have at once."""
        return self.promised / self.limit

    @property
    def takes_work(self) -> bool:
        """Whether it is up, and did not ask for a longer wait than others can be kept for."""
        if self.state is State.PAUSED:
            return False
        return self.not_before - time.monotonic() <= LONGEST_WAIT_S

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent now."""
        if self.state is State.TRIAL:
            return not self.on_trial
        return self.state is State.LIVE and self.in_flight < int(self.limit)

    async def post(self, page: Page, timeout_s: float) -> bytes:
        """The body of a 200. Raises: RequestError."""
        body = msgspec.json.encode(page.body)
        self.asked += 1
        try:
            # The total, which also ends an answer that drips in byte by byte.
            async with asyncio.timeout(timeout_s) as scope:
                self.running.add(scope)
                try:
                    response = await self.client.post(self.url + page.path, body)
                finally:
                    self.running.discard(scope)
        except TimeoutError as error:
            raise from_exception(error) from None
        check_status(response, time.time())
        return response.content

    async def hello(self) -> Hello:
        """Ask whether it is well and what it serves. Raises: RequestError."""
        for path in self.dialect.health:
            try:
                async with asyncio.timeout(HELLO_TIMEOUT_S):
                    response = await self.client.get(self.url + path)
            except TimeoutError as error:
                raise from_exception(error) from None
            check_status(response, time.time())
        return self.dialect.hello(response.content)

    def pause(self, now: float) -> None:
        """Take it to be down."""
        self.state, self._paused_at = State.PAUSED, now
        self.times_paused += 1

    def resume(self, state: State, now: float) -> None:
        """It is on trial, or live again."""
        self.state = state
        if self._paused_at is not None:
            self._paused_s += now - self._paused_at
            self._paused_at = None

    def facts(self, now: float) -> ServerFacts:
        """How it has fared so far; the pause it is in counts up to now."""
        paused_s = self._paused_s + (now - self._paused_at if self._paused_at is not None else 0.0)
        return ServerFacts(
            self.url,
            self.asked,
            self.answers,
            dict(self.troubles),
            self.given_up,
            self.times_paused,
            round(paused_s, 3),
        )

    def succeeded(self, now: float) -> None:
        """The server is well; give it a little more."""
        self.failures = self.refusals = self.pauses = 0
        self.unwell_since = self.suspect = None
        self.answered = now
        if self.state is State.LIVE:
            step = max(1.0, self.ceiling / ROUNDS) / self.limit
            self.limit = min(float(self.ceiling), self.limit + step)
        else:
            self.resume(State.LIVE, now)
            self.limit = float(self.ceiling)

    def refused(self, error: RefusedError, sent: float, now: float) -> None:
        """It is busy: wait, and give it half, once for all requests of the same moment."""
        self.refusals += 1
        self.unwell(error.cause, now)
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
            self.unwell(error.cause, now)
            return True
        self.suspect = self.suspect or request
        if self.suspect is not request:
            self.unwell(error.cause, now)
        return self.state is State.TRIAL or self.failures >= FAILURES

    def unwell(self, cause: str, now: float) -> None:
        """It is not well, and no single request can be to blame."""
        self.cause = cause
        self.unwell_since = self.unwell_since or now

    def abandon(self) -> None:
        """End what is under way, as a time-out of each."""
        now = asyncio.get_running_loop().time()
        for scope in tuple(self.running):
            scope.reschedule(now)


def backoff_s(times: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter."""
    return float(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (times - 1)) * random.uniform(0.5, 1.0))
