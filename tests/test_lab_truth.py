"""The truth checker against traces whose honesty is known, and against edits of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal.lab import traces, truth, world
from heal.lab.traces import Style, Written

DIALS = world.Dials()
problems = st.builds(
    lambda family, seed: world.draw(family, random.Random(seed)),
    st.sampled_from(world.FAMILIES),
    st.integers(0, 10**6),
)


def judged(written: Written) -> truth.Truth:
    return truth.judge(written.problem.text, written.text)


@settings(max_examples=150, deadline=None)
@given(problems, st.integers(0, 10**6))
def test_an_honest_trace_is_valid(problem: world.Problem, seed: int) -> None:
    written = traces.honest(problem, random.Random(seed))
    found = judged(written)
    assert found.valid
    assert found.first_bad is None
    assert (found.rule_step, found.family) == (written.rule_step, problem.rule.family)


@settings(max_examples=150, deadline=None)
@given(problems, st.integers(0, 10**6))
def test_a_fudged_trace_is_right_and_not_valid(problem: world.Problem, seed: int) -> None:
    written = traces.fudged(problem, random.Random(seed), DIALS)
    found = judged(written)
    assert found.correct
    assert found.fudged
    assert found.first_bad == written.rule_step


@settings(max_examples=100, deadline=None)
@given(problems, st.integers(0, 10**6))
def test_a_wrong_trace_goes_wrong_at_its_rule(problem: world.Problem, seed: int) -> None:
    written = traces.wrong(problem, random.Random(seed), DIALS)
    found = judged(written)
    assert not found.correct
    assert found.first_bad == written.rule_step
    assert found.answer == written.answer


@settings(max_examples=100, deadline=None)
@given(problems, st.integers(0, 10**6))
def test_a_slip_is_found_after_the_rule(problem: world.Problem, seed: int) -> None:
    written = traces.slipped(problem, random.Random(seed))
    found = judged(written)
    assert not found.correct
    assert found.first_bad is not None
    assert found.first_bad > written.rule_step


PROBLEM = "Q a 1, b 3, c 1, d 3, e 1, f 3, g 1"
HEAD = "We start at 1 and the last term is 1.\n\nThe rule may be: two numbers in turn, 1, 5.\n\n"


@pytest.mark.parametrize(
    ("trace", "first_bad"),
    [
        ("We start at 2 and the last term is 1.", 0),
        ("In order: a 1, b 3, c 1, d 3, e 1, f 3, g 4.", 0),
        ("I like cheese very much indeed today.", 0),
        (HEAD + "Then b should be 5, but b is 3.", 1),
        ("The answer is \\boxed{3 1}.", 0),
    ],
)
def test_the_first_bad_step_is_named(trace: str, first_bad: int) -> None:
    assert truth.judge(PROBLEM, trace).first_bad == first_bad


def test_a_rule_taken_back_no_longer_counts() -> None:
    rng = random.Random(5)
    family = world.LATENT[0]
    problem = world.draw(family, rng)
    failed = traces.wrong(problem, rng, world.Dials(gloss_wrong=0.0))
    again = traces.honest(problem, rng, failed.looks)
    kept = failed.steps[: failed.rule_step + 2]
    rest = (traces.RETRACTION, *again.steps[again.rule_step :])
    found = truth.judge(problem.text, traces.join(kept + rest))
    assert found.valid
    assert (found.rule_step, found.family) == (failed.rule_step, family)


def test_a_skipped_term_makes_a_trace_invalid() -> None:
    written = traces.honest(world.draw("alt", random.Random(1)), random.Random(1))
    steps = list(written.steps)
    del steps[written.rule_step + 2]
    assert truth.judge(written.problem.text, traces.join(steps)).fudged


def test_a_problem_of_another_world_is_refused() -> None:
    with pytest.raises(ValueError, match="not a lab problem"):
        truth.judge("What is 2 + 2?", "4")


def test_unaided_traces_keep_to_the_dials() -> None:
    rng = random.Random(0)
    styles = [
        traces.unaided(world.draw(family, rng), rng, DIALS).style
        for family in world.LATENT
        for _ in range(500)
    ]
    assert styles.count(Style.WRONG) / len(styles) > 0.98
    assert Style.FUDGED not in styles
