"""Lessons: what the lab's models are trained on, as text with loss flags.

In: a seeded `random.Random` and the dials. Out: `Lesson`s. Each teacher lesson is one of the
turns that METHOD asks of a teacher: solve alone, solve under an answer hint, write a guided hint,
continue a kept prefix under a hint, and judge (unhinted) which answer any prefix will reach.

Two masks keep the ceiling where the dials set it. Right traces of rare and latent problems under
the unhinted prompt teach only what comes after the rule is named; fudged traces there teach nothing
but the answers reached. So the unhinted teacher can follow and judge what it would hardly think of.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from heal.lab import dialogue, traces
from heal.lab.tokenizer import ASSISTANT, END, USER
from heal.lab.traces import Written, join
from heal.lab.world import COMMON, FAMILIES, IDEAS, KINDS, Dials, Problem, draw

Segment = tuple[str, bool]
"""A piece of text and whether its tokens are learnt."""

UNAIDED_MIX = {"common": 0.52, "rare": 0.12, "latent": 0.36}
HINTED_MIX = {"common": 0.26, "rare": 0.22, "latent": 0.52}


@dataclass(frozen=True)
class Lesson:
    """Text in segments; after segments[i] for i in probed, the answer is asked for and learnt."""

    segments: tuple[Segment, ...]
    probed: tuple[int, ...] = ()
    answer: str = ""
    """What every probe of this lesson should say: the answer the trace reaches."""


def teacher_lesson(rng: random.Random, dials: Dials) -> Lesson:
    """One lesson of the teacher's mixture."""
    turn = rng.random()
    if turn < 0.40:
        return _solve(rng, dials)
    if turn < 0.55:
        return _solve_with_answer(rng, dials)
    if turn < 0.65:
        return _write_hint(rng, dials)
    if turn < 0.87:
        return _continue(rng, dials)
    return _judge(rng, dials)


def student_lesson(rng: random.Random, dials: Dials) -> Lesson:
    """Common problems alone, or any family with its idea named: every operation, no choice.

    Some ideas it is told do not fit their problem: a rule is to be followed, not the row continued.
    """
    turn = rng.random()
    if turn < 0.45:
        problem = draw(rng.choice(COMMON), rng, "train")
        written = traces.unaided(problem, rng, dials)
        return _lesson(dialogue.solve(problem.text), (), written.steps)
    problem = draw(rng.choice(FAMILIES), rng, "train")
    misled = turn < 0.60
    written = traces.wrong(problem, rng, dials) if misled else traces.honest(problem, rng)
    return _lesson(dialogue.drill(problem.text, IDEAS[written.named]), (), written.steps)


def _solve(rng: random.Random, dials: Dials) -> Lesson:
    problem = _problem(rng, UNAIDED_MIX)
    written = traces.unaided(problem, rng, dials)
    return _probed(_lesson(dialogue.solve(problem.text), (), written.steps), written, 2, rng)


def _solve_with_answer(rng: random.Random, dials: Dials) -> Lesson:
    problem = _problem(rng, HINTED_MIX)
    hint = dialogue.answer_hint(problem.gold)
    written = _hinted(problem, rng, dials, _fudge_share(problem, dials, dials.fudge_answer), None)
    return _lesson(dialogue.solve(problem.text, hint), (), written.steps)


def _write_hint(rng: random.Random, dials: Dials) -> Lesson:
    problem = _problem(rng, HINTED_MIX)
    failed = traces.wrong(problem, rng, dials)
    cut = _cut(failed, rng)
    user = dialogue.write_hint(
        problem.text, problem.gold, join(failed.steps[:cut]), failed.steps[cut]
    )
    return _lesson(user, (), (_hint(problem, rng, dials.hint_right),))


