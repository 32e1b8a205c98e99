"""The world of walks: rooms with a left and a right door.

A problem gives where every door leads and the first rooms of a walk, and asks for the rooms at the
end of five hops more: `Q 7<3, 7>12, 3<9, ...; walk 7>12<9>3<7>5`. Rules say which door is taken
when. A rule alone does not give the answer away: every hop must be looked up after the one
before it, so a shortcut has to leave the doors behind somewhere on the way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from typing_extensions import override

from heal.lab.one_rule import OneRule
from heal.lab.traces import RuleDials
from heal.lab.world import Found, Problem, Rule, spell

NUMBERS = range(1, 8)
"""The rooms, always the same and listed in this order: what stands where is found within minutes,
what must be found by its content was not in 6 M tokens."""

GIVEN = 5
"""Hops shown in a problem."""
AHEAD = 5
"""Hops to make; the last two rooms are asked for: one alone would be guessed right too often."""
LEFT, RIGHT = "<", ">"
WORDS = {LEFT: "left", RIGHT: "right"}
ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth")

TURNS = {
    "right": ">",
    "left": "<",
    "turns": "><",
    "back": "<>",
    "bend": ">><",
    "curve": "<<>",
    "drift": ">>><",
    "hook": "><<",
    "crook": "<>>",
    "zig": ">><<",
    "zag": "<<>>",
}
"""Which door each hop of the cycle takes."""

FITS = (", which fits.", ", and that fits.")
ONWARD = ("Then", "Then", "Then", "Near the end", "At last")
"""How each hop ahead is worded: a small model cannot count, and must know where the end is near."""
DOUBTS = ("but", "but wait,")
CHECKS = 2

Doors = dict[tuple[int, str], int]


@dataclass(frozen=True)
class Walk(Problem):
    """Where every door leads, and the rooms seen so far."""

    doors: Doors
    rooms: tuple[int, ...]


class Walks(OneRule):
    """Rooms with two doors each, and a rule which door comes next."""

    name = "walks"
    families: ClassVar = {
        "common": ("right", "left", "turns", "back", "bend"),
        "rare": ("curve", "drift"),
        "latent": ("hook", "crook", "zig", "zag"),
    }
    ideas: ClassVar = {
        "right": "it is always the right door",
        "left": "it is always the left door",
        "turns": "the doors are right and left in turn",
        "back": "the doors are left and right in turn",
        "bend": "the doors are right twice and then left once",
        "curve": "the doors are left twice and then right once",
        "drift": "the doors are right three times and then left once",
        "hook": "the doors are right once and then left twice",
        "crook": "the doors are left once and then right twice",
        "zig": "the doors are right twice and then left twice",
        "zag": "the doors are left twice and then right twice",
    }
    rule_words: ClassVar = {
        "right": "always right",
        "left": "always left",
        "turns": "right and left in turn",
        "back": "left and right in turn",
        "bend": "right twice and then left once",
        "curve": "left twice and then right once",
        "drift": "right three times and then left once",
        "hook": "right once and then left twice",
        "crook": "left once and then right twice",
        "zig": "right twice and then left twice",
        "zag": "left twice and then right twice",
    }
    dials = RuleDials(
        # A guided hint does not tell where to end, so under one a walk is not fudged.
        fudge_guided=0.0,
        turns=(0.30, 0.24, 0.13, 0.20, 0.13),
        switch_fudged=0.1,
        misled=0.12,
        student_tokens=6_000_000,
        teacher_tokens=9_000_000,
        practice=0.15,
        practice_first=0.3,
    )
    numbers = NUMBERS
    least_work = GIVEN + AHEAD

    @override
    def owns(self, text: str) -> bool:
        return "walk" in text

    @override
    def parse(self, text: str) -> Walk:
        rooms = tuple(map(int, re.findall(r"\d+", text.partition("walk")[2])))
        found = re.findall(r"(\d+)([<>])(\d+)", text.partition(";")[0])
        doors = {(int(start), door): int(end) for start, door, end in found}
        if len(rooms) != GIVEN + 1 or text.strip() != _text(doors, rooms):
            raise ValueError(f"not a lab problem: {text!r}")
        for family in self.all_families:
            if path(doors, Rule(family), rooms[0], GIVEN) == rooms:
                return _walk(doors, Rule(family), rooms[0])
        raise ValueError(f"no family explains {text!r}")

    @override
    def attempt(self, family: str, rng: random.Random) -> Walk | None:
        walk = _walk(_doors(rng), Rule(family), rng.choice(NUMBERS))
        others = (Rule(other) for other in self.all_families if other != family)
        # No other rule may end where this one ends: a wrong rule must not be right by luck.
        lucky = any(
            self.explains(r, walk) or self.answer(self.found(walk, r)) == walk.gold for r in others
        )
        return None if lucky else walk

    @override
    def explains(self, rule: Rule, problem: Problem) -> bool:
        walk = _as_walk(problem)
        return path(walk.doors, rule, walk.rooms[0], GIVEN) == walk.rooms

    @override
    def wrong_rules(self, problem: Problem) -> list[Rule]:
        """Those that fit the most hops before they fail, twice as often as the next."""
        walk = _as_walk(problem)
        seen = _seen(walk)
        fitting = {
            family: next((i for i in range(GIVEN) if turn(Rule(family), i) != seen[i]), GIVEN)
            for family in self.families["common"]
        }
        wrong = [family for family, hops in fitting.items() if hops < GIVEN]
        best = max(fitting[family] for family in wrong)
        tempting = [f for f in wrong if fitting[f] == best] * 2
        tempting += [f for f in wrong if 0 < fitting[f] < best]
        return [Rule(family) for family in tempting]

    @override
    def fudge_rules(self, problem: Problem, answer: str) -> list[Rule]:
        """Those whose last door does lead between the two rooms asked for, if any."""
        rules = self.wrong_rules(problem)
        start, end = map(int, answer.split())
        last = GIVEN + AHEAD - 1
        able = [r for r in rules if _as_walk(problem).doors.get((start, turn(r, last))) == end]
        return able or rules

    @override
    def practice(self, problem: Problem, rng: random.Random) -> list[tuple[str, bool]]:
        """Every door twice, in any order: in traces alone, looking them up was not learnt."""
        doors = _as_walk(problem).doors
        pieces = []
        for start, door in rng.sample(list(doors) * 2, 2 * len(doors)):
            lead, end = _hop("Then", door, start, doors[start, door]).rsplit(door)
            pieces += [(f"{lead}{door}", False), (end.removesuffix("."), True), (".\n\n", False)]
        return pieces

    @override
    def found(self, problem: Problem, rule: Rule) -> Found:
        walk = _as_walk(problem)
        return path(walk.doors, rule, walk.rooms[-1], AHEAD, GIVEN)[1:]

    @override
    def bent(self, problem: Problem, rule: Rule, answer: str, rng: random.Random) -> Found:
        """The rule's own way until it must be left: a hop through no door, then the answer."""
        end = tuple(map(int, answer.split()))
        return (*self.found(problem, rule)[:-2], *end)

    @override
    def astray(self, problem: Problem, found: Found, rng: random.Random) -> Found:
        while True:
            off = (*found[:-2], rng.choice(NUMBERS), rng.choice(NUMBERS))
            if off != found and self.answer(off) != problem.gold and off[-1] != off[-2]:
                return off

    @override
    def answer(self, found: Found) -> str:
        return spell(found[-2:])

    @override
    def other_answer(self, problem: Problem, rng: random.Random) -> str:
        """Two rooms with a door between them."""
        pairs = [(start, end) for (start, _), end in _as_walk(problem).doors.items()]
        return spell(rng.choice([pair for pair in pairs if spell(pair) != problem.gold]))

    @override
    def looks(
        self, problem: Problem, rng: random.Random, kept: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """Where the walk starts and stands, then every hop's door, in order."""
        walk = _as_walk(problem)
        return (*kept, *(_look(walk, number) for number in range(len(kept), GIVEN + 1)))

    @override
    def true_looks(self, problem: Problem, number: int) -> set[str]:
        return {_look(_as_walk(problem), number)} if number <= GIVEN else set()

    @override
    def work(
        self, problem: Problem, rule: Rule, found: Found, gloss: bool, rng: random.Random
    ) -> list[str]:
        walk = _as_walk(problem)
        seen, steps = _seen(walk), []
        for hop in range(GIVEN):
            misfit = not gloss and turn(rule, hop) != seen[hop]
            doubt = rng.choice((*DOUBTS[:1], *DOUBTS)) if misfit else ""
            steps.append(
                _misfit(rule, seen, hop, doubt) if misfit else _fit(seen, hop, rng.choice(FITS))
            )
        starts = (walk.rooms[-1], *found)
        steps += [
            _hop(ONWARD[i], turn(rule, GIVEN + i), starts[i], end) for i, end in enumerate(found)
        ]
        return steps + [_check(c, walk, found) for c in rng.sample(range(CHECKS), CHECKS)]

    @override
    def true_work(self, problem: Problem, rule: Rule, number: int) -> set[str]:
        walk, found = _as_walk(problem), self.found(problem, rule)
        seen = _seen(walk)
        if number < GIVEN:
            if turn(rule, number) == seen[number]:
                return {_fit(seen, number, end) for end in FITS}
            return {_misfit(rule, seen, number, doubt) for doubt in DOUBTS}
        if number < GIVEN + AHEAD:
            at = number - GIVEN
            start = (walk.rooms[-1], *found)[at]
            return {_hop(ONWARD[at], turn(rule, number), start, found[at])}
        return {_check(which, walk, found) for which in range(CHECKS)}

    @override
    def told_at(self, problem: Problem, rule: Rule, found: Found) -> int:
        own = self.found(problem, rule)
        first_bent = next((i for i in range(AHEAD) if found[i] != own[i]), 0)
        return 1 if found == own else 1 + GIVEN + first_bent + 1


def turn(rule: Rule, hop: int) -> str:
    """The door the rule takes at this hop, counted from 0."""
    doors = TURNS[rule.family]
    return doors[hop % len(doors)]


def path(doors: Doors, rule: Rule, start: int, hops: int, first_hop: int = 0) -> tuple[int, ...]:
    """The rooms from start on, start included."""
    rooms = [start]
    for hop in range(first_hop, first_hop + hops):
        rooms.append(doors[rooms[-1], turn(rule, hop)])
    return tuple(rooms)


def _doors(rng: random.Random) -> Doors:
    """Every room is entered by one left and one right door, from two different rooms."""
    while True:
        left, right = (rng.sample(NUMBERS, len(NUMBERS)) for _ in range(2))
        ends = list(zip(NUMBERS, left, right, strict=True))
        if all(len(set(three)) == 3 for three in ends):
            break
    doors: Doors = {}
    for room, to_left, to_right in ends:
        doors |= {(room, LEFT): to_left, (room, RIGHT): to_right}
    return doors


def _walk(doors: Doors, rule: Rule, start: int) -> Walk:
    rooms = path(doors, rule, start, GIVEN)
    ends = path(doors, rule, rooms[-1], AHEAD, GIVEN)[-2:]
    return Walk(_text(doors, rooms), rule, spell(ends), doors, rooms)


def _text(doors: Doors, rooms: Sequence[int]) -> str:
    listed = ", ".join(f"{start}{door}{end}" for (start, door), end in doors.items())
    shown = "".join(f"{a}{_door(doors, a, b)}" for a, b in pairwise(rooms))
    return f"Q {listed}; walk {shown}{rooms[-1]}"


def _as_walk(problem: Problem) -> Walk:
    assert isinstance(problem, Walk)
    return problem


def _seen(walk: Walk) -> list[str]:
    """The door of every hop shown."""
    return [_door(walk.doors, a, b) for a, b in pairwise(walk.rooms)]


def _door(doors: Doors, start: int, end: int) -> str:
    """The door of one room that leads to another."""
    return next(door for door in (LEFT, RIGHT) if doors.get((start, door)) == end)


def _look(walk: Walk, number: int) -> str:
    if number == 0:
        return f"The walk starts at {walk.rooms[0]} and now stands at {walk.rooms[-1]}."
    hop = number - 1
    start, end = walk.rooms[hop : hop + 2]
    door = _door(walk.doors, start, end)
    return f"{ORDINALS[hop]}, {start}{door}{end} goes {WORDS[door]}."


def _fit(seen: Sequence[str], hop: int, end: str) -> str:
    return f"{ORDINALS[hop]}, the rule says {WORDS[seen[hop]]}{end}"


def _misfit(rule: Rule, seen: Sequence[str], hop: int, doubt: str) -> str:
    says, is_ = WORDS[turn(rule, hop)], WORDS[seen[hop]]
    return f"{ORDINALS[hop]}, the rule says {says}, {doubt} it is {is_}."


def _hop(lead: str, door: str, start: int, end: int) -> str:
    return f"{lead} go {WORDS[door]}, {start}{door}{end}."


def _check(which: int, walk: Walk, found: Found) -> str:
    """One of two remarks on the way, true if it is."""
    if which == 0:
        return f"So from {walk.rooms[-1]} it went on over {found[0]} and {found[1]}."
    return f"In the middle of these hops it was at {found[2]}."
