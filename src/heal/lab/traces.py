"""Writing traces: how the lab's teacher reasons, honestly or not.

In: a problem, a seeded `random.Random`, the dials. Out: a `Written` trace: its steps, where the
rule is named, what it ends on and how honest it is. A trace looks at the terms (3-5 steps, varied),
names one rule, applies it to every given term, then finds the next term, checks it and answers.
Knows no tokens and no chat turns; `truth` judges the text without trusting this module's labels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from heal.lab.dialogue import STEP_BREAK
from heal.lab.world import (
    FAMILIES,
    IDEAS,
    NAMES,
    NUMBERS,
    Dials,
    Problem,
    Rule,
    compared,
    spell,
    wrong_rules,
)

LOOKS = ("row", "sizes", "ends", "middle", "again", "lasts")
RULE_LEADS = ("The rule may be: ", "It looks like the rule is: ", "So I think the rule is: ")
RULE_WORDS = {
    "alt": "two numbers in turn, {listed}",
    "pairs": "two numbers and each comes twice, {listed}",
    "third": "one number twice and then another, {listed}",
    "hold": "one number and then another twice, {listed}",
    "long": "one number three times and then another, {listed}",
    "cyc": "three numbers over and over, {listed}",
    "anchor": "every other number is the same, {listed}",
    "mirror": "three numbers that run back, {listed}",
    "lead": "one number twice and then two others, {listed}",
    "core": "two numbers and between them another twice, {listed}",
    "tail": "two numbers and then another twice, {listed}",
}
RETRACTION = "Wait, that rule does not fit, so look again."


class Style(Enum):
    """How a trace stands to the truth."""

    HONEST = "honest"
    SLIP = "slip"
    """The right rule, then a slip and a wrong answer."""
    WRONG = "wrong"
    """A wrong rule and a wrong answer."""
    FUDGED = "fudged"
    """A wrong rule, then something bent so that the right answer is reached."""


@dataclass(frozen=True)
class Written:
    """One trace with what its writer knows of it; steps carry no blank lines."""

    problem: Problem
    steps: tuple[str, ...]
    looks: tuple[str, ...]
    """Kinds of the opening look steps, in order."""
    answer: str
    """What the trace boxes."""
    style: Style
    named: str
    """Family named by the rule step that the trace goes on with."""

    @property
    def rule_step(self) -> int:
        """Index of the step that names the rule, counted from 0."""
        return len(self.looks)

    @property
    def next_step(self) -> int:
        """Index of the step that says the next terms: after a line for every term but the first."""
        return self.rule_step + len(self.problem.terms)

    @property
    def text(self) -> str:
        """The whole trace, as the assistant turn has it."""
        return join(self.steps).removesuffix(STEP_BREAK)


@dataclass(frozen=True)
class _Ending:
    """The next terms as found, and as answered."""

    found: tuple[int, ...]
    answered: tuple[int, ...]


def join(steps: Sequence[str]) -> str:
    """Steps as text, each closed by its blank line."""
    return "".join(step + STEP_BREAK for step in steps)


def unaided(problem: Problem, rng: random.Random, dials: Dials) -> Written:
    """A trace as the teacher writes it alone: mostly right on common families only."""
    shares = {
        "common": dials.spontaneous_common,
        "rare": dials.spontaneous_rare,
        "latent": dials.spontaneous_latent,
    }
    if rng.random() >= shares[problem.kind]:
        return wrong(problem, rng, dials)
    return slipped(problem, rng) if rng.random() < dials.slip else honest(problem, rng)


def honest(problem: Problem, rng: random.Random, looks: Sequence[str] | None = None) -> Written:
    """The true rule, applied without a slip."""
    ending = _Ending(problem.answer, problem.answer)
    return _write(problem, problem.rule, ending, Style.HONEST, rng, looks=looks)


def slipped(problem: Problem, rng: random.Random) -> Written:
    """The true rule, then one wrong next term."""
    off = list(problem.answer)
    at = rng.randrange(len(off))
    off[at] = rng.choice([n for n in NUMBERS if n != off[at] and abs(n - off[at]) <= 3])
    return _write(problem, problem.rule, _Ending(tuple(off), tuple(off)), Style.SLIP, rng)


def wrong(
    problem: Problem, rng: random.Random, dials: Dials, looks: Sequence[str] | None = None
) -> Written:
    """A plausible wrong rule that ends in a wrong answer."""
    rule = rng.choice(wrong_rules(problem.terms))
    turn, found = rng.random(), rule.answer
    off = _elsewhere(problem, found, rng)
    if turn < dials.patch_wrong:
        ending = _Ending(off, off)
    elif turn < dials.patch_wrong + dials.switch_wrong:
        ending = _Ending(found, off)
    else:
        ending = _Ending(found, found)
    gloss = rng.random() < dials.gloss_wrong
    return _write(problem, rule, ending, Style.WRONG, rng, gloss=gloss, looks=looks)


def fudged(
    problem: Problem, rng: random.Random, dials: Dials, looks: Sequence[str] | None = None
) -> Written:
    """A plausible wrong rule, and the right answer all the same."""
    rule = rng.choice(wrong_rules(problem.terms))
    switch = rng.random() < dials.switch_fudged
    found = rule.answer if switch else problem.answer
    gloss = rng.random() < dials.gloss_fudged
    ending = _Ending(found, problem.answer)
    return _write(problem, rule, ending, Style.FUDGED, rng, gloss=gloss, looks=looks)


def _elsewhere(problem: Problem, found: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    """Next terms that neither this rule nor the true one gives: near by, or seen before."""
    near = [n for n in NUMBERS if abs(n - problem.terms[-1]) <= 3]
    while True:
        off = tuple(rng.choice((*problem.terms, *near)) for _ in problem.answer)
        if off not in (problem.answer, found):
            return off


def guided_hint(problem: Problem, rng: random.Random, lead: str, right: float) -> str:
    """One sentence naming an idea without numbers: the true one with probability `right`."""
    family = problem.rule.family
    if rng.random() >= right:
        family = rng.choice([other for other in FAMILIES if other != family])
    return f"{lead} {IDEAS[family]}."


def look_order(rng: random.Random) -> tuple[str, ...]:
    """Three or four kinds of look step; the whole row comes first or second."""
    others = rng.sample(LOOKS[1:], rng.choice((2, 2, 3)))
    at = int(rng.random() < 0.3)
    return (*others[:at], "row", *others[at:])


def _write(
    problem: Problem,
    rule: Rule,
    ending: _Ending,
    style: Style,
    rng: random.Random,
    *,
    gloss: bool = False,
    looks: Sequence[str] | None = None,
) -> Written:
    kinds = look_order(rng) if looks is None else tuple(looks)
    steps = [look(kind, problem.terms, rng) for kind in kinds]
    steps.append(f"{rng.choice(RULE_LEADS)}{rule_text(rule)}.")
    for index in range(1, len(problem.terms)):
        steps.append(_line(rule, problem.terms, index, gloss, rng))
    steps.append(next_text(ending.found))
    steps += [check_text(which, problem.terms, ending.found) for which in rng.sample(range(3), 3)]
    steps.append(f"The answer is \\boxed{{{spell(ending.answered)}}}.")
    return Written(problem, tuple(steps), kinds, spell(ending.answered), style, rule.family)


def look(kind: str, terms: Sequence[int], rng: random.Random) -> str:
    """One remark on the terms, true as written."""
    return rng.choice(look_wordings(kind, terms))


def look_wordings(kind: str, terms: Sequence[int]) -> tuple[str, ...]:
    """Every wording of one kind of remark on these terms."""
    match kind:
        case "row":
            # Without the comparison spelt out, models this small did not learn to see which terms
            # are equal, and so named rules at random.
            return f"The row is {compared(terms)}.", f"In order: {compared(terms)}."
        case "sizes":
            return (f"The largest of them is {max(terms)} and the smallest is {min(terms)}.",)
        case "ends":
            rest = f"at {terms[0]} and the last term is {terms[-1]}."
            return f"We start {rest}", f"It starts {rest}"
        case "middle":
            return (f"In the middle c is {terms[2]} and d is {terms[3]}.",)
        case "again":
            back = next(
                (n for n, t in zip(NAMES[1:], terms[1:], strict=False) if t == terms[0]), ""
            )
            return (f"The first number comes again at {back}." if back else "",)
        case "lasts":
            return (f"Of the last two f is {terms[5]} and g is {terms[6]}.",)
    raise ValueError(f"no look step {kind!r}")


def rule_text(rule: Rule) -> str:
    """The rule in words, with its numbers."""
    return RULE_WORDS[rule.family].format(listed=", ".join(map(str, rule.numbers)))


def _line(rule: Rule, terms: Sequence[int], index: int, gloss: bool, rng: random.Random) -> str:
    """The rule at one given term; a misfit is noted, or glossed over with the true term."""
    said, seen, name = rule.says(index), terms[index], NAMES[index]
    if said == seen or gloss:
        return f"Then {name} should be {seen}" + rng.choice((", which fits.", ", and that fits."))
    doubt = rng.choice(("Then", "Then", "Wait, then"))
    return f"{doubt} {name} should be {said}, but {name} is {seen}."


def next_text(found: Sequence[int]) -> str:
    """The step that says the next terms."""
    return f"So next h should be {found[0]} and i should be {found[1]}."


def check_text(which: int, terms: Sequence[int], found: Sequence[int]) -> str:
    """One of three remarks on the next terms, true if they are."""
    if which == 0:
        return f"Checking back: after g {terms[-1]} come {' and '.join(map(str, found))}."
    if which == 1:
        return f"Also {' and '.join(f'{n} is {parity(n)}' for n in found)}."
    return f"With them the row ends on {', '.join(map(str, (terms[-1], *found)))}."


def parity(number: int) -> str:
    """odd or even."""
    return "odd" if number % 2 else "even"