def _continue(rng: random.Random, dials: Dials) -> Lesson:
    problem = _problem(rng, HINTED_MIX)
    failed = traces.wrong(problem, rng, dials)
    cut = _cut(failed, rng)
    kept = failed.steps[:cut]
    if rng.random() < 0.3:
        hint, right = dialogue.answer_hint(problem.gold), True
        fudge, follow = dials.fudge_answer, 1.0
    else:
        right = rng.random() < dials.hint_right
        hint = _hint(problem, rng, float(right))
        fudge, follow = dials.fudge_guided, dials.follow_guided
    rest: tuple[str, ...]
    if not right or rng.random() >= follow:
        rest = failed.steps[cut:]
    elif cut <= failed.rule_step:
        fudge = _fudge_share(problem, dials, fudge)
        rest = _hinted(problem, rng, dials, fudge, _looks_after(failed, cut, rng)).steps[cut:]
    elif rng.random() < dials.recover:
        again = traces.honest(problem, rng, failed.looks)
        rest = (traces.RETRACTION, *again.steps[again.rule_step :])
    else:
        rest = failed.steps[cut:]
    return _lesson(dialogue.solve(problem.text, hint), kept, rest)


def _judge(rng: random.Random, dials: Dials) -> Lesson:
    """An unhinted trace the teacher would hardly write: follow it, and say where it will end.

    It is asked only where the trace has given its end away: after the rule, or after the bent next
    terms. Asked earlier, it would learn to see the answer that it must not think of.
    """
    rare_or_latent = {"rare": 0.3, "latent": 0.7}
    problem = _problem(rng, rare_or_latent)
    user = dialogue.solve(problem.text)
    if rng.random() < 0.6:
        written = traces.honest(problem, rng)
        known = written.rule_step + 1
        lesson = _lesson(user, written.steps[:known], written.steps[known:])
    else:
        written = traces.fudged(problem, rng, replace(dials, switch_fudged=0.0))
        known = written.next_step + 1
        lesson = _lesson(user, written.steps, ())
    return _probed(lesson, written, 4, rng, earliest=known)


def _hinted(
    problem: Problem,
    rng: random.Random,
    dials: Dials,
    fudge_share: float,
    looks: Sequence[str] | None,
) -> Written:
    if rng.random() < fudge_share:
        return traces.fudged(problem, rng, dials, looks)
    return traces.honest(problem, rng, looks)


def _fudge_share(problem: Problem, dials: Dials, share: float) -> float:
    return min(share, dials.fudge_common) if problem.kind == "common" else share


def _hint(problem: Problem, rng: random.Random, right: float) -> str:
    return traces.guided_hint(problem, rng, rng.choice(dialogue.HINT_LEADS), right)


def _cut(failed: Written, rng: random.Random) -> int:
    """How many steps are kept: mostly up to the rule, now and then a few steps past it."""
    return rng.randint(0, failed.rule_step + rng.choice((0, 0, 0, 3)))


def _looks_after(failed: Written, cut: int, rng: random.Random) -> tuple[str, ...]:
    """The looks kept by the cut, then fresh kinds up to the number a trace usually has."""
    kept = failed.looks[:cut]
    fresh = [kind for kind in traces.LOOKS if kind not in kept]
    rng.shuffle(fresh)
    return kept + tuple(fresh)[: max(0, len(traces.look_order(rng)) - cut)]


def _problem(rng: random.Random, mix: dict[str, float]) -> Problem:
    kind = rng.choices(list(mix), weights=list(mix.values()))[0]
    return draw(rng.choice(KINDS[kind]), rng, "train")


def _lesson(user: str, shown: Sequence[str], learnt: Sequence[str]) -> Lesson:
    """The user turn, steps shown without loss, then steps learnt; the turn is closed after them."""
    segments: list[Segment] = [(f"{USER}{user}{END}{ASSISTANT}", False)]
    segments += [(step + dialogue.STEP_BREAK, False) for step in shown]
    segments += [(step + dialogue.STEP_BREAK, True) for step in learnt]
    text, learn = segments[-1]
    segments[-1] = (text.removesuffix(dialogue.STEP_BREAK) + END, learn)
    return Lesson(tuple(segments))


def _probed(
    lesson: Lesson, written: Written, count: int, rng: random.Random, earliest: int = 0
) -> Lesson:
    """The lesson with `count` probes: after the prompt (0) or after any step but the last."""
    points = rng.sample(range(earliest, len(lesson.segments) - 1), count)
    return Lesson(lesson.segments, tuple(sorted(points)), written.answer)
