"""Select: PURE's word on each set, and chance held against it."""

from dataclasses import replace

import numpy as np
import pytest

from heal.config import Pace, Pure
from heal.method.arms import TRAINED
from heal.method.pure import Calibration
from heal.records import Finish, Origin, PureScore, Selection, Trace
from heal.stages.select import arm_plan, budget, candidates

SETTINGS = Pure(selection=Selection.SURPRISAL)
LINE = Calibration(None, {Selection.SURPRISAL: 1.0}, 40)
SURPRISING = {Origin.HINTED: 11, Origin.REPAIRED: 1}
"""Of 20 traces each."""


def assisted(origin: Origin, index: int) -> tuple[Trace, PureScore]:
    key = f"{origin.value}{index}"
    trace = Trace(key, f"p{index % 4}", origin, index, np.zeros(3, np.int32), key, Finish.STOP, 3)
    surprise = 3.0 if index < SURPRISING[origin] else 0.1
    profile = PureScore(
        f"k{key}",
        trace.problem_id,
        key,
        np.array([0.5], np.float32),
        np.array([np.nan, np.nan], np.float32),
        [3],
        1,
        [True],
        answer_surprisal=np.array([surprise], np.float32),
    )
    return trace, profile


PAIRS = [assisted(origin, index) for origin in SURPRISING for index in range(20)]
TRACES = [trace for trace, _ in PAIRS]
PROFILES = {trace.key: profile for trace, profile in PAIRS}


def dropped(arm: str, seed: int = 0, settings: Pure = SETTINGS) -> dict[str, set[str]]:
    found = candidates(TRACES, PROFILES, TRAINED[arm], settings, seed, LINE)
    return {p: {c.trace for c in found if c.pool == p and c.pure_dropped} for p in ("D2", "D3")}


def test_chance_drops_as_many_of_each_set_as_the_line_did() -> None:
    assert {pool: len(keys) for pool, keys in dropped("heal").items()} == {"D2": 11, "D3": 1}
    chance = dropped("heal-random-drop")
    assert {pool: len(keys) for pool, keys in chance.items()} == {"D2": 11, "D3": 1}
    assert chance["D2"] != dropped("heal")["D2"]
    assert chance["D2"] != dropped("heal-random-drop", seed=1)["D2"]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_chance_drops_as_many_as_a_share_does(share: float) -> None:
    settings = SETTINGS.model_copy(update={"selection": Selection.MEAN_NLL, "drop": share})
    sizes = [
        {pool: len(keys) for pool, keys in dropped(arm, settings=settings).items()}
        for arm in ("heal", "heal-random-drop")
    ]
    assert sizes[0] == sizes[1]


def test_nothing_speaks_for_what_was_not_scored() -> None:
    silent = replace(TRACES[-1], key="silent")
    for arm in ("heal", "heal-random-drop"):
        found = candidates([*TRACES, silent], PROFILES, TRAINED[arm], SETTINGS, 0, LINE)
        assert [c.pure_dropped for c in found if c.trace == "silent"] == [True]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_any_batch_size_can_be_filled_however_unlike_traces_are(batch_size: int) -> None:
    short = {f"a{i}": 30 for i in range(9)}
    sizes = {"D1": short, "D2": {"b": 400}, "D3": {"c": 900, "d": 700}}
    pace = Pace(min_tokens=0)
    spend = budget(sizes, pace, batch_size, 900)
    assert spend is not None and spend.batch_tokens >= 900
    for name in ("heal", "rft", "heal-shuffled"):
        own = {pool: sizes[pool] for pool in TRAINED[name].pools}
        assert all(
            batch for p in arm_plan(TRAINED[name], own, spend, pace, 0) for batch in p.batches
        )
