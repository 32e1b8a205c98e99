"""What the real-model benchmark counts as bought, on a run whose every figure is known."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from benchmarks import real_model
from benchmarks.real_pooled import compared, ways_in
from benchmarks.real_yield import WHOLE, Way, Words, table, times, ways

from heal.method.intervals import Interval
from heal.method.summary import ArmScore, Difference, EvalSummary
from heal.records import Finish, Gate, Origin, Problem, Trace
from heal.store import HintRow, ProblemRow, ScoreRow, SelectedRow, Store, TraceRow

CLEAN, FUDGED, MUTE = "So 4 + 4 = 8. It is 8.", "So 4 + 4 = 9. It is 8.", "It is eight."


def trace_row(problem, stage, tag, key, passed, tokens=100):
    told = ("correct", "8", Gate.PASSED) if passed else ("wrong", "7", Gate.INCORRECT)
    return TraceRow(problem, stage, tag, key, 0, Finish.STOP, tokens, tokens, *told, None, "cut",
                    False)  # fmt: skip


TRIED = {
    # by breakpoint: (problem, text, whether it passed the gates)
    "claims": [("p1", CLEAN, True), ("p1", MUTE, True), ("p2", FUDGED, True), ("p3", CLEAN, True)],
    "restart": [("p1", CLEAN, True), ("p1", FUDGED, True), ("p2", CLEAN, False)],
}


@pytest.fixture
def run(tmp_path):
    """Two extreme problems, and an easy one whose traces are none of a way's yield."""
    with Store.open(tmp_path / "run") as store:
        for n, stratum in ((1, "extreme"), (2, "extreme"), (3, "easy")):
            store.put("problem", f"p{n}", f"p{n}", Problem(f"p{n}", "What is 4 + 4?", "8"))
            place = (f"p{n}", n, "train", "sums", 10, 0, 0, 0, stratum, 0.0, 1, None)
            store.insert([ProblemRow._make(place)])
        for tag, tried in TRIED.items():
            for n, (problem, text, passed) in enumerate(tried):
                key = f"{tag}-{n}"
                ids = np.arange(100, dtype=np.int32)
                made = Trace(key, problem, Origin.REPAIRED, 0, ids, text, Finish.STOP, 5)
                store.put("repair", key, problem, made)
                store.insert([trace_row(problem, "repair", tag, key, passed)])
        store.insert([HintRow("p1", "claims", "h", "cut", "answer", "guided", 3, 50, False, False,
                              False)])  # fmt: skip
        store.insert([ScoreRow("p1", "scores", "", "s", "t", 300, False, None, None)])
        kept = [
            ("heal", "p1", "claims-0"),
            ("heal", "p2", "claims-2"),
            ("rft_more", "p1", "claims-0"),
        ]
        store.insert(
            [SelectedRow(arm, p, t, "D3", "kept", None, 100, None, None, "repair")
             for arm, p, t in kept]
        )  # fmt: skip
        store.insert([SelectedRow("heal", "p1", "restart-1", "D3", "pure", 2.0, 100, None, None,
                                  "repair")])  # fmt: skip
    return tmp_path / "run"


def test_a_way_pays_for_its_hints_and_the_scores_it_reads_on_extreme_problems_alone(run):
    with Store.open(run, write=False) as store:
        found = {way.name: way for way in ways(store, Words(store))}
    assert set(found) == {"claims", "restart", WHOLE}
    claims, restart = found["claims"], found["restart"]
    assert (claims.problems, claims.valid) == (["p1", "p2"], [2, 0])
    assert claims.tokens == [200 + 50 + 150, 100]
    assert restart.tokens == [200, 100] and restart.valid == [1, 0]
    assert claims.counts == {"tried": 3, "right": 3, "passed": 3, "fudged": 1, "unreadable": 1}
    assert restart.counts["passed"] == 2 and restart.counts["right"] == 2
    assert claims.hints == {"guided → answer": 1}


def test_the_table_tells_the_fudged_share_and_coverage_with_n(run):
    with Store.open(run, write=False) as store:
        found = table(store)
    assert found["yields"]["claims"]["share"] == pytest.approx(1000 * 2 / 500)
    assert found["yields"][WHOLE] is None
    assert found["fudged"]["heal"] | {"low": 0, "high": 0} == {
        "share": 0.5, "low": 0, "high": 0, "n": 2,
    }  # fmt: skip
    heal = found["coverage"]["heal"]
    assert (heal["accepted"]["share"], heal["valid"]["share"], heal["valid"]["n"]) == (1, 0.5, 2)
    assert heal["accepted − rft_more"]["share"] == 0.5
    assert heal["valid − rft_more"]["share"] == 0
    (gets,) = [own for own in found["gets"] if own["arm"] == "heal"]
    assert gets["dropped_by_pure"] == {"wrong_step": 1}
    json.dumps(found)


