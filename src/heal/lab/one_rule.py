"""Worlds with one choice to a trace: see the rule that explains what is given, then apply it.

`traces` puts a world's parts together honestly or not, `reading` judges them, `rule_lessons`
teaches them; none of the three knows a world by name.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from typing_extensions import override

from heal.lab import reading, rule_lessons, traces
from heal.lab.lesson import Lesson
from heal.lab.traces import RuleDials, Writer
from heal.lab.world import Dials, Found, Problem, Rule, Truth, World


class OneRule(World):
    """A world whose problems are explained by one rule each."""

    dials: ClassVar[RuleDials]
    ideas: ClassVar[Mapping[str, str]]
    """The idea behind each family, without numbers: what a hint names and a drill is told."""
    rule_words: ClassVar[Mapping[str, str]]
    """How a rule step words each family; `{listed}` stands for the rule's numbers."""
    least_work: ClassVar[int]
    """Steps between rule and answer without which the answer hangs in the air; checks are extra."""

    @override
    def draw(self, family: str, rng: random.Random, split: str | None = None) -> Problem:
        """A problem of this family (and split), with wrong rules that tempt."""
        while True:
            problem = super().draw(family, rng, split)
            if self.wrong_rules(problem):
                return problem

    @override
    def judge(self, problem: Problem, trace_text: str) -> Truth:
        return reading.judge(self, problem, trace_text)

    @override
    def teacher_lesson(self, rng: random.Random, dials: Dials) -> Lesson:
        return rule_lessons.teacher_lesson(rng, Writer(self, as_own(dials)))

    @override
    def student_lesson(self, rng: random.Random, dials: Dials, progress: float) -> Lesson:
        return rule_lessons.student_lesson(rng, Writer(self, as_own(dials)), progress)

    @override
    def corpus(self, family: str, rng: random.Random) -> Iterator[str]:
        return rule_lessons.corpus(family, rng, Writer(self, self.dials))

    @override
    def idea(self, problem: Problem) -> str:
        return self.ideas[problem.rule.family]

    @override
    def hints_right(self, problem: Problem, hint: str) -> bool:
        return self.idea(problem) in hint

    @override
    def choice(self, problem: Problem, rng: random.Random) -> tuple[Sequence[str], str]:
        written = Writer(self, self.dials).honest(problem, rng)
        step = written.steps[written.rule_step]
        lead = next(lead for lead in traces.RULE_LEADS if step.startswith(lead))
        return written.steps[: written.rule_step + 2], lead

    def rule_text(self, rule: Rule) -> str:
        """The rule in words, with its numbers."""
        return self.rule_words[rule.family].format(listed=", ".join(map(str, rule.numbers)))

    def numbers_named(self, family: str) -> int:
        """How many numbers a rule of this family names."""
        return 0

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


def as_own(dials: Dials) -> RuleDials:
    """Dials of such a world."""
    assert isinstance(dials, RuleDials)
    return dials
