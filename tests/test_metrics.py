"""Metrics: exact where they claim to be; intervals cover what they should, quickly."""

import time
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from heal.method.attempts import tally
from heal.method.intervals import (
    Bootstrap,
    Scores,
    auroc,
    mean_score,
    paired_difference,
    ratio_of_sums,
    wilson,
)
from heal.method.metrics import (
    avg_at_k,
    doubt_rate,
    maj_at_k,
    majority_accuracy,
    pass_at_k,
)
from heal.records import Verdict
from heal.store import AttemptRow


@given(st.integers(1, 9), st.data())
def test_pass_at_k_equals_brute_force(n, data):
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    draws = list(combinations([i < correct for i in range(n)], k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_is_stable_for_many_attempts():
    exact = 1 - comb(9990, 500) / comb(10_000, 500)
    assert pass_at_k(10_000, 10, 500) == pytest.approx(exact, abs=1e-12)
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


def majority(draw):
    """Chance that a draw's majority is right, by counting; ties split evenly."""
    votes = {}
    for answer in draw:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    if not votes:
        return 0.0
    top = [a for a, count in votes.items() if count == max(votes.values())]
    return ("right" in top) / len(top)


@given(st.lists(st.sampled_from(["right", "x", "y", "z", None]), min_size=1, max_size=8), st.data())
def test_maj_at_k_equals_brute_force(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    draws = list(combinations(answers, k))
    expected = sum(map(majority, draws)) / len(draws)
    found = maj_at_k(answers, [a == "right" for a in answers], k)
    assert found == pytest.approx(expected, abs=1e-12)


def test_correct_answers_vote_together_however_they_are_written():
    assert maj_at_k(["1/2", "0.5", "7", "7", "8"], [True, True, False, False, False], 5) == 0.5


@pytest.mark.parametrize(
    "wrong", [["1/2", "0.5", "\\frac12"], ["7", "7.0", "$7$"], ["x + 1", "x+1", "$x+1.$"]]
)
def test_wrong_answers_vote_together_however_they_are_written(wrong):
    assert maj_at_k(["8", "8", *wrong], [True, True, False, False, False], 5) == 0
    apart = [wrong[0], "3", "4"]
    assert maj_at_k(["8", "8", *apart], [True, True, False, False, False], 5) == 1


def test_maj_at_k_of_many_attempts_is_quick():
    started = time.process_time()
    answers = [str(i % 9) for i in range(64)]
    assert 0 < maj_at_k(answers, [a == "0" for a in answers], 32) < 1
    assert time.process_time() - started < 2


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.CORRECT])
def test_a_student_is_only_right_when_it_is_correct(verdict):
    assert avg_at_k([Verdict.CORRECT, verdict]) == 0.5


def attempt(problem, seed, index, verdict=Verdict.CORRECT, answer="1", error=None):
    return AttemptRow(problem, "heal", seed, index, "k", verdict, answer, "stop", 9, error)


def test_attempts_are_counted_by_seed_and_problem():
    rows = [
        attempt(p, s, i, Verdict.CORRECT if i < s else Verdict.TRUNCATED, None)
        for p in "ba"
        for s in (2, 1)
        for i in range(4)
    ]
    found = tally(rows)
    own = found.arms["heal"]
    assert found.problems == ("a", "b") and own.seeds == (1, 2)
    assert own.attempts.tolist() == [[4, 4], [4, 4]]
    assert own.correct.tolist() == [[1, 1], [2, 2]]
    assert own.truncated.tolist() == [[3, 3], [2, 2]]
    assert own.tokens.tolist() == [[36, 36], [36, 36]]
    assert own.votes == (((), ()), ((), ()))


def test_a_problem_without_attempts_under_some_seed_is_left_out():
    found = tally([attempt("a", 1, 0), attempt("b", 1, 0), attempt("a", 3, 0)])
    assert found.problems == ("a",) and found.left_out == 1
    assert found.arms["heal"].attempts.tolist() == [[1], [1]]


def test_an_engine_failure_says_nothing_about_the_student():
    rows = [attempt("a", 0, 0), attempt("b", 0, 0)]
    failed = attempt("a", 0, 1, Verdict.TRUNCATED, error="out of memory")
    found = tally([*rows, failed])
    assert found.arms["heal"].attempts.tolist() == [[1, 1]] and found.failed == 1
    assert tally([rows[1], failed]).problems == ("b",)


def test_only_wrong_answers_are_counted_by_what_they_say():
    wrong = ["7", "7.0", "$7$", "8", None]
    rows = [attempt("a", 0, i, Verdict.WRONG, answer) for i, answer in enumerate(wrong)]
    rows += [attempt("a", 0, 9), attempt("b", 0, 0, Verdict.UNVERIFIABLE, "x")]
    (own,) = tally(rows).arms["heal"].votes
    assert own == ((3, 1), (1,))


def test_impossible_votes_are_refused():
    for counts in ((4, 3, (2,), 1), (4, -1, (), 1), (4, 2, (1,), 5), (4, 2, (1,), 0)):
        with pytest.raises(ValueError, match="maj@"):
            majority_accuracy(*counts)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("Wait, maybe not.", 2 / 3),
        ("Let me\ncheck this: fine.", 1 / 5),
        ("The waiter awaits.", 0),
        ("", 0),
    ],
)
def test_doubt_rate_counts_phrases_per_word(text, rate):
    assert doubt_rate(text) == pytest.approx(rate)


