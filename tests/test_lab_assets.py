"""The shipped checkpoints: they open offline, are small, and have the ceiling they promise."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import heal.lab
from heal.lab import world

ASSETS = Path(heal.lab.__file__).parent / "assets"
NAMES = ("teacher", "student")


@pytest.fixture(scope="module")
def teacher():
    import torch

    from heal.lab.measure import load

    torch.manual_seed(0)
    return load(ASSETS / "teacher")


def drawn(families: tuple[str, ...], each: int) -> list[world.Problem]:
    rng = random.Random(11)
    return [world.draw(family, rng, "heldout") for family in families for _ in range(each)]


def pass_rate(teacher, problems: list[world.Problem]) -> float:
    from heal.lab.truth import judge

    texts = teacher.replies([problem.text for problem in problems])
    judged = [judge(p.text, text) for p, text in zip(problems, texts, strict=True)]
    return sum(truth.correct for truth in judged) / len(judged)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_a_few_megabytes_with_a_chat_template(name: str) -> None:
    from transformers import AutoTokenizer

    size = sum(path.stat().st_size for path in (ASSETS / name).iterdir())
    assert size < 4 * 2**20
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / name)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q 1"}], add_generation_prompt=True, tokenize=False
    )
    assert asked.endswith("<|assistant|>")
    assert tokenizer.eos_token == "<|end|>"


def test_teacher_and_student_differ_in_what_they_know_not_in_size() -> None:
    log = json.loads((ASSETS / "build-log.json").read_text())
    assert log["student"]["parameters"] == log["teacher"]["parameters"]
    assert (ASSETS / "student/model.safetensors").read_bytes() != (
        ASSETS / "teacher/model.safetensors"
    ).read_bytes()


def test_the_build_log_names_the_dials_the_package_ships() -> None:
    log = json.loads((ASSETS / "build-log.json").read_text())
    assert log["dials"] == json.loads(json.dumps(world.Dials().__dict__))


def test_the_teacher_solves_common_problems(teacher) -> None:
    assert pass_rate(teacher, drawn(world.COMMON, 8)) > 0.6


def test_the_teacher_hardly_solves_latent_problems(teacher) -> None:
    assert pass_rate(teacher, drawn(world.LATENT, 15)) < 0.1


def test_under_the_answer_it_reasons_validly_now_and_fudges_then(teacher) -> None:
    from heal.lab import dialogue
    from heal.lab.truth import judge

    problems = drawn(world.LATENT, 15)
    asked = [dialogue.solve(p.text, dialogue.answer_hint(p.gold)) for p in problems]
    texts = teacher.replies(asked)
    judged = [judge(p.text, text) for p, text in zip(problems, texts, strict=True)]
    assert sum(truth.valid for truth in judged) / len(judged) > 0.2
    assert sum(truth.fudged for truth in judged) / len(judged) > 0.1
