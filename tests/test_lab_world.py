"""The world: what a family's answer follows from, and which split a problem belongs to."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal.lab import world
from heal.lab.source import problems

families = st.sampled_from(world.FAMILIES)
seeds = st.integers(0, 10**6)


@settings(max_examples=150, deadline=None)
@given(families, seeds)
def test_the_rule_explains_every_term_and_the_answer(family: str, seed: int) -> None:
    problem = world.draw(family, random.Random(seed))
    assert problem.rule.family == family
    assert problem.rule.explains((*problem.terms, *problem.answer))
    assert world.owner(problem.terms) == problem.rule


@settings(max_examples=150, deadline=None)
@given(families, seeds)
def test_numbers_stay_in_range_and_wrong_rules_are_wrong(family: str, seed: int) -> None:
    problem = world.draw(family, random.Random(seed))
    assert all(n in world.NUMBERS for n in (*problem.terms, *problem.answer))
    rules = world.wrong_rules(problem.terms)
    assert rules
    assert not any(rule.explains(problem.terms) for rule in rules)
    assert not any(rule.answer == problem.answer for rule in rules)


def test_every_family_has_a_kind_and_a_number_free_idea() -> None:
    for family in world.FAMILIES:
        assert world.KIND_OF[family] in world.KINDS
        assert not any(letter.isdigit() for letter in world.IDEAS[family])


def test_pool_and_heldout_share_no_problem() -> None:
    pool = {row["problem"] for row in problems(650, seed=0, split="pool")}
    heldout = {row["problem"] for row in problems(650, seed=0, split="heldout")}
    assert len(pool) == len(heldout) == 650
    assert not pool & heldout


def test_fewer_problems_are_a_prefix_of_more() -> None:
    assert problems(20, seed=3) == problems(40, seed=3)[:20]


def test_a_problem_record_is_plain_and_its_families_can_be_chosen() -> None:
    family = world.LATENT[0]
    rows = problems(10, families=(family,))
    assert {row["meta"]["family"] for row in rows} == {family}
    assert set(rows[0]) == {"problem", "answer", "meta"}
    assert len(rows[0]["answer"].split()) == world.ASKED


@pytest.mark.parametrize(
    "wrong", [{"split": "test"}, {"families": ("primes",)}, {"n": 5000, "families": ("alt",)}]
)
def test_an_impossible_request_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|were asked for"):
        problems(**{"n": 5, **wrong})  # type: ignore[arg-type]
