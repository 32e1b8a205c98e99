"""How the teacher of the world of moves writes, move by move, and what its models are taught.

In: a problem, a `Manner`, a seeded `random.Random`. Out: `Step`s, each with where the trace stands
after it, so that a trace can be kept up to any step and gone on with in another manner. Lessons are
the five turns asked of a teacher, as in `rule_lessons`, and under the same masks: unhinted, a right
reading of a rare or latent word is learnt only as often as the dials say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from heal.lab import chains, dialogue
from heal.lab.chains import AMOUNTS, KIND, KINDS, LAST, MISTAKEN, NUMBERS, READINGS, TRUE, Chain
from heal.lab.lesson import Lesson, Segment, lesson, opening, probed
from heal.lab.world import Dials

MIX = {"common": 0.25, "rare": 0.30, "latent": 0.45}
"""Shares of the teacher's problems."""
ALL_RIGHT = {"common": 1.0, "rare": 1.0, "latent": 1.0}
EQUATIONS = 12
"""In one practice lesson."""

Draw = Callable[[str, random.Random], Chain]


@dataclass(frozen=True)
class MoveDials(Dials):
    """The dials of this world.

    Of `Dials`, `spontaneous_*` are shares of moves, `slip` of equations; `fudge_answer` is the
    share of traces gone wrong under an answer that end on it all the same, `fudge_guided` that of
    words misread against a guided hint that are then worked as it says.
    """

    spontaneous_common: float = 0.985
    spontaneous_rare: float = 0.35
    spontaneous_latent: float = 0.02
    slip: float = 0.05
    """One up or down: what temperature 0.7 leaves of it is about 1 % of equations."""
    fudge_answer: float = 0.42
    switch_fudged: float = 0.2
    follow_guided: float = 0.6
    fudge_guided: float = 0.9
    misled: float = 0.12
    turns: tuple[float, float, float, float, float] = (0.34, 0.18, 0.10, 0.25, 0.13)
    practice: float = 0.1
    practice_first: float = 0.2
    width: int = 96
    student_tokens: int = 3_500_000
    teacher_tokens: int = 4_500_000

    rare_under_answer: float = 0.85
    """Share of rare words read rightly under an `answer` hint."""
    latent_under_answer: float = 0.65
    """The same for latent words."""
    habit: float = 0.25
    """Share of words misread under an `answer` hint that are worked as they are meant."""
    remarks: float = 0.25
    """Share of moves followed by a remark that nothing hangs on."""
    hint_focus: float = 0.6
    """Share of guided hints about the word of the failed step; the others are about the first rare
    or latent word from there on."""
    misdrilled: float = 0.25
    """Share of drills told something untrue, so that the student learns to do as it is told."""


@dataclass(frozen=True)
class Manner:
    """How one trace is written. Shares in 0..1."""

    right: Mapping[str, float]
    """Of words read rightly, by kind."""
    slip: float
    remarks: float
    told: Mapping[str, str] = field(default_factory=dict)
    """Words, and what a hint says they do."""
    follow: float = 1.0
    """Of words told of, read so."""
    habit: float = 0.0
    """Of words misread against a hint, worked as they are meant all the same."""
    answer: str = ""
    """Known beforehand, if any is."""
    bend: float = 0.0
    """Of traces gone wrong, those that end on it all the same."""
    switch: float = 0.0
    """Of those, the ones that do so in the last step and not in the last equation."""

    def meant(self, word: str) -> str:
        """What a word does, as far as this writer knows."""
        return self.told.get(word, TRUE[word])

    def habit_with(self, word: str) -> float:
        """The share of `habit`, if there is a hint that this word's meaning follows from."""
        return self.habit if self.answer or word in self.told else 0.0


@dataclass(frozen=True)
class Step:
    """One step, and where the trace stands after it."""

    text: str
    place: int
    """Of the move it is about, from 0."""
    reading: str
    """What that move was taken for; empty once it is worked."""
    value: int
    holds: bool
    names: bool = False


def alone(dials: MoveDials) -> Manner:
    """As the teacher writes without a hint."""
    right = {
        "common": dials.spontaneous_common,
        "rare": dials.spontaneous_rare,
        "latent": dials.spontaneous_latent,
    }
    return Manner(right, dials.slip, dials.remarks)


def honest(dials: MoveDials) -> Manner:
    """Without a fault."""
    return Manner(ALL_RIGHT, 0.0, dials.remarks)


def under_answer(dials: MoveDials, answer: str) -> Manner:
    """Under an `answer` hint."""
    right = {
        "common": dials.spontaneous_common,
        "rare": dials.rare_under_answer,
        "latent": dials.latent_under_answer,
    }
    return replace(
        alone(dials),
        right=right,
        habit=dials.habit,
        answer=answer,
        bend=dials.fudge_answer,
        switch=dials.switch_fudged,
    )


