"""Select: PURE's word on each set, chance held against it, and what every arm's sets hold."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heal.config import Config, Pace
from heal.method.arms import TRAINED
from heal.method.pure import Calibration
from heal.records import (
    Drop,
    Example,
    Finish,
    Gate,
    HintedScore,
    Origin,
    Outcome,
    Problem,
    PureScore,
    Selection,
    StepWord,
    StepWords,
    Stratum,
    Trace,
    Verdict,
)
from heal.stages.candidates import Seen, unseen
from heal.stages.filter import Profiles
from heal.stages.select import Offer, select
from heal.store import ProblemRow, ScoreRow, SelectedRow, Store, Stored, TraceRow
from heal.students.arms import arm_plan, matched_budget

LINE = Calibration(None, {Selection.SURPRISAL: 1.0}, 40)
SURPRISING = {Origin.HINTED: 11, Origin.REPAIRED: 1}
"""Of 20 traces each."""
STAGE = {Origin.UNAIDED: "sample", Origin.HINTED: "hinted", Origin.REPAIRED: "repair"}
PROBLEMS = {f"p{i}": Problem(f"p{i}", f"What is {i}?", "1") for i in range(4)}


def config(**sections: Any) -> Config:
    pure = {"selection": "surprisal"} | sections.pop("pure", {})
    return Config.model_validate(
        {
            "run": "run",
            "problems": {"path": "problems.jsonl"},
            "teacher": {"engine": "scripted", "model": "script.json"},
            "arms": ["heal", "heal-random-drop"],
            "pure": pure,
        }
        | sections
    )


def trace(origin: Origin, index: int, words: str = "") -> Trace:
    key = f"{origin.value}{index}"
    text = words or " ".join(f"{key}w{n}" for n in range(30))
    ids = np.zeros(3 + index, np.int32)
    return Trace(key, f"p{index % 4}", origin, index, ids, text, Finish.STOP, 3)


def put(store: Store, one: Trace, tag: str = "", gate: Gate | None = None, **row: Any) -> None:
    """A correct trace, in body and columns."""
    stage, tokens = row.pop("stage", STAGE[one.origin]), len(one.ids)
    store.commit([Stored(stage, one.key, one.problem_id, one)])
    found = TraceRow(
        one.problem_id, stage, tag, one.key, one.seed_index, one.finish, tokens, tokens,
        Verdict.CORRECT, "1", gate, None, None, False,
    )  # fmt: skip
    store.insert([found._replace(**row)])


def put_profile(store: Store, one: Trace, tag: str, surprise: float, failed: bool = False) -> None:
    """Its profile."""
    profile = PureScore(
        f"k{one.key}",
        one.problem_id,
        one.key,
        np.array([0.5], np.float32),
        np.array([np.nan, 0.2], np.float32),
        [3],
        1,
        [True],
        answer_surprisal=np.array([surprise], np.float32),
        error="timed out" if failed else None,
    )
    store.commit([Stored("pure", profile.key, one.problem_id, profile)])
    row = ScoreRow(one.problem_id, "pure", tag, profile.key, one.key, 9, failed, None, surprise)
    store.insert([row])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Four extreme problems; of 20 traces each, 11 hinted and 1 repaired one are surprising."""
    with Store.open(tmp_path / "run") as opened:
        store_problems(opened)
        for origin, surprising in SURPRISING.items():
            tag = "difference" if origin is Origin.REPAIRED else ""
            for index in range(20):
                one = trace(origin, index)
                put(opened, one, tag, Gate.PASSED)
                put_profile(opened, one, tag or "hinted", 3.0 if index < surprising else 0.1)
        yield opened


def store_problems(store: Store, stratum: Stratum = Stratum.EXTREME) -> None:
    rows = [
        ProblemRow(name, place, "train", None, 30, 0, 0, 0, stratum, 0.0, 0, None)
        for place, name in enumerate(PROBLEMS)
    ]
    store.insert(rows)


def dropped(store: Store, arm: str, c: Config) -> dict[str, set[str]]:
    found = Profiles(store, c, LINE).filter(arm, TRAINED[arm]).dropped
    pools = {"D2": Origin.HINTED, "D3": Origin.REPAIRED}
    return {pool: {t for t in found if t.startswith(str(origin))} for pool, origin in pools.items()}


def sizes_of(found: dict[str, set[str]]) -> dict[str, int]:
    return {pool: len(traces) for pool, traces in found.items()}