def way(name, valid, tokens=100.0):
    n = len(valid)
    return Way(name, [f"p{i}" for i in range(n)], [tokens] * n, list(valid), {}, {})


def test_a_ratio_of_yields_draws_the_same_problems_for_both():
    often, seldom = way("claims", [2, 4] * 20), way("restart", [1, 2] * 20)
    assert times(often, seldom) is None  # twice as many in every draw: an interval without width
    found = times(way("claims", [1, 1] * 20), seldom)
    assert found is not None
    assert found["share"] == pytest.approx(2 / 3)
    assert 0.5 < found["low"] < found["share"] < found["high"] < 1
    assert times(often, way("restart", [0, 0] * 20)) is None
    with pytest.raises(ValueError, match="different problems"):
        times(often, way("restart", [1]))


def test_runs_are_pooled_over_their_own_problems_and_quotients_over_the_runs_of_both():
    first = {"ways": [asdict(way("claims", [2, 0])), asdict(way("restart", [1, 1]))]}
    answer = {"hint": "answer", "gate": False, "ways": [asdict(way("restart", [0, 2, 4], 50.0))]}
    guided = {"hint": "guided", "gate": False, "ways": [asdict(way("restart", [9, 9, 9]))]}
    gated = {"hint": "answer", "gate": True, "ways": [asdict(way("restart", [9, 9, 9]))]}
    second = {"states": {"arms": answer, "arms-gated": gated, "other": guided}}
    found = compared([*map(ways_in, (first, second))])
    assert found["yields"]["claims"]["runs"][1] is None
    assert found["yields"]["claims"]["pooled"]["n"] == 2
    pooled = found["yields"]["restart"]["pooled"]
    assert (pooled["n"], pooled["share"]) == (5, pytest.approx(1000 * 8 / (2 * 100 + 3 * 50)))
    quotient = found["quotients"]["claims / restart"]
    assert (quotient["runs"], quotient["times"]["n"]) == (1, 2)


def test_states_repeat_no_way_and_the_gate_is_off_where_yields_are_read():
    planned = list(
        real_model.states(["base", "heal"], ["difference", "claims"], ["answer", "guided"])
    )
    assert [state.name for state in planned] == [
        "arms", "arms-gated", "claims-answer", "difference-guided",
    ]  # fmt: skip
    gates = [next(o for o in state.overrides if "steps.gate" in o) for state in planned]
    assert gates == ["steps.gate=false", "steps.gate=true", "steps.gate=false", "steps.gate=false"]
    assert {state.until for state in planned} == {"select", "score"}


def test_students_are_told_by_arm_and_difference_with_n(capsys):
    around = Interval(0.4, 0.3, 0.5, 24)
    arms = (ArmScore("heal", "easy", around, {8: around}, around, around, around, around, around),)
    gaps = (Difference("heal", "rft_more", "hard+extreme", around, primary=True),)
    told = real_model.students(EvalSummary(k=8, seeds=3, arms=arms, differences=gaps))
    real_model.print_students(json.loads(json.dumps(told)))
    shown = capsys.readouterr().out
    assert "avg@8, 3 training seeds" in shown
    assert "| heal | easy | 40 [30, 50], n = 24 |" in shown
    assert "| heal − rft_more | hard+extreme | 40 [30, 50], n = 24 |" in shown
    assert real_model.students(None) is None
    real_model.print_students(None)
    assert capsys.readouterr().out == ""


def test_every_arm_but_those_that_read_otherwise_is_trained_by_one_command():
    assert {"base", "rft", "rft_more", "star", "heal", "heal-shuffled"} <= {*real_model.DATA_ARMS}
    state = real_model.with_student(real_model.DATA_ARMS, "some-student", 3)
    assert state.until is None and "seeds=[0, 1, 2]" in state.overrides


def test_a_folder_keeps_its_recipe_and_names_no_problem_twice(tmp_path):
    pytest.importorskip("reasoning_gym")
    recipe = real_model.prepare(tmp_path, "some-teacher", quick=True)
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert len({row["problem"] for row in rows}) == len(rows) > 12
    recipe.write_text("run: mine\n")
    assert real_model.prepare(tmp_path, "another", quick=False).read_text() == "run: mine\n"


def test_ways_of_several_states_are_told_apart_by_their_hint():
    def state(hint, gate, *own):
        return {"gate": gate, "hint": hint, "ways": [vars(each) for each in own]}

    found = real_model.ways_of({
        "arms": state("answer", False, way("difference", [1]), way(WHOLE, [1])),
        "gated": state("answer", True, way("difference", [0])),
        "guided": state("guided", False, way("difference", [0]), way(WHOLE, [1])),
    })  # fmt: skip
    assert set(found) == {"difference · answer", WHOLE, "difference · guided"}
    assert found["difference · answer"].valid == [1]
