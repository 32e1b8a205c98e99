"""What a student forgets is shown stage by stage, and its own answers may be shown to it again."""

import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from tests.test_run_arms import with_student

from heal.method.retention import after_stages, after_training
from heal.method.summary import summarise
from heal.prompts import Prompts
from heal.records import (
    Drop,
    EvalTrace,
    Finish,
    OwnAnswer,
    Problem,
    StageExam,
    StagePlan,
    Stratum,
    Verdict,
)
from heal.report.html import render_html
from heal.report.table import print_table
from heal.stages.candidates import Seen
from heal.store import AttemptRow, SelectedRow, Store, Stored
from heal.students import own

STRATA = {"a": "easy", "b": "easy", "c": "easy", "d": "extreme", "e": "extreme"}
BASE = {"a": 1.0, "b": 0.5, "c": 1.0, "d": 0.0, "e": 0.25}


def exam(seed: int, stage: int, arm: str = "heal", **shares: float) -> StageExam:
    return StageExam(f"{arm}{seed}{stage}", arm, seed, stage, shares)


def kept(*exams: StageExam):
    return after_stages(exams, BASE, STRATA, {}, resamples=500, seed=0)


def test_a_stage_is_measured_against_the_untouched_student_on_the_problems_both_answered() -> None:
    before = exam(0, 1, a=1.0, b=0.5, d=1.0)
    after = (exam(0, 3, a=0.5, b=0.0, d=1.0, z=1.0), exam(1, 3, a=0.0, b=0.5, d=1.0))
    found = {(k.stage, k.stratum): k.interval for k in kept(before, *after)}
    assert set(found) == {(1, "easy"), (1, "extreme"), (3, "easy"), (3, "extreme")}
    assert found[1, "easy"].mean == 0
    assert found[3, "easy"].mean == pytest.approx((0.5 + 0 + 0 + 0.5) / 4 - 0.75)
    assert found[3, "easy"].n_problems == 2, "c and z were not answered by both"
    assert found[3, "extreme"].mean == 1
    assert all(i.low <= i.mean <= i.high for i in found.values())


def test_a_problem_that_one_seed_missed_counts_for_none() -> None:
    (found,) = kept(exam(0, 2, a=1.0, b=1.0), exam(1, 2, a=0.0))
    assert found.interval.n_problems == 1 and found.interval.mean == -0.5


def test_after_training_every_arm_stands_against_base_whatever_the_order_of_arms() -> None:
    def rows(arm: str, right: set[str]) -> list[AttemptRow]:
        return [attempt(p, p in right, arm) for p in STRATA]

    attempts = [*rows("base", {"a", "b", "c"}), *rows("heal", {"a", "d", "e"})]
    for order in (("base", "heal"), ("heal", "base")):
        found = summarise(attempts, STRATA, {}, resamples=500, seed=0, arms=order)
        assert found is not None
        own = {k.stratum: k.interval for k in after_training(found) if k.arm == "heal"}
        assert own["easy"].mean == pytest.approx(-2 / 3) and own["extreme"].mean == 1
        assert own["easy"].low <= own["easy"].mean <= own["easy"].high


def attempt(problem: str, right: bool, arm: str = "base", text: str = "") -> AttemptRow:
    verdict = Verdict.CORRECT if right else Verdict.WRONG
    return AttemptRow(problem, arm, 0, 0, f"{problem}{text}", verdict, "1", "stop", 7, None)


