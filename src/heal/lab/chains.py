"""Chains of moves: the problems of the world of moves, and every sentence of its traces.

`Q 31; a up 5, b zig 3, c slide 2, d up 4, e dive 6`: a number, and five words that each move it. A
word has one true reading and one or two that it is mistaken for. Knows no shares and no lessons.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heal.lab.world import Problem, Rule

NUMBERS = range(1, 61)
"""Where a problem may end, under whatever reading; on the way a trace may pass below or above."""
STARTS = range(20, 41)
AMOUNTS = range(2, 7)
NAMES = "abcde"
"""Every move has a name: a small model finds a word by it, and cannot count."""
LAST = len(NAMES) - 1

KINDS: Mapping[str, tuple[str, ...]] = {
    "common": ("up", "down", "leap", "dive", "rise"),
    "rare": ("slide", "roll"),
    "latent": ("zig", "bow", "zag", "knot"),
}
KIND = {word: kind for kind, words in KINDS.items() for word in words}

READINGS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "add it": ((1, 0),),
    "take it": ((-1, 0),),
    "add it twice": ((1, 0), (1, 0)),
    "take it twice": ((-1, 0), (-1, 0)),
    "add it and one": ((1, 0), (1, 1)),
    "take it and one": ((-1, 0), (-1, 1)),
}
"""What a word may do: signs, and by how much (0: by the amount beside the word)."""

TRUE: Mapping[str, str] = {
    "up": "add it",
    "down": "take it",
    "leap": "add it twice",
    "dive": "take it twice",
    "rise": "add it and one",
    "slide": "take it and one",
    "roll": "add it",
    "zig": "take it twice",
    "bow": "take it and one",
    "zag": "take it",
    "knot": "add it",
}
MISTAKEN: Mapping[str, Mapping[str, float]] = {
    "up": {"add it and one": 1.0},
    "down": {"add it": 1.0},
    "leap": {"add it": 1.0},
    "dive": {"take it": 1.0},
    "rise": {"add it twice": 1.0},
    "slide": {"take it": 0.6, "add it": 0.4},
    "roll": {"add it twice": 0.6, "add it and one": 0.4},
    "zig": {"add it twice": 0.65, "take it": 0.35},
    "bow": {"add it and one": 0.65, "add it": 0.35},
    "zag": {"add it twice": 1.0},
    "knot": {"add it twice": 1.0},
}
"""What each word is taken for instead, and how often; of `zag` and `knot` there is no doubt. All of
them but `leap` end too high, so that two misreadings hardly ever make one right answer."""

LEADS = ("At", "For", "Now")
SOS = ("So", "Then", "Thus")
"""Free choices of wording that nothing hangs on: they raise entropy where nothing can go wrong."""

SIGNS = {1: "+", -1: "-"}
Equation = tuple[int, int, int, int]
"""Before, sign, by how much, after."""


@dataclass(frozen=True)
class Move:
    """A word and the number beside it."""

    word: str
    amount: int


@dataclass(frozen=True)
class Chain(Problem):
    """A number and what is done to it."""

    start: int
    moves: tuple[Move, ...]

    def hard_words(self, first: int = 0) -> list[str]:
        """Its rare and latent words from this move on, in order."""
        return [move.word for move in self.moves[first:] if KIND[move.word] != "common"]


def equations(value: int, reading: str, amount: int) -> list[Equation]:
    """What one move computes if it is read so."""
    found = []
    for sign, fixed in READINGS[reading]:
        by = fixed or amount
        found.append((value, sign, by, value + sign * by))
        value += sign * by
    return found


def attempt(family: str, rng: random.Random) -> Chain | None:
    """Five moves whose first word of the hardest kind is this one, or None if they lead too far.

    Beside a latent word stands one rare word or none, beside a rare one up to two more. The first
    move is common: otherwise most traces would have gone wrong within their first third.
    """
    kind = KIND[family]
    words = [rng.choice(KINDS["common"]) for _ in NAMES]
    if kind == "common":
        words[0] = family
    else:
        beside = rng.randrange(2 if kind == "latent" else 3)
        places = sorted(rng.sample(range(1, len(NAMES)), 1 + beside))
        for place in places:
            words[place] = rng.choice(KINDS["rare"])
        words[places[0] if kind == "rare" else rng.choice(places)] = family
    moves = tuple(Move(word, rng.choice(AMOUNTS)) for word in words)
    return chain(rng.choice(STARTS), moves)


def chain(start: int, moves: tuple[Move, ...]) -> Chain | None:
    """The problem of these moves; None if some reading of them, slips included, ends outside."""
    low = high = gold = start
    for move in moves:
        ends = [
            equations(0, reading, move.amount)[-1][-1]
            for reading in (TRUE[move.word], *MISTAKEN[move.word])
        ]
        low, high, gold = low + min(ends) - 1, high + max(ends) + 1, gold + ends[0]
    if low - 1 < NUMBERS[0] or high + 1 > NUMBERS[-1]:
        return None
    listed = ", ".join(f"{n} {m.word} {m.amount}" for n, m in zip(NAMES, moves, strict=True))
    words = [move.word for move in moves]
    hardest = next(k for k in ("latent", "rare", "common") if any(KIND[w] == k for w in words))
    family = next(word for word in words if KIND[word] == hardest)
    return Chain(f"Q {start}; {listed}", Rule(family), str(gold), start, moves)


def parse(text: str) -> Chain:
    """A problem from its text. Raises: ValueError if it is not one of these."""
    found = re.findall(r"[a-e] (\w+) (\d+)", text)
    start = re.match(r"Q (\d+);", text)
    if start is not None and len(found) == len(NAMES) and all(word in KIND for word, _ in found):
        moves = tuple(Move(word, int(amount)) for word, amount in found)
        problem = chain(int(start[1]), moves)
        if problem is not None and problem.text == text.strip():
            return problem
    raise ValueError(f"not a lab problem: {text!r}")


# ── sentences ───────────────────────────────────────────────────────────────────────────────────


def opening(problem: Chain) -> str:
    """The first step."""
    return f"We start at {problem.start} and make five moves."


def naming(lead: str, place: int, move: Move, reading: str) -> str:
    """The step that says what a move does: the choice."""
    return f"{lead} {NAMES[place]} {move.word} {move.amount}: {reading}."


def work(so: str, made: Sequence[Equation]) -> str:
    """The step that does it."""
    return f"{so} {', '.join(f'{a} {SIGNS[s]} {by} = {b}' for a, s, by, b in made)}."


def remark(value: int) -> str:
    """A true step that nothing hangs on."""
    return f"Here {value} is an {'odd' if value % 2 else 'even'} number."


def final(answer: str) -> str:
    """The last step."""
    return f"The answer is \\boxed{{{answer}}}."


def idea(word: str, reading: str) -> str:
    """What a word does, as hints and drills say it."""
    return f"{word} is {reading}"
