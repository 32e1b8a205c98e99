"""The court on real, small runs of each world: every table is there, and says what it is of."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scripted_run import Watch

from heal.errors import UserError
from heal.lab.benchmark import Court, compare, lab_config
from heal.lab.benchmark_page import markdown
from heal.lab.worlds import WORLDS, world_of

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
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, compare(request.param, [f"run={folder}/run", *SMALL], Watch())


def test_the_recipe_opens_the_models_of_the_world_asked_for() -> None:
    for world in WORLDS:
        config = lab_config(world, [])
        assert config.teacher.model == f"pkg://heal.lab/assets/{world}/teacher"
        assert config.student is not None
        assert config.student.model == f"pkg://heal.lab/assets/{world}/student"


def test_a_run_is_of_one_world(held: tuple[str, Court]) -> None:
    from heal.records import Problem
    from heal.store import Store

    world, court = held
    with Store.open(Path(court.run), write=False) as store:
        texts = [p.problem for p in store.live("problem", Problem).values()]
    assert {world_of(text).name for text in texts} == {world}


def test_cuts_are_judged_by_every_breakpoint_and_every_failed_trace_is_accounted_for(
    held: tuple[str, Court],
) -> None:
    court = held[1]
    names = [cut.name for cut in court.cuts]
    assert names[:3] == ["difference", "difference (top20)", "zscore"]
    assert {"cusum", "random", "fixed_third", "restart"} < set(names)
    assert len({cut.hit.n_problems for cut in court.cuts}) == 1


def test_detectors_are_measured_on_the_same_traces(held: tuple[str, Court]) -> None:
    for pool in ("D2", "D3"):
        rows = [row for row in held[1].detection if row.pool == pool]
        assert {"fraction", "calibrated", "surprisal", "reliance", "mean_nll", "random"} <= {
            row.name for row in rows
        }
        assert len({(row.valid, row.fudged) for row in rows}) == 1


def test_the_page_has_every_table_with_its_n(held: tuple[str, Court]) -> None:
    page = markdown(held[1])
    for title in ("1. Ceiling", "2. Breakpoint", "3. PURE", "4. Students", "5. Ledger"):
        assert f"**{title}**" in page
    assert page.count("n = ") > 20
    assert "| D1 |" in page


def test_an_arm_without_hinted_traces_has_no_set_to_measure(
    held: tuple[str, Court],
) -> None:
    from heal.report.load import load_view
    from heal.store import Store

    with Store.open(Path(held[1].run), write=False) as store:
        texts = [fact.text for fact in load_view(store).facts]
    assert not any(text.startswith("arm rft: sets") for text in texts)


def test_a_world_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match="no world 'mazes'") as caught:
        lab_config("mazes", [])
    assert caught.value.hint == "--world rows or walks"