def test_chance_drops_as_many_of_each_set_as_the_line_did(store: Store) -> None:
    assert sizes_of(dropped(store, "heal", config())) == {"D2": 11, "D3": 1}
    chance = dropped(store, "heal-random-drop", config())
    assert sizes_of(chance) == {"D2": 11, "D3": 1}
    assert chance["D2"] != dropped(store, "heal", config())["D2"]
    assert chance["D2"] != dropped(store, "heal-random-drop", config(seed=1))["D2"]


@pytest.mark.parametrize(("share", "each"), [(0.0, 0), (0.2, 1), (0.5, 3)])
def test_chance_drops_as_many_as_a_share_of_each_problem_does(
    store: Store, share: float, each: int
) -> None:
    c = config(pure={"selection": "mean_nll", "drop": share})
    one, other = (sizes_of(dropped(store, arm, c)) for arm in ("heal", "heal-random-drop"))
    assert one == other == {"D2": 4 * each, "D3": 4 * each}


@pytest.mark.parametrize("arm", ["heal", "heal-random-drop"])
@pytest.mark.parametrize("failed", [True, False])
def test_nothing_speaks_for_what_was_not_scored(store: Store, arm: str, failed: bool) -> None:
    silent = trace(Origin.REPAIRED, 99)
    put(store, silent, "difference", Gate.PASSED)
    if failed:
        put_profile(store, silent, "difference", 0.1, failed=True)
    assert silent.key in dropped(store, arm, config())["D3"]


def say(store: Store, fudged: set[str], clean: set[str]) -> None:
    """Give the step checker's word on these traces, problem by problem."""
    store.set_meta("config", {"steps": {"checker": "own"}})
    for problem in PROBLEMS:
        said = {
            name: StepWord(Outcome.WRONG_STEP if name in fudged else Outcome.NONE_FOUND)
            for name in fudged | clean
            if int(name.lstrip("hintedrpa")) % 4 == int(problem[1:])
        }
        store.put("stepwords", "words", problem, StepWords("words", problem, "own", said))


HALF = {f"{kind}{n}" for kind in ("hinted", "repaired") for n in range(20)}
LOUD = {f"hinted{n}" for n in range(11)} | {"repaired0"}


@pytest.mark.parametrize(
    ("line", "fudged", "sizes", "by_share"),
    [
        # without words enough, honest traces draw it
        ({"clean_lost": 0.05}, HALF - {"hinted19"}, {"D2": 11, "D3": 1}, False),
        # the clean are quiet: the line is theirs, and all the loud go
        ({"clean_lost": 0.05}, LOUD, {"D2": 11, "D3": 1}, True),
        # half of the clean are loud, and nearly all must be kept
        ({"clean_lost": 0.05}, {"repaired19"}, {"D2": 0, "D3": 0}, True),
        ({"fudged_passed": 0.9}, HALF - {"hinted19"}, {"D2": 0, "D3": 0}, True),
        ({"fudged_passed": 0.5}, HALF - {"hinted19"}, {"D2": 11, "D3": 1}, True),
        ({"honest_lost": 0.05}, LOUD, {"D2": 11, "D3": 1}, False),
    ],
)
def test_a_line_stands_where_a_share_of_the_clean_or_the_fudged_puts_it(
    store: Store, line: dict[str, float], fudged: set[str], sizes: dict[str, int], by_share: bool
) -> None:
    say(store, fudged, HALF - fudged)
    c = config(pure={"line": line})
    assert sizes_of(dropped(store, "heal", c)) == sizes
    profiles = Profiles(store, c, LINE)
    told = profiles.told(TRAINED["heal"], profiles.filter("heal", TRAINED["heal"]))
    assert told["by_share"] is by_share
    assert (told["at_line"]["fudged"], told["at_line"]["clean"]) == (len(fudged), 40 - len(fudged))


