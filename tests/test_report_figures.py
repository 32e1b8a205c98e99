"""Figures and their words: shares, funnels, intervals as text, and charts."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.made_run import lab_run
from tests.report_fixture import UNREPAIRED, changed, lab_view, minimal_view

from heal.method.intervals import Interval
from heal.records import Drop, Gate, PureScore, Split, Stratum
from heal.report import charts, numbers, words
from heal.report.view import RunView, TraceCount


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_run(tmp_path_factory.mktemp("lab") / "run", problems=90, held_out=40)


@pytest.fixture(scope="module")
def view(lab: Path) -> RunView:
    return lab_view(lab)


# Counts


def test_strata_add_up_to_the_problems(view: RunView) -> None:
    for split in Split:
        rows = numbers.strata(view, split)
        assert sum(row.problems for row in rows) == view.problems[split]
        assert all(row.solved <= row.problems for row in rows)


FATES = st.lists(
    st.tuples(
        st.sampled_from([None, *Gate]),
        st.sampled_from([None, *Drop]),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(FATES)
def test_every_drawn_trace_comes_out_of_the_funnel_or_is_counted_beside_it(
    fates: list[tuple[Gate | None, Drop | None, bool, int]],
) -> None:
    counts = tuple(
        TraceCount("repair", Split.TRAIN, failed, None, gate, drop, n)
        for gate, drop, failed, n in fates
        if gate is Gate.PASSED or drop is None
    )
    rows = numbers.candidate_funnel(minimal_view(traces=counts), "D3")
    before = sum(count.traces for count in counts)
    for row in rows:
        assert row.traces is not None
        assert row.traces + sum(n for _, n in row.lost) == before
        before = row.traces
    kept = sum(c.traces for c in counts if c.drop is Drop.KEPT and not c.failed)
    assert before == kept if counts else rows == ()


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_of_a_share_holds_the_share(case: tuple[int, int]) -> None:
    share = numbers.share_of(*case)
    assert 0 <= share.lo <= share.value <= share.hi <= 1
    assert share.lo < share.hi


def test_share_of_nothing_claims_nothing() -> None:
    assert numbers.share_of(0, 0).hi == 1 and words.share_text(numbers.share_of(0, 0)) == "0 of 0"


def test_a_share_short_of_all_never_reads_as_100_percent() -> None:
    assert words.percent(999 / 1000) == "99.9 %" and words.percent(1) == "100 %"
    assert words.percent(0.001) == "0.1 %" and words.percent(0) == "0 %"


def test_held_out_extremes_are_not_in_the_ceiling(view: RunView) -> None:
    (train, held_out) = (
        next(row.problems for row in numbers.strata(view, split) if row.stratum is Stratum.EXTREME)
        for split in (Split.TRAIN, Split.HELD_OUT)
    )
    assert view.extreme.problems == train and held_out


def test_ceiling_never_falls(lab: Path, view: RunView, tmp_path: Path) -> None:
    assert numbers.ceiling_before(view).hits <= numbers.ceiling_after(view).hits
    unrepaired = changed(lab, tmp_path, *UNREPAIRED)
    assert numbers.ceiling_before(unrepaired) == numbers.ceiling_after(unrepaired)


def test_yields_cover_every_repair_once(view: RunView) -> None:
    repairs = sum(count.traces for count in numbers.traces_of(view, "repair"))
    assert sum(y.traces for y in numbers.hint_yields(view)) == repairs > 0


def test_facts_of_zero_are_left_out_and_fallbacks_are_counted(view: RunView) -> None:
    facts = numbers.all_facts(view)
    assert all(fact.count for fact in facts)
    assert any("fell back to another kind" in fact.text for fact in facts)


# Figures


def test_figure_of_the_same_numbers_is_the_same_bytes() -> None:
    entropy = np.array([0.1, 0.9, 0.2], np.float32)
    drawing = charts.entropy_chart(entropy, entropy + 0.1, [2], 2)
    first = drawing.inline("a")
    assert first == charts.entropy_chart(entropy, entropy + 0.1, [2], 2).inline("a")
    assert first.startswith("<svg") and "2000/svg" not in first
    assert drawing.svg() == drawing.svg() and "2000/svg" in drawing.svg()
    assert drawing.png() == drawing.png() and drawing.png().startswith(b"\x89PNG")


@pytest.mark.parametrize("steps", [1, 2, 400])
def test_figures_of_any_number_of_steps(steps: int) -> None:
    values = np.linspace(0, 1, steps, dtype=np.float32)
    unsure = np.full(steps + 1, np.nan, np.float32)
    assert "<text" in charts.entropy_chart(values, values, [], 1).inline("e")
    one_each = [10] * steps

    def drawn(uncertainty: np.ndarray, surprisal: np.ndarray | None, commitment: int | None) -> str:
        pure = PureScore("k", "p", "t", values, uncertainty, one_each, 1, [True] * steps, surprisal)
        return charts.pure_chart(pure, commitment).inline("p")

    assert "U (nats)" in drawn(unsure, None, None)
    assert "answer, −ln p" in drawn(unsure, values, None)
    assert "commits" in drawn(np.append(values, 0), values, steps)


def test_figure_of_an_arm_without_an_interval_says_so() -> None:
    nan = float("nan")
    drawn = charts.interval_chart([charts.Bar("heal", 12.0, nan, nan)], "a").inline("arms")
    assert "no interval" in drawn


def test_dollar_signs_in_labels_are_not_mathematics() -> None:
    drawn = charts.interval_chart([charts.Bar("$x$", 1.0, 0.5, 2.0)], "a").inline("arms")
    assert "$x$" in drawn


# Words


@given(st.floats(0, 1), st.floats(1e-6, 0.3), st.integers(1, 10**6))
def test_an_interval_is_never_printed_without_width(low: float, width: float, n: int) -> None:
    high = min(1.0, low + width)
    if high - low < 1e-6:
        return
    interval = Interval((low + high) / 2, low, high, n)
    texts = (
        words.estimate_text(interval),
        words.whole_text(interval),
        words.points_text(interval),
        words.share_text(numbers.Share(n // 2, n, low, high)),
    )
    for text in texts:
        ends = re.split("–|, ", text[text.rindex("[") + 1 : text.rindex("]")])
        assert len(ends) == 2 and ends[0] != ends[1], text


@pytest.mark.parametrize("n", [1, 9])
def test_an_interval_without_width_is_none(n: int) -> None:
    flat = Interval(0.5, 0.5, 0.5, n)
    for text in (words.estimate_text, words.points_text, words.whole_text):
        assert "[" not in text(flat) and "no interval" in text(flat)


def test_a_mean_that_is_the_same_everywhere_says_so_instead_of_an_interval() -> None:
    nan = float("nan")
    assert words.mean_text(Interval(512.0, nan, nan, 9)) == "512 (all alike)"
    assert words.mean_text(Interval(512.0, nan, nan, 1)) == "no interval (n = 1)"
    assert words.mean_text(Interval(118.0, 110.2, 126.0, 9)) == "118 [110–126]"
