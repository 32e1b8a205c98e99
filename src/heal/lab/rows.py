"""The world of rows: which numbers come back when.

A problem gives seven terms and asks for the next two: `Q a 9, b 11, c 11, d 7, e 9, f 11, g 11`.
Rules say which of a few numbers each term is; nothing is computed. A rule named with its numbers
gives the answer away at once: nothing is left to work out after the idea.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from heal.lab.one_rule import OneRule
from heal.lab.traces import RuleDials
from heal.lab.world import Found, Problem, Rule, spell

NUMBERS = range(1, 25)
"""Every term of this world."""

GIVEN = 7
"""Terms shown in a problem."""
ASKED = 2
"""Terms asked for: one alone would be guessed right too often."""
NAMES = "abcdefghi"
"""Every term has a name: a small model finds a value by its name, and cannot count."""

CYCLES = {
    "alt": (0, 1),
    "pairs": (0, 0, 1, 1),
    "third": (0, 0, 1),
    "hold": (0, 1, 1),
    "long": (0, 0, 0, 1),
    "cyc": (0, 1, 2),
    "anchor": (0, 1, 0, 2),
    "mirror": (0, 1, 2, 2, 1, 0),
    "lead": (0, 0, 1, 2),
    "core": (0, 1, 1, 2),
    "tail": (0, 1, 2, 2),
}
"""Which of the rule's numbers each term of the cycle is."""

PIECES = (("First", (0, 3)), ("Next", (3, 5)), ("Last", (5, 7)))
"""How a trace reads the row, piece by piece."""
FITS = (", which fits.", ", and that fits.")
DOUBTS = ("Then", "Wait, then")
CHECKS = 3


@dataclass(frozen=True)
class Row(Problem):
    """Seven given terms."""

    terms: tuple[int, ...]


