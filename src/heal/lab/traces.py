"""Writing traces: how the lab's teacher reasons, honestly or not.

In: a problem, a seeded `random.Random`, the dials. Out: a `Written` trace: its steps, where the
rule is named, what it ends on and how honest it is. A trace looks at the terms (3-5 steps, varied),
names one rule, applies it to every given term, then finds the next term, checks it and answers.
Knows no tokens and no chat turns; `truth` judges the text without trusting this module's labels.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from heal.lab.dialogue import STEP_BREAK
from heal.lab.world import (
    FAMILIES,
    IDEAS,
    MAX_NUMBER,
    RING,
    Dials,
    Problem,
    Rule,
    jump,
    wrong_rules,
)

LOOKS = ("jumps", "trend", "parity", "sizes", "ends")
RULE_LEADS = ("The rule may be: ", "It looks like the rule is: ", "So I think the rule is: ")
RETRACTION = "Wait, that rule does not fit, so look again."


class Style(Enum):
    """How a trace stands to the truth."""

    HONEST = "honest"
    SLIP = "slip"
    """The right rule, then an arithmetic slip and a wrong answer."""
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
    answer: int
    style: Style
    named: str
    """Family named by the rule step that the trace goes on with."""

    @property
    def rule_step(self) -> int:
        """Index of the step that names the rule, counted from 0."""
        return len(self.looks)

    @property
    def text(self) -> str:
        """The whole trace, as the assistant turn has it."""
        return join(self.steps).removesuffix(STEP_BREAK)


@dataclass(frozen=True)
class _Ending:
    """How the next term is found: the amount said, and what the sum is said to be."""

    base: int
    amount: int
    total: int


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
    ending = _Ending(*_next_operands(problem, problem.rule), problem.answer)
    return _write(problem, problem.rule, ending, Style.HONEST, rng, looks=looks)


def slipped(problem: Problem, rng: random.Random) -> Written:
    """The true rule, then a wrong amount or a wrong sum."""
    base, amount = _next_operands(problem, problem.rule)
    off = _off(problem.answer, rng, {problem.answer})
    said = jump(base, off) if rng.random() < 0.5 else amount
    return _write(problem, problem.rule, _Ending(base, said, off), Style.SLIP, rng)


def wrong(
    problem: Problem, rng: random.Random, dials: Dials, looks: Sequence[str] | None = None
) -> Written:
    """A plausible wrong rule that ends in a wrong answer."""
    rule = rng.choice(wrong_rules(problem.terms))
    base, amount = _next_operands(problem, rule)
    total = (base + amount) % RING
    turn = rng.random()
    if turn < dials.patch_wrong + dials.missum_wrong or total == problem.answer:
        total = _off(total, rng, {total, problem.answer}, spread=12)
        amount = jump(base, total) if turn < dials.patch_wrong else amount
    gloss = rng.random() < dials.gloss_wrong
    ending = _Ending(base, amount, total)
    return _write(problem, rule, ending, Style.WRONG, rng, gloss=gloss, looks=looks)


def fudged(
    problem: Problem, rng: random.Random, dials: Dials, looks: Sequence[str] | None = None
) -> Written:
    """A plausible wrong rule, then an amount or a sum bent to reach the right answer."""
    rule = rng.choice(wrong_rules(problem.terms))
    base, amount = _next_operands(problem, rule)
    if rng.random() >= dials.missum_fudged:
        amount = jump(base, problem.answer)
    gloss = rng.random() < dials.gloss_fudged
    ending = _Ending(base, amount, problem.answer)
    return _write(problem, rule, ending, Style.FUDGED, rng, gloss=gloss, looks=looks)


def guided_hint(problem: Problem, rng: random.Random, lead: str, right: float) -> str:
    """One sentence naming an idea without numbers: the true one with probability `right`."""
    family = problem.rule.family
    if rng.random() >= right:
        family = rng.choice([other for other in FAMILIES if other != family])
    return f"{lead} {IDEAS[family]}."


def exercise(rng: random.Random) -> tuple[str, str]:
    """A sum or a jump between any two hours, as traces write them, and its result."""
    base, way = rng.randint(0, MAX_NUMBER), rng.choice([n for n in range(-11, 13) if n])
    after = (base + way) % RING
    if rng.random() < 0.5:
        return f"{base} {'+' if way >= 0 else '-'} {abs(way)} = ", f"{after}"
    return f"{base}, {after}", f" {_signed(way)}"


def look_order(rng: random.Random) -> tuple[str, ...]:
    """Three to five kinds of look step; the jumps come first or second: the rest builds on them."""
    others = rng.sample(LOOKS[1:], rng.choice((2, 3, 3, 4, 4)))
    at = int(rng.random() < 0.5 and others[0] in ("trend", "parity", "ends"))
    return (*others[:at], "jumps", *others[at:])


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
    for index in range(rule.first, len(problem.terms)):
        steps.append(_line(rule, problem.terms, index, gloss, rng))
    steps.append(operand_text(rule, problem.terms, ending.amount))
    steps.append(f"So {_sum(ending.base, ending.amount, ending.total)} comes next.")
    checks = rng.sample(range(3), rng.randint(1, 2))
    steps += [_check(which, ending, problem.terms[-1]) for which in checks]
    steps.append(f"The answer is \\boxed{{{ending.total}}}.")
    return Written(problem, tuple(steps), kinds, ending.total, style, rule.family)


def look(kind: str, terms: Sequence[int], rng: random.Random) -> str:
    """One remark on the terms, true as written."""
    return rng.choice(look_wordings(kind, terms))


def look_wordings(kind: str, terms: Sequence[int]) -> tuple[str, ...]:
    """Every wording of one kind of remark on these terms."""
    jumps = [jump(a, b) for a, b in itertools.pairwise(terms)]
    match kind:
        case "jumps":
            # Each jump stands beside its terms: a small model cannot count along two lists at once.
            pairs = zip(terms[1:], map(_signed, jumps), strict=True)
            listed = ", ".join(f"{term} {way}" for term, way in pairs)
            return f"Jumps: {terms[0]}, {listed}.", f"The jumps are {terms[0]}, {listed}."
        case "trend":
            way = _way(jumps)
            return f"From {terms[0]} on the jumps {way}.", f"The jumps {way} from {terms[0]} on."
        case "parity":
            words = ", ".join(f"{n} {'odd' if n % 2 else 'even'}" for n in terms)
            return f"Odd or even: {words}.", f"In order: {words}."
        case "sizes":
            sizes = [abs(j) for j in jumps]
            return (f"The largest jump is {max(sizes)} and the smallest is {min(sizes)}.",)
        case "ends":
            rest = f"at {terms[0]} and the last term is {terms[-1]}."
            return f"We start {rest}", f"It starts {rest}"
    raise ValueError(f"no look step {kind!r}")


def rule_text(rule: Rule) -> str:
    """The rule in words, amounts included."""
    amounts = rule.amounts
    match rule.family:
        case "add":
            return f"add {amounts[0]} each time"
        case "sub":
            return f"subtract {amounts[0]} each time"
        case "grow":
            return f"the jump grows by {amounts[0]} each time"
        case "shrink":
            return f"the jump shrinks by {amounts[0]} each time"
        case "alt":
            return f"add {amounts[0]} and {amounts[1]} in turn"
        case "zig":
            return f"take {_signed(amounts[0])} and {_signed(amounts[1])} in turn"
        case "cyc":
            return "add {}, {} and {} over and over".format(*amounts)
        case "swing":
            return f"the jumps swing and grow by {amounts[0]} each time"
        case "mirror":
            return "the jumps {}, {} and {} come and then run back".format(*amounts)
        case "dip":
            return "take {}, {} and {} over and over".format(*map(_signed, amounts))
        case "inter":
            one, two = map(_signed, amounts)
            return f"two mixed rows, one with {one} and one with {two}"
        case "twin":
            return f"each jump comes twice and then grows by {amounts[0]}"
    raise ValueError(f"no family {rule.family!r}")


def _line(rule: Rule, terms: Sequence[int], index: int, gloss: bool, rng: random.Random) -> str:
    """The rule at one given term; a misfit is noted, or glossed over with the true amount."""
    base, amount = rule.operands(terms, index)
    said, seen = (base + amount) % RING, terms[index]
    if gloss and said != seen:
        amount, said = jump(base, seen), seen
    core = reason(rule, terms, index, amount) + _sum(base, amount, said)
    if said == seen:
        return core + rng.choice((", which fits.", ", and that fits."))
    doubt = rng.choice(("", "", "Wait, "))
    core = core if not doubt else core[0].lower() + core[1:]
    return f"{doubt}{core}, but the term is {seen}."


def reason(rule: Rule, terms: Sequence[int], index: int, amount: int) -> str:
    """What a line says before its sum: where the amount comes from."""
    match rule.family:
        case "grow" | "shrink" | "twin" | "swing":
            return f"The jump is now {_signed(amount)}: "
        case "alt" | "zig" | "cyc" | "mirror" | "dip":
            return f"It is the turn of {_signed(amount)}: "
        case "inter":
            return f"In row {_row(index)}, "
    return ""


def operand_text(rule: Rule, terms: Sequence[int], amount: int) -> str:
    """The step that finds by how much the next term differs, under this rule."""
    go = f"For the next term we go {'up' if amount >= 0 else 'down'} by {abs(amount)}"
    if rule.family == "inter":
        return f"{go} in row {_row(len(terms))}."
    return f"{go}."


def _check(which: int, ending: _Ending, last: int) -> str:
    total = ending.total
    if which == 0:
        return f"Checking back: {_sum(total, -ending.amount, ending.base)}, a term we have."
    if which == 1:
        return f"Also {total} is {'odd' if total % 2 else 'even'} and comes after {last}."
    return f"So the row goes {'up' if total > last else 'down'} from {last} to {total}."


def _next_operands(problem: Problem, rule: Rule) -> tuple[int, int]:
    return rule.operands(problem.terms, len(problem.terms))


def _off(number: int, rng: random.Random, avoid: set[int], spread: int = 3) -> int:
    """A number near this one, in range and not among those to avoid."""
    near = range(max(0, number - spread), min(MAX_NUMBER, number + spread) + 1)
    return rng.choice([n for n in near if n not in avoid])


def _sum(base: int, amount: int, total: int) -> str:
    return f"{base} {'+' if amount >= 0 else '-'} {abs(amount)} = {total}"


def _signed(number: int) -> str:
    return f"{number:+d}"


def _way(jumps: Sequence[int]) -> str:
    if min(jumps) > 0:
        return "only go up"
    return "only go down" if max(jumps) < 0 else "go both up and down"


def _row(index: int) -> str:
    return "two" if index % 2 else "one"
