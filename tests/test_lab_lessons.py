"""Lessons and batches: what is learnt, what is only shown, and what a probe can see."""

from __future__ import annotations

import random

import pytest

from heal.lab import lessons, truth, world
from heal.lab.batches import batches, encode
from heal.lab.tokenizer import make_tokenizer

DIALS = world.Dials()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_no_unhinted_lesson_teaches_to_name_a_latent_rule() -> None:
    rng = random.Random(0)
    dials = world.Dials(spontaneous_latent=0.0, spontaneous_rare=0.0)
    for _ in range(1500):
        lesson = lessons.teacher_lesson(rng, dials)
        if "Hint:" in lesson.segments[0][0] or "Write a hint" in lesson.segments[0][0]:
            continue
        rules = [truth.parse_rule(text.strip()) for text, learn in lesson.segments[1:] if learn]
        assert all(world.KIND_OF[rule.family] == "common" for rule in rules if rule)


def test_the_student_never_solves_a_latent_problem_alone() -> None:
    rng = random.Random(0)
    for _ in range(500):
        user = lessons.student_lesson(rng, DIALS).segments[0][0]
        if user.startswith("<|user|>Q ") and "Rule:" not in user:
            terms = truth.parse_problem(user.removeprefix("<|user|>").split("<|end|>")[0])
            assert world.owner(terms).family in world.COMMON


def test_a_probe_sees_its_prefix_and_itself_only(tokenizer) -> None:
    rng = random.Random(1)
    found = [lessons.teacher_lesson(rng, DIALS) for _ in range(30)]
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


def test_labels_are_the_learnt_tokens_in_order(tokenizer) -> None:
    rng = random.Random(2)
    rows = encode([lessons.teacher_lesson(rng, DIALS) for _ in range(20)], tokenizer)
    for batch in batches(rows, 1024, tokenizer.pad_token_id, rng):
        assert batch.ids.numel() <= 2048
    learnt = sum(sum(row.learn) for row in rows)
    found = list(batches(rows, 1024, tokenizer.pad_token_id, rng))
    assert sum(int((b.labels != -100).sum()) for b in found) == learnt