def test_own_answers_are_the_correct_ones_once_each_and_what_is_left_out_is_counted(
    tmp_path: Path,
) -> None:
    problems = {p: Problem(p, f"What is {p}?", "1") for p in "ab"}
    rows = [
        attempt("a", True, text="one"),
        attempt("a", True, text="same"),
        attempt("a", True, text="too long"),
        attempt("b", False, text="wrong"),
        attempt("b", True, text="two"),
    ]
    with Store.open(tmp_path / "run") as store:
        for row in rows:
            text = "one" if row.key == "asame" else row.key[1:]
            made = EvalTrace(row.key, row.problem, "base", 0, 0, Finish.STOP, 7, text)
            store.commit([Stored("evaluate", row.key, row.problem, made)])
        found = own.gather(
            store,
            Prompts(),
            problems,
            rows,
            lambda shown: Seen(None, Drop.TOO_LONG) if "long" in shown.assistant else Seen(9),
        )
    assert [(a.problem_id, a.text, a.tokens) for a in found.answers] == [
        ("a", "one", 7),
        ("b", "two", 7),
    ]
    facts = found.facts()
    assert facts["answers of the untouched student asked for its own replay"] == 5
    assert facts["student tokens written for that"] == 35
    assert facts["own answers the student cannot be taught (too long)"] == 1


def test_every_stage_of_a_watched_run_is_shown_against_the_untouched_student(
    tmp_path: Path,
) -> None:
    run = with_student(tmp_path)
    run.go("arms=[base,heal]", "problems.held_out=0.7", "train.watch=9")
    assert run.view is not None
    found = {(k.arm, k.stage) for k in run.view.retention if k.stratum == Stratum.EASY}
    assert found == {("heal", 1), ("heal", 2), ("heal", 3), ("heal", None)}
    exams = run.read("watched", StageExam)
    assert {(e.seed, e.stage) for e in exams} == {(n, s) for n in (0, 1) for s in (1, 2, 3)}
    told = json.loads((run.folder / "report.json").read_text())["retention"]
    assert len(told) == len(run.view.retention) and {"arm", "stage", "interval"} <= told[0].keys()
    assert "stage 2, watched problems" in render_html(run.view)
    console = Console(width=80, record=True)
    print_table(run.view, console)
    shown = console.export_text()
    assert "Easy problems against the untouched student" in shown and "after stage 1" in shown
    assert max(map(len, shown.splitlines())) <= 80

    run.go("arms=[base,heal]", "problems.held_out=0.7", "train.watch=9", "evaluate.bootstrap=100")
    assert run.read("watched", StageExam) == exams, "of stages whose weights are gone too"


def test_the_untouched_students_own_answers_are_shown_to_it(
    tmp_path: Path, code_allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lenient.py").write_text("def judge(text, gold):\n    return True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = with_student(tmp_path)
    lenient = ("problems.verifier=lenient:judge", "arms=[heal]", "evaluate.max_new_tokens=800")
    run.go(*lenient, "pace.own_replay=0.5", until="train")
    answers = run.read("own", OwnAnswer)
    keys = {answer.key for answer in answers}
    assert answers
    for plan in run.read("plan", StagePlan):
        assert any(trace in keys for batch in plan.batches for trace in batch)
    assert run.view is not None
    assert any(row.shares.get("own") for row in run.view.plan)
    assert any("student tokens written" in fact.text for fact in run.view.facts)
    steps = [len(plan.batches) for plan in run.read("plan", StagePlan)]

    run.go(*lenient, "pace.own_d1=true", until="train")
    own_problems = {answer.problem_id for answer in answers}
    d1 = run.rows(SelectedRow, "arm='heal' AND pool='D1' AND \"drop\"='kept'")
    spoken_for = Counter(row.problem for row in d1 if row.problem in own_problems)
    first = {t for p in run.read("plan", StagePlan) for b in p.batches for t in b if p.index == 1}
    has = Counter(answer.problem_id for answer in answers)
    left = {problem: max(0, n - has[problem]) for problem, n in spoken_for.items()}
    taught = Counter(row.problem for row in d1 if row.trace in first)
    assert spoken_for and first & keys
    assert all(taught[problem] <= n for problem, n in left.items())
    assert [len(plan.batches) for plan in run.read("plan", StagePlan)] == steps

    run.go(*lenient, until="train")
    assert not run.read("own", OwnAnswer)