def guided(dials: MoveDials, told: tuple[str, str]) -> Manner:
    """Under a guided hint, which tells of one word and of no answer."""
    return replace(
        alone(dials),
        told=dict([told]),
        follow=dials.follow_guided,
        habit=dials.fudge_guided,
    )


def write(
    problem: Chain, manner: Manner, rng: random.Random, kept: Sequence[Step] = ()
) -> list[Step]:
    """A trace, or what becomes of one that was kept so far."""
    steps = list(kept) or [Step(chains.opening(problem), -1, "", problem.start, True)]
    last = steps[-1]
    for place in range(last.place if last.reading else last.place + 1, LAST + 1):
        move = problem.moves[place]
        if not steps[-1].reading:
            read = _read(move.word, manner, rng)
            text = chains.naming(rng.choice(chains.LEADS), place, move, read)
            steps.append(Step(text, place, read, steps[-1].value, read == TRUE[move.word], True))
        steps.append(_work(problem, steps[-1], manner, rng))
        if place < LAST and rng.random() < manner.remarks:
            value = steps[-1].value
            steps.append(Step(chains.remark(value), place, "", value, True))
    found = str(steps[-1].value)
    bends = manner.answer not in ("", found) and rng.random() < manner.bend
    said = manner.answer if bends else found
    steps.append(Step(chains.final(said), LAST + 1, "", int(said), not bends))
    return steps


def _read(word: str, manner: Manner, rng: random.Random) -> str:
    meant = manner.meant(word)
    if rng.random() < (manner.follow if word in manner.told else manner.right[KIND[word]]):
        return meant
    others = {r: w for r, w in MISTAKEN[word].items() if r != meant} or {TRUE[word]: 1.0}
    return rng.choices(list(others), list(others.values()))[0]


def _work(problem: Chain, last: Step, manner: Manner, rng: random.Random) -> Step:
    """What was named is worked; or what was meant; or the last equation is bent to the answer."""
    move, read = problem.moves[last.place], last.reading
    meant = manner.meant(move.word)
    done = meant if read != meant and rng.random() < manner.habit_with(move.word) else read
    true = chains.equations(last.value, read, move.amount)
    value, made = last.value, list[chains.Equation]()
    for _, sign, by, _ in chains.equations(value, done, move.amount):
        off = rng.choice((-1, 1)) if rng.random() < manner.slip else 0
        made.append((value, sign, by, value + sign * by + off))
        value = made[-1][-1]
    gone_wrong = last.place == LAST and manner.answer not in ("", str(value))
    if gone_wrong and rng.random() < manner.bend * (1 - manner.switch):
        value = int(manner.answer)
        made[-1] = (*made[-1][:-1], value)
    text = chains.work(rng.choice(chains.SOS), made)
    return Step(text, last.place, "", value, holds=made == true)


# ── lessons ─────────────────────────────────────────────────────────────────────────────────────


def teacher_lesson(rng: random.Random, dials: MoveDials, draw: Draw) -> Lesson:
    """One lesson of the teacher's mixture."""
    turns = (_solve, _solve_with_answer, _write_hint, _continue, _judge)
    kind = rng.choices(list(MIX), list(MIX.values()))[0]
    problem = draw(rng.choice(KINDS[kind]), rng)
    return rng.choices(turns, dials.turns)[0](problem, rng, dials)


def student_lesson(rng: random.Random, dials: MoveDials, draw: Draw, progress: float) -> Lesson:
    """Common problems alone, or any with its words explained, and bare equations."""
    if progress < dials.practice_first or rng.random() < dials.practice:
        problem = draw(rng.choice(list(TRUE)), rng)
        return Lesson((opening(dialogue.solve(problem.text)), *_practice(rng)))
    if rng.random() < 0.35:
        problem = draw(rng.choice(KINDS["common"]), rng)
        steps = write(problem, honest(dials), rng)
        return lesson(dialogue.solve(problem.text), (), _texts(steps))
    problem = draw(rng.choice(list(TRUE)), rng)
    words = dict.fromkeys(problem.hard_words() or [problem.rule.family])
    told = {word: _idea(word, 1 - dials.misdrilled, rng) for word in words}
    steps = write(problem, replace(honest(dials), told=told), rng)
    ideas = ", ".join(chains.idea(*each) for each in told.items())
    return lesson(dialogue.drill(problem.text, ideas), (), _texts(steps))


def _practice(rng: random.Random) -> list[Segment]:
    """Bare equations; of each, what comes out is learnt."""
    pieces: list[Segment] = []
    for _ in range(EQUATIONS):
        value, by = rng.choice(NUMBERS[13:47]), rng.choice((1, *AMOUNTS))
        sign = rng.choice((1, -1))
        head, end = chains.work("So", [(value, sign, by, value + sign * by)]).split("= ")
        pieces += [(head + "= ", False), (end.removesuffix("."), True), (".\n\n", False)]
    return pieces