@pytest.mark.parametrize("arm", ["heal", "heal-random-drop"])
def test_pure_leaves_alone_what_the_gates_checker_read_and_found_nothing_wrong_in(
    store: Store, arm: str
) -> None:
    vouched = {"hinted0", "hinted1", "repaired0", "repaired19"}
    say(store, set(), vouched)
    unscored = trace(Origin.HINTED, 40)
    put(store, unscored, "", Gate.PASSED)
    say(store, set(), vouched | {unscored.key})
    checked = {"checker": "arithmetic"}
    spared = config(steps=checked, pure={"spare_checked": True})
    assert sizes_of(dropped(store, arm, spared)) == {"D2": 9, "D3": 0}
    assert not dropped(store, arm, spared)["D2"] & (vouched | {unscored.key})
    left = "hinted and repaired traces PURE leaves alone, for the step checker found none wrong"
    assert Profiles(store, spared, LINE).facts()[left] == 5
    for judged in (
        config(steps=checked),  # not asked to
        config(steps=checked | {"gate": False}, pure={"spare_checked": True}),  # nothing was gated
    ):
        assert sizes_of(dropped(store, arm, judged)) == {"D2": 12, "D3": 1}
        assert Profiles(store, judged, LINE).facts()[left] == 0


def test_what_a_line_costs_is_told_by_the_checkers_word_with_its_interval(store: Store) -> None:
    say(store, LOUD - {"repaired0"}, HALF - LOUD | {"repaired0"})
    profiles = Profiles(store, config(), LINE)
    at = profiles.told(TRAINED["heal"], profiles.filter("heal", TRAINED["heal"]))["at_line"]
    assert (at["clean"], at["clean_lost"]["mean"]) == (29, pytest.approx(1 / 29))
    assert (at["fudged"], at["fudged_passed"]["mean"]) == (11, 0)
    assert 0 <= at["clean_lost"]["low"] < at["clean_lost"]["mean"] < at["clean_lost"]["high"] < 0.3


def test_what_no_gate_let_through_is_not_purified(store: Store) -> None:
    put(store, trace(Origin.REPAIRED, 98), "difference", Gate.HINT_TALK)
    assert "repaired98" not in dropped(store, "heal", config())["D3"]


def test_another_breakpoints_repairs_do_not_move_the_choice(store: Store) -> None:
    before = dropped(store, "heal", config())
    for index in range(50, 70):
        put(store, trace(Origin.REPAIRED, index), "random", Gate.PASSED)
        put_profile(store, trace(Origin.REPAIRED, index), "random", 9.0)
    c = config(arms=["heal", "heal-random-cut"])
    assert dropped(store, "heal", c) == before
    control = dropped(store, "heal-random-cut", c)
    assert control["D2"] == before["D2"]


def test_where_nearly_all_are_above_the_line_a_share_goes_and_the_set_is_counted(
    store: Store,
) -> None:
    low = Calibration(None, {Selection.SURPRISAL: 0.05}, 40)
    profiles = Profiles(store, config(), low)
    found = profiles.filter("heal", TRAINED["heal"])
    assert (len(found.dropped), found.misfits) == (8, 2)
    (fact,) = [n for text, n in profiles.facts().items() if text.startswith("arm heal: sets")]
    assert fact == 2


def test_reliance_reads_the_hinted_score_beside_the_profile(store: Store) -> None:
    for index in range(20):
        one, failed = trace(Origin.REPAIRED, index), index == 7
        value = None if failed else 0.01 if index % 5 == 3 else 0.4
        told = HintedScore(f"r{index}", one.problem_id, one.key, value)
        store.commit([Stored("reliance", told.key, one.problem_id, told)])
        row = ("reliance", "difference", told.key, one.key, 5, failed, None, None)
        store.insert([ScoreRow(one.problem_id, *row)])
    c = config(pure={"selection": "reliance"})
    # of each problem the one that leans on its hint, and the one that nobody could measure
    leaning = {f"repaired{index}" for index in (3, 8, 13, 18)}
    assert dropped(store, "heal", c)["D3"] == leaning | {"repaired7"}


def test_joint_finds_by_either_reading_what_the_other_passes(store: Store) -> None:
    for index in range(20):
        one, failed = trace(Origin.REPAIRED, index), index == 7
        value = None if failed else 0.01 if index in (3, 13, 18) else 0.4
        told = HintedScore(f"r{index}", one.problem_id, one.key, value)
        store.commit([Stored("reliance", told.key, one.problem_id, told)])
        row = ("reliance", "difference", told.key, one.key, 5, failed, None, None)
        store.insert([ScoreRow(one.problem_id, *row)])
    # repaired0 surprises, three lean on their hint, and one could not be measured
    expected = {f"repaired{index}" for index in (0, 3, 7, 13, 18)}
    for arms in (["heal"], ["heal", "heal-random-drop"]):
        c = config(pure={"selection": "joint"}, arms=arms)
        assert dropped(store, "heal", c)["D3"] == expected
    assert len(dropped(store, "heal-random-drop", c)["D3"]) == len(expected)


