"""The report of whole runs on the scripted engine: its ledger is what the stages count."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report_fixture import Page, printed
from tests.scripted_run import ScriptedRun, Watch

from heal.config import Config
from heal.records import Gate, Split, Verdict
from heal.report import numbers, sentences
from heal.report.html import render_html
from heal.report.load import load_view
from heal.report.view import LedgerRow, RunView
from heal.stages.match_budget import tokens_to_match
from heal.store import ProblemRow, ScoreRow, Store, TraceRow


class Looking(Watch):
    """Looks whenever something has been done."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self.look = look

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        self.look()


def loaded(run: ScriptedRun) -> RunView:
    with Store.open(run.folder, write=False) as store:
        return load_view(store)


def ledger(view: RunView) -> dict[str, LedgerRow]:
    return {row.name: row for row in view.stage_ledger}


@pytest.mark.parametrize(
    ("arms", "main", "ledgers"),
    [
        ("[base, rft, rft_more]", "rft", ["rft", "rft_more"]),
        ("[base, star]", "star", []),
        ("[base]", None, []),
        ("[heal-no-pure, rft]", "heal-no-pure", ["rft", "heal-no-pure"]),
        ("[heal-random-cut]", "heal-random-cut", ["rft", "heal-random-cut"]),
        ("[rft, heal]", "heal", ["rft", "heal"]),
    ],
)
def test_the_arm_shown_is_named_and_only_a_heal_arm_has_repairs(
    tmp_path: Path, arms: str, main: str | None, ledgers: list[str]
) -> None:
    run = ScriptedRun(tmp_path)
    run.go(f"arms={arms}", "evaluate.scored_token_cost=1")
    view = loaded(run)
    assert view.main_arm == main
    assert [row.name for row in view.arm_ledger] == ledgers
    page, title = Page(render_html(view)).text, sentences.arm_title(view)
    for heals in ("repairs alone", "D3: repairs of", "kept by PURE"):
        assert (heals in page) == view.shows_heal
    assert f"{title} repaired" in page if view.shows_heal else "HEAL repaired" not in page
    assert (f"after: {title}" in printed(view)) == (main is not None)
    assert ("after: HEAL" in printed(view)) == (main == "heal")


@pytest.mark.parametrize(
    "settings",
    [
        "pure={selection: surprisal}",
        "pure={selection: fraction, measure_calibrated: true}",
        "pure={selection: fraction, measure_reliance: true}",
        "pure={selection: fraction}",
    ],
)
def test_heal_in_the_ledger_is_what_other_arms_may_match(tmp_path: Path, settings: str) -> None:
    run = ScriptedRun(tmp_path)
    run.go("arms=[heal, rft_more]", "evaluate.scored_token_cost=1", settings)
    view = loaded(run)
    (heal,) = (row for row in view.arm_ledger if row.name == "heal")
    unaided = ledger(view)["unaided traces"].sampled
    with Store.open(run.folder, write=False) as store:
        budget = tokens_to_match(store, Config(**store.meta("config")), 1.0)
    assert heal.sampled + heal.scored - unaided == budget > 0
    scores = run.rows(ScoreRow, "tag = 'honest'")
    honest = sum(row.scored_tokens for row in scores)
    apart = sum(row.scored for row in view.stage_ledger if not row.in_budget)
    assert apart == (honest if "measure_calibrated" in settings else 0)
    assert bool(honest) == ("calibrated" in settings or "surprisal" in settings)


def test_traces_a_gate_refused_are_wasted(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go("gear.early_answer_share=0.99")
    for name, stage in (("repairs", "repair"), ("whole traces under the answer", "hinted")):
        traces = run.rows(TraceRow, "stage = ? AND tag IN ('', 'difference')", stage)
        refused = [t for t in traces if t.gate != Gate.PASSED]
        assert any(t.verdict == Verdict.CORRECT for t in refused)
        assert ledger(loaded(run))[name].wasted == sum(t.new_tokens for t in refused)


def test_a_run_whose_problems_became_fewer_has_a_page_of_those_left(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    before = loaded(run)
    run.go("problems.limit=1", until="locate")
    view = loaded(run)
    (left,) = (row.problem for row in run.rows(ProblemRow))
    assert sum(view.problems.values()) == 1 < sum(before.problems.values())
    assert {case.problem.id for case in view.gallery} <= {left}
    judged = sum(sum(numbers.verdict_counts(view, split).values()) for split in Split)
    assert judged == len(run.rows(TraceRow, "stage = 'sample'")) > 0
    assert Page(render_html(view)).unbalanced == []


def test_a_report_of_what_is_finished_is_there_while_a_run_goes_on(tmp_path: Path) -> None:
    seen: list[RunView] = []
    run = ScriptedRun(tmp_path)
    run.go(watch=Looking(lambda: seen.append(loaded(run))))
    assert seen and all(view.running and view.stopped is None for view in seen)
    sampled = [sum(view.strata[Split.TRAIN][s].problems for s in view.strata[Split.TRAIN])
               for view in seen]  # fmt: skip
    assert sampled == sorted(sampled) and sampled[-1] > 0
    for view in seen:
        running = view.running
        assert running is not None and running.done <= running.owed
        assert "Still running" in Page(render_html(view)).text
    assert loaded(run).running is None and "Still running" not in printed(loaded(run))
