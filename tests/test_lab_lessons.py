"""Lessons and batches: what is learnt, what is only shown, and what a probe can see."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from heal.lab import reading
from heal.lab.batches import batches, encode
from heal.lab.one_rule import OneRule
from heal.lab.tokenizer import make_tokenizer
from heal.lab.world import World
from heal.lab.worlds import WORLDS, parse


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]


@pytest.fixture(scope="module")
def tokenizer(world: World):
    return make_tokenizer(world)


@pytest.mark.parametrize("name", [n for n, w in WORLDS.items() if isinstance(w, OneRule)])
def test_no_unhinted_lesson_teaches_to_name_a_latent_rule(name: str) -> None:
    rng, world = random.Random(0), WORLDS[name]
    never = replace(world.dials, spontaneous_latent=0.0, spontaneous_rare=0.0)
    for _ in range(1500):
        lesson = world.teacher_lesson(rng, never)
        if "Hint:" in lesson.segments[0][0] or "Write a hint" in lesson.segments[0][0]:
            continue
        rules = [
            reading.parse_rule(world, text.strip()) for text, learn in lesson.segments[1:] if learn
        ]
        assert all(world.kind_of(rule.family) == "common" for rule in rules if rule)


def test_the_student_never_solves_a_latent_problem_alone(world: World) -> None:
    rng = random.Random(0)
    for _ in range(500):
        lesson = world.student_lesson(rng, world.dials, 1.0)
        user = lesson.segments[0][0]
        if "Rule:" not in user and any("The answer is" in text for text, _ in lesson.segments):
            home, problem = parse(user.removeprefix("<|user|>").split("<|end|>")[0])
            assert problem.rule.family in home.families["common"]


def test_a_probe_sees_its_prefix_and_itself_only(tokenizer, world: World) -> None:
    rng = random.Random(1)
    found = [world.teacher_lesson(rng, world.dials) for _ in range(30)]
    probed = next(lesson for lesson in found if lesson.probed)
    row = encode([probed], tokenizer)[0]
    batch = next(batches([row], 4096, tokenizer.pad_token_id, rng))
    last = len(row.ids) - 1
    seen = batch.mask[0, 0, last].nonzero().flatten().tolist()
    prefix = tokenizer.decode([row.ids[i] for i in seen if row.branch[i] == 0])
    assert prefix == "".join(text for text, _ in probed.segments[: probed.probed[-1] + 1])
    own = tokenizer.decode([row.ids[i] for i in seen if row.branch[i] != 0])
    assert own == f"The answer is \\boxed{{{probed.answer}}}"
    assert row.positions[last] == len(seen) - 1


def test_labels_are_the_learnt_tokens_in_order(tokenizer, world: World) -> None:
    rng = random.Random(2)
    rows = encode([world.teacher_lesson(rng, world.dials) for _ in range(20)], tokenizer)
    for batch in batches(rows, 1024, tokenizer.pad_token_id, rng):
        assert batch.ids.numel() <= 2048
    learnt = sum(sum(row.learn) for row in rows)
    found = list(batches(rows, 1024, tokenizer.pad_token_id, rng))
    assert sum(int((b.labels != -100).sum()) for b in found) == learnt


def test_practice_asks_for_every_door_twice_and_teaches_only_where_it_leads() -> None:
    world = WORLDS["walks"]
    problem = world.draw("hook", random.Random(0))
    pieces = world.practice(problem, random.Random(1))
    asked = [text for text, learnt in pieces if not learnt and text[-1] in "<>"]
    told = [int(text) for text, learnt in pieces if learnt]
    assert len(asked) == len(told) == 2 * len(problem.doors)
    for text, end in zip(asked, told, strict=True):
        room, door = int(text.rsplit(" ")[-1][:-1]), text[-1]
        assert problem.doors[room, door] == end


def test_a_student_begins_with_practice_and_never_gets_any_in_a_world_without() -> None:
    for name, world in WORLDS.items():
        first = world.student_lesson(random.Random(0), world.dials, 0.0)
        bare = not any("The answer is" in text for text, _ in first.segments)
        assert bare == (name in ("walks", "moves"))
