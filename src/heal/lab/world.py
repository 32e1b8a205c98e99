"""What a lab world is: problems of known families, traces whose every step is judged, lessons.

A `World` makes problems, judges traces, and writes the lessons its teacher and student are trained
on. `OneRule` is the kind with one choice to a trace; `moves` has several. `Dials` is the one place
where a world's difficulty is set. Imports no torch and knows no model.

*Common* families are mastered by the teacher, *rare* ones it gets right now and then, *latent* ones
it can apply but hardly ever thinks of: what is hard is the choice.
"""

from __future__ import annotations

import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from heal.lab.lesson import Lesson

SPLITS = ("train", "pool", "heldout")


@dataclass(frozen=True)
class Dials:
    """What sets how hard a world is and how its models are trained. Shares are in 0..1.

    What a share is of (traces, or the choices within them) each kind of world says.
    """

    seed: int = 0
    """Seeds problems, traces, initial weights and batches."""

    spontaneous_latent: float = 0.003
    """Share of unaided choices on latent families, in training traces, that are right."""
    spontaneous_rare: float = 0.2
    """The same for rare families."""
    spontaneous_common: float = 0.95
    """The same for common ones; the rest are plausible wrong choices."""
    slip: float = 0.05
    """Share of slips in unaided work on a right choice."""

    fudge_answer: float = 0.5
    """Share of fudges under an `answer` hint, on rare and latent families."""
    fudge_guided: float = 0.15
    """The same under a guided hint."""
    switch_fudged: float = 0.4
    """Share of fudged traces that switch to the right answer at the very end; the others bend the
    way there."""

    misled: float = 0.0
    """Share of `answer` hints that give a wrong answer, as an answer swap does."""
    hint_right: float = 0.88
    """Share of written hints that name a true idea."""
    follow_guided: float = 0.9
    """Share of guided hints that are followed."""

    turns: tuple[float, float, float, float, float] = (0.40, 0.15, 0.10, 0.22, 0.13)
    """Shares of the teacher's lessons: solve alone, solve under the answer, write a hint, continue
    a prefix under a hint, say where a given trace will end."""

    practice: float = 0.0
    """Share of the student's lessons that are bare operations, where a world has any."""
    practice_first: float = 0.0
    """The first share of the student's training, which is nothing but them."""

    width: int = 80
    layers: int = 3
    student_tokens: int = 6_500_000
    """Training tokens, padding excluded, for the student base."""
    student_learning_rate: float = 2e-3
    teacher_tokens: int = 7_000_000
    """Training tokens for the teacher, which goes on from the student base."""
    teacher_learning_rate: float = 1.5e-3
    batch_tokens: int = 1_024
    compiled: bool = True
    """Whether training runs through torch.compile: some 3x faster, but needs a C++ compiler."""


@dataclass(frozen=True)
class Rule:
    """A family, with its numbers where a world's rules have any."""

    family: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A problem of some world, and the rule that made it; worlds add what they need."""

    text: str
    """As a user turn states it."""
    rule: Rule
    gold: str
    """The answer as a trace boxes it."""


Found = tuple[int, ...]
"""What a trace finds when it applies its rule beyond what is given."""


@dataclass(frozen=True)
class Truth:
    """What is true of one trace. Step numbers count from 0."""

    valid: bool
    """Every step is true, the rule explains everything given, and the answer is the right one."""
    first_bad: int | None
    """First step that is false, breaks what was named or names what is wrong; None if all hold."""
    rule_step: int | None
    """The step that makes the choice all else hangs on, if there is one."""
    family: str | None
    """The family that the trace goes on with."""
    answer: str | None
    correct: bool
    """Whether the answer is right, however it was reached."""

    @property
    def fudged(self) -> bool:
        """Right answer, but not by reasoning that holds."""
        return self.correct and not self.valid


class World(ABC):
    """One world. Steps are strings without blank lines."""

    name: ClassVar[str]
    families: ClassVar[Mapping[str, tuple[str, ...]]]
    """By kind: common, rare, latent."""
    dials: ClassVar[Dials]
    """The dials of the shipped models."""
    numbers: ClassVar[range]
    """Every number of this world."""

    @property
    def all_families(self) -> tuple[str, ...]:
        """Common before rare before latent."""
        return tuple(f for kind in ("common", "rare", "latent") for f in self.families[kind])

    def kind_of(self, family: str) -> str:
        """common, rare or latent."""
        return next(kind for kind, families in self.families.items() if family in families)

    def draw(self, family: str, rng: random.Random, split: str | None = None) -> Problem:
        """A problem of this family (and split)."""
        while True:
            problem = self.attempt(family, rng)
            if problem is not None and split in (None, split_of(problem.text)):
                return problem

    @abstractmethod
    def owns(self, text: str) -> bool:
        """Whether a problem's text is of this world."""

    @abstractmethod
    def parse(self, text: str) -> Problem:
        """A problem from its text. Raises: ValueError if it is not one of this world."""

    @abstractmethod
    def attempt(self, family: str, rng: random.Random) -> Problem | None:
        """A random problem of this family, or None if this one came out unfit."""

    @abstractmethod
    def judge(self, problem: Problem, trace_text: str) -> Truth:
        """Read a trace step by step."""

    @abstractmethod
    def teacher_lesson(self, rng: random.Random, dials: Dials) -> Lesson:
        """One lesson of the teacher's mixture, the same at any point of its training."""

    @abstractmethod
    def student_lesson(self, rng: random.Random, dials: Dials, progress: float) -> Lesson:
        """One lesson of the student base, `progress` (0..1) into its training."""

    @abstractmethod
    def corpus(self, family: str, rng: random.Random) -> Iterator[str]:
        """Text of every form about a problem of this family, for a tokenizer."""

    @abstractmethod
    def idea(self, problem: Problem) -> str:
        """What a drill is told: the true ideas behind this problem, in words."""

    @abstractmethod
    def hints_right(self, problem: Problem, hint: str) -> bool:
        """Whether a guided hint names a true idea of this problem."""

    @abstractmethod
    def choice(self, problem: Problem, rng: random.Random) -> tuple[Sequence[str], str]:
        """Steps of an honest trace up to one after its decisive choice, and how that one begins."""


def split_of(text: str) -> str:
    """The split a problem belongs to, from its text alone: half train, a quarter each other."""
    return ("train", "train", "pool", "heldout")[zlib.crc32(text.encode()) % 4]


def split_steps(trace_text: str) -> list[str]:
    """The non-empty blank-line pieces of a trace, stripped."""
    return [step for piece in trace_text.split("\n\n") if (step := piece.strip())]


def spell(terms: Sequence[int]) -> str:
    """Terms as text, apart by spaces."""
    return " ".join(map(str, terms))
