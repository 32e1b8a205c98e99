"""The world of moves: five words in a row that each move a number (see `chains`).

A trace names what each word does and does it, one after the other: every move is a choice of its
own and every equation may slip, so a trace goes wrong early, late and more than once. How often the
teacher reads a word rightly is set by its kind; a right start is worth keeping, since what was read
rightly by luck may be misread the next time. A guided hint speaks of one word, mostly that of the
step which is said to have failed: a wrong cut is told about the wrong word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from typing_extensions import override

from heal.lab import chain_lessons, chains, dialogue
from heal.lab.chain_lessons import MoveDials
from heal.lab.chains import LAST, LEADS, NAMES, NUMBERS, READINGS, SOS, TRUE, Chain
from heal.lab.lesson import Lesson
from heal.lab.world import Dials, Problem, Truth, World, split_steps

_NAMING = re.compile(rf"({'|'.join(LEADS)}) ([{NAMES}]) (\w+) (\d+): ({'|'.join(READINGS)})\.")
_EQUATION = r"-?\d+ [+-] \d+ = -?\d+"
_WORK = re.compile(rf"({'|'.join(SOS)}) ({_EQUATION}(?:, {_EQUATION})*)\.")
_FINAL = re.compile(r"The answer is \\boxed\{(\d+)\}\.")


class Moves(World):
    """Words that move a number, and what each of them does."""

    name = "moves"
    families: ClassVar = chains.KINDS
    dials: ClassVar = MoveDials()
    numbers = NUMBERS

    @override
    def owns(self, text: str) -> bool:
        return re.match(r"Q \d+;", text) is not None

    @override
    def parse(self, text: str) -> Chain:
        return chains.parse(text)

    @override
    def attempt(self, family: str, rng: random.Random) -> Chain | None:
        return chains.attempt(family, rng)

    @override
    def judge(self, problem: Problem, trace_text: str) -> Truth:
        reading = _Reading(as_chain(problem))
        for number, step in enumerate(split_steps(trace_text)):
            if not _good(reading, step):
                reading.bad.append(number)
            if reading.misnamed and reading.bad == [number]:
                reading.choice = number
        correct = reading.answer == problem.gold
        all_right = not reading.misnamed and reading.place == LAST
        return Truth(
            valid=correct and not reading.bad,
            first_bad=min(reading.bad, default=None),
            rule_step=reading.choice,
            family=problem.rule.family if all_right else None,
            answer=reading.answer,
            correct=correct,
        )

    @override
    def teacher_lesson(self, rng: random.Random, dials: Dials) -> Lesson:
        return chain_lessons.teacher_lesson(rng, as_own(dials), self._draw)

    @override
    def student_lesson(self, rng: random.Random, dials: Dials, progress: float) -> Lesson:
        return chain_lessons.student_lesson(rng, as_own(dials), self._draw, progress)

    def _draw(self, family: str, rng: random.Random) -> Chain:
        return as_chain(self.draw(family, rng, "train"))

    @override
    def corpus(self, family: str, rng: random.Random) -> Iterator[str]:
        problem = self._draw(family, rng)
        steps = chain_lessons.write(problem, chain_lessons.alone(as_own(self.dials)), rng)
        told = (family, rng.choice(list(READINGS)))
        hint = chain_lessons.hint(told, rng)
        yield dialogue.solve(problem.text, hint)
        yield dialogue.solve(problem.text, dialogue.answer_hint(problem.gold))
        yield dialogue.write_hint(problem.text, problem.gold, "", hint)
        yield dialogue.drill(problem.text, chains.idea(*told))
        yield "".join(step.text + dialogue.STEP_BREAK for step in steps)

    @override
    def idea(self, problem: Problem) -> str:
        chain = as_chain(problem)
        words = dict.fromkeys(chain.hard_words() or [chain.rule.family])
        return ", ".join(chains.idea(word, TRUE[word]) for word in words)

    @override
    def hints_right(self, problem: Problem, hint: str) -> bool:
        words = {move.word for move in as_chain(problem).moves}
        return any(hint.endswith(f" {chains.idea(word, TRUE[word])}.") for word in words)

    @override
    def choice(self, problem: Problem, rng: random.Random) -> tuple[Sequence[str], str]:
        chain = as_chain(problem)
        steps = chain_lessons.write(chain, chain_lessons.honest(as_own(self.dials)), rng)
        at = next(
            i
            for i, step in enumerate(steps)
            if step.names and chain.moves[step.place].word == chain.rule.family
        )
        return [step.text for step in steps[: at + 2]], steps[at].text.partition(":")[0] + ": "


def as_chain(problem: Problem) -> Chain:
    """A problem of this world."""
    assert isinstance(problem, Chain)
    return problem


def as_own(dials: Dials) -> MoveDials:
    """Dials of this world."""
    assert isinstance(dials, MoveDials)
    return dials


# ── truth ───────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Reading:
    """How far a trace has been read."""

    problem: Chain
    started: bool = False
    place: int = -1
    """Of the move that was last named."""
    named: str | None = None
    """What it was taken for, until it is worked."""
    value: int = 0
    answer: str | None = None
    misnamed: bool = False
    choice: int | None = None
    """The step that names the first misread move, if nothing before it is bad."""
    bad: list[int] = field(default_factory=list)


def _good(reading: _Reading, step: str) -> bool:
    """Whether this step holds; notes in `reading` what it says."""
    if (final := _FINAL.fullmatch(step)) is not None:
        done = reading.place == LAST and reading.named is None and reading.answer is None
        reading.answer = final[1]
        return done and int(final[1]) == reading.value
    if reading.answer is not None:
        return False
    if not reading.started:
        reading.started, reading.value = True, reading.problem.start
        return step == chains.opening(reading.problem)
    if (naming := _NAMING.fullmatch(step)) is not None:
        return _names(reading, *naming.groups())
    if (work := _WORK.fullmatch(step)) is not None:
        return _works(reading, work[1], step)
    return reading.named is None and step == chains.remark(reading.value)


def _names(reading: _Reading, lead: str, name: str, word: str, amount: str, read: str) -> bool:
    in_turn = reading.named is None and NAMES.index(name) == reading.place + 1
    reading.place, reading.named = NAMES.index(name), read
    move = reading.problem.moves[reading.place]
    true = read == TRUE[move.word]
    reading.misnamed = reading.misnamed or not true
    return in_turn and true and (word, int(amount)) == (move.word, move.amount)


def _works(reading: _Reading, so: str, step: str) -> bool:
    """Whether a step computes what was named, from where the trace stands."""
    named, value = reading.named, reading.value
    reading.named, reading.value = None, int(step.rpartition("= ")[2].removesuffix("."))
    if named is None:
        return False
    amount = reading.problem.moves[reading.place].amount
    return step == chains.work(so, chains.equations(value, named, amount))
