"""Budgets of sampling and repair on a small, real lab run: figures counted again from bodies."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from tests.scripted_run import PAGE, Watch

from heal.errors import UserError
from heal.lab.budgets import ARM, PLANS, Budget, compare_budgets
from heal.lab.truth import judge
from heal.records import Drop, Gate, Hint, Problem, Split, Trace
from heal.store import ProblemRow, SelectedRow, Store, TraceRow

SMALL = ("problems.args.n=20", "sampling.n=8", "gear.hinted_samples=2")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Budget, ...]]:
    folder = tmp_path_factory.mktemp("budgets") / "run"
    with patch(PAGE, lambda view: "no charts"):
        return folder, compare_budgets("rows", [f"run={folder}", *SMALL], Watch())


def test_every_plan_is_measured_and_none_misplaces_what_it_samples_alike(
    compared: tuple[Path, tuple[Budget, ...]],
) -> None:
    fixed, early, adaptive = compared[1]
    assert [b.plan for b in compared[1]] == list(PLANS)
    assert fixed.sampled == early.sampled >= adaptive.sampled > 0
    assert fixed.repaired > early.repaired > 0
    assert fixed.misplaced.mean == early.misplaced.mean == 0
    assert fixed.per_passed is not None
    assert fixed.per_used is not None
    assert fixed.per_passed.mean <= fixed.per_used.mean


def test_the_last_plans_figures_are_those_of_its_traces(
    compared: tuple[Path, tuple[Budget, ...]],
) -> None:
    folder, found = compared[0], compared[1][-1]
    with Store.open(folder, write=False) as store:
        problems = {p.id: p for _, p in store.live("problem", Problem)}
        train = {p for p, problem in problems.items() if problem.split is Split.TRAIN}
        extreme = {row.problem for row in store.rows(ProblemRow, "stratum='extreme'")} & train
        unaided = [t for _, t in store.live("sample", Trace) if t.problem_id in train]
        hints = [h for _, h in store.live("hint", Hint, "difference")]
        repairs = [t for _, t in store.live("repair", Trace, "difference")]
        passed = {row.key for row in store.rows(TraceRow, "gate=?", Gate.PASSED)}
        kept = {row.trace for row in store.rows(SelectedRow, "arm=?", ARM) if row.drop == Drop.KEPT}
    valid = [
        t
        for t in repairs
        if t.key in passed and judge(problems[t.problem_id].problem, t.text).valid
    ]
    used = [t for t in valid if t.key in kept]
    tokens = sum(h.new_tokens for h in hints) + sum(t.new_tokens for t in repairs)
    assert found.sampled == sum(t.new_tokens for t in unaided)
    assert found.repaired == tokens
    assert found.per_passed is not None
    assert found.per_passed.mean == pytest.approx(tokens / len(valid))
    assert found.per_used is not None
    assert found.per_used.mean == pytest.approx(tokens / len(used))
    assert found.covered.mean == len({t.problem_id for t in used}) / len(extreme)


def test_without_extreme_problems_there_is_nothing_to_compare(tmp_path: Path) -> None:
    easy = "problems.args.families=[alt, pairs, long]"
    with pytest.raises(UserError, match="nothing to repair"):
        compare_budgets("rows", [f"run={tmp_path}/run", *SMALL, easy], Watch())
