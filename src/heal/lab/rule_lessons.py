"""Lessons of worlds with one choice to a trace.

In: a seeded `random.Random` and a `Writer`. Out: `Lesson`s. Each teacher lesson is one of the
turns asked of a teacher: solve alone, solve under an answer hint, write a guided hint,
continue a kept prefix under a hint, and judge (unhinted) which answer any prefix will reach.

Two masks keep the ceiling where the dials set it. Right traces of rare and latent problems under
the unhinted prompt teach only what comes after the rule is named; fudged traces there teach nothing
but the answers reached. So the unhinted teacher can follow and judge what it would hardly think of.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from heal.lab import dialogue, traces
from heal.lab.lesson import Lesson, lesson, opening, probed
from heal.lab.traces import Writer, Written, join
from heal.lab.world import Problem

UNAIDED_MIX = {"common": 0.52, "rare": 0.12, "latent": 0.36}
HINTED_MIX = {"common": 0.26, "rare": 0.22, "latent": 0.52}


def teacher_lesson(rng: random.Random, writer: Writer) -> Lesson:
    """One lesson of the teacher's mixture, the same at any point of its training."""
    turns = (_solve, _solve_with_answer, _write_hint, _continue, _judge)
    return rng.choices(turns, weights=writer.dials.turns)[0](rng, writer)


def student_lesson(rng: random.Random, writer: Writer, progress: float = 1.0) -> Lesson:
    """Common problems alone, or any family with its idea named: every operation, no choice.

    Some ideas it is told do not fit their problem: a rule is to be followed, not the row continued.
    """
    world = writer.world
    if progress < writer.dials.practice_first or rng.random() < writer.dials.practice:
        problem = world.draw(rng.choice(world.all_families), rng, "train")
        return Lesson((opening(dialogue.solve(problem.text)), *world.practice(problem, rng)))
    turn = rng.random()
    if turn < 0.45:
        problem = world.draw(rng.choice(world.families["common"]), rng, "train")
        written = writer.unaided(problem, rng)
        return lesson(dialogue.solve(problem.text), (), written.steps)
    problem = world.draw(rng.choice(world.all_families), rng, "train")
    written = (writer.wrong if turn < 0.60 else writer.honest)(problem, rng)
    return lesson(dialogue.drill(problem.text, world.ideas[written.named]), (), written.steps)


def _solve(rng: random.Random, writer: Writer) -> Lesson:
    problem = _problem(rng, writer, UNAIDED_MIX)
    written = writer.unaided(problem, rng)
    plain = lesson(dialogue.solve(problem.text), (), written.steps)
    return probed(plain, written.answer, 2, rng)


def _solve_with_answer(rng: random.Random, writer: Writer) -> Lesson:
    problem = _problem(rng, writer, HINTED_MIX)
    answer, written = _under_answer(problem, rng, writer, ())
    hint = dialogue.answer_hint(answer)
    return lesson(dialogue.solve(problem.text, hint), (), written.steps)


def _write_hint(rng: random.Random, writer: Writer) -> Lesson:
    problem = _problem(rng, writer, HINTED_MIX)
    failed = writer.wrong(problem, rng)
    cut = _cut(failed, rng)
    user = dialogue.write_hint(
        problem.text, problem.gold, join(failed.steps[:cut]), failed.steps[cut]
    )
    return lesson(user, (), (_hint(problem, rng, writer, writer.dials.hint_right),))


def _continue(rng: random.Random, writer: Writer) -> Lesson:
    """A failed trace kept up to some step, then continued under a hint."""
    problem, dials = _problem(rng, writer, HINTED_MIX), writer.dials
    failed = writer.wrong(problem, rng)
    cut = _cut(failed, rng)
    kept, looks = failed.steps[:cut], failed.looks[:cut]
    rest: tuple[str, ...] = failed.steps[cut:]
    if rng.random() < 0.3:
        answer, again = _under_answer(problem, rng, writer, looks)
        hint, followed = dialogue.answer_hint(answer), True
    else:
        right = rng.random() < dials.hint_right
        hint = _hint(problem, rng, writer, float(right))
        followed = right and rng.random() < dials.follow_guided
        again = _hinted(problem, rng, writer, dials.fudge_guided, looks)
    if followed and cut <= failed.rule_step:
        rest = again.steps[cut:]
    elif followed and rng.random() < dials.recover:
        again = writer.honest(problem, rng, failed.looks)
        rest = (traces.RETRACTION, *again.steps[again.rule_step :])
    return lesson(dialogue.solve(problem.text, hint), kept, rest)


def _judge(rng: random.Random, writer: Writer) -> Lesson:
    """An unhinted trace the teacher would hardly write: follow it, and say where it will end.

    It is asked only where the trace has given its end away: after the rule, or after what was bent.
    Asked earlier, it would learn to see the answer that it must not think of.
    """
    problem = _problem(rng, writer, {"rare": 0.3, "latent": 0.7})
    user = dialogue.solve(problem.text)
    if rng.random() < 0.6:
        written = writer.honest(problem, rng)
        plain = lesson(user, written.steps[: written.told], written.steps[written.told :])
    else:
        written = writer.fudged(problem, rng, switches=False)
        plain = lesson(user, written.steps, ())
    return probed(plain, written.answer, 4, rng, earliest=written.told)


def _under_answer(
    problem: Problem, rng: random.Random, writer: Writer, looks: Sequence[str]
) -> tuple[str, Written]:
    """The answer a hint gives, mostly the right one, and what is written under it."""
    dials = writer.dials
    if rng.random() >= dials.misled:
        return problem.gold, _hinted(problem, rng, writer, dials.fudge_answer, looks)
    answer = writer.world.other_answer(problem, rng)
    if rng.random() < dials.follow_misled:
        return answer, writer.fudged(problem, rng, looks, answer, switches=False)
    return answer, writer.honest(problem, rng, looks)


def _hinted(
    problem: Problem, rng: random.Random, writer: Writer, fudge: float, looks: Sequence[str]
) -> Written:
    if writer.world.kind_of(problem.rule.family) == "common":
        fudge = min(fudge, writer.dials.fudge_common)
    return (writer.fudged if rng.random() < fudge else writer.honest)(problem, rng, looks)


def _hint(problem: Problem, rng: random.Random, writer: Writer, right: float) -> str:
    return writer.guided_hint(problem, rng, rng.choice(dialogue.HINT_LEADS), right)


def _cut(failed: Written, rng: random.Random) -> int:
    """How many steps are kept: mostly up to the rule, now and then a few steps past it."""
    return rng.randint(0, failed.rule_step + rng.choice((0, 0, 0, 3)))


def _problem(rng: random.Random, writer: Writer, mix: dict[str, float]) -> Problem:
    kind = rng.choices(list(mix), weights=list(mix.values()))[0]
    return writer.world.draw(rng.choice(writer.world.families[kind]), rng, "train")


def corpus(family: str, rng: random.Random, writer: Writer) -> Iterator[str]:
    """Text of every form about one problem."""
    problem = writer.world.draw(family, rng, "train")
    hint = _hint(problem, rng, writer, 1.0)
    yield dialogue.solve(problem.text, hint)
    yield dialogue.solve(problem.text, dialogue.answer_hint(problem.gold))
    yield dialogue.write_hint(problem.text, problem.gold, "", hint)
    yield dialogue.drill(problem.text, writer.world.ideas[family])
    yield traces.join([traces.RETRACTION])
    for write in (writer.wrong, writer.fudged, writer.honest):
        yield traces.join(write(problem, rng).steps)
