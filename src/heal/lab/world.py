"""The lab's world: number sequences, the families that make them, and every dial.

In: a seeded `random.Random`. Out: problems whose rule is known. `Dials` is the one place where
the difficulty of this world is set. Imports no torch, knows no text of traces and no model.

A problem gives six terms and asks for the seventh. *Common* families are mastered by the teacher,
*rare* ones it names now and then, *latent* ones it can apply but hardly ever thinks of.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

RING = 24
"""Terms are hours on a 24-hour clock: 22 + 5 = 3. Few enough sums that a small model knows them."""
MAX_NUMBER = RING - 1
MAX_JUMP = 11
"""The largest amount a rule draws, up or down; every jump in the world lies in -11..12."""

GIVEN = 6
"""Terms shown in a problem; the answer is the next one."""

COMMON = ("add", "sub", "grow", "shrink", "alt", "zig")
RARE = ("cyc", "swing")
LATENT = ("mirror", "dip", "inter", "twin")
FAMILIES = COMMON + RARE + LATENT
KINDS = {"common": COMMON, "rare": RARE, "latent": LATENT}
KIND_OF = {family: kind for kind, families in KINDS.items() for family in families}

SPLITS = ("train", "pool", "heldout")

IDEAS = {
    "add": "add the same amount each time",
    "sub": "take away the same amount each time",
    "grow": "the jumps grow steadily",
    "shrink": "the jumps shrink steadily",
    "alt": "two amounts are added in turn",
    "zig": "add one amount and take away another in turn",
    "cyc": "three amounts are added over and over",
    "swing": "the jumps swing up and down and grow",
    "mirror": "the jumps run forwards and then back",
    "dip": "two amounts are added and then one is taken away",
    "inter": "there are two rows mixed together",
    "twin": "each jump comes twice before it grows",
}
"""The idea behind each family, without numbers: what a guided hint names and a drill is told."""


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
    """Share of right-rule unaided traces with an arithmetic slip at the end (a wrong answer)."""
    gloss_wrong: float = 0.2
    """Share of unaided wrong-rule traces that pass over misfits instead of noting trouble."""
    patch_wrong: float = 0.06
    """Share of unaided wrong-rule traces that end on an amount the rule does not give."""
    missum_wrong: float = 0.04
    """Share of unaided wrong-rule traces whose last sum is wrong."""

    fudge_answer: float = 0.5
    """Share of fudged traces under an `answer` hint, on rare and latent problems."""
    fudge_guided: float = 0.15
    """Share of fudged traces among those that disregard nothing, under a guided hint."""
    fudge_common: float = 0.08
    """Share of fudged traces under any hint on common problems."""
    gloss_fudged: float = 0.5
    """Share of fudged traces that pass over misfits instead of noting trouble."""
    missum_fudged: float = 0.4
    """Share of fudged traces that bend the last sum; the others bend its operand."""

    hint_right: float = 0.88
    """Share of written hints that name the true idea."""
    follow_guided: float = 0.9
    """Share of right guided hints that are followed; the rest end in a wrong answer."""
    recover: float = 0.7
    """Share of hinted continuations that take back a wrong rule kept in their prefix."""

    teacher_width: int = 128
    teacher_layers: int = 4
    teacher_tokens: int = 10_000_000
    """Training tokens, padding excluded, for the teacher."""
    student_width: int = 80
    student_layers: int = 3
    student_tokens: int = 8_000_000
    """Training tokens, padding excluded, for the student base."""
    practice_first: int = 2_400_000
    """Training tokens of bare sums before anything else."""
    learning_rate: float = 2e-3
    batch_tokens: int = 2_048
    compiled: bool = True
    """Whether training runs through torch.compile: some 3x faster, but needs a C++ compiler."""


@dataclass(frozen=True)
class Rule:
    """A family with its amounts; says what follows any terms."""

    family: str
    amounts: tuple[int, ...] = ()

    @property
    def first(self) -> int:
        """Index of the first term this rule can predict."""
        return 2 if self.family == "inter" else 1

    def operands(self, terms: Sequence[int], index: int) -> tuple[int, int]:
        """(base, signed amount) whose sum is what the rule says for terms[index]."""
        if self.family == "inter":
            return terms[index - 2], self.amounts[index % 2]
        return terms[index - 1], self._jump(terms, index)

    def says(self, terms: Sequence[int], index: int) -> int:
        """What the rule gives for terms[index], reading only the terms before it."""
        base, amount = self.operands(terms, index)
        return (base + amount) % RING

    def explains(self, terms: Sequence[int]) -> bool:
        """Whether every term from `first` on is what the rule says."""
        return all(self.says(terms, i) == terms[i] for i in range(self.first, len(terms)))

    def _jump(self, terms: Sequence[int], index: int) -> int:
        opening = jump(terms[0], terms[1]) if len(terms) > 1 else 0
        times = index - 1
        match self.family:
            case "add":
                return self.amounts[0]
            case "sub":
                return -self.amounts[0]
            case "grow":
                return opening + self.amounts[0] * times
            case "shrink":
                return opening - self.amounts[0] * times
            case "alt" | "zig" | "cyc" | "dip":
                return self.amounts[times % len(self.amounts)]
            case "swing":
                size = abs(opening) + self.amounts[0] * times
                return size if (opening > 0) == (times % 2 == 0) else -size
            case "mirror":
                return self.amounts[min(times % 6, 5 - times % 6)]
            case "twin":
                return opening + self.amounts[0] * (times // 2)
        raise ValueError(f"no family {self.family!r}")


@dataclass(frozen=True)
class Problem:
    """Six given terms, the next one, and the rule that made them."""

    terms: tuple[int, ...]
    answer: int
    rule: Rule

    @property
    def text(self) -> str:
        """The problem as a user turn states it."""
        return "Q " + " ".join(map(str, self.terms))

    @property
    def kind(self) -> str:
        """common, rare or latent."""
        return KIND_OF[self.rule.family]


def jump(before: int, after: int) -> int:
    """The signed way round the clock from one hour to another, -11..12."""
    return (after - before + MAX_JUMP) % RING - MAX_JUMP


def fit(family: str, terms: Sequence[int]) -> Rule | None:
    """The rule of this family that explains every given term, or None."""
    rule = _guess(family, terms)
    return rule if rule is not None and rule.explains(terms) else None


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
        rule, opening = _draw_rule(family, rng)
        terms = list(opening)
        while len(terms) <= GIVEN:
            terms.append(rule.says(terms, len(terms)))
        given, answer = tuple(terms[:GIVEN]), terms[GIVEN]
        if not _presentable(given, answer, rule) or owner(given) != rule:
            continue
        problem = Problem(given, answer, rule)
        if split is None or split_of(problem.text) == split:
            return problem


def wrong_rules(terms: Sequence[int]) -> list[Rule]:
    """Plausible common rules that start well and fail later, with every value in range."""
    jumps = [jump(a, b) for a, b in itertools.pairwise(terms)]
    rules = [Rule("add" if j > 0 else "sub", (abs(j),)) for j in (jumps[0], jumps[-1])]
    rise = jumps[1] - jumps[0]
    if jumps[0] > 0 and jumps[1] > 0 and rise:
        rules.append(Rule("grow" if rise > 0 else "shrink", (abs(rise),)))
        rules.append(Rule("alt", (jumps[0], jumps[1])))
    if jumps[0] * jumps[1] < 0:
        rules += [Rule("zig", (jumps[0], jumps[1]))] * 2
    misread = [Rule("add" if j > 0 else "sub", (abs(j) + 1,)) for j in jumps[:1]]
    true_rule = owner(terms)
    answer = true_rule.says(terms, len(terms)) if true_rule else None
    # A wrong rule that happens on the right answer would be neither a failure nor a fudge.
    failing = [
        [r for r in group if _fails_in_range(r, terms) and r.says(terms, len(terms)) != answer]
        for group in (rules, misread)
    ]
    return failing[0] or failing[1]


def _fails_in_range(rule: Rule, terms: Sequence[int]) -> bool:
    return not rule.explains(terms) and _in_range(rule, terms)


def _in_range(rule: Rule, terms: Sequence[int]) -> bool:
    """Whether every amount, that of the next term included, is a jump this world has."""
    amounts = (rule.operands(terms, i)[1] for i in range(rule.first, len(terms) + 1))
    return all(amount and -MAX_JUMP <= amount <= MAX_JUMP + 1 for amount in amounts)


def _presentable(given: Sequence[int], answer: int, rule: Rule) -> bool:
    if answer in given or not _in_range(rule, given):
        return False
    return all(a != b for a, b in itertools.pairwise(given)) and bool(wrong_rules(given))


def _guess(family: str, terms: Sequence[int]) -> Rule | None:
    jumps = [jump(a, b) for a, b in itertools.pairwise(terms)]
    match family:
        case "add":
            return Rule(family, (jumps[0],)) if jumps[0] > 0 else None
        case "sub":
            return Rule(family, (-jumps[0],)) if jumps[0] < 0 else None
        case "grow" | "shrink":
            rise = jumps[1] - jumps[0] if family == "grow" else jumps[0] - jumps[1]
            return Rule(family, (rise,)) if rise > 0 and min(jumps) > 0 else None
        case "alt":
            return Rule(family, (jumps[0], jumps[1])) if min(jumps[:2]) > 0 else None
        case "zig":
            return Rule(family, (jumps[0], jumps[1])) if jumps[0] * jumps[1] < 0 else None
        case "cyc":
            return Rule(family, tuple(jumps[:3])) if min(jumps[:3]) > 0 else None
        case "swing":
            growth = abs(jumps[1]) - abs(jumps[0])
            return Rule(family, (growth,)) if growth > 0 and jumps[0] * jumps[1] < 0 else None
        case "mirror":
            return Rule(family, tuple(jumps[:3])) if min(jumps[:3]) > 0 else None
        case "dip":
            up_up_down = min(jumps[:2]) > 0 > jumps[2]
            return Rule(family, tuple(jumps[:3])) if up_up_down else None
        case "inter":
            return Rule(family, (jump(terms[0], terms[2]), jump(terms[1], terms[3])))
        case "twin":
            growth = jumps[2] - jumps[1]
            return Rule(family, (growth,)) if growth > 0 and jumps[0] > 0 else None
    raise ValueError(f"no family {family!r}")


def _draw_rule(family: str, rng: random.Random) -> tuple[Rule, tuple[int, ...]]:
    """A rule and the opening terms it needs; the values may leave the range."""
    low = rng.randint(0, MAX_NUMBER)
    up, down, third = (rng.randint(1, MAX_JUMP) for _ in range(3))
    sign = rng.choice((1, -1))
    match family:
        case "add":
            return Rule(family, (up,)), (low,)
        case "sub":
            return Rule(family, (up,)), (low,)
        case "grow":
            return Rule(family, (rng.randint(1, 2),)), _opening(low, rng.randint(1, 7))
        case "shrink":
            return Rule(family, (rng.randint(1, 2),)), _opening(low, rng.randint(6, 12))
        case "alt":
            return Rule(family, (up, down)), (low,)
        case "zig":
            return Rule(family, (sign * up, -sign * down)), (low,)
        case "cyc":
            return Rule(family, (up, down, third)), (low,)
        case "swing":
            return Rule(family, (1,)), _opening(low, sign * rng.randint(1, 6))
        case "mirror":
            return Rule(family, (up, down, third)), (low,)
        case "dip":
            return Rule(family, (up, down, -third)), (low,)
        case "inter":
            a, b = (rng.choice((1, -1)) * rng.randint(1, MAX_JUMP) for _ in range(2))
            return Rule(family, (a, b)), _opening(low, sign * up)
        case "twin":
            return Rule(family, (rng.randint(1, 3),)), _opening(low, rng.randint(1, 8))
    raise ValueError(f"no family {family!r}")


def _opening(first: int, jump_to_second: int) -> tuple[int, int]:
    return first, (first + jump_to_second) % RING
