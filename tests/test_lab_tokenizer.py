"""The tokenizer: nothing is lost, and pieces join as they stand in a whole trace."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal.lab import dialogue
from heal.lab.tokenizer import make_tokenizer
from heal.lab.worlds import WORLDS


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest):
    return WORLDS[request.param]


@pytest.fixture(scope="module")
def tokenizer(world):
    return make_tokenizer(world)


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_comes_back(tokenizer, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_every_number_is_one_token(tokenizer, world) -> None:
    assert all(len(ids(tokenizer, str(n))) == 1 for n in world.numbers)


def test_steps_join_without_merging_and_none_is_merged_for_being_short(tokenizer, world) -> None:
    rng = random.Random(0)
    for lesson in (world.teacher_lesson(rng, world.dials) for _ in range(60)):
        if any("Write a hint." in text for text, _ in lesson.segments):
            continue
        steps = [text.removesuffix("<|end|>") for text, _ in lesson.segments[1:]]
        pieces = [ids(tokenizer, step) for step in steps]
        assert [i for piece in pieces for i in piece] == ids(tokenizer, "".join(steps))
        assert min(map(len, pieces)) >= 8


def test_a_probe_reads_as_the_last_step_does(tokenizer) -> None:
    probe, asked = ids(tokenizer, dialogue.PROBE), ids(tokenizer, dialogue.PROBE + "10 8}")
    assert asked[: len(probe)] == probe
    assert ids(tokenizer, "The answer is \\boxed{10 8}.")[: len(asked)] == asked


def test_the_template_marks_what_the_assistant_says(tokenizer) -> None:
    chat = [{"role": "user", "content": "Q 1"}, {"role": "assistant", "content": "10 8"}]
    shown = tokenizer.apply_chat_template(
        chat, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    learnt = [i for i, m in zip(shown["input_ids"], shown["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(learnt) == "10 8<|end|>"
    opened = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
    assert opened == "<|user|>Q 1<|end|><|assistant|>"
