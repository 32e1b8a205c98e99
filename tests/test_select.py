"""Select: PURE's word on each set, and chance held against it."""

from dataclasses import replace

import numpy as np
import pytest

from heal.config import Pure
from heal.method.arms import TRAINED
from heal.method.pure import Calibration
from heal.records import Finish, Origin, PureScore, Selection, Trace
from heal.stages.select import candidates

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