def make(values, families=None):
    values = np.atleast_2d(np.asarray(values, np.float64))
    names = tuple(f"p{i}" for i in range(values.shape[1]))
    return Scores(values, names, tuple(families or [""] * len(names)))


def test_a_paired_difference_needs_the_same_problems():
    with pytest.raises(ValueError, match="not shared: 1"):
        paired_difference(make([1, 0]), make([1]), resamples=10, seed=0)


def test_pairing_is_by_problem_not_by_position():
    a = make(np.linspace(0, 1, 50))
    back = Scores(a.values[:, ::-1], a.problems[::-1], a.families)
    found = paired_difference(a, back, resamples=200, seed=0)
    assert found.mean == 0 and -found.low == found.high == wilson(0, 50).high


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_has_the_interval_of_a_share(share):
    found = mean_score(make([share] * 30), resamples=99, seed=0)
    expected = wilson(round(30 * share), 30)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1))
def test_where_all_problems_fare_alike_the_interval_has_width_and_holds_the_mean(n, one, other):
    a, b = make([one] * n), make([other] * n)
    found = mean_score(a, resamples=20, seed=0)
    assert 0 <= found.low <= found.mean <= found.high <= 1 and found.low < found.high
    apart = paired_difference(a, b, resamples=20, seed=0)
    assert -1 <= apart.low <= apart.mean <= apart.high <= 1 and apart.low < apart.high


def test_a_mean_on_a_scale_without_end_has_no_interval_where_nothing_varies():
    tokens = Scores(np.full((1, 9), 512.0), tuple("abcdefghi"), ("",) * 9, bounds=None)
    found = mean_score(tokens, resamples=99, seed=0)
    assert found.mean == 512 and not found.is_known and np.isnan([found.low, found.high]).all()


def test_figures_drawn_together_are_those_drawn_alone():
    rng = np.random.default_rng(1)
    families = ["a"] * 20 + ["b"] * 17 + ["c"] * 3
    scores = [make(rng.random((seeds, 40)), families) for seeds in (1, 3, 2)]
    together = Bootstrap(scores, resamples=300, seed=4)
    for i, own in enumerate(scores):
        alone = mean_score(own, resamples=300, seed=4)
        assert together.mean(i).low == pytest.approx(alone.low, abs=1e-12)
        for j, other in enumerate(scores):
            apart = paired_difference(own, other, resamples=300, seed=4)
            assert together.difference(i, j).high == pytest.approx(apart.high, abs=1e-12)
    with pytest.raises(ValueError, match="different problems"):
        Bootstrap([scores[0], scores[1].only(scores[1].problems[:9])], resamples=9, seed=0)


def test_pairing_removes_what_the_arms_share():
    rng = np.random.default_rng(0)
    shared = rng.random(200)
    a, b = make(shared + 0.05 + rng.normal(0, 0.02, 200)), make(shared)
    difference = paired_difference(a, b, resamples=2000, seed=0)
    alone = mean_score(a, resamples=2000, seed=0)
    assert difference.high - difference.low < (alone.high - alone.low) / 5
    assert difference.low < 0.05 < difference.high


def test_families_are_kept_in_proportion():
    values = [0.0] * 50 + [1.0] * 50
    mixed = mean_score(make(values), resamples=2000, seed=0)
    stratified = mean_score(make(values, ["a"] * 50 + ["b"] * 50), resamples=2000, seed=0)
    assert mixed.high - mixed.low > 0.1
    assert stratified.mean == 0.5
    assert 0 < stratified.high - stratified.low < (mixed.high - mixed.low) / 4


def test_tiny_families_do_not_hide_variation():
    found = mean_score(make(np.arange(30) % 2, [str(i) for i in range(30)]), resamples=999, seed=0)
    assert found.high - found.low > 0.2


def test_intervals_name_what_they_rest_on():
    found = paired_difference(make(np.ones((3, 20))), make(np.zeros((1, 20))), resamples=99, seed=0)
    assert (found.mean, found.n_problems, found.n_seeds) == (1, 20, 1)
    assert mean_score(make(np.ones((3, 20))), resamples=99, seed=0).n_seeds == 3


