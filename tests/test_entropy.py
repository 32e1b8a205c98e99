"""Entropies: bounds hold for any distribution; step values are what the method says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.method.entropy import entropy_bounds, step_values
from heal.records import StepEntropy


def distributions(seed, tokens, vocabulary, sharpness):
    logits = np.random.default_rng(seed).normal(size=(tokens, vocabulary)) * sharpness
    logp = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    return logp - logits.max(1, keepdims=True)


def exact(logp):
    return -(np.exp(logp) * logp).sum(1)


@given(
    st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 60), st.floats(0, 8), st.booleans()
)
def test_bounds_contain_the_exact_entropy(seed, vocabulary, k, sharpness, with_sampled):
    logp = distributions(seed, 5, vocabulary, sharpness)
    top = -np.sort(-logp, axis=1)[:, : min(k, vocabulary)]
    sampled = logp[np.arange(5), np.random.default_rng(seed).integers(0, vocabulary, 5)]
    lo, hi = entropy_bounds(top, vocabulary, sampled if with_sampled else None)
    assert (lo <= exact(logp) + 1e-5).all()
    assert (hi >= exact(logp) - 1e-5).all()
    assert (lo <= hi).all()


def test_a_full_distribution_leaves_no_doubt():
    logp = distributions(0, 20, 50, 2.0)
    lo, hi = entropy_bounds(logp, 50)
    np.testing.assert_allclose(lo, exact(logp), atol=1e-5)
    np.testing.assert_allclose(hi, exact(logp), atol=1e-5)


def test_bounds_by_hand():
    lo, hi = entropy_bounds(np.log([[0.5, 0.25]]), 12)
    head = 0.5 * np.log(2) + 0.25 * np.log(4)
    assert lo[0] == pytest.approx(head + 0.25 * np.log(4))
    assert hi[0] == pytest.approx(head + 0.25 * np.log(4) + 0.25 * np.log(10))


def test_a_tail_smaller_than_the_kth_token_is_at_most_one_token():
    lo, _ = entropy_bounds(np.log([[0.6, 0.3]]), 12)
    assert lo[0] == pytest.approx(-sum(p * np.log(p) for p in (0.6, 0.3, 0.1)))


def test_a_sampled_token_outside_the_top_k_narrows_the_bounds():
    logp = distributions(3, 50, 1000, 1.0)
    top = -np.sort(-logp, axis=1)[:, :5]
    twentieth = -np.sort(-logp, axis=1)[:, 20]
    lo, hi = entropy_bounds(top, 1000)
    lo2, hi2 = entropy_bounds(top, 1000, twentieth)
    assert (hi2 - lo2 < hi - lo).all()
    inside_lo, inside_hi = entropy_bounds(top, 1000, top[:, 2])
    np.testing.assert_array_equal(inside_lo, lo)
    np.testing.assert_array_equal(inside_hi, hi)


def test_padding_is_not_taken_for_knowledge():
    short = np.log([[0.6, 0.3]])
    padded = np.concatenate([short, [[-np.inf, -np.inf]]], axis=1)
    for a, b in zip(entropy_bounds(short, 9), entropy_bounds(padded, 9), strict=True):
        np.testing.assert_array_equal(a, b)


def test_step_values_are_means_or_means_of_the_highest_fifth():
    tokens = np.array([1, 2, 3, 4, 10, 7, 0, 0, 0, 0, 0, 2], np.float32)
    mean = step_values(tokens, [5, 6, 12], StepEntropy.MEAN)
    np.testing.assert_allclose(mean, [4, 7, 1 / 3], rtol=1e-6)
    top = step_values(tokens, [5, 6, 12], StepEntropy.TOP20)
    np.testing.assert_allclose(top, [10, 7, 1])
    assert mean.dtype == top.dtype == np.float32


def test_tokens_after_the_last_step_count_for_none():
    tokens = np.array([1, 3, 99], np.float32)
    np.testing.assert_array_equal(step_values(tokens, [2], StepEntropy.MEAN), [2])


@given(st.integers(0, 1000), st.sampled_from(StepEntropy))
def test_bounds_of_tokens_give_bounds_of_steps(seed, kind):
    rng = np.random.default_rng(seed)
    values, slack = rng.random(30), rng.random((2, 30))
    ends = [4, 11, 30]
    middle = step_values(values, ends, kind)
    assert (step_values(values - slack[0], ends, kind) <= middle).all()
    assert (step_values(values + slack[1], ends, kind) >= middle).all()
