"""The benchmark on real, small runs of each world: every table is there, and of all there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scripted_run import Watch

from heal.errors import UserError
from heal.lab.benchmark import Benchmark, compare, lab_config
from heal.lab.benchmark_page import markdown
from heal.lab.truth import judge
from heal.lab.worlds import WORLDS, world_of
from heal.records import Drop, Problem, Split, Trace, TrainResult
from heal.report.load import load_view
from heal.store import ProblemRow, SelectedRow, Store

SMALL = (
    "arms=[base, rft, heal, heal-ratio]",
    "seeds=[0]",
    "problems.args.n=33",
    "sampling.n=12",
    "evaluate.teacher_n=12",
    "gear.paths=2",
    "gear.candidates=3",
    "gear.hinted_samples=3",
    "pace.epochs=1",
    "evaluate.samples=2",
)


@pytest.fixture(scope="module", params=WORLDS)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, compare(request.param, [f"run={folder}/run", *SMALL], Watch())


def test_the_recipe_opens_the_models_of_the_world_asked_for() -> None:
    for world in WORLDS:
        config = lab_config(world, [])
        assert config.teacher.model == f"pkg://heal.lab/assets/{world}/teacher"
        assert config.student is not None
        assert config.student.model == f"pkg://heal.lab/assets/{world}/student"


def test_a_run_is_of_one_world(measured: tuple[str, Benchmark]) -> None:
    world, found = measured
    with Store.open(Path(found.run), write=False) as store:
        texts = [problem.problem for _, problem in store.live("problem", Problem)]
    assert {world_of(text).name for text in texts} == {world}


def test_cuts_are_judged_by_every_breakpoint_and_every_failed_trace_is_accounted_for(
    measured: tuple[str, Benchmark],
) -> None:
    found = measured[1]
    names = [cut.name for cut in found.cuts]
    assert names[:3] == ["difference", "difference (top20)", "zscore"]
    assert {"cusum", "random", "fixed_third", "restart"} < set(names)
    (n,) = {cut.hit.n_problems for cut in found.cuts}
    with Store.open(Path(found.run), write=False) as store:
        ((cuts,),) = store.query("SELECT COUNT(*) FROM cuts WHERE tag='difference'")
    assert n + found.misaligned == cuts > 0


def test_detectors_are_measured_on_the_same_traces(measured: tuple[str, Benchmark]) -> None:
    found = measured[1]
    for pool, group in (("D2", "hinted"), ("D3", "difference")):
        rows = [row for row in found.detection if row.pool == pool]
        assert {"fraction", "calibrated", "surprisal", "reliance", "joint", "random"} <= {
            row.name for row in rows
        }
        ((valid, fudged),) = {(row.valid, row.fudged) for row in rows}
        with Store.open(Path(found.run), write=False) as store:
            profiles = list(
                store.query("SELECT key FROM scores WHERE stage='pure' AND tag=?", (group,))
            )
        assert valid + fudged == len(profiles) > 0


def test_an_arm_covers_what_its_own_traces_cover(measured: tuple[str, Benchmark]) -> None:
    """Each figure counted again, from every arm's traces one by one."""
    found = measured[1]
    assert [c.arm for c in found.coverage] == ["rft", "heal", "heal-ratio"]
    with Store.open(Path(found.run), write=False) as store:
        problems = {p.id: p for _, p in store.live("problem", Problem)}
        extreme = {
            row.problem
            for row in store.rows(ProblemRow, "stratum='extreme'")
            if problems[row.problem].split is Split.TRAIN
        }
        for c in found.coverage:
            kept = [
                row
                for row in store.rows(SelectedRow, "arm=?", c.arm)
                if row.drop == Drop.KEPT and row.problem in extreme
            ]
            valid = [row for row in kept if _is_valid(store, problems[row.problem], row)]
            assert (c.traces, c.valid_traces) == (len(kept), len(valid))
            assert c.accepted.mean == len({row.problem for row in kept}) / len(extreme)
            assert c.valid.mean == len({row.problem for row in valid}) / len(extreme)
    assert found.coverage[1].valid_traces > 0


def _is_valid(store: Store, problem: Problem, row: SelectedRow) -> bool:
    trace = store.get(row.stage, row.trace, row.problem, Trace)
    assert trace is not None
    return judge(problem.problem, trace.text).valid


def test_every_arm_is_rehearsed_by_default(measured: tuple[str, Benchmark]) -> None:
    with Store.open(Path(measured[1].run), write=False) as store:
        results = [result for _, result in store.live("train", TrainResult)]
        facts = {fact.text: fact.count for fact in load_view(store).facts}
    for arm in ("rft", "heal", "heal-ratio"):
        own = sorted((r for r in results if r.arm == arm), key=lambda r: r.stage)
        assert [r.stage for r in own] == [1, 2, 3, 4]
        assert own[-1].folder == f"students/{arm}-seed0/stage4"
        assert (Path(measured[1].run) / own[-1].folder / "model.safetensors").is_file()
    assert {r.stage: r.steps for r in results if r.arm == "rft"} == {
        r.stage: r.steps for r in results if r.arm == "heal"
    }
    assert facts["of these rehearsed"] > 0


def test_the_page_has_every_table_with_its_n(measured: tuple[str, Benchmark]) -> None:
    page = markdown(measured[1])
    for title in ("1. Ceiling", "2. Breakpoint", "3. PURE", "4. Students", "5. Ledger"):
        assert f"**{title}**" in page
    assert page.count("n = ") > 20
    assert "| D1 |" in page


def test_an_arm_without_hinted_traces_has_no_set_to_measure(
    measured: tuple[str, Benchmark],
) -> None:
    with Store.open(Path(measured[1].run), write=False) as store:
        texts = [fact.text for fact in load_view(store).facts]
    assert not any(text.startswith("arm rft: sets") for text in texts)


def test_a_world_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match="no world 'mazes'") as caught:
        lab_config("mazes", [])
    assert caught.value.hint == "--world rows or walks or moves"
