"""Hindsight: the statistics are what their formulas say, and a cut is as safe as it promises."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.method.hindsight import (
    ALWAYS,
    BARE,
    BARE_WEIGHTS,
    FEATURES,
    Over,
    Rule,
    Signals,
    Statistic,
    Where,
    back_up_steps,
    features,
    fit_weights,
    number_tokens,
    peak,
    point_at,
    result_tokens,
    safe_step,
    standardise,
    step_probabilities,
    step_values,
    token_values,
)

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def signals(logprob, hinted=None, entropy=None, ends=(2, 4, 6), numbers=None, results=None):
    n = len(logprob)
    return Signals(
        np.asarray(logprob, np.float32),
        np.asarray(hinted if hinted is not None else logprob, np.float32),
        np.asarray(entropy if entropy is not None else np.zeros(n), np.float32),
        ends,
        np.asarray(numbers if numbers is not None else np.zeros(n), bool),
        np.asarray(results if results is not None else np.zeros(n), bool),
    )


def test_the_drop_is_what_the_answer_takes_from_a_token():
    trace = signals([-1, -1, -1, -1, -1, -1], hinted=[-1, -1, -1, -3.5, -0.5, -1])
    np.testing.assert_allclose(token_values(trace, Statistic.DROP), [0, 0, 0, 2.5, -0.5, 0])
    assert point_at(trace, Rule(Statistic.DROP)) == 2


def test_the_joint_statistic_adds_standard_deviations():
    trace = signals([-1, -2, -1, -4], hinted=[-1, -1, -1, -1], entropy=[0, 4, 0, 0], ends=(2, 4))
    drop, entropy = np.array([0, -1, 0, -3.0]), np.array([0, 4.0, 0, 0])
    expected = standardise(drop) + standardise(entropy)
    np.testing.assert_allclose(token_values(trace, Statistic.DROP_AND_ENTROPY), expected)


def test_each_reduction_is_its_formula():
    trace = signals([-1, -3, -2, -2, -9, 0])
    for over, expected in ((Over.MAX, [3, 2, 9]), (Over.SUM, [4, 4, 9]), (Over.MEAN, [2, 2, 4.5])):
        found = step_values(trace, Rule(Statistic.SURPRISAL, over=over))
        np.testing.assert_allclose(found, expected)


def test_a_window_mean_is_over_its_neighbours_and_shorter_at_the_ends():
    values = np.zeros(20)
    values[10] = 8
    trace = signals(-values, ends=(5, 20))
    found = step_values(trace, Rule(Statistic.SURPRISAL, over=Over.WINDOW))
    np.testing.assert_allclose(found, [0, 1])
    flat = step_values(
        signals(-np.ones(20), ends=(5, 20)), Rule(Statistic.SURPRISAL, over=Over.WINDOW)
    )
    np.testing.assert_allclose(flat, [1, 1])


def test_only_tokens_that_count_are_read_and_a_step_without_any_is_lowest():
    trace = signals([-9, -1, -2, -1, -1, -5], results=[0, 0, 1, 0, 0, 1])
    rule = Rule(Statistic.SURPRISAL, Where.RESULTS)
    np.testing.assert_allclose(step_values(trace, rule), [2, 2, 5])
    total = Rule(Statistic.SURPRISAL, Where.RESULTS, Over.SUM)
    np.testing.assert_allclose(step_values(trace, total), [0, 2, 5])
    assert point_at(trace, rule) == 3


def test_a_trace_without_such_tokens_is_read_whole():
    trace = signals([-9, -1, -2, -1, -1, -5])
    assert point_at(trace, Rule(Statistic.SURPRISAL, Where.RESULTS)) == 1


def test_the_first_step_above_a_line_is_not_the_largest():
    trace = signals([-1, -1, -4, -1, -1, -9])
    assert point_at(trace, Rule(Statistic.SURPRISAL)) == 3
    assert point_at(trace, Rule(Statistic.SURPRISAL, first_over=3.0)) == 2
    assert point_at(trace, Rule(Statistic.SURPRISAL, first_over=30.0)) == 3


def test_the_first_step_of_a_share_of_the_largest_comes_before_its_echo():
    trace = signals([-1, -1, -6, -1, -1, -9])
    for share, step in ((0.5, 2), (0.7, 3), (1.0, 3), (0.0, 1)):
        assert point_at(trace, Rule(Statistic.SURPRISAL, first_share=share)) == step


def test_a_peak_is_of_the_steps_that_were_written_anew():
    trace = signals([-9, -1, -2, -1, -1, -5])
    assert peak(trace, Rule(Statistic.SURPRISAL)) == 9
    assert peak(trace, Rule(Statistic.SURPRISAL), 2) == 5
    with pytest.raises(ValueError):
        peak(trace, Rule(Statistic.SURPRISAL), 4)


def test_ties_go_to_the_earliest_step():
    assert point_at(signals([-1] * 6), Rule(Statistic.SURPRISAL)) == 1


@pytest.mark.parametrize(
    ("pieces", "numbers", "results"),
    [
        (["4", " +", " ", "3", " =", " ", "8", "."], "4 3 8", "8"),
        (["x", " =", " ", "1", "2", "\n", "y"], "1 2", "1 2"),
        ([" =", " $", "1", ",", "2", "0", " and", " ", "7"], "1 2 0 7", "1 2 0"),
        (["a", " =", " -", "2", " -", " ", "3"], "2 3", "2"),
        (["a", " =", " ", "2", " +", " ", "3"], "2 3", "2"),
        (["=\\", "boxed", "{", "9", "}"], "9", "9"),
        (["3", "=", "3", "=4"], "3 3 =4", "3 =4"),
        (["no", " digits"], "", ""),
        ([], "", ""),
    ],
)  # fmt: skip
def test_numbers_and_results_are_found_in_pieces(pieces, numbers, results):
    given_bytes = [p.encode() for p in pieces]
    for mask, expected in ((number_tokens, numbers), (result_tokens, results)):
        found = [p for p, m in zip(pieces, mask(given_bytes), strict=True) if m]
        assert found == expected.split()


def test_half_a_character_is_no_number():
    assert not number_tokens([b"\xe2\x89", b"\x88"]).any()
    assert not result_tokens([b"\xe2\x89", b"\x88"]).any()


def random_trace(rng, steps, informative):
    ends = np.cumsum(rng.integers(4, 9, steps))
    broken = int(rng.integers(1, steps + 1))
    logprob = -rng.exponential(0.5, ends[-1])
    results = np.zeros(ends[-1], bool)
    results[ends - 1] = True
    if informative:
        logprob[ends[broken - 1] - 1] -= 4
    trace = Signals(
        logprob.astype(np.float32),
        logprob.astype(np.float32),
        rng.exponential(0.5, ends[-1]).astype(np.float32),
        ends.tolist(),
        results,
        results,
    )
    return trace, broken


def test_fitted_weights_find_breaks_in_traces_they_have_not_seen():
    rng = np.random.default_rng(0)
    seen, fresh = ([random_trace(rng, 6, True) for _ in range(n)] for n in (60, 200))
    weights = fit_weights([(features(t), b) for t, b in seen])
    hits = [int(step_probabilities(features(t), weights).argmax()) + 1 == b for t, b in fresh]
    assert np.mean(hits) > 0.9
    assert weights[list(FEATURES).index("worst result")] > 0


def test_weights_of_uninformative_traces_stay_near_chance():
    rng = np.random.default_rng(1)
    seen, fresh = ([random_trace(rng, 6, False) for _ in range(n)] for n in (200, 400))
    weights = fit_weights([(features(t), b) for t, b in seen])
    hits = [int(step_probabilities(features(t), weights).argmax()) + 1 == b for t, b in fresh]
    assert np.mean(hits) < 0.27


def test_fitting_is_at_the_maximum_of_its_likelihood():
    rng = np.random.default_rng(2)
    seen = [(features(t), b) for t, b in (random_trace(rng, 5, True) for _ in range(30))]
    weights = fit_weights(seen, ridge=1.0)

    def loss(w):
        chosen = sum(np.log(step_probabilities(x, w)[b - 1]) for x, b in seen)
        return chosen - 0.5 * w @ w

    for _ in range(50):
        assert loss(weights) >= loss(weights + rng.normal(0, 0.01, len(weights))) - 1e-9


def test_the_weights_that_ship_are_those_of_the_committed_figures():
    figures = json.loads((RESULTS / "real_breakpoints.json").read_text("utf-8"))
    fitted = figures["first false equation, fact or sign"]["weights_of_all"]
    expected = fitted["fitted, bare pass alone"]
    assert list(expected) == [*BARE, *ALWAYS]
    assert list(expected.values()) == pytest.approx(BARE_WEIGHTS)


def test_no_traces_make_no_weights_and_no_back_up():
    with pytest.raises(ValueError, match="no traces"):
        fit_weights([])
    with pytest.raises(ValueError, match="no traces"):
        back_up_steps([], [], 0.9)


DISTRIBUTIONS = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12).map(
    lambda xs: np.array(xs) / np.sum(xs)
)


@given(DISTRIBUTIONS, st.floats(0.05, 1.0))
def test_a_safe_cut_is_as_safe_as_it_says_and_keeps_all_it_can(p, safety):
    step = safe_step(p, safety)
    assert p[step - 1 :].sum() >= safety - 1e-9
    if step < len(p):
        assert p[step:].sum() < safety + 1e-9


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=40),
    st.sampled_from([0.5, 0.8, 0.9, 1.0]),
)
def test_the_fewest_steps_back_that_are_safe_enough(pairs, safety):
    pointed, breaks = zip(*pairs, strict=True)
    n = back_up_steps(pointed, breaks, safety)

    def share(steps):
        return np.mean([p - steps <= b for p, b in pairs])

    assert share(n) >= safety - 1e-9
    assert n == 0 or share(n - 1) < safety
