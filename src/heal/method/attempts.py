"""Attempts: what students answered, counted by arm, training seed and problem.

In: verified attempts, one at a time, in any order. Out: counts in arrays; no attempt is kept, so
memory grows with the problems, not with the attempts. Attempts the engine failed on say nothing
about the student: they are left out and counted. A problem that some student has no attempt at is
left out for all of them, or the arms would not be compared on the same problems.
"""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heal.method.final_answers import identity
from heal.records import Finish, Verdict

Votes = tuple[int, ...]
"""How often each wrong answer was given, the most frequent first."""

_identity = lru_cache(maxsize=1 << 14)(identity)


class Attempt(Protocol):
    """One verified attempt: a stored row, or anything like it."""

    @property
    def problem(self) -> str:
        """Its id."""

    @property
    def arm(self) -> str:
        """Whose it is."""

    @property
    def seed(self) -> int:
        """Training seed (0 for an arm that is not trained)."""

    @property
    def verdict(self) -> str:
        """A `Verdict`'s value."""

    @property
    def answer(self) -> str | None:
        """As text."""

    @property
    def finish(self) -> str:
        """A `Finish`'s value."""

    @property
    def tokens(self) -> int:
        """Written."""

    @property
    def error(self) -> str | None:
        """Why the engine failed."""


@dataclass(frozen=True)
class Counts:
    """One arm's attempts, int64[seeds, problems]; every cell has some."""

    seeds: tuple[int, ...]
    attempts: NDArray[np.int64]
    correct: NDArray[np.int64]
    truncated: NDArray[np.int64]
    no_answer: NDArray[np.int64]
    repeating: NDArray[np.int64]
    """Stopped for repeating themselves; these are truncated ones too."""
    tokens: NDArray[np.int64]
    votes: tuple[tuple[Votes, ...], ...]
    """By seed and problem, in the order of the arrays."""


@dataclass(frozen=True)
class Tally:
    """The attempts of all arms, on the problems that every student has attempts at."""

    problems: tuple[str, ...]
    arms: dict[str, Counts]
    failed: int
    """Attempts left out because the engine failed on them."""
    left_out: int
    """Problems left out because some student has no attempt at them."""


def tally(attempts: Iterable[Attempt]) -> Tally:
    """Count attempts."""
    cells = _Cells()
    for attempt in attempts:
        cells.add(attempt)
    return cells.close()


class _Cells:
    """Counts under way, one cell for each student (arm and seed) and problem."""

    def __init__(self) -> None:
        self.students: dict[tuple[str, int], dict[str, int]] = {}
        self.attempts, self.correct, self.tokens = array("q"), array("q"), array("q")
        self.truncated, self.no_answer, self.repeating = array("q"), array("q"), array("q")
        self.codes: dict[object, int] = {}
        self.wrong_cell, self.wrong_code = array("q"), array("q")
        self.failed = 0

    def add(self, attempt: Attempt) -> None:
        """Count one attempt."""
        if attempt.error is not None:
            self.failed += 1
            return
        cell = self._cell(attempt)
        self.attempts[cell] += 1
        self.tokens[cell] += attempt.tokens
        if attempt.verdict == Verdict.CORRECT:
            self.correct[cell] += 1
            return
        self.truncated[cell] += attempt.verdict == Verdict.TRUNCATED
        self.no_answer[cell] += attempt.verdict == Verdict.NO_ANSWER
        self.repeating[cell] += attempt.finish == Finish.LOOP
        if attempt.answer is not None:
            self.wrong_cell.append(cell)
            code = self.codes.setdefault(_identity(attempt.answer), len(self.codes))
            self.wrong_code.append(code)

    def _cell(self, attempt: Attempt) -> int:
        own = self.students.setdefault((attempt.arm, attempt.seed), {})
        cell = own.get(attempt.problem)
        if cell is None:
            cell = own[attempt.problem] = len(self.attempts)
            for counts in self._counted():
                counts.append(0)
        return cell

    def _counted(self) -> tuple["array[int]", ...]:
        shares = (self.truncated, self.no_answer, self.repeating)
        return (self.attempts, self.correct, self.tokens, *shares)

    def close(self) -> Tally:
        """Everything counted, where every student has attempts."""
        answered = [own.keys() for own in self.students.values()]
        shared = set(answered[0]).intersection(*answered) if answered else set[str]()
        problems = tuple(sorted(shared))
        votes = self._votes()
        by_arm: dict[str, list[int]] = {}
        for arm, seed in sorted(self.students):
            by_arm.setdefault(arm, []).append(seed)
        return Tally(
            problems,
            {arm: self._counts(arm, seeds, problems, votes) for arm, seeds in by_arm.items()},
            self.failed,
            len(set().union(*answered)) - len(problems),
        )

    def _counts(
        self,
        arm: str,
        seeds: list[int],
        problems: tuple[str, ...],
        votes: Callable[[int], Votes],
    ) -> Counts:
        own = [self.students[arm, seed] for seed in seeds]
        cells = np.array([[cell[p] for p in problems] for cell in own], np.int64)
        cells = cells.reshape(len(seeds), len(problems))
        return Counts(
            tuple(seeds),
            attempts=np.asarray(self.attempts)[cells],
            correct=np.asarray(self.correct)[cells],
            truncated=np.asarray(self.truncated)[cells],
            no_answer=np.asarray(self.no_answer)[cells],
            repeating=np.asarray(self.repeating)[cells],
            tokens=np.asarray(self.tokens)[cells],
            votes=tuple(tuple(map(votes, row)) for row in cells.tolist()),
        )

    def _votes(self) -> Callable[[int], Votes]:
        """How often each wrong answer was given in a cell."""
        order = np.lexsort((self.wrong_code, self.wrong_cell))
        cell = np.asarray(self.wrong_cell, np.int64)[order]
        code = np.asarray(self.wrong_code, np.int64)[order]
        new = np.diff(cell, prepend=-1).astype(bool) | np.diff(code, prepend=-1).astype(bool)
        starts = np.flatnonzero(new)
        counts, owner = np.diff(starts, append=len(cell)), cell[starts]
        bounds = np.searchsorted(owner, np.arange(len(self.attempts) + 1))

        def votes(cell: int) -> Votes:
            return tuple(sorted(counts[bounds[cell] : bounds[cell + 1]].tolist(), reverse=True))

        return votes
