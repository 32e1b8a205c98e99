"""Well-known data sets are read by themselves: each in its true columns, with rows of our own."""

import json
from pathlib import Path
from typing import Any

import pytest

from heal.config import Problems
from heal.data.problems import ProblemSet, read_problems
from heal.data.shapes import SHAPES
from heal.records import Verdict
from heal.verifiers import open_verifier

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "cases" / "problem_shapes.jsonl").read_text().splitlines()
]


def read(folder: Path, rows: list[Any], **settings: Any) -> ProblemSet:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "p.jsonl").write_text(text, encoding="utf-8")
    return read_problems(Problems(path="p.jsonl", held_out=0, **settings), folder)


def parquet(folder: Path, rows: list[Any]) -> ProblemSet:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "p.parquet")
    return read_problems(Problems(path="p.parquet", held_out=0), folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_data_set_is_read_in_its_true_shape(tmp_path: Path, case: dict[str, Any]) -> None:
    found = read(tmp_path, case["rows"])
    assert (found.shape, found.verifier) == (case["shape"], case["verifier"])
    assert len(found.left_out) == case["left_out"]
    assert len(found.problems) == len(case["rows"]) - case["left_out"]
    if case["problem"] is not None:
        assert found.problems[0].problem == case["problem"]
        assert found.problems[0].answer == case["answer"]
    assert parquet(tmp_path, case["rows"]).problems == found.problems


def test_every_shape_of_the_table_has_a_case() -> None:
    assert {case["shape"] for case in CASES} - {None} == {shape.name for shape in SHAPES}


@pytest.mark.parametrize("case", [c for c in CASES if c["shape"] in ("GPQA", "SciQ")])
def test_options_whose_right_one_stands_apart_are_shuffled(
    tmp_path: Path, case: dict[str, Any]
) -> None:
    (row,) = case["rows"]
    right = row.get("Correct Answer") or row["correct_answer"]
    letters = set()
    for seed in range(20):
        (problem,) = read(tmp_path, [row], option_seed=seed).problems
        assert f"\n{problem.answer}. {right}" in problem.problem
        assert all(f"\n{letter}. " in problem.problem for letter in "ABCD")
        letters.add(problem.answer)
    assert letters == set("ABCD")
    assert read(tmp_path, [row]).problems == read(tmp_path, [row]).problems


def test_shuffling_does_not_depend_on_company(tmp_path: Path) -> None:
    rows = next(case["rows"] for case in CASES if case["name"] == "SciQ")
    other = rows[0] | {"question": "Which is a metal?", "correct_answer": "iron"}
    alone = read(tmp_path, rows).problems
    assert read(tmp_path, [other, *rows]).problems[1:] == alone


@pytest.mark.parametrize("case", [c for c in CASES if c["verifier"] == "choice"])
def test_a_shaped_choice_is_verified_by_its_letter(tmp_path: Path, case: dict[str, Any]) -> None:
    found = read(tmp_path, case["rows"])
    verifier = open_verifier(Problems(path="p.jsonl", verifier=found.verifier))
    assert verifier.preflight(found.problems).doubtful == 0
    for problem in found.problems:
        text = f"So it is \\boxed{{{problem.answer}}}."
        assert verifier.check(text, problem).verdict is Verdict.CORRECT


@pytest.mark.parametrize(
    ("options", "gold", "letter"),
    [
        (["red", "blue"], "B", "B"),
        (["red", "blue"], "(b)", "B"),
        (["red", "blue"], "blue", "B"),
        ('["red", "blue"]', "A", "A"),
        ("['red', 'blue']", "A", "A"),
        ("(A) red (B) blue", "A", "A"),
        ("A. red\nB. blue", "blue", "B"),
        ({"A": "red", "B": "blue", "C": None}, "B", "B"),
        ([{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}], "B", "B"),
        ([{"id": "1", "content": "red"}, {"id": "2", "content": "blue"}], "2", "B"),
        ([4, 5.0], 5, "B"),
    ],
)
def test_options_come_in_many_forms(tmp_path: Path, options: Any, gold: Any, letter: str) -> None:
    row = {"question": "Which one?", "options": options, "answer": gold}
    (problem,) = read(tmp_path, [row]).problems
    texts = ("4", "5") if options == [4, 5.0] else ("red", "blue")
    assert problem.problem == "Which one?\n\nA. {}\nB. {}".format(*texts)
    assert problem.answer == letter


@pytest.mark.parametrize(
    ("golds", "letters", "way"),
    [
        ([0, 1, 2], "ABC", "by its number, counted from 0"),
        ([1, 2, 3], "ABC", "by its number, counted from 1"),
        (["30", "10", "20"], "CAB", "by its text"),
    ],
)
def test_numbers_count_options_from_where_all_rows_agree(
    tmp_path: Path, golds: list[Any], letters: str, way: str
) -> None:
    rows = [
        {"question": f"Question {i}?", "choices": ["10", "20", "30"], "answer": gold}
        for i, gold in enumerate(golds)
    ]
    found = read(tmp_path, rows)
    assert "".join(problem.answer for problem in found.problems) == letters
    assert found.facts[f"rows whose right option is named {way}"] == 3


def test_a_question_that_lists_its_options_is_not_given_them_twice(tmp_path: Path) -> None:
    row = {"question": "Which? (A) red (B) blue", "options": ["red", "blue"], "answer": "A"}
    assert read(tmp_path, [row]).problems[0].problem == "Which? (A) red (B) blue"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"options": ["red", "blue"], "answer": "C"}, "the answer is none of the options"),
        ({"options": None, "answer": "A"}, "a row without options, in a file of options"),
        ({"options": ["red"], "answer": "A"}, "a row without options, in a file of options"),
        ({"options": ["red", "red", "blue"], "answer": "A"}, "the right option stands there twice"),
        ({"options": list("abcdefghijk"), "answer": "A"}, "more than 10 options"),
        ({"options": ["red", "blue"], "answer": ""}, "empty answer"),
    ],
)
def test_a_row_that_offers_no_clear_choice_is_left_out(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    good = [{"question": f"{i}?", "options": ["red", "blue"], "answer": "B"} for i in range(3)]
    found = read(tmp_path, [*good, {"question": "Which?"} | row])
    assert len(found.problems) == 3
    assert found.facts[f"rows left out: {reason}"] == 1


def test_options_that_no_gold_names_are_named_and_not_used(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "options": ["red", "blue"], "answer": f"x{i}"} for i in range(3)]
    found = read(tmp_path, rows)
    assert (found.verifier, found.problems[0].problem) == ("math", "0?")
    assert found.facts["rows whose options 'options' are not used: no gold names one"] == 3


