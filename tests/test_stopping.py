"""Stopping early: what is decided is what all traces would have said, but for the error stated."""

import random
from collections.abc import Iterator
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal.method.ceiling import EXTREME_SHARE, ceiling
from heal.method.stopping import LOOKS, decided, enough, false_claim, looks
from heal.records import Stratum, Verdict

C, W, T, U = Verdict.CORRECT, Verdict.WRONG, Verdict.TRUNCATED, Verdict.UNVERIFIABLE

verdicts = st.sampled_from(list(Verdict))


def first_decision(order: list[Verdict], error: float) -> tuple[int, Stratum] | None:
    """(traces drawn, stratum) at the first look that decides before the last one."""
    n = len(order)
    for drawn in looks(n)[:-1]:
        found = decided(order[:drawn], drawn, n, error)
        if found is not None:
            return drawn, found
    return None


def compositions(n: int) -> Iterator[tuple[int, int, int]]:
    """Every (correct, wrong, truncated) of n traces; the others are unverifiable."""
    for correct in range(n + 1):
        for wrong in range(n + 1 - correct):
            for truncated in range(n + 1 - correct - wrong):
                yield correct, wrong, truncated


def literal(order: list[Verdict]) -> Stratum:
    return ceiling("p", order, len(order)).stratum


@given(st.integers(1, 200))
def test_looks_rise_to_n_and_are_few(n: int) -> None:
    found = looks(n)
    assert list(found) == sorted(set(found))
    assert found[-1] == n
    assert len(found) <= LOOKS


@given(st.integers(1, 9).flatmap(lambda n: st.lists(verdicts, min_size=n, max_size=n)))
@settings(deadline=None)
def test_without_error_nothing_left_to_draw_could_change_the_stratum(order: list[Verdict]) -> None:
    n = len(order)
    for drawn in looks(n):
        found = decided(order[:drawn], drawn, n, 0.0)
        if found is not None:
            for rest in combinations_with_replacement((C, W, T, U), n - drawn):
                assert literal([*order[:drawn], *rest]) is found


@given(st.lists(verdicts, min_size=30, max_size=30))
def test_without_error_a_decision_is_what_all_traces_say(order: list[Verdict]) -> None:
    found = first_decision(order, 0.0)
    assert found is None or found[1] is literal(order)


@pytest.mark.parametrize("n", [8, 16, 30, 40])
@pytest.mark.parametrize("error", [0.02, 0.05, 0.2])
def test_the_stated_error_bounds_every_wrong_stop_whatever_the_traces_are(
    n: int, error: float
) -> None:
    """Exact: the chance of each claim that leads to another stratum, added up."""
    half, most, few = n - n // 2, n // 2 + 1, int(max(1, n * EXTREME_SHARE))

    def crossing(at_least: int) -> list[float]:
        bounds = enough(n, at_least, error / 2)[:-1]
        return [false_claim(n, count, (*bounds, n + 1)) for count in range(n + 1)]

    easy, majority, not_correct = crossing(half), crossing(most), crossing(n - few)
    worst = 0.0
    for correct, wrong, truncated in compositions(n):
        unverifiable = n - correct - wrong - truncated
        truth = literal([C] * correct + [W] * wrong + [T] * truncated + [U] * unverifiable)
        stops = {
            Stratum.EASY: easy[correct],
            Stratum.HARD: majority[wrong] if correct > few else 0.0,
            Stratum.EXTREME: min(majority[wrong], not_correct[n - correct]),
            Stratum.TRUNCATED: majority[truncated],
        }
        worst = max(worst, sum(chance for s, chance in stops.items() if s is not truth))
    assert worst <= error
    if n == 30:
        assert worst > error / 20  # else the bound would be an idle one


@pytest.mark.parametrize(
    "counts", [(14, 16, 0), (15, 15, 0), (2, 28, 0), (1, 29, 0), (2, 13, 15), (13, 12, 5)]
)
def test_simulated_problems_are_placed_wrongly_no_more_often_than_stated(
    counts: tuple[int, int, int],
) -> None:
    correct, wrong, truncated = counts
    order = [C] * correct + [W] * wrong + [T] * truncated
    truth, dice, times, error = literal(order), random.Random(7), 3000, 0.05
    mistaken = 0
    for _ in range(times):
        dice.shuffle(order)
        found = first_decision(order, error)
        mistaken += found is not None and found[1] is not truth
    assert mistaken / times <= error + 3 * (error * (1 - error) / times) ** 0.5


@pytest.mark.parametrize(
    ("order", "error", "drawn", "stratum"),
    [
        ([C] * 30, 0.05, 10, Stratum.EASY),
        ([C] * 30, 0.0, 15, Stratum.EASY),
        ([W] * 30, 0.05, 25, Stratum.EXTREME),
        ([C, C] + [W] * 28, 0.05, 15, Stratum.HARD),
        ([C, C] + [W] * 28, 0.0, 20, Stratum.HARD),
        ([T] * 30, 0.05, 10, Stratum.TRUNCATED),
    ],
)
def test_clear_problems_stop_early(
    order: list[Verdict], error: float, drawn: int, stratum: Stratum
) -> None:
    assert first_decision(order, error) == (drawn, stratum)


@pytest.mark.parametrize("order", [[U] * 30, [W] * 30, [C, W] * 15])
def test_unclear_problems_are_drawn_to_the_end(order: list[Verdict]) -> None:
    assert first_decision(order, 0.0) is None


def test_sampling_on_average_costs_less_the_clearer_the_problem() -> None:
    dice = random.Random(3)

    def share(rate: float) -> float:
        drawn = []
        for _ in range(300):
            order = [C if dice.random() < rate else W for _ in range(30)]
            drawn.append((first_decision(order, 0.05) or (30, None))[0])
        return sum(drawn) / (30 * len(drawn))

    assert share(0.95) < 0.4 < share(0.2) < 0.7 < share(0.5) < 0.95


@given(st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_a_claim_is_as_likely_false_as_allowed_and_never_harder_with_more_error(
    n: int, data: st.DataObject
) -> None:
    at_least = data.draw(st.integers(1, n))
    small, large = sorted(data.draw(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5))))
    strict, loose = enough(n, at_least, small), enough(n, at_least, large)
    assert false_claim(n, at_least - 1, strict) <= small
    assert all(a >= b for a, b in zip(strict, loose, strict=True))
    assert all(
        bound <= max(at_least, drawn + 1) for bound, drawn in zip(strict, looks(n), strict=True)
    )
    assert strict[-1] == at_least
