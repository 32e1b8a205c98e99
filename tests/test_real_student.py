"""Worked traces are right step by step; a real student's figures are those of its run."""

import json
import re

import pytest
from benchmarks import real_student
from benchmarks.worked_problems import worked

from heal.recipe import load
from heal.store import AttemptRow, ProblemRow, Store
from heal.verifiers import verify_answer

EQUATION = re.compile(r"(-?\d+) ([+*-]) (\d+) = (-?\d+)")
COMPUTE = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def test_every_step_of_a_worked_trace_is_true_and_its_answer_is_right() -> None:
    rows = worked(600, 1)
    assert len({row["problem"] for row in rows}) == len(rows)
    assert worked(600, 1) == rows
    for row in rows:
        *steps, boxed = row["trace"].split("\n\n")
        assert boxed == f"\\boxed{{{row['answer']}}}"
        told = [EQUATION.search(step) for step in steps]
        assert told, row
        for found in told:
            assert found, row
            assert COMPUTE[found[2]](int(found[1]), int(found[3])) == int(found[4]), row
        assert told[-1] and told[-1][4] == row["answer"]
    assert verify_answer(rows[1]["trace"], rows[1]["answer"]).verdict == "correct"


def test_each_way_gets_a_recipe_that_loads_and_no_folder_is_written_twice(tmp_path) -> None:
    real_student.prepare(tmp_path, 12)
    for name in (*real_student.WAYS, *real_student.TWINS):
        config = load(tmp_path / f"{name}.yaml")
        assert config.teacher is None
    before = (tmp_path / "problems.jsonl").read_bytes()
    real_student.prepare(tmp_path, 14)
    assert (tmp_path / "problems.jsonl").read_bytes() == before


def attempt(problem: str, arm: str, right: bool) -> AttemptRow:
    verdict = "correct" if right else "wrong"
    return AttemptRow(problem, arm, 0, 0, f"{arm}-{problem}", verdict, "1", "stop", 9, None)


def test_before_and_after_are_counted_by_family_and_paired(tmp_path) -> None:
    right = {"base": "ab", "rft": "bcdefgh"}
    with Store.open(tmp_path / "all-weights") as store:
        for place, name in enumerate("abcdefghij"):
            family = "even" if place % 2 else "odd"
            row = (name, place, "held_out", family, 1, 1, 0, 0, "easy", 1.0, 0, None)
            store.insert([ProblemRow._make(row)])
            store.insert([attempt(name, arm, name in right[arm]) for arm in right])
    (tmp_path / "cpu.jsonl").write_text(
        "".join(json.dumps({"run": run, "verb": "train", "cpu_s": cpu}) + "\n"
                for run, cpu in (("all-weights", 3.0), ("adapters", 50.0), ("all-weights", 4.0)))
    )  # fmt: skip
    found = real_student.figures(tmp_path, "all-weights")
    assert found["cpu_s"] == {"train": 7.0}
    shares = {
        (arm, family): (told["right"], told["n"])
        for arm, families in found["accuracy"].items()
        for family, told in families.items()
    }
    assert shares[("base", "all")] == (2, 10)
    assert shares[("rft", "all")] == (7, 10)
    assert shares[("rft", "odd")] == (3, 5)
    assert found["changed"] == {"gained": 6, "lost": 1, "p": pytest.approx(2 * 8 / 128)}
    assert "| all-weights | all | 2 of 10: 20 % [6–51] | 7 of 10: 70 % [40–89] |" in (
        real_student.said({"ways": {"all-weights": found}})
    )
