"""The lab's world: rows of numbers, the families of rules that make them, and every dial.

In: a seeded `random.Random`. Out: problems whose rule is known. `Dials` is the one place where
the difficulty of this world is set. Imports no torch, knows no text of traces and no model.

A problem gives seven terms and asks for the next two. *Common* families are mastered by the
teacher, *rare* ones it names now and then, *latent* ones it can apply but hardly ever thinks of.
Rules say which numbers come back when; nothing has to be computed: what is hard is to see the rule.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

NUMBERS = range(1, 25)
"""Every term of this world."""

GIVEN = 7
"""Terms shown in a problem."""
ASKED = 2
"""Terms asked for: one alone would be guessed right too often."""
NAMES = "abcdefghi"
"""Every term has a name: a small model finds a value by its name, and cannot count."""

COMMON = ("alt", "pairs", "third", "hold", "long")
RARE = ("cyc", "anchor")
LATENT = ("mirror", "lead", "core", "tail")
FAMILIES = COMMON + RARE + LATENT
KINDS = {"common": COMMON, "rare": RARE, "latent": LATENT}
KIND_OF = {family: kind for kind, families in KINDS.items() for family in families}

SPLITS = ("train", "pool", "heldout")

IDEAS = {
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
"""The idea behind each family, without numbers: what a guided hint names and a drill is told."""

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


@dataclass(frozen=True)
class Dials:
    """Everything that sets how hard the lab is. Shares are probabilities in 0..1."""

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
    """Share of unaided wrong-rule traces whose next terms are not what the rule gives."""
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
    next terms."""

    hint_right: float = 0.88
    """Share of written hints that name the true idea."""
    follow_guided: float = 0.9
    """Share of right guided hints that are followed; the rest end in a wrong answer."""
    recover: float = 0.7
    """Share of hinted continuations that take back a wrong rule kept in their prefix."""

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
    """A family with the numbers that come back; says what any term should be."""

    family: str
    numbers: tuple[int, ...]

    def says(self, index: int) -> int:
        """What the rule gives for the term at this index, counted from 0."""
        cycle = CYCLES[self.family]
        return self.numbers[cycle[index % len(cycle)]]

    def row(self, start: int, end: int) -> tuple[int, ...]:
        """The terms from start to before end."""
        return tuple(self.says(index) for index in range(start, end))

    def explains(self, terms: Sequence[int]) -> bool:
        """Whether every term is what the rule says."""
        return self.row(0, len(terms)) == tuple(terms)

    @property
    def answer(self) -> tuple[int, ...]:
        """The terms asked for, as this rule has them."""
        return self.row(GIVEN, GIVEN + ASKED)


@dataclass(frozen=True)
class Problem:
    """Seven given terms, the next two, and the rule that made them."""

    terms: tuple[int, ...]
    answer: tuple[int, ...]
    rule: Rule

    @property
    def text(self) -> str:
        """The problem as a user turn states it."""
        return "Q " + named(self.terms)

    @property
    def gold(self) -> str:
        """The answer as a trace boxes it."""
        return spell(self.answer)

    @property
    def kind(self) -> str:
        """common, rare or latent."""
        return KIND_OF[self.rule.family]


def named(terms: Sequence[int]) -> str:
    """Terms beside their names: `a 7, b 12, ...`."""
    return ", ".join(f"{name} {term}" for name, term in zip(NAMES, terms, strict=False))


def compared(terms: Sequence[int]) -> str:
    """The same, each term that was there before with the name it had first: `c 7 as a`."""
    words = []
    for name, term in zip(NAMES, terms, strict=False):
        first = NAMES[terms.index(term)]
        words.append(f"{name} {term}" + (f" as {first}" if first != name else ""))
    return ", ".join(words)


def spell(terms: Sequence[int]) -> str:
    """Terms as text, apart by spaces."""
    return " ".join(map(str, terms))


def fit(family: str, terms: Sequence[int]) -> Rule | None:
    """The rule of this family that explains every given term, or None."""
    cycle = CYCLES[family]
    rule = Rule(family, tuple(terms[cycle.index(i)] for i in range(max(cycle) + 1)))
    return rule if _well_formed(rule) and rule.explains(terms) else None


def owner(terms: Sequence[int]) -> Rule | None:
    """The first family, common before rare before latent, that explains the terms."""
    fits = (fit(family, terms) for family in FAMILIES)
    return next((rule for rule in fits if rule is not None), None)


def split_of(text: str) -> str:
    """The split a problem belongs to, from its text alone: half train, a quarter each other."""
    return ("train", "train", "pool", "heldout")[zlib.crc32(text.encode()) % 4]


def draw(family: str, rng: random.Random, split: str | None = None) -> Problem:
    """A problem of this family (and split) that no family named earlier explains as well."""
    while True:
        rule = Rule(family, tuple(rng.sample(NUMBERS, max(CYCLES[family]) + 1)))
        problem = Problem(rule.row(0, GIVEN), rule.answer, rule)
        if owner(problem.terms) != rule or not wrong_rules(problem.terms):
            continue
        if split is None or split_of(problem.text) == split:
            return problem


def wrong_rules(terms: Sequence[int]) -> list[Rule]:
    """Plausible common rules that start well, fail later and miss the right answer."""
    first, second, third = terms[:3]
    if first == second:
        tempting = [Rule("third", (first, third)), Rule("pairs", (first, third))]
        tempting.append(Rule("long", (first, terms[3])))
    else:
        tempting = [Rule("alt", (first, second))] * 2 + [Rule("hold", (first, second))]
        tempting.append(Rule("alt", (first, third)))
    tempting.append(Rule("alt", (first, terms[-1])))
    other = next((term for term in terms if term != first), first)
    misread = [Rule(family, (first, other)) for family in COMMON]
    true_rule = owner(terms)
    gold = true_rule.answer if true_rule else ()
    # A wrong rule that happens on the right answer would be neither a failure nor a fudge.
    failing = [
        [r for r in group if _well_formed(r) and not r.explains(terms) and r.answer != gold]
        for group in (tempting, misread)
    ]
    return failing[0] or failing[1]


def _well_formed(rule: Rule) -> bool:
    """Whether its numbers differ from each other."""
    return len(set(rule.numbers)) == len(rule.numbers)