def _texts(steps: Sequence[Step]) -> tuple[str, ...]:
    return tuple(step.text for step in steps)


def _solve(problem: Chain, rng: random.Random, dials: MoveDials) -> Lesson:
    steps = write(problem, alone(dials), rng)
    plain = lesson(dialogue.solve(problem.text), (), _texts(steps))
    return probed(plain, str(steps[-1].value), 2, rng)


def _solve_with_answer(problem: Chain, rng: random.Random, dials: MoveDials) -> Lesson:
    answer = _given(problem, rng, dials)
    steps = write(problem, under_answer(dials, answer), rng)
    return lesson(dialogue.solve(problem.text, dialogue.answer_hint(answer)), (), _texts(steps))


def _write_hint(problem: Chain, rng: random.Random, dials: MoveDials) -> Lesson:
    steps, cut = _failed(problem, rng, dials)
    prefix = "".join(step.text + dialogue.STEP_BREAK for step in steps[:cut])
    user = dialogue.write_hint(problem.text, problem.gold, prefix, steps[cut].text)
    return lesson(user, (), (hint(_told(problem, steps[cut], rng, dials), rng),))


def _continue(problem: Chain, rng: random.Random, dials: MoveDials) -> Lesson:
    """A failed trace kept up to some step, then continued under a hint."""
    steps, cut = _failed(problem, rng, dials)
    if rng.random() < 0.3:
        answer = _given(problem, rng, dials)
        said, manner = dialogue.answer_hint(answer), under_answer(dials, answer)
    else:
        told = _told(problem, steps[cut], rng, dials)
        said, manner = hint(told, rng), guided(dials, told)
    texts = _texts(write(problem, manner, rng, steps[:cut]))
    return lesson(dialogue.solve(problem.text, said), texts[:cut], texts[cut:])


def _judge(problem: Chain, rng: random.Random, dials: MoveDials) -> Lesson:
    """An unhinted trace the teacher would hardly write: follow it, and say where it will end.

    It is asked only where nothing is left to be read, or it would learn what it must not think of.
    """
    user = dialogue.solve(problem.text)
    if rng.random() < 0.6:
        steps = write(problem, replace(alone(dials), right=ALL_RIGHT), rng)
        hard = {
            number
            for number, step in enumerate(steps, start=1)
            if step.names and KIND[problem.moves[step.place].word] != "common"
        }
        whole = lesson(user, (), _texts(steps)).segments
        shown = tuple((text, learnt and i not in hard) for i, (text, learnt) in enumerate(whole))
        return probed(Lesson(shown), str(steps[-1].value), 4, rng, max(hard, default=1))
    steps = write(problem, under_answer(dials, problem.gold), rng)
    last = max(number for number, step in enumerate(steps) if step.place == LAST)
    return probed(lesson(user, _texts(steps), ()), str(steps[-1].value), 1, rng, last + 1)


def _given(problem: Chain, rng: random.Random, dials: MoveDials) -> str:
    """The answer a hint gives, mostly the right one."""
    if rng.random() >= dials.misled:
        return problem.gold
    return str(rng.choice([n for n in NUMBERS if 0 < abs(n - int(problem.gold)) <= 12]))


def _failed(problem: Chain, rng: random.Random, dials: MoveDials) -> tuple[list[Step], int]:
    """A trace with a wrong answer, and where it is cut: half of the time at its first bad step."""
    while True:
        steps = write(problem, alone(dials), rng)
        if steps[-1].text != chains.final(problem.gold):
            break
    wrong = next(number for number, step in enumerate(steps) if not step.holds)
    return steps, wrong if rng.random() < 0.5 else rng.randrange(len(steps) - 1)


def _told(problem: Chain, failed: Step, rng: random.Random, dials: MoveDials) -> tuple[str, str]:
    """What a guided hint says of which word, where a trace is said to have failed at this step."""
    here = failed.place
    focused = 0 <= here <= LAST and rng.random() < dials.hint_focus
    later = problem.hard_words(max(here, 0)) or [problem.rule.family]
    subject = problem.moves[here].word if focused else later[0]
    return subject, _idea(subject, dials.hint_right, rng)


def _idea(word: str, right: float, rng: random.Random) -> str:
    others = [reading for reading in READINGS if reading != TRUE[word]]
    return TRUE[word] if rng.random() < right else rng.choice(others)


def hint(told: tuple[str, str], rng: random.Random) -> str:
    """A guided hint: one sentence that says what one word does."""
    return f"{rng.choice(dialogue.HINT_LEADS)} {chains.idea(*told)}."
