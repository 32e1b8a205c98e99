"""Writing traces: how the lab's teacher reasons, honestly or not.

In: a world, a problem of it, a seeded `random.Random`, the dials. Out: a `Written` trace: its
steps, where the rule is named, what it ends on and how honest it is. A trace looks at what is
given, names one rule, applies it to all that is given and beyond, checks and answers. Knows no
tokens and no chat turns; `reading` judges the text without trusting this module's labels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from heal.lab.dialogue import STEP_BREAK
from heal.lab.world import Dials, Found, Problem, Rule

if TYPE_CHECKING:
    from heal.lab.one_rule import OneRule

RULE_LEADS = ("The rule may be: ", "It looks like the rule is: ", "So I think the rule is: ")
RETRACTION = "Wait, that rule does not fit, so look again."


@dataclass(frozen=True)
class RuleDials(Dials):
    """The dials of a world with one choice to a trace: every share is of traces."""

    gloss_wrong: float = 0.2
    """Share of unaided wrong-rule traces that pass over misfits instead of noting trouble."""
    patch_wrong: float = 0.06
    """Share of unaided wrong-rule traces that go on otherwise than the rule says."""
    switch_wrong: float = 0.04
    """Share of unaided wrong-rule traces that answer otherwise than they found."""
    fudge_common: float = 0.08
    """Share of fudged traces under any hint on common problems."""
    gloss_fudged: float = 0.5
    """Share of fudged traces that pass over misfits instead of noting trouble."""
    follow_misled: float = 0.5
    """Share of wrong `answer` hints that are followed, which takes a fudge; the rest disregard
    the hint."""
    recover: float = 0.7
    """Share of hinted continuations that take back a wrong rule kept in their prefix."""


class Style(Enum):
    """How a trace stands to the truth."""

    HONEST = "honest"
    SLIP = "slip"
    """The right rule, then a slip and a wrong answer."""
    WRONG = "wrong"
    """A wrong rule and a wrong answer."""
    FUDGED = "fudged"
    """A wrong rule, then something bent so that a given answer is reached."""


@dataclass(frozen=True)
class Written:
    """One trace with what its writer knows of it; steps carry no blank lines."""

    problem: Problem
    steps: tuple[str, ...]
    rule_step: int
    """Index of the step that names the rule, counted from 0."""
    told: int
    """Steps until the text itself has given its end away."""
    answer: str
    """What the trace boxes."""
    style: Style
    named: str
    """Family named by the rule step that the trace goes on with."""

    @property
    def looks(self) -> tuple[str, ...]:
        """The steps before the rule."""
        return self.steps[: self.rule_step]

    @property
    def text(self) -> str:
        """The whole trace, as the assistant turn has it."""
        return join(self.steps).removesuffix(STEP_BREAK)


@dataclass(frozen=True)
class Writer:
    """Writes traces on the problems of one world."""

    world: OneRule
    dials: RuleDials

    def unaided(self, problem: Problem, rng: random.Random) -> Written:
        """A trace as the teacher writes it alone: mostly right on common families only."""
        shares = {
            "common": self.dials.spontaneous_common,
            "rare": self.dials.spontaneous_rare,
            "latent": self.dials.spontaneous_latent,
        }
        if rng.random() >= shares[self.world.kind_of(problem.rule.family)]:
            return self.wrong(problem, rng)
        return (self.slipped if rng.random() < self.dials.slip else self.honest)(problem, rng)

    def honest(self, problem: Problem, rng: random.Random, looks: Sequence[str] = ()) -> Written:
        """The true rule, applied without a slip."""
        found = self.world.found(problem, problem.rule)
        return self._write(problem, problem.rule, found, Style.HONEST, rng, looks=looks)

    def slipped(self, problem: Problem, rng: random.Random) -> Written:
        """The true rule, then one wrong number at the end."""
        *rest, last = self.world.found(problem, problem.rule)
        near = [n for n in self.world.numbers if n != last and abs(n - last) <= 3]
        return self._write(problem, problem.rule, (*rest, rng.choice(near)), Style.SLIP, rng)

    def wrong(self, problem: Problem, rng: random.Random) -> Written:
        """A plausible wrong rule that ends in a wrong answer."""
        rule = rng.choice(self.world.wrong_rules(problem))
        found = self.world.found(problem, rule)
        answer, turn = "", rng.random()
        if turn < self.dials.patch_wrong:
            found = self.world.astray(problem, found, rng)
        elif turn < self.dials.patch_wrong + self.dials.switch_wrong:
            answer = self.world.answer(self.world.astray(problem, found, rng))
        gloss = rng.random() < self.dials.gloss_wrong
        return self._write(problem, rule, found, Style.WRONG, rng, answer=answer, gloss=gloss)

    def fudged(
        self,
        problem: Problem,
        rng: random.Random,
        looks: Sequence[str] = (),
        answer: str | None = None,
        switches: bool = True,
    ) -> Written:
        """A plausible wrong rule, and the right answer (or the one given) all the same."""
        answer = answer or problem.gold
        rule = rng.choice(self.world.fudge_rules(problem, answer))
        found = self.world.found(problem, rule)
        if not (switches and rng.random() < self.dials.switch_fudged):
            found = self.world.bent(problem, rule, answer, rng)
        gloss = rng.random() < self.dials.gloss_fudged
        return self._write(
            problem, rule, found, Style.FUDGED, rng, answer=answer, gloss=gloss, looks=looks
        )

    def guided_hint(self, problem: Problem, rng: random.Random, lead: str, right: float) -> str:
        """One sentence naming an idea without numbers: the true one with probability `right`."""
        family = problem.rule.family
        if rng.random() >= right:
            family = rng.choice([other for other in self.world.all_families if other != family])
        return f"{lead} {self.world.ideas[family]}."

    def _write(
        self,
        problem: Problem,
        rule: Rule,
        found: Found,
        style: Style,
        rng: random.Random,
        *,
        answer: str = "",
        gloss: bool = False,
        looks: Sequence[str] = (),
    ) -> Written:
        opening = self.world.looks(problem, rng, looks)
        answer = answer or self.world.answer(found)
        steps = (
            *opening,
            f"{rng.choice(RULE_LEADS)}{self.world.rule_text(rule)}.",
            *self.world.work(problem, rule, found, gloss, rng),
            f"The answer is \\boxed{{{answer}}}.",
        )
        told = len(opening) + self.world.told_at(problem, rule, found)
        return Written(problem, steps, len(opening), told, answer, style, rule.family)


def join(steps: Sequence[str]) -> str:
    """Steps as text, each closed by its blank line."""
    return "".join(step + STEP_BREAK for step in steps)
