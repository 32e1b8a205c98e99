"""GEAR: the break is where the method says, doubt is reported, gates refuse by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heal.config import Gear
from heal.method.answers import mention
from heal.method.gates import leaks, passes_gates
from heal.method.gear import (
    FailedPath,
    _statistic,
    checked_break,
    choose_paths,
    find_breakpoint,
    kept_steps,
)
from heal.records import Breakpoint, Fallback, Finish, Gate, Verdict

CASES = Path(__file__).parent / "cases"
ENTROPIC = [Breakpoint.DIFFERENCE, Breakpoint.ZSCORE, Breakpoint.CUSUM]


def rows(name):
    return [json.loads(line) for line in (CASES / name).read_text("utf-8").splitlines()]


def find(entropy, kind=Breakpoint.DIFFERENCE, width=10, window=1 / 3, slack=0.0, seed=0):
    middle = np.asarray(entropy, np.float32)
    ends = [width * (k + 1) for k in range(len(middle))]
    lo, hi = middle - np.float32(slack), middle + np.float32(slack)
    return find_breakpoint(lo, hi, ends, kind=kind, window=window, seed=seed)


def test_the_largest_rise_in_the_first_third_wins():
    found = find([1, 1.2, 1.1, 2, 2, 2, 2, 9, 9])
    assert found.step == 2
    found = find([1, 1.2, 1.9, 9, 2, 2, 2, 9, 9])
    assert found.step == 3
    assert found.margin == pytest.approx(0.5, abs=1e-6)
    assert found.fallback is None and not found.undecided
    np.testing.assert_allclose(found.surge[1:3], [0.2, 0.7], atol=1e-6)
    assert np.isnan(found.surge[[0, 3, 8]]).all()


def test_the_window_counts_tokens_not_steps():
    entropy = np.array([1, 1, 3, 1, 9], np.float32)
    found = find_breakpoint(entropy, entropy, [2, 4, 6, 90, 100], kind=Breakpoint.DIFFERENCE)
    assert found.step == 3


def test_ties_go_to_the_earliest_step():
    assert find([1, 2, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1]).step == 2


def test_no_surge_falls_back_to_the_second_step():
    found = find([3, 2, 1, 0, 0, 0, 0, 0, 0])
    assert (found.step, found.fallback) == (2, Fallback.NO_SURGE)
    assert not found.undecided


def test_an_empty_window_falls_back_to_the_second_step():
    entropy = np.array([1, 5], np.float32)
    found = find_breakpoint(entropy, entropy, [90, 100], kind=Breakpoint.DIFFERENCE)
    assert (found.step, found.fallback) == (2, Fallback.EMPTY_WINDOW)
    assert find([1, 2, 9, 1], kind=Breakpoint.ZSCORE).fallback is Fallback.EMPTY_WINDOW


NOT_BY_ENTROPY = (Breakpoint.RESTART, Breakpoint.CLAIMS, Breakpoint.CHECKER)
BY_ENTROPY = [k for k in Breakpoint if k not in NOT_BY_ENTROPY]


@pytest.mark.parametrize("kind", [Breakpoint.CLAIMS, Breakpoint.CHECKER])
def test_claims_and_a_checkers_word_are_not_read_from_entropies(kind):
    with pytest.raises(ValueError, match=kind):
        find([1, 2], kind)


def test_a_checkers_word_is_the_break_and_without_one_another_rule_is_marked_as_such():
    other = find([1, 5, 1], Breakpoint.DIFFERENCE)
    named = checked_break(3, 3, lambda: other)
    assert (named.step, named.fallback, named.surge.shape) == (3, None, (3,))
    unnamed = checked_break(None, 3, lambda: other)
    assert (unnamed.step, unnamed.fallback) == (other.step, Fallback.NO_WORD)


@pytest.mark.parametrize("kind", BY_ENTROPY)
def test_a_trace_of_one_step_restarts(kind):
    assert (find([2], kind).step, find([2], kind).fallback) == (1, Fallback.SINGLE_STEP)
    assert find([], kind).step == 1


def test_zscore_measures_rises_against_the_history():
    entropy = [1, 3, 1, 3, 3.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    found = find(entropy, Breakpoint.ZSCORE)
    history = np.array(entropy[:4])
    expected = (3.5 - history.mean()) / (history.std() + 0.1)
    assert found.step == 5
    assert found.surge[4] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(found.surge[:2]).all()
    assert find(entropy).step == 2


def test_cusum_breaks_where_the_largest_excursion_starts():
    entropy = [1, 1.1, 0.2, 1, 1.4, 1.8, 2.2, *[0.0] * 14]
    found = find(entropy, Breakpoint.CUSUM)
    assert found.step == 4
    assert np.nanargmax(found.surge) == 6
    assert found.surge[1] == pytest.approx(0.1, abs=1e-6)


def test_controls_ignore_the_entropy():
    calm, wild = [1.0] * 9, [1, 5, 1, 9, 1, 1, 9, 1, 1]
    for kind in (Breakpoint.RANDOM, Breakpoint.FIXED_THIRD, Breakpoint.RESTART):
        assert find(calm, kind).step == find(wild, kind).step
        assert np.isnan(find(wild, kind).surge).all()
    assert find(wild, Breakpoint.RESTART).step == 1
    assert find(wild, Breakpoint.FIXED_THIRD).step == 4


def test_random_draws_every_step_of_the_window_and_no_other():
    drawn = {find([1.0] * 15, Breakpoint.RANDOM, seed=s).step for s in range(100)}
    assert drawn == {2, 3, 4, 5}


def test_bounds_that_allow_another_break_leave_it_undecided():
    entropy = [1, 1.5, 2.1, 1, 1, 1, 1, 1, 1]
    assert find(entropy, slack=0.01).margin == pytest.approx(0.1 - 0.04, abs=1e-5)
    assert not find(entropy, slack=0.01).undecided
    assert find(entropy, slack=0.1).undecided
    assert find(entropy, slack=0.1).step == find(entropy).step == 3


def test_bounds_that_allow_a_surge_elsewhere_leave_no_surge_undecided():
    found = find([3, 2.9, 2.8, 0, 0, 0, 0, 0, 0], slack=0.2)
    assert found.fallback is Fallback.NO_SURGE and found.undecided
    assert not find([3, 2.9, 2.0, 0, 0, 0, 0, 0, 0], slack=0.2).undecided


def test_a_surge_that_may_be_none_is_undecided():
    entropy = [1, 0.5, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert find(entropy).step == 3
    assert find(entropy, slack=0.06).undecided
    assert not find(entropy, slack=0.04).undecided


def test_an_excursion_that_may_start_earlier_is_undecided():
    entropy = [1, 0.99, 3, 1, 1, 1, 1, 1, 1]
    assert find(entropy, Breakpoint.CUSUM).step == 3
    found = find(entropy, Breakpoint.CUSUM, slack=0.05)
    assert found.margin > 0 and found.undecided
    assert not find(entropy, Breakpoint.CUSUM, slack=0.002).undecided


@given(st.integers(0, 100_000), st.sampled_from(ENTROPIC), st.floats(0, 0.5))
def test_bounds_of_the_statistic_contain_it(seed, kind, slack):
    rng = np.random.default_rng(seed)
    middle, radius = rng.random(8), rng.random(8) * slack
    low, high = _statistic(kind, middle - radius, middle + radius)
    for draw in [*rng.random((10, 8)), *rng.integers(0, 2, (40, 8))]:
        entropy = middle + (2 * draw - 1) * radius
        value, same = _statistic(kind, entropy, entropy)
        np.testing.assert_array_equal(value, same)
        assert (low[2:] <= value[2:] + 1e-9).all() and (value[2:] <= high[2:] + 1e-9).all()


@example(27286, 11, Breakpoint.CUSUM, 0.25)  # an excursion that may break off, and begin again
@given(st.integers(0, 100_000), st.integers(2, 24), st.sampled_from(ENTROPIC), st.floats(0, 0.3))
def test_a_decided_break_survives_every_entropy_within_the_bounds(seed, steps, kind, slack):
    rng = np.random.default_rng(seed)
    middle, radius = rng.random(steps) * 2, rng.random(steps) * slack
    ends = list(np.cumsum(rng.integers(1, 20, steps)))
    lo, hi = middle - radius, middle + radius
    found = find_breakpoint(lo, hi, ends, kind=kind, window=0.6)
    if found.undecided:
        return
    corners = rng.integers(0, 2, (20, steps))
    for draw in [*rng.random((20, steps)), *corners]:
        entropy = lo + draw * (hi - lo)
        assert find_breakpoint(entropy, entropy, ends, kind=kind, window=0.6).step == found.step


@given(
    st.integers(0, 100_000), st.integers(0, 30), st.sampled_from([*BY_ENTROPY, Breakpoint.RESTART])
)
def test_exact_entropies_always_decide(seed, steps, kind):
    rng = np.random.default_rng(seed)
    entropy = rng.random(steps).astype(np.float32)
    ends = [int(e) for e in np.cumsum(rng.integers(1, 20, steps))]
    found = find_breakpoint(entropy, entropy, ends, kind=kind, seed=seed)
    assert not found.undecided and found.margin >= 0
    assert 1 <= found.step <= max(1, steps)


@given(st.integers(1, 50), st.integers(1, 60))
def test_the_kept_prefix_is_a_prefix_before_the_break(b, back_up):
    kept = kept_steps(b, back_up)
    assert 0 <= kept < b
    assert kept_steps(b) == b - 1
    assert kept_steps(b, back_up + 1) <= kept


def path(trace, answer, opening=(1, 2, 3, 4), verdict=Verdict.WRONG):
    return FailedPath(trace, verdict, answer, opening)


def test_only_complete_wrong_traces_are_repaired():
    paths = [path(v.value, "7", verdict=v) for v in Verdict]
    assert choose_paths(paths, 10) == ["wrong"]


def test_paths_differ_by_answer_first():
    paths = [path("a", "7"), path("b", "7"), path("c", "7"), path("d", "8"), path("e", " 9 ")]
    assert choose_paths(paths, 3) == ["a", "d", "e"]
    assert choose_paths(paths, 10) == ["a", "d", "e", "b", "c"]


def test_the_most_frequent_failure_comes_first():
    assert choose_paths([path("a", "7"), path("b", "8"), path("c", "8")], 1) == ["b"]


def test_paths_of_one_answer_differ_by_how_they_open():
    paths = [path("a", "7"), path("b", "7"), path("c", "7", (9, 8, 7, 6))]
    assert choose_paths(paths, 2) == ["a", "c"]


@given(st.permutations([path(str(i), str(i % 3), (i, i % 2, 5, i % 4)) for i in range(9)]))
def test_the_choice_does_not_depend_on_the_order_of_the_paths(paths):
    assert choose_paths(paths, 5) == choose_paths(sorted(paths, key=lambda p: p.trace), 5)


@pytest.mark.parametrize("case", rows("leaks.jsonl"), ids=lambda c: f"{c['answer']}: {c['why']}")
def test_leak_cases(case):
    assert leaks(case["hint"], case["answer"]) is case["leaks"]


@pytest.mark.parametrize("case", rows("gates.jsonl"), ids=lambda c: f"{c['gate']}: {c['why']}")
def test_gate_cases(case):
    settings = Gear(hint_talk=case.get("phrases"))
    found = passes_gates(
        verdict=Verdict(case.get("verdict", "correct")),
        finish=Finish(case.get("finish", "stop")),
        problem=case.get("problem", "What comes next?"),
        prefix=case.get("prefix", ""),
        continuation=case["continuation"],
        hint=case.get("hint", "Look at the jumps."),
        answer=case.get("answer", "158"),
        settings=settings,
        has_wrong_step=lambda: case.get("wrong_step", False),
    )
    assert found is Gate(case["gate"])


def test_every_gate_has_a_case_that_it_refuses():
    assert {case["gate"] for case in rows("gates.jsonl")} == set(Gate)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_number_is_mentioned_by_itself_only(written, asked):
    found = mention(f"so we have {written} here", str(asked)) is not None
    assert found is (written == asked)


@given(st.integers(-(10**9), 10**9))
def test_thousands_separators_do_not_hide_an_answer(number):
    assert leaks(f"it comes to {number:,}.", f"{number}") or abs(number) < 100
    assert leaks(f"this is ${number:,}$.", f"{number}")
