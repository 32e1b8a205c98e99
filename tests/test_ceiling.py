"""Strata: every problem in one of five, and no unjudged trace counts for or against."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.method.ceiling import ceiling
from heal.records import Stratum, Verdict

C, W, N, T, U = (
    Verdict.CORRECT,
    Verdict.WRONG,
    Verdict.NO_ANSWER,
    Verdict.TRUNCATED,
    Verdict.UNVERIFIABLE,
)


@pytest.mark.parametrize(
    ("verdicts", "planned", "stratum", "rho"),
    [
        ([C] * 15 + [W] * 15, 30, Stratum.EASY, 0.5),
        ([C] * 14 + [W] * 16, 30, Stratum.HARD, 14 / 30),
        ([C] * 2 + [W] * 28, 30, Stratum.HARD, 2 / 30),
        ([C] + [W] * 29, 30, Stratum.EXTREME, 1 / 30),
        ([N] * 30, 30, Stratum.EXTREME, 0.0),
        ([C] * 2 + [W] * 58, 60, Stratum.EXTREME, 2 / 60),
        ([C] + [W] * 7, 8, Stratum.EXTREME, 1 / 8),
        ([C], 1, Stratum.EASY, 1.0),
        ([C] * 5 + [W] * 5 + [U] * 20, 30, Stratum.EASY, 0.5),
        ([C] * 5 + [W] * 4 + [U] * 21, 30, Stratum.UNDETERMINED, 5 / 9),
        ([W] * 15 + [T] * 15, 30, Stratum.EXTREME, 0.0),
        ([W] * 14 + [T] * 16, 30, Stratum.TRUNCATED, 0.0),
        ([T] * 30, 30, Stratum.TRUNCATED, None),
        ([W] * 9, 30, Stratum.UNDETERMINED, 0.0),
        ([], 30, Stratum.UNDETERMINED, None),
    ],
)
def test_stratum_of_known_counts(verdicts, planned, stratum, rho):
    found = ceiling("p", verdicts, planned)
    assert found.stratum is stratum
    assert found.rho == (rho if rho is None else pytest.approx(rho))


@given(st.lists(st.sampled_from(list(Verdict)), max_size=40))
def test_counts_and_rho_follow_the_verdicts_in_any_order(verdicts):
    found = ceiling("p", verdicts, 30)
    count = Counter(verdicts)
    assert (found.n, found.correct) == (len(verdicts), count[C])
    assert (found.truncated, found.unverifiable) == (count[T], count[U])
    judged = count[C] + count[W] + count[N]
    assert found.rho == (count[C] / judged if judged else None)
    assert ceiling("p", verdicts[::-1], 30) == found


@given(st.integers(0, 9), st.integers(0, 9))
def test_truncated_traces_never_lower_the_pass_rate(correct, truncated):
    with_them = ceiling("p", [C] * correct + [W] * 10 + [T] * truncated, 30)
    assert with_them.rho == ceiling("p", [C] * correct + [W] * 10, 30).rho
