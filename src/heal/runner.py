"""The runner: asks each problem what it still owes, and carries requests to whoever answers them.

The only loop that knows engines, verifier, store and observer. A window of problems is open at a
time. Each is asked for its requests; these go to their lane (writing, scoring, verifying); answers
are stored as they come, and only then counted. When all of a problem's requests are answered it is
asked again; when it owes nothing it is concluded, forgotten, and the next is taken. No problem
waits for another, and memory is the window's, whatever the run's size.

Lanes are served in turn by this one thread: an engine that has nothing for the moment says so
(`heal.engines.base`). What problems owe, and what is made of their answers, is decided in `stages`.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from heal.engines.base import Engine
from heal.errors import EngineError, HealError, TooManyFailuresError
from heal.records import Problem
from heal.session import Observer
from heal.stages.found import Answerable, Found, Lane, Request
from heal.store import Store, Stored, decode
from heal.verifiers import Verifier
from heal.wording import plural

WINDOW = 128
"""Problems open at once: some thousand requests, enough for a few hundred places on servers."""
AT_ONCE = 256
"""Answers taken from one lane before the others have their turn, and stored together."""
QUIET_S, WAIT_S = 0.0005, 0.002
"""A turn that took no time brought nothing and did no work: the lanes wait for others."""
FEW = 20
"""Below so many answers a share of failures says little, and nothing is stopped."""

Ask = Callable[[Found], Iterable[Request]]
Done = Callable[[Found], None]
Stream = Callable[[Iterator[Any]], Iterator[Any]]


class TokenCapError(HealError):
    """The run reached `limits.teacher_tokens`; everything drawn so far is stored."""


@dataclass(frozen=True)
class Limits:
    """When a run stops by itself."""

    failed_share: float = 1.0
    teacher_tokens: int | None = None


class Runner:
    """Works through problems, lane by lane; one per process, used once per pass."""

    def __init__(
        self,
        store: Store,
        observer: Observer,
        streams: Mapping[Lane, Stream],
        limits: Limits,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.observer, self.limits = store, observer, limits
        self._streams, self._tick = streams, tick
        self._arrived, self._failed = Counter[str](), dict[str, Counter[str]]()
        self._spent = store.totals().spent
        self.work: dict[Lane, tuple[int, float]] = {}
        """Tokens and seconds of each lane in this process."""

    def run(self, problems: Iterable[Problem], ask: Ask, done: Done) -> None:
        """Open problems one after another until none of them owes anything.

        Raises: what an engine raises, TooManyFailuresError, TokenCapError; all that arrived before
        is stored.
        """
        with ExitStack() as stack:
            work = _Pass(self, iter(problems), ask, done)
            for lane in work.lanes.values():
                stack.callback(lane.close)
            while work.turn():
                self._tick()

    def stream(self, lane: Lane) -> Stream:
        """How a lane's requests are answered."""
        return self._streams[lane]

    def keep(self, answers: list["_Answer"]) -> None:
        """Make answers durable."""
        rows = [Stored(a.request.stage, a.key, a.owner.problem.id, a.record) for a in answers]
        spent = sum(tokens_of(a.record) for a in answers)
        self.store.commit(rows, spent=spent, answers=True)
        self._spent += spent

    def count(self, answers: list["_Answer"]) -> None:
        """Tell the observer what is stored by now. Raises: TooManyFailuresError."""
        for answer in answers:
            self._count(answer.request.stage, answer.record)

    def check_cap(self) -> None:
        """Asked before more is written. Raises: TokenCapError."""
        cap = self.limits.teacher_tokens
        if cap is not None and self._spent >= cap:
            raise TokenCapError(
                f"stopped at limits.teacher_tokens = {cap:,}; everything drawn so far is stored",
                hint="raise the cap and run the same command again to go on",
            )

    def note_work(self, lane: Lane, answers: list["_Answer"], seconds: float) -> None:
        """Add to what each lane took: the relative cost of a scored token comes from it."""
        tokens, before = self.work.get(lane, (0, 0.0))
        tokens += sum(
            tokens_of(a.record) or int(getattr(a.record, "scored_tokens", 0)) for a in answers
        )
        self.work[lane] = (tokens, before + seconds)

    def _count(self, stage: str, record: Any) -> None:
        error: str | None = getattr(record, "error", None)
        self.observer.arrived("failed" if error else "done", tokens_of(record))
        failed = self._failed.setdefault(stage, Counter())
        self._arrived[stage] += 1
        if error is None:
            return
        failed[error] += 1
        arrived = self._arrived[stage]
        if arrived >= FEW and failed.total() / arrived > self.limits.failed_share:
            raise TooManyFailuresError(
                f"{failed.total()} of {plural(arrived, 'item')} failed: {causes(failed)}",
                hint="mend the cause, then run the same command again; what succeeded is stored",
            )


@dataclass
class _Open:
    """A problem that still owes something."""

    found: Found
    waiting: int = 0
    """Answers that are on their way."""

    @property
    def problem(self) -> Problem:
        return self.found.problem


@dataclass(frozen=True)
class _Answer:
    request: Request
    owner: _Open
    key: str
    record: Any


