"""The shipped checkpoints: they open offline, are small, and have the ceiling they promise."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import heal.lab
from heal.lab.truth import judge
from heal.lab.world import Problem, World
from heal.lab.worlds import WORLDS

ASSETS = Path(heal.lab.__file__).parent / "assets"
NAMES = ("teacher", "student")


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]


@pytest.fixture(scope="module")
def teacher(world: World):
    import torch

    from heal.lab.measure import load

    torch.manual_seed(0)
    return load(ASSETS / world.name / "teacher")


def drawn(world: World, kind: str, each: int) -> list[Problem]:
    rng = random.Random(11)
    return [world.draw(f, rng, "heldout") for f in world.families[kind] for _ in range(each)]


def pass_rate(teacher, problems: list[Problem]) -> float:
    texts = teacher.replies([problem.text for problem in problems])
    judged = [judge(p.text, text) for p, text in zip(problems, texts, strict=True)]
    return sum(truth.correct for truth in judged) / len(judged)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_a_few_megabytes_with_a_chat_template(world: World, name: str) -> None:
    from transformers import AutoTokenizer

    folder = ASSETS / world.name / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4 * 2**20
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q 1"}], add_generation_prompt=True, tokenize=False
    )
    assert asked.endswith("<|assistant|>")
    assert tokenizer.eos_token == "<|end|>"


def test_teacher_and_student_differ_in_what_they_know_not_in_size(world: World) -> None:
    folder = ASSETS / world.name
    log = json.loads((folder / "build-log.json").read_text())
    assert log["student"]["parameters"] == log["teacher"]["parameters"]
    assert (folder / "student/model.safetensors").read_bytes() != (
        folder / "teacher/model.safetensors"
    ).read_bytes()


def test_the_build_log_names_the_dials_the_package_ships(world: World) -> None:
    log = json.loads((ASSETS / world.name / "build-log.json").read_text())
    assert log["world"] == world.name
    assert log["dials"] == json.loads(json.dumps(world.dials.__dict__))


def test_the_teacher_solves_common_problems(teacher, world: World) -> None:
    assert pass_rate(teacher, drawn(world, "common", 8)) > 0.6


def test_the_teacher_hardly_solves_latent_problems(teacher, world: World) -> None:
    assert pass_rate(teacher, drawn(world, "latent", 15)) < 0.1


def test_under_the_answer_it_reasons_validly_now_and_fudges_then(teacher, world: World) -> None:
    from heal.lab import dialogue

    problems = drawn(world, "latent", 15)
    asked = [dialogue.solve(p.text, dialogue.answer_hint(p.gold)) for p in problems]
    texts = teacher.replies(asked)
    judged = [judge(p.text, text) for p, text in zip(problems, texts, strict=True)]
    assert sum(truth.valid for truth in judged) / len(judged) > 0.2
    assert sum(truth.fudged for truth in judged) / len(judged) > 0.02
