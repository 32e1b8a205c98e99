"""A cut from what claimed numbers cost: the fitted rule as a breakpoint, with bounds."""

import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.method.claims import find_claim_break
from heal.method.gear import Break
from heal.method.hindsight import (
    BARE,
    BARE_WEIGHTS,
    Signals,
    features,
    number_tokens,
    result_tokens,
    safe_step,
    step_probabilities,
)
from heal.records import Fallback

TRUE = "So 2 + 3 = 5 here. "
SURE, UNSURE = 0.05, 2.0


class Written(NamedTuple):
    """A trace as tokens; the doubt is at the numbers behind an equals sign."""

    pieces: list[bytes]
    ends: list[int]
    logprob: np.ndarray
    entropy: np.ndarray


def written(*steps: tuple[str, float]) -> Written:
    """Steps with what their claimed numbers cost, nats of surprisal and of entropy alike."""
    pieces: list[bytes] = []
    ends, doubts = [], []
    for text, doubt in steps:
        own = [piece.encode() for piece in re.findall(r"\d|[a-zA-Z]+ ?|.", text)]
        pieces += own
        doubts += [doubt] * len(own)
        ends.append(len(pieces))
    values = np.where(result_tokens(pieces), doubts, SURE).astype(np.float32)
    return Written(pieces, ends, -values, values)


def cut(trace: Written, width: float = 0.0) -> Break:
    half = np.float32(width / 2)
    low, high = np.maximum(trace.entropy - half, 0), trace.entropy + half
    return find_claim_break(trace.logprob, low, high, trace.ends, trace.pieces)


@pytest.mark.parametrize(
    ("steps", "b", "fallback"),
    [
        ([], 1, Fallback.SINGLE_STEP),
        ([(TRUE, UNSURE)], 1, Fallback.SINGLE_STEP),
        ([("I see words only. ", SURE)] * 4, 2, Fallback.NO_CLAIM),
        ([("There are 5 plums and 7 pears. ", SURE)] * 4, 2, Fallback.NO_CLAIM),
        ([(TRUE, UNSURE), *[(TRUE, SURE)] * 5], 1, None),
        ([*[(TRUE, SURE)] * 3, (TRUE, UNSURE), *[(TRUE, SURE)] * 2], 4, None),
        # beyond the first third, which other breakpoints do not look behind
        ([*[(TRUE, SURE)] * 6, (TRUE, UNSURE), (TRUE, SURE)], 7, None),
        # two that are alike: the cut is before the first
        ([(TRUE, SURE), (TRUE, UNSURE), (TRUE, SURE), (TRUE, UNSURE), (TRUE, SURE)], 2, None),
    ],
)
def test_the_cut_is_before_the_doubtful_claim(
    steps: list[tuple[str, float]], b: int, fallback: Fallback | None
) -> None:
    found = cut(written(*steps))
    assert (found.step, found.fallback, found.undecided) == (b, fallback, False)
    assert found.surge.dtype == np.float32
    assert found.surge.shape == (len(steps),)
    assert np.isnan(found.surge).all() == (fallback is not None)
    if fallback is None:
        assert found.surge.sum() == pytest.approx(1, abs=1e-5)


def test_what_follows_the_last_step_says_nothing() -> None:
    """As a think-model's summary, and what ends a trace."""
    trace = written(*[(TRUE, SURE)] * 3, (TRUE, UNSURE), (TRUE, SURE), ("= 9 = 9 = 9", 9.0))
    shorter = trace._replace(ends=trace.ends[:-1])
    end = shorter.ends[-1]
    alone = Written(trace.pieces[:end], shorter.ends, trace.logprob[:end], trace.entropy[:end])
    assert repr(cut(shorter)) == repr(cut(alone))


doubts = st.lists(st.floats(0.01, 6), min_size=2, max_size=9)


@given(doubts)
def test_it_is_the_rule_that_was_measured(found: list[float]) -> None:
    trace = written(*((TRUE, doubt) for doubt in found))
    masks = number_tokens(trace.pieces), result_tokens(trace.pieces)
    signals = Signals(trace.logprob, trace.logprob, trace.entropy, trace.ends, *masks)
    p = step_probabilities(features(signals, BARE), np.array(BARE_WEIGHTS))
    made = cut(trace)
    assert made.step == safe_step(p, 0.8)
    np.testing.assert_allclose(made.surge, p, atol=1e-6)
    assert made.margin >= 0
    assert not made.undecided


@given(doubts, st.floats(0.001, 3), st.integers(0, 10**6))
def test_bounds_that_leave_another_cut_open_say_so(
    found: list[float], width: float, seed: int
) -> None:
    trace = written(*((TRUE, doubt) for doubt in found))
    bounded = cut(trace, width)
    rng = np.random.default_rng(seed)
    low = np.maximum(trace.entropy - np.float32(width / 2), 0)
    high = trace.entropy + np.float32(width / 2)
    for _ in range(5):
        ends = rng.random(len(low)) < rng.random()
        entropy = np.where(ends, low, high).astype(np.float32)
        inside = find_claim_break(trace.logprob, entropy, entropy, trace.ends, trace.pieces)
        assert bounded.undecided or inside.step == bounded.step


@pytest.mark.parametrize(("width", "undecided"), [(0.0, False), (0.01, False), (8.0, True)])
def test_narrow_bounds_decide_and_wide_ones_do_not(width: float, undecided: bool) -> None:
    trace = written(*[(TRUE, SURE)] * 3, (TRUE, UNSURE), *[(TRUE, SURE)] * 2)
    assert cut(trace, width).undecided is undecided