class Rows(OneRule):
    """Numbers that come back in some order."""

    name = "rows"
    families: ClassVar = {
        "common": ("alt", "pairs", "third", "hold", "long"),
        "rare": ("cyc", "anchor"),
        "latent": ("mirror", "lead", "core", "tail"),
    }
    ideas: ClassVar = {
        "alt": "two numbers come in turn",
        "pairs": "two numbers come and each comes twice",
        "third": "one number comes twice and then another",
        "hold": "one number comes and then another twice",
        "long": "one number comes three times and then another",
        "cyc": "three numbers come over and over",
        "anchor": "every other number is the same",
        "mirror": "three numbers come and then run back",
        "lead": "one number comes twice and then two others",
        "core": "between two numbers another comes twice",
        "tail": "two numbers come and then another twice",
    }
    rule_words: ClassVar = {
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
    dials = RuleDials(misled=0.12, teacher_tokens=9_000_000)
    numbers = NUMBERS
    least_work = GIVEN  # a line for every term but the first, then the next terms

    @override
    def owns(self, text: str) -> bool:
        return text.startswith("Q a ")

    @override
    def parse(self, text: str) -> Row:
        terms = tuple(map(int, re.findall(r"\d+", text)))
        if len(terms) != GIVEN or text.strip() != f"Q {named(terms)}":
            raise ValueError(f"not a lab problem: {text!r}")
        rule = self.owner(terms)
        if rule is None:
            raise ValueError(f"no family explains {text!r}")
        return _row_problem(terms, rule)

    @override
    def attempt(self, family: str, rng: random.Random) -> Row | None:
        rule = Rule(family, tuple(rng.sample(NUMBERS, self.numbers_named(family))))
        terms = row(rule, 0, GIVEN)
        return _row_problem(terms, rule) if self.owner(terms) == rule else None

    def owner(self, terms: Sequence[int]) -> Rule | None:
        """The first family, common before rare before latent, that explains the terms."""
        fits = (fit(family, terms) for family in self.all_families)
        return next((rule for rule in fits if rule is not None), None)

    @override
    def numbers_named(self, family: str) -> int:
        return max(CYCLES[family]) + 1

    @override
    def explains(self, rule: Rule, problem: Problem) -> bool:
        return row(rule, 0, GIVEN) == _terms(problem)

    @override
    def wrong_rules(self, problem: Problem) -> list[Rule]:
        terms = _terms(problem)
        first, second, third = terms[:3]
        if first == second:
            tempting = [Rule("third", (first, third)), Rule("pairs", (first, third))]
            tempting.append(Rule("long", (first, terms[3])))
        else:
            tempting = [Rule("alt", (first, second))] * 2 + [Rule("hold", (first, second))]
            tempting.append(Rule("alt", (first, third)))
        tempting.append(Rule("alt", (first, terms[-1])))
        other = next((term for term in terms if term != first), first)
        misread = [Rule(family, (first, other)) for family in self.families["common"]]
        # A wrong rule that happens on the right answer would be neither a failure nor a fudge.
        failing = [
            [
                r
                for r in group
                if _well_formed(r)
                and not self.explains(r, problem)
                and spell(self.found(problem, r)) != problem.gold
            ]
            for group in (tempting, misread)
        ]
        return failing[0] or failing[1]

    @override
    def found(self, problem: Problem, rule: Rule) -> Found:
        return row(rule, GIVEN, GIVEN + ASKED)

    @override
    def bent(self, problem: Problem, rule: Rule, answer: str, rng: random.Random) -> Found:
        return tuple(map(int, answer.split()))

    @override
    def astray(self, problem: Problem, found: Found, rng: random.Random) -> Found:
        terms = _terms(problem)
        near = [n for n in NUMBERS if abs(n - terms[-1]) <= 3]
        while True:
            off = tuple(rng.choice((*terms, *near)) for _ in found)
            if off != found and spell(off) != problem.gold:
                return off

    @override
    def answer(self, found: Found) -> str:
        return spell(found)

    @override
    def other_answer(self, problem: Problem, rng: random.Random) -> str:
        return spell(self.astray(problem, self.found(problem, problem.rule), rng))

    @override
    def looks(
        self, problem: Problem, rng: random.Random, kept: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """Where the row starts and ends, then the whole row in three pieces, in order."""
        return (*kept, *(_look(_terms(problem), n) for n in range(len(kept), len(PIECES) + 1)))

    @override
    def true_looks(self, problem: Problem, number: int) -> set[str]:
        return {_look(_terms(problem), number)} if number <= len(PIECES) else set()

    @override
    def work(
        self, problem: Problem, rule: Rule, found: Found, gloss: bool, rng: random.Random
    ) -> list[str]:
        terms = _terms(problem)
        steps = []
        for index in range(1, GIVEN):
            misfit = not gloss and rule_says(rule, index) != terms[index]
            doubt = rng.choice((*DOUBTS[:1], *DOUBTS)) if misfit else ""
            steps.append(
                _misfit(rule, terms, index, doubt)
                if misfit
                else _fit(terms, index, rng.choice(FITS))
            )
        steps.append(_next(found))
        return steps + [_check(c, terms, found) for c in rng.sample(range(CHECKS), CHECKS)]

    @override
    def true_work(self, problem: Problem, rule: Rule, number: int) -> set[str]:
        terms, found = _terms(problem), self.found(problem, rule)
        index = number + 1  # the first term needs no line: every rule begins with it
        if index < GIVEN:
            if rule_says(rule, index) == terms[index]:
                return {_fit(terms, index, end) for end in FITS}
            return {_misfit(rule, terms, index, doubt) for doubt in DOUBTS}
        if index == GIVEN:
            return {_next(found)}
        return {_check(which, terms, found) for which in range(CHECKS)}

    @override
    def told_at(self, problem: Problem, rule: Rule, found: Found) -> int:
        return 1 if found == self.found(problem, rule) else GIVEN + 1


def rule_says(rule: Rule, index: int) -> int:
    """What the rule gives for the term at this index, counted from 0."""
    cycle = CYCLES[rule.family]
    return rule.numbers[cycle[index % len(cycle)]]


def row(rule: Rule, start: int, end: int) -> tuple[int, ...]:
    """The rule's terms from start to before end."""
    return tuple(rule_says(rule, index) for index in range(start, end))


def fit(family: str, terms: Sequence[int]) -> Rule | None:
    """The rule of this family that explains every given term, or None."""
    cycle = CYCLES[family]
    rule = Rule(family, tuple(terms[cycle.index(i)] for i in range(max(cycle) + 1)))
    return rule if _well_formed(rule) and row(rule, 0, len(terms)) == tuple(terms) else None


def named(terms: Sequence[int]) -> str:
    """Terms beside their names: `a 7, b 12, ...`."""
    return ", ".join(f"{name} {term}" for name, term in zip(NAMES, terms, strict=False))


def compared(terms: Sequence[int]) -> list[str]:
    """Each term beside its name, and if it was there before, the name it had first: `c 7 as a`."""
    words = []
    for name, term in zip(NAMES, terms, strict=False):
        first = NAMES[terms.index(term)]
        # Without the comparison spelt out, models this small did not learn to see which terms
        # are equal, and so named rules at random.
        words.append(f"{name} {term}" + (f" as {first}" if first != name else ""))
    return words


def _look(terms: Sequence[int], number: int) -> str:
    """The remark at this place before the rule."""
    if number == 0:
        return f"We start at {terms[0]} and the last term is {terms[-1]}."
    lead, (start, end) = PIECES[number - 1]
    return f"{lead} {', '.join(compared(terms)[start:end])}."


def _terms(problem: Problem) -> tuple[int, ...]:
    assert isinstance(problem, Row)
    return problem.terms


def _row_problem(terms: tuple[int, ...], rule: Rule) -> Row:
    return Row(f"Q {named(terms)}", rule, spell(row(rule, GIVEN, GIVEN + ASKED)), terms)


def _well_formed(rule: Rule) -> bool:
    """Whether its numbers differ from each other."""
    return len(set(rule.numbers)) == len(rule.numbers)


def _fit(terms: Sequence[int], index: int, end: str) -> str:
    return f"Then {NAMES[index]} should be {terms[index]}{end}"


def _misfit(rule: Rule, terms: Sequence[int], index: int, doubt: str) -> str:
    name = NAMES[index]
    return f"{doubt} {name} should be {rule_says(rule, index)}, but {name} is {terms[index]}."


def _next(found: Found) -> str:
    return f"So next h should be {found[0]} and i should be {found[1]}."


def _check(which: int, terms: Sequence[int], found: Found) -> str:
    """One of three remarks on the next terms, true if they are."""
    if which == 0:
        return f"Checking back: after g {terms[-1]} come {' and '.join(map(str, found))}."
    if which == 1:
        odd = (f"{n} is {'odd' if n % 2 else 'even'}" for n in found)
        return f"Also {' and '.join(odd)}."
    return f"With them the row ends on {', '.join(map(str, (terms[-1], *found)))}."