def arm(rng, problem_level, effect, seeds, seed_spread, attempts=8):
    p = np.clip(problem_level + effect + rng.normal(0, seed_spread, (seeds, 1)), 0, 1)
    return make(rng.binomial(attempts, p) / attempts)


def test_a_ratio_of_sums_covers_the_truth_and_is_none_where_it_has_no_upper_end() -> None:
    rng, hits = np.random.default_rng(0), 0
    for seed in range(200):
        gains = rng.poisson(2, 60)
        costs = 100 * gains + rng.normal(0, 40, 60) + 50
        found = ratio_of_sums(costs, gains, seed=seed, resamples=400)
        assert found is not None
        hits += found.low <= 125 <= found.high
    assert hits >= 0.9 * 200
    assert ratio_of_sums(np.ones(30), np.eye(30)[0], seed=0) is None
    assert ratio_of_sums(np.ones(3), np.zeros(3), seed=0) is None
    alike = ratio_of_sums(np.full(9, 0.1), np.ones(9), seed=0)
    assert alike is not None and alike.mean == pytest.approx(0.1) and not alike.is_known
    with pytest.raises(ValueError, match="no problems"):
        ratio_of_sums(np.zeros(0), np.zeros(0), seed=0)


@pytest.mark.parametrize(
    ("seeds", "seed_spread", "lowest", "highest"),
    [(1, 0.0, 0.92, 0.98), (3, 0.0, 0.92, 0.985), (10, 0.03, 0.88, 0.985), (3, 0.03, 0.78, 0.97)],
)
def test_bootstrap_coverage_is_near_nominal(seeds, seed_spread, lowest, highest):
    """True difference 0.1; three noisy seeds cover less, as the module says."""
    rng = np.random.default_rng(seeds)
    trials, covered = 400, 0
    for trial in range(trials):
        level = rng.uniform(0.2, 0.6, 100)
        a, b = arm(rng, level, 0.1, seeds, seed_spread), arm(rng, level, 0, seeds, seed_spread)
        found = paired_difference(a, b, resamples=400, seed=trial)
        covered += found.low <= 0.1 <= found.high
    assert lowest <= covered / trials <= highest


@pytest.mark.parametrize(("seeds", "seed_spread"), [(1, 0.0), (3, 0.0), (10, 0.05)])
def test_intervals_are_as_wide_as_the_estimate_varies(seeds, seed_spread):
    """Drawing problems and seeds independently would be 30 % too wide for three like seeds."""
    rng = np.random.default_rng(7)
    found = []
    for trial in range(400):
        level = rng.uniform(0.2, 0.6, 100)
        a, b = arm(rng, level, 0.1, seeds, seed_spread), arm(rng, level, 0, seeds, seed_spread)
        found.append(paired_difference(a, b, resamples=400, seed=trial))
    width = np.mean([f.high - f.low for f in found])
    assert width / (2 * 1.96) == pytest.approx(np.std([f.mean for f in found]), rel=0.12)


def test_the_bootstrap_is_quick():
    rng = np.random.default_rng(0)
    a, b = make(rng.random((3, 200))), make(rng.random((3, 200)))
    started = time.process_time()
    paired_difference(a, b, resamples=10_000, seed=0)
    assert time.process_time() - started < 2


@given(st.integers(1, 200), st.data())
def test_wilson_agrees_with_scipy(n, data):
    k = data.draw(st.integers(0, n))
    found = wilson(k, n)
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.mean <= found.high
    assert found.n_problems == n


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 in 0"):
        wilson(0, 0)


@given(st.lists(st.integers(0, 6), min_size=1), st.lists(st.integers(0, 6), min_size=1))
def test_auroc_is_the_share_of_pairs_won(positive, negative):
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    found = auroc(np.array(positive), np.array(negative), resamples=50, seed=0)
    assert found.mean == pytest.approx(np.mean(wins))
    assert 0 <= found.low <= found.mean <= found.high <= 1 and found.is_known


def test_auroc_interval_is_near_nominal():
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    covered = 0
    for trial in range(300):
        found = auroc(rng.normal(1, 1, 60), rng.normal(0, 1, 80), resamples=300, seed=trial)
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 300 <= 0.98


def test_ties_count_half_in_every_resample():
    found = auroc(np.ones(5), np.ones(7), resamples=100, seed=0)
    assert found.mean == 0.5 and 1 - found.low == found.high == 0.5 + wilson(0, 5).high / 2


def test_sides_that_are_apart_are_as_sure_as_the_smaller_one_is_large():
    for few, many in ((3, 50), (50, 3)):
        found = auroc(np.ones(few), np.zeros(many), resamples=100, seed=0)
        assert (found.mean, found.high) == (1, 1)
        assert found.low == pytest.approx(wilson(3, 3).low)


def test_auroc_without_one_side_is_refused():
    with pytest.raises(ValueError, match="0 positives"):
        auroc(np.array([]), np.array([1.0]), resamples=10, seed=0)