# --- sets --------------------------------------------------------------------------------------


def chosen(store: Store, c: Config, see: Any = unseen) -> tuple[list[SelectedRow], list[Example]]:
    written: list[Example] = []
    select(Offer(store, c, PROBLEMS, Profiles(store, c, LINE), see), written.append)
    return list(store.rows(SelectedRow)), written


def test_every_correct_trace_is_decided_once_in_each_arm_that_has_its_set(store: Store) -> None:
    for index in range(8):
        put(store, trace(Origin.UNAIDED, index))
    put(store, trace(Origin.UNAIDED, 9), verdict=Verdict.WRONG)
    arms = ["rft", "star", "heal", "heal-no-pure"]
    rows, written = chosen(store, config(arms=arms))
    count = Counter((row.arm, row.pool) for row in rows)
    d1, d2 = {(arm, "D1"): 8 for arm in arms}, {(arm, "D2"): 20 for arm in arms[1:]}
    assert count == d1 | d2 | {(arm, "D3"): 20 for arm in arms[2:]}
    drops = {arm: {row.drop for row in rows if row.arm == arm} for arm in arms}
    assert Drop.PURE in drops["heal"]
    assert all(Drop.PURE not in drops[arm] for arm in arms if arm != "heal")
    kept = {row.trace for row in rows if row.arm == "heal" and row.drop == Drop.KEPT}
    assert sorted(example.trace for example in written) == sorted(kept)
    assert all(row.doubt is not None for row in rows if row.drop == Drop.KEPT)


def test_what_was_drawn_to_match_the_budget_is_its_own_arms(store: Store) -> None:
    more = trace(Origin.UNAIDED, 4)
    put(store, trace(Origin.UNAIDED, 0))
    put(store, more, "rft_more", stage="matched")
    rows, _ = chosen(store, config(arms=["rft", "rft_more", "heal"]))
    assert {row.arm for row in rows if row.trace == more.key} == {"rft_more"}
    assert {row.arm for row in rows if row.trace == "unaided0"} == {"rft", "rft_more", "heal"}


def test_an_arm_without_gates_takes_hinted_traces_for_being_correct(store: Store) -> None:
    refused = trace(Origin.HINTED, 40)
    put(store, refused, "", Gate.HINT_TALK)
    rows, _ = chosen(store, config(arms=["star", "heal"]))
    assert {row.arm for row in rows if row.trace == refused.key} == {"star"}


def test_choosing_again_gives_the_same_and_leaves_nothing_of_another_choice(store: Store) -> None:
    first, _ = chosen(store, config(arms=["heal", "heal-no-pure"]))
    chosen(store, config(arms=["star"]))
    again, _ = chosen(store, config(arms=["heal", "heal-no-pure"]))
    assert again == first


def test_what_a_student_refuses_is_named_and_takes_nobodys_place(store: Store) -> None:
    def see(shown: Example) -> Seen:
        number = int(shown.trace.removeprefix("repaired").removeprefix("hinted"))
        return Seen(None, Drop.TOO_LONG) if number % 2 else Seen(number + 100)

    rows, written = chosen(store, config(arms=["heal"]), see)
    kept = [row for row in rows if row.drop == Drop.KEPT]
    assert {row.student_tokens for row in kept} == {
        100 + int(row.trace.removeprefix("repaired").removeprefix("hinted")) for row in kept
    }
    assert any(row.drop == Drop.TOO_LONG for row in rows)
    assert len(written) == len(kept) > 8


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_any_batch_size_can_be_filled_however_unlike_traces_are(batch_size: int) -> None:
    short = {f"a{i}": 30 for i in range(9)}
    sizes = {"D1": short, "D2": {"b": 400}, "D3": {"c": 900, "d": 700}}
    pace = Pace(min_tokens=0)
    budget = matched_budget(sizes, pace, batch_size, 900)
    assert budget is not None and budget.batch_tokens >= 900
    for name in ("heal", "rft", "heal-shuffled"):
        own = {pool: sizes[pool] for pool in TRAINED[name].pools}
        assert all(
            batch for p in arm_plan(TRAINED[name], own, budget, pace, 0) for batch in p.batches
        )
