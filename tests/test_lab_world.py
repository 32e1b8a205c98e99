"""The worlds: what an answer follows from, and which split a problem belongs to."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal.lab import walks
from heal.lab.one_rule import OneRule
from heal.lab.source import problems
from heal.lab.worlds import WORLDS

ONE_RULE = {name: world for name, world in WORLDS.items() if isinstance(world, OneRule)}
families = st.sampled_from([(w, f) for w in ONE_RULE.values() for f in w.all_families])
any_family = st.sampled_from([(w, f) for w in WORLDS.values() for f in w.all_families])
seeds = st.integers(0, 10**6)
each_world = pytest.mark.parametrize("name", WORLDS)


@settings(max_examples=150, deadline=None)
@given(families, seeds)
def test_the_rule_explains_what_is_given_and_leads_to_the_answer(where, seed: int) -> None:
    world, family = where
    problem = world.draw(family, random.Random(seed))
    assert problem.rule.family == family
    assert world.explains(problem.rule, problem)
    assert world.answer(world.found(problem, problem.rule)) == problem.gold


@settings(max_examples=150, deadline=None)
@given(any_family, seeds)
def test_a_problem_is_read_back_from_its_text(where, seed: int) -> None:
    world, family = where
    problem = world.draw(family, random.Random(seed))
    assert world.parse(problem.text) == problem
    assert [w for w in WORLDS.values() if w.owns(problem.text)] == [world]


@settings(max_examples=150, deadline=None)
@given(families, seeds)
def test_wrong_rules_are_wrong(where, seed: int) -> None:
    world, family = where
    problem = world.draw(family, random.Random(seed))
    rules = world.wrong_rules(problem)
    assert rules
    for rule in rules:
        assert not world.explains(rule, problem)
        assert world.answer(world.found(problem, rule)) != problem.gold


@settings(max_examples=150, deadline=None)
@given(families, seeds)
def test_what_is_bent_reaches_the_answer_and_breaks_the_rule(where, seed: int) -> None:
    world, family = where
    rng = random.Random(seed)
    problem = world.draw(family, rng)
    for answer in (problem.gold, world.other_answer(problem, rng)):
        rule = rng.choice(world.fudge_rules(problem, answer))
        found = world.bent(problem, rule, answer, rng)
        assert world.answer(found) == answer
        assert found != world.found(problem, rule) or answer != problem.gold


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_a_shortcut_through_the_rooms_leaves_the_doors_at_most_twice(seed: int) -> None:
    rng = random.Random(seed)
    world = WORLDS["walks"]
    problem = world.draw(rng.choice(world.families["latent"]), rng)
    rule = rng.choice(world.fudge_rules(problem, problem.gold))
    found = world.bent(problem, rule, problem.gold, rng)
    ends = (problem.rooms[-1], *found)
    lies = [
        hop
        for hop in range(walks.AHEAD)
        if problem.doors[ends[hop], walks.turn(rule, walks.GIVEN + hop)] != ends[hop + 1]
    ]
    assert 1 <= len(lies) <= 2


@pytest.mark.parametrize("name", ONE_RULE)
def test_every_family_has_a_kind_and_a_number_free_idea(name: str) -> None:
    world = ONE_RULE[name]
    assert set(world.ideas) == set(world.rule_words) == set(world.all_families)
    for family in world.all_families:
        assert world.kind_of(family) in world.families
        assert not any(letter.isdigit() for letter in world.ideas[family])


@each_world
def test_pool_and_heldout_share_no_problem(name: str) -> None:
    pool = {row["problem"] for row in problems(650, seed=0, split="pool", world=name)}
    heldout = {row["problem"] for row in problems(650, seed=0, split="heldout", world=name)}
    assert len(pool) == len(heldout) == 650
    assert not pool & heldout


@each_world
def test_fewer_problems_are_a_prefix_of_more(name: str) -> None:
    assert problems(20, seed=3, world=name) == problems(40, seed=3, world=name)[:20]


@each_world
def test_a_problem_record_is_plain_and_its_families_can_be_chosen(name: str) -> None:
    family = WORLDS[name].families["latent"][0]
    rows = problems(10, families=(family,), world=name)
    assert {row["meta"]["family"] for row in rows} == {family}
    assert {row["meta"]["world"] for row in rows} == {name}
    assert set(rows[0]) == {"problem", "answer", "meta"}
    assert all(number.isdigit() for number in rows[0]["answer"].split())


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": "test"},
        {"families": ("primes",)},
        {"world": "primes"},
        {"n": 5000, "families": ("alt",)},
    ],
)
def test_an_impossible_request_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|were asked for"):
        problems(**{"n": 5, **wrong})  # type: ignore[arg-type]
