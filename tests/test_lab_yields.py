"""Yields of cuts on a small, real lab run: figures counted again from bodies."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from tests.scripted_run import PAGE, Watch

from heal.errors import UserError
from heal.lab import yields
from heal.lab.benchmark_page import yields as page
from heal.lab.truth import judge
from heal.lab.yields import WAYS, WHOLE, Yield, compare_yields
from heal.records import Gate, Hint, Problem, Trace
from heal.store import Store, TraceRow

SMALL = ("problems.args.n=20", "sampling.n=8", "gear.hinted_samples=2")
ASKED = ("random", "difference", "the truth", "answer: random")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Yield, ...]]:
    folder = tmp_path_factory.mktemp("yields") / "run"
    asked = {way: WAYS[way] for way in ASKED}
    with patch(PAGE, lambda view: "no charts"), patch.object(yields, "WAYS", asked):
        return folder, compare_yields("rows", [f"run={folder}", *SMALL], Watch())


def test_every_way_is_measured_on_the_same_problems(
    compared: tuple[Path, tuple[Yield, ...]],
) -> None:
    found = {y.way: y for y in compared[1]}
    assert list(found) == [*ASKED, WHOLE]
    assert len({y.covered.n_problems for y in compared[1]}) == 1
    assert len({y.tried for y in compared[1] if y.way != WHOLE}) == 1
    assert found["random"].gain is None
    assert found[WHOLE].places is None


def test_the_truth_cuts_at_the_first_bad_step_and_keeps_all_before_it(
    compared: tuple[Path, tuple[Yield, ...]],
) -> None:
    places = next(y.places for y in compared[1] if y.way == "the truth")
    assert places is not None
    assert (places.hit.mean, places.late.mean, places.kept) == (1.0, 0.0, 1.0)


def test_reading_scores_is_paid_for(compared: tuple[Path, tuple[Yield, ...]]) -> None:
    with Store.open(compared[0], write=False) as store:
        ((scored,),) = store.query("SELECT COUNT(*) FROM records WHERE stage='scores'")
        ((counted,),) = store.query("SELECT COUNT(*) FROM scores WHERE stage='scores'")
    assert scored > 0 and counted == 0  # the last way cuts at random
    costs = {y.way: y.tokens / y.tried for y in compared[1]}
    assert costs["difference"] > costs["the truth"]


def test_figures_of_the_last_way_are_those_of_its_traces(
    compared: tuple[Path, tuple[Yield, ...]],
) -> None:
    folder, found = compared[0], next(y for y in compared[1] if y.way == ASKED[-1])
    with Store.open(folder, write=False) as store:
        problems = {p.id: p for _, p in store.live("problem", Problem)}
        hints = [h for _, h in store.live("hint", Hint, "random")]
        repairs = [t for _, t in store.live("repair", Trace, "random")]
        passed = {row.key for row in store.rows(TraceRow, "gate=?", Gate.PASSED)}
        ((cuts,),) = store.query("SELECT COUNT(*) FROM cuts WHERE tag='random'")
    past = [t for t in repairs if t.key in passed]
    valid = [t for t in past if judge(problems[t.problem_id].problem, t.text).valid]
    tokens = sum(h.new_tokens for h in hints) + sum(t.new_tokens for t in repairs)
    assert (found.tokens, found.valid) == (tokens, len(valid))
    assert found.passed is not None
    assert found.passed.mean * found.tried == pytest.approx(len(past))
    assert found.fudged is not None
    assert found.fudged.mean == pytest.approx(1 - len(valid) / len(past))
    assert found.per_1000 is not None
    assert found.per_1000.mean == pytest.approx(1_000 * len(valid) / tokens)
    assert found.places is not None
    assert found.places.hit.n_problems == cuts


def test_the_page_has_a_row_for_every_way(compared: tuple[Path, tuple[Yield, ...]]) -> None:
    lines = page(compared[1]).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:] if line] == [
        *ASKED,
        WHOLE,
    ]


def test_without_extreme_problems_there_is_nothing_to_compare(tmp_path: Path) -> None:
    easy = "problems.args.families=[alt, pairs, long]"
    with pytest.raises(UserError, match="nothing to repair"):
        compare_yields("rows", [f"run={tmp_path}/run", *SMALL, easy], Watch())
