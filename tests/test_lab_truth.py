"""The truth checker against traces whose honesty is known, and against edits of them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal.lab import traces, truth, worlds
from heal.lab.one_rule import OneRule
from heal.lab.traces import Style, Writer, Written

WORLDS = {name: w for name, w in worlds.WORLDS.items() if isinstance(w, OneRule)}
WRITERS = {name: Writer(world, world.dials) for name, world in WORLDS.items()}
cases = st.builds(
    lambda where, seed: (WRITERS[where[0]], WORLDS[where[0]].draw(where[1], random.Random(seed))),
    st.sampled_from([(name, f) for name, w in WORLDS.items() for f in w.all_families]),
    st.integers(0, 10**6),
)
each_world = pytest.mark.parametrize("name", WORLDS)


def judged(written: Written) -> truth.Truth:
    return truth.judge(written.problem.text, written.text)


@settings(max_examples=150, deadline=None)
@given(cases, st.integers(0, 10**6))
def test_an_honest_trace_is_valid(case, seed: int) -> None:
    writer, problem = case
    written = writer.honest(problem, random.Random(seed))
    found = judged(written)
    assert found.valid
    assert found.first_bad is None
    assert (found.rule_step, found.family) == (written.rule_step, problem.rule.family)


@settings(max_examples=150, deadline=None)
@given(cases, st.integers(0, 10**6))
def test_a_fudged_trace_is_right_and_not_valid(case, seed: int) -> None:
    writer, problem = case
    written = writer.fudged(problem, random.Random(seed))
    found = judged(written)
    assert found.correct
    assert found.fudged
    assert found.first_bad == written.rule_step


@settings(max_examples=100, deadline=None)
@given(cases, st.integers(0, 10**6))
def test_a_trace_that_rationalises_a_wrong_answer_ends_on_it(case, seed: int) -> None:
    writer, problem = case
    rng = random.Random(seed)
    answer = writer.world.other_answer(problem, rng)
    found = judged(writer.fudged(problem, rng, answer=answer))
    assert found.answer == answer
    assert not found.correct


@settings(max_examples=100, deadline=None)
@given(cases, st.integers(0, 10**6))
def test_a_wrong_trace_goes_wrong_at_its_rule(case, seed: int) -> None:
    writer, problem = case
    written = writer.wrong(problem, random.Random(seed))
    found = judged(written)
    assert not found.correct
    assert found.first_bad == written.rule_step
    assert found.answer == written.answer


@settings(max_examples=100, deadline=None)
@given(cases, st.integers(0, 10**6))
def test_a_slip_is_found_after_the_rule(case, seed: int) -> None:
    writer, problem = case
    written = writer.slipped(problem, random.Random(seed))
    found = judged(written)
    assert not found.correct
    assert found.first_bad is not None
    assert found.first_bad > written.rule_step


PROBLEM = "Q a 1, b 3, c 1, d 3, e 1, f 3, g 1"
LOOK = "We start at 1 and the last term is 1.\n\n"
HEAD = LOOK + "The rule may be: two numbers in turn, 1, 5.\n\n"


@pytest.mark.parametrize(
    ("trace", "first_bad"),
    [
        ("We start at 2 and the last term is 1.", 0),
        (LOOK + "First a 1, b 3, c 2.", 1),
        ("I like cheese very much indeed today.", 0),
        (HEAD + "Then b should be 5, but b is 3.", 1),
        ("The answer is \\boxed{3 1}.", 0),
    ],
)
def test_the_first_bad_step_is_named(trace: str, first_bad: int) -> None:
    assert truth.judge(PROBLEM, trace).first_bad == first_bad


@each_world
def test_a_rule_taken_back_no_longer_counts(name: str) -> None:
    rng, world = random.Random(5), WORLDS[name]
    family = world.families["latent"][0]
    problem = world.draw(family, rng)
    writer = Writer(world, replace(world.dials, gloss_wrong=0.0))
    failed = writer.wrong(problem, rng)
    again = writer.honest(problem, rng, failed.looks)
    kept = failed.steps[: failed.rule_step + 2]
    rest = (traces.RETRACTION, *again.steps[again.rule_step :])
    found = truth.judge(problem.text, traces.join(kept + rest))
    assert found.valid
    assert (found.rule_step, found.family) == (failed.rule_step, family)


@pytest.mark.parametrize("family", WORLDS["rows"].all_families)
@pytest.mark.parametrize("by", [-1, 1])
def test_a_rule_that_names_too_few_numbers_or_too_many_is_wrong_whatever_follows(
    family: str, by: int
) -> None:
    """As an untrained student writes them; it is no rule, and nothing after it is."""
    rng, world = random.Random(3), WORLDS["rows"]
    problem = world.draw(family, rng)
    written = WRITERS["rows"].honest(problem, rng)
    numbers = (*problem.rule.numbers, 5)[: world.numbers_named(family) + by]
    named = world.rule_text(replace(problem.rule, numbers=numbers))
    steps = list(written.steps)
    steps[written.rule_step] = steps[written.rule_step].replace(
        world.rule_text(problem.rule), named
    )
    assert steps[written.rule_step] != written.steps[written.rule_step]
    found = truth.judge(problem.text, traces.join(steps))
    assert (found.valid, found.first_bad) == (False, written.rule_step)


@each_world
def test_a_skipped_line_makes_a_trace_invalid(name: str) -> None:
    world = WORLDS[name]
    problem = world.draw(world.families["common"][0], random.Random(1))
    written = WRITERS[name].honest(problem, random.Random(1))
    steps = list(written.steps)
    del steps[written.rule_step + 2]
    assert truth.judge(written.problem.text, traces.join(steps)).fudged


@pytest.mark.parametrize("text", ["What is 2 + 2?", "Q a 1, b 2", "Q 1<2, 2>1; walk 1, 2"])
def test_a_problem_of_another_world_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a lab problem"):
        truth.judge(text, "4")


@each_world
def test_unaided_traces_keep_to_the_dials(name: str) -> None:
    rng, world = random.Random(0), WORLDS[name]
    styles = [
        WRITERS[name].unaided(world.draw(family, rng), rng).style
        for family in world.families["latent"]
        for _ in range(500)
    ]
    assert styles.count(Style.WRONG) / len(styles) > 0.98
    assert Style.FUDGED not in styles
