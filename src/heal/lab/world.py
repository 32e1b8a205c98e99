"""What a lab world is: problems whose rule is known, and the text traces are made of.

A `World` makes problems, says which rules explain them, and writes and reads the parts of a trace.
`traces` puts those parts together honestly or not, `truth` judges them, `lessons` teaches them; all
three know no world by name. `Dials` is the one place where a world's difficulty is set. Imports no
torch and knows no model.

*Common* families are mastered by the teacher, *rare* ones it names now and then, *latent* ones it
can apply but hardly ever thinks of: what is hard is to see the rule.
"""

from __future__ import annotations

import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

SPLITS = ("train", "pool", "heldout")
RULE_LEADS = ("The rule may be: ", "It looks like the rule is: ", "So I think the rule is: ")


@dataclass(frozen=True)
class Dials:
    """Everything that sets how hard a world is. Shares are probabilities in 0..1."""

    seed: int = 0
    """Seeds problems, traces, initial weights and batches."""

    spontaneous_latent: float = 0.003
    """Share of unaided training traces on latent problems that name the true rule."""
    spontaneous_rare: float = 0.2
    """The same for rare problems."""
    spontaneous_common: float = 0.95
    """The same for common problems; the rest name a plausible wrong rule."""
    slip: float = 0.05
    """Share of right-rule unaided traces with a slip at the end (a wrong answer)."""
    gloss_wrong: float = 0.2
    """Share of unaided wrong-rule traces that pass over misfits instead of noting trouble."""
    patch_wrong: float = 0.06
    """Share of unaided wrong-rule traces that go on otherwise than the rule says."""
    switch_wrong: float = 0.04
    """Share of unaided wrong-rule traces that answer otherwise than they found."""

    fudge_answer: float = 0.5
    """Share of fudged traces under an `answer` hint, on rare and latent problems."""
    fudge_guided: float = 0.15
    """Share of fudged traces among those that disregard nothing, under a guided hint."""
    fudge_common: float = 0.08
    """Share of fudged traces under any hint on common problems."""
    gloss_fudged: float = 0.5
    """Share of fudged traces that pass over misfits instead of noting trouble."""
    switch_fudged: float = 0.4
    """Share of fudged traces that switch to the right answer at the very end; the others bend the
    way there."""

    misled: float = 0.0
    """Share of `answer` hints that give a wrong answer, as an answer swap does."""
    follow_misled: float = 0.5
    """Share of those that are followed, which takes a fudge; the rest disregard the hint."""

    hint_right: float = 0.88
    """Share of written hints that name the true idea."""
    follow_guided: float = 0.9
    """Share of right guided hints that are followed; the rest end in a wrong answer."""
    recover: float = 0.7
    """Share of hinted continuations that take back a wrong rule kept in their prefix."""

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


class World(ABC):
    """One world. Steps are strings without blank lines."""

    name: ClassVar[str]
    families: ClassVar[Mapping[str, tuple[str, ...]]]
    """By kind: common, rare, latent."""
    ideas: ClassVar[Mapping[str, str]]
    """The idea behind each family, without numbers: what a hint names and a drill is told."""
    rule_words: ClassVar[Mapping[str, str]]
    """How a rule step words each family; `{listed}` stands for the rule's numbers."""
    dials: ClassVar[Dials]
    """The dials of the shipped models."""
    numbers: ClassVar[range]
    """Every number of this world."""
    least_work: ClassVar[int]
    """Steps between rule and answer without which the answer hangs in the air; checks are extra."""

    @property
    def all_families(self) -> tuple[str, ...]:
        """Common before rare before latent."""
        return tuple(f for kind in ("common", "rare", "latent") for f in self.families[kind])

    def kind_of(self, family: str) -> str:
        """common, rare or latent."""
        return next(kind for kind, families in self.families.items() if family in families)

    def draw(self, family: str, rng: random.Random, split: str | None = None) -> Problem:
        """A problem of this family (and split), with wrong rules that tempt."""
        while True:
            problem = self.attempt(family, rng)
            if problem is None or (split is not None and split_of(problem.text) != split):
                continue
            if self.wrong_rules(problem):
                return problem

    def rule_text(self, rule: Rule) -> str:
        """The rule in words, with its numbers."""
        return self.rule_words[rule.family].format(listed=", ".join(map(str, rule.numbers)))

    @abstractmethod
    def owns(self, text: str) -> bool:
        """Whether a problem's text is of this world."""

    @abstractmethod
    def parse(self, text: str) -> Problem:
        """A problem from its text. Raises: ValueError if it is not one of this world."""

    @abstractmethod
    def attempt(self, family: str, rng: random.Random) -> Problem | None:
        """A random problem of this family, or None if another family would explain it as well."""

    @abstractmethod
    def explains(self, rule: Rule, problem: Problem) -> bool:
        """Whether everything given is what the rule says."""

    @abstractmethod
    def wrong_rules(self, problem: Problem) -> list[Rule]:
        """Plausible common rules that start well, fail later and miss the right answer."""

    def fudge_rules(self, problem: Problem, answer: str) -> list[Rule]:
        """Wrong rules from which this answer is reached with the least bending."""
        return self.wrong_rules(problem)

    def practice(self, problem: Problem, rng: random.Random) -> list[tuple[str, bool]]:
        """Bare operations: pieces of text, and whether each is learnt."""
        raise NotImplementedError(f"{self.name} has nothing to practise")

    @abstractmethod
    def found(self, problem: Problem, rule: Rule) -> Found:
        """What applying this rule finds."""

    @abstractmethod
    def bent(self, problem: Problem, rule: Rule, answer: str, rng: random.Random) -> Found:
        """What a trace writes that names this rule and reaches this answer all the same."""

    @abstractmethod
    def astray(self, problem: Problem, found: Found, rng: random.Random) -> Found:
        """Something near `found` that neither it nor the truth ends on."""

    @abstractmethod
    def answer(self, found: Found) -> str:
        """The answer as boxed."""

    @abstractmethod
    def other_answer(self, problem: Problem, rng: random.Random) -> str:
        """A wrong answer of the right form."""

    @abstractmethod
    def looks(
        self, problem: Problem, rng: random.Random, kept: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """The steps before the rule; those kept come first."""

    @abstractmethod
    def true_looks(self, problem: Problem, number: int) -> set[str]:
        """Every wording of a true look that may stand at this place."""

    @abstractmethod
    def work(
        self, problem: Problem, rule: Rule, found: Found, gloss: bool, rng: random.Random
    ) -> list[str]:
        """The steps between the rule and the answer: the rule applied, what it finds, checks."""

    @abstractmethod
    def true_work(self, problem: Problem, rule: Rule, number: int) -> set[str]:
        """What may stand at this place after the rule if all is done as the rule says."""

    @abstractmethod
    def told_at(self, problem: Problem, rule: Rule, found: Found) -> int:
        """Steps after the rule until the text itself has given the answer away."""


def split_of(text: str) -> str:
    """The split a problem belongs to, from its text alone: half train, a quarter each other."""
    return ("train", "train", "pool", "heldout")[zlib.crc32(text.encode()) % 4]


def spell(terms: Sequence[int]) -> str:
    """Terms as text, apart by spaces."""
    return " ".join(map(str, terms))