def test_the_recipe_may_leave_options_out_and_names_the_verifier(tmp_path: Path) -> None:
    rows = [{"question": "Which?", "options": ["red", "blue"], "answer": "B"}]
    found = read(tmp_path, rows, fields={"options": ""})
    assert (found.problems[0].problem, found.verifier) == ("Which?", "math")
    assert found.facts["rows whose column 'options' looks needed and is not used"] == 1
    assert read(tmp_path, rows, verifier="exact").verifier == "exact"


@pytest.mark.parametrize("column", ["context", "passage", "article"])
def test_a_passage_stands_before_its_question(tmp_path: Path, column: str) -> None:
    row = {column: "Tom is nine.", "question": "How old is Tom?", "answer": "9"}
    found = read(tmp_path, [row])
    assert found.problems[0].problem == "Tom is nine.\n\nHow old is Tom?"
    assert read(tmp_path, [row], fields={"context": ""}).problems[0].problem == "How old is Tom?"


def test_a_column_that_looks_needed_is_used_or_named(tmp_path: Path) -> None:
    row = {"question": "What is its total?", "table": "a | b", "answer": "9", "hint": "add"}
    facts = read(tmp_path, [row]).facts
    assert facts["rows whose column 'table' looks needed and is not used"] == 1
    assert not any("'hint'" in text for text in facts)


def test_an_empty_input_adds_nothing_to_an_instruction(tmp_path: Path) -> None:
    rows = [{"instruction": "Say 2 + 2.", "input": "", "output": "4"}]
    assert read(tmp_path, rows).problems[0].problem == "Say 2 + 2."
