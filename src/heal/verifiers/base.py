"""What a verifier is: from a trace's text to one of five verdicts.

A *reader* turns a trace and its problem into a `Finding` at once, or into a `Question` for the
worker processes. `Verifier` does the rest alike for every reader: truncated traces are never
read, equal questions are asked once, and what times out or crashes is `UNVERIFIABLE`.
A verdict depends only on the answer and the reference, so a custom checker must be deterministic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from heal.records import Check, Finish, Problem, Verdict
from heal.verifiers.worker import Job, WorkerPool

Item = tuple[str, str, Finish, Problem]
"""A trace to verify: its key, its text, why it ended, its problem."""

_REMEMBERED = 100_000
_NAMED = 5
_LONGEST_DETAIL = 300


@dataclass(frozen=True)
class Finding:
    """A verdict, the answer it is about, and which rule decided, in a few stable words."""

    verdict: Verdict
    answer: str | None = None
    detail: str | None = None
    doubt: str | None = None
    """Of a gold answer: why a right answer may be missed although it can be compared."""


@dataclass(frozen=True)
class Question:
    """Something only a worker process may decide. A candidate of None doubts the reference."""

    answer: str | None
    candidate: str | None
    reference: str

    @property
    def ticket(self) -> str:
        """Names equal questions equally."""
        text = f"{self.candidate is None}\0{self.candidate}\0{self.reference}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


Reader = Callable[[str, Problem], Finding | Question]
GoldReader = Callable[[Problem], Finding | Question]


@dataclass(frozen=True)
class Preflight:
    """Gold answers the verifier cannot use well: facts to show, not errors."""

    checked: int
    doubtful: int
    named: tuple[str, ...]
    """The first few doubtful ones, each as one line."""


class Verifier:
    """Verifies traces with one reader; `pool` is None for readers that never ask a question."""

    def __init__(
        self, name: str, read: Reader, read_gold: GoldReader, pool: WorkerPool | None = None
    ) -> None:
        self.name = name
        self._read = read
        self._read_gold = read_gold
        self._pool = pool
        self._known: dict[str, Finding] = {}
        self._asked: set[str] = set()

    def check(self, text: str, problem: Problem) -> Finding:
        """The verdict on one finished trace."""
        ((_, found),) = filter(
            None, self._decide([("", self._read_ended(text, Finish.STOP, problem))])
        )
        return found

    def verify_all(self, items: Iterable[Item | None]) -> Iterator[Check | None]:
        """One `Check` per item, in any order, as they are decided; `items` is read lazily.

        An item of None says that there is nothing for the moment: from then on None is yielded too
        whenever nothing is decided without waiting.
        """
        read = (item and (item[0], self._read_ended(*item[1:])) for item in items)
        for decided in self._decide(read):
            if decided is None:
                yield None
                continue
            key, found = decided
            yield Check(key, found.verdict, found.answer, found.detail)

    def preflight(self, problems: Iterable[Problem]) -> Preflight:
        """Try every gold answer against itself before any token is spent."""
        by_id = {problem.id: problem for problem in problems}
        read = ((key, _guarded(self._read_gold, problem)) for key, problem in by_id.items())
        decided = filter(None, self._decide(read))
        doubts = {key: found for key, found in decided if _is_doubtful(found)}
        named = [
            f"{key}: {_short(by_id[key].answer)}: {_why_doubtful(doubts[key])}"
            for key in by_id
            if key in doubts
        ]
        return Preflight(len(by_id), len(doubts), tuple(named[:_NAMED]))

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.close()

    def _read_ended(self, text: str, finish: Finish, problem: Problem) -> Finding | Question:
        if finish in (Finish.LENGTH, Finish.LOOP):
            return Finding(Verdict.TRUNCATED, detail=f"the trace ended with {finish.value!r}")
        if finish is not Finish.STOP:
            return Finding(Verdict.UNVERIFIABLE, detail=f"the trace ended with {finish.value!r}")
        return _guarded(self._read, text, problem)

    def _decide(
        self, read: Iterable[tuple[str, Finding | Question] | None]
    ) -> Iterator[tuple[str, Finding] | None]:
        waiting: dict[str, list[tuple[str, str | None]]] = {}
        for item in read:
            if item is None:
                if waiting:
                    yield from self._answered(waiting, self._poll(wait=False))
                yield None
                continue
            key, outcome = item
            if isinstance(outcome, Finding):
                yield key, outcome
                continue
            waiting.setdefault(outcome.ticket, []).append((key, outcome.answer))
            yield from self._answered(waiting, self._ask(outcome))
        while waiting:
            yield from self._answered(waiting, self._poll(wait=True))

    def _ask(self, question: Question) -> list[str]:
        """Hand a question to the pool, and take what it knows by now; tickets that are decided.

        Never waits: where questions come from, an engine would wait with it.
        """
        assert self._pool is not None, "only readers with a pool ask questions"
        ticket = question.ticket
        if ticket in self._known:
            return [ticket]
        if ticket not in self._asked:
            self._asked.add(ticket)
            self._pool.submit(Job(ticket, question.candidate, question.reference))
        return self._poll(wait=False)

    def _poll(self, wait: bool) -> list[str]:
        assert self._pool is not None
        replies = self._pool.poll(wait)
        for reply in replies:
            self._asked.discard(reply.ticket)
            self._known[reply.ticket] = Finding(reply.verdict, detail=reply.detail)
        while len(self._known) > max(_REMEMBERED, len(replies)):
            del self._known[next(iter(self._known))]
        return [reply.ticket for reply in replies]

    def _answered(
        self, waiting: dict[str, list[tuple[str, str | None]]], tickets: Iterable[str]
    ) -> Iterator[tuple[str, Finding]]:
        for ticket in tickets:
            known = self._known[ticket]
            for key, answer in waiting.pop(ticket, ()):
                yield key, Finding(known.verdict, answer, known.detail)


def _guarded(read: Callable[..., Finding | Question], *read_from: Any) -> Finding | Question:
    """What a reader says; one that fails on a text costs that text's verdict, never the run."""
    try:
        return read(*read_from)
    except Exception as error:
        words = f"{type(error).__name__}: {error}"[:_LONGEST_DETAIL]
        return Finding(Verdict.UNVERIFIABLE, detail=f"the reader failed: {words}")


def _is_doubtful(found: Finding) -> bool:
    return found.verdict is not Verdict.CORRECT or found.doubt is not None


def _why_doubtful(found: Finding) -> str:
    return found.doubt or found.detail or "is not its own answer"


def _short(answer: str) -> str:
    return repr(answer if len(answer) <= 60 else f"{answer[:57]}...")