class _Pass:
    """One run over one iterable of problems."""

    def __init__(self, runner: Runner, source: Iterator[Problem], ask: Ask, done: Done) -> None:
        self.runner, self._source = runner, source
        self._ask, self._done = ask, done
        self._open = 0
        self.lanes = {lane: _Lane(lane, runner) for lane in Lane}
        self._fill()

    def turn(self) -> bool:
        """Serve every lane once; whether there is more to do."""
        started = time.monotonic()
        busy = [lane for lane in self.lanes.values() if lane.has_work]
        if self.lanes[Lane.WRITE] in busy:
            self.runner.check_cap()
        answers: list[_Answer] = []
        try:
            for lane in busy:
                lane.poll(answers)
        except BaseException:
            self.runner.keep(answers)  # what came before the error is paid for
            raise
        if answers:
            self._take(answers)
        elif busy:
            self.runner.observer.waiting(sum(lane.under_way for lane in busy))
            if time.monotonic() - started < QUIET_S:
                time.sleep(WAIT_S)
                for lane in busy:
                    self.runner.note_work(lane.kind, [], WAIT_S / len(busy))
        self._fill()
        return self._open > 0

    def _fill(self) -> None:
        while self._open < WINDOW:
            problem = next(self._source, None)
            if problem is None:
                return
            self._open += 1
            self._ask_for_more(_Open(self._found(problem)), first=True)

    def _found(self, problem: Problem) -> Found:
        bodies = self.runner.store.bodies(problem.id)

        def read(stage: str, key: str, kind: type[Any]) -> Any:
            body = bodies.pop((stage, key), None)
            return None if body is None else decode(kind, body)

        return Found(problem, read)

    def _ask_for_more(self, owner: _Open, first: bool = False) -> None:
        requests = list(self._ask(owner.found))
        if not requests:
            self._done(owner.found)
            self._open -= 1
            return
        owner.waiting = sum(len(request.keys) for request in requests)
        for lane in self.lanes.values():
            own = [request for request in requests if request.lane is lane.kind]
            # Whoever has begun goes first: problems are finished one after another.
            lane.queue.extend((r, owner) for r in own) if first else lane.queue.extendleft(
                (r, owner) for r in reversed(own)
            )

    def _take(self, answers: list[_Answer]) -> None:
        self.runner.keep(answers)
        self.runner.count(answers)
        for answer in answers:
            answer.owner.found.add(answer.request.stage, answer.key, answer.record)
            answer.owner.waiting -= 1
        for owner in {id(a.owner): a.owner for a in answers}.values():
            if not owner.waiting:
                self._ask_for_more(owner)


class _Lane:
    """One stream of requests and answers; opened when it gets its first request."""

    def __init__(self, kind: Lane, runner: Runner) -> None:
        self.kind, self.runner = kind, runner
        self.queue: deque[tuple[Request, _Open]] = deque()
        self._under_way: dict[str, tuple[Request, _Open, set[int]]] = {}
        self._numbers = count()
        self._answers: Iterator[Any] | None = None
        self.under_way = 0
        """Answers the engine was asked for and has not given yet."""

    @property
    def has_work(self) -> bool:
        return bool(self.queue or self._under_way)

    def poll(self, found: list[_Answer]) -> None:
        """Add what has come, without waiting for more. Raises: EngineError, what engines raise."""
        started, before = time.monotonic(), len(found)
        if self._answers is None:
            self._answers = self.runner.stream(self.kind)(self._feed())
        for answer in self._answers:
            if answer is None:
                break
            found.append(self._read(answer))
            if len(found) - before == AT_ONCE:
                break
        else:
            owed = sum(len(left) for _, _, left in self._under_way.values())
            raise EngineError(
                f"the engine that shall {self.kind} ended with {plural(owed, 'answer')} owed"
            )
        self.runner.note_work(self.kind, found[before:], time.monotonic() - started)

    def close(self) -> None:
        """End the stream and what is under way in it."""
        close = getattr(self._answers, "close", None)
        if close is not None:
            close()

    def _feed(self) -> Iterator[Any]:
        yield None  # or an engine with enough to do would wait for its own answers alone
        while True:
            if not self.queue:
                yield None
                continue
            request, owner = self.queue.popleft()
            name = str(next(self._numbers))
            self._under_way[name] = (request, owner, set(range(len(request.keys))))
            self.under_way += len(request.keys)
            if self.kind is not Lane.VERIFY:  # judging again costs nothing
                self.runner.store.claim(request.stage, request.keys)
            yield _named(request, name)

    def _read(self, answer: Any) -> _Answer:
        name, index = _name_of(answer)
        request, owner, left = self._under_way[name]
        left.discard(index)
        self.under_way -= 1
        if not left:
            del self._under_way[name]
        return _Answer(request, owner, request.keys[index], request.read(answer))


def lanes(teacher: Callable[[], Engine], scorer: Callable[[], Engine],
          verifier: Callable[[], Verifier]) -> dict[Lane, Stream]:  # fmt: skip
    """Streams over engines and a verifier that are opened by their first request."""
    return {
        Lane.WRITE: lambda feed: teacher().generate(feed),
        Lane.SCORE: lambda feed: scorer().score(feed),
        Lane.VERIFY: lambda feed: verifier().verify_all(feed),
    }


def tokens_of(record: Any) -> int:
    """Teacher tokens sampled for a record; 0 for what samples nothing, or not the teacher."""
    return int(getattr(record, "new_tokens", 0))


def causes(failed: Mapping[str, int], most: int = 3) -> str:
    """`12 × connection refused; 3 × timeout`"""
    common = Counter(failed).most_common()
    shown = "; ".join(f"{number} × {reason}" for reason, number in common[:most])
    return shown + (f"; {len(common) - most} more causes" if len(common) > most else "")


def _named(request: Request, name: str) -> Any:
    """The request under the name its answers will bear: one name is never under way twice."""
    ask = request.ask
    if isinstance(ask, Answerable):
        return (name, ask.text, ask.finish, ask.problem)
    return replace(ask, id=name)


def _name_of(answer: Any) -> tuple[str, int]:
    if hasattr(answer, "request"):
        return answer.request, getattr(answer, "index", 0)
    return answer.trace, 0
