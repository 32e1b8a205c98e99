"""What is no answer never becomes a target; every row is counted under one reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from heal.config import Problems
from heal.data.problems import ProblemSet, read_problems
from heal.errors import UserError
from heal.records import Split

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "cases" / "problem_golds.jsonl").read_text().splitlines()
]


def read(folder: Path, rows: list[Any], **settings: Any) -> ProblemSet:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "p.jsonl").write_text(text, encoding="utf-8")
    return read_problems(Problems(path="p.jsonl", **settings), folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["gold"])
def test_a_gold_that_is_no_answer_is_left_out_by_its_name(
    tmp_path: Path, case: dict[str, Any]
) -> None:
    rows = [{"problem": "1 + 1?", "answer": 2}, {"problem": "?", "answer": case["gold"]}]
    found = read(tmp_path, rows)
    counted = [text for text in found.facts if text.startswith("rows left out")]
    if case["name"] is None:
        assert (len(found.problems), counted) == (2, [])
        return
    assert [problem.answer for problem in found.problems] == ["2"]
    assert counted == [f"rows left out: the answer is {case['name']!r}"]
    with pytest.raises(UserError, match=r"p\.jsonl:2: the answer is"):
        read(tmp_path, rows, unusable="refuse")


MIXED: list[Any] = [
    {"problem": "1 + 1?", "answer": 2},
    None,
    {"problem": "2 + 2?", "answer": "notfound"},
    {"problem": "3 + 3?", "answer": "NotFound"},
    {"problem": "4 + 4?", "answer": None},
    {"problem": None, "answer": 3},
    {"problem": "5 + 5?", "answer": 10},
    {"problem": "5 + 5?", "answer": 11},
    {"problem": "5 + 5?", "answer": 10},
    {"problem": "6 + 6?", "answer": 12},
    {"problem": "6 + 6?", "answer": "12.0"},
    {"problem": "7 + 7?", "answer": 14},
]


def test_the_counts_of_a_file_add_up(tmp_path: Path) -> None:
    found = read(tmp_path, MIXED, limit=2, held_out=0.5)
    assert found.facts["problem rows read"] == len(MIXED)
    assert {k: v for k, v in found.facts.items() if k.startswith("rows left out")} == {
        "rows left out: two different answers to one problem": 3,
        "rows left out: the answer is 'notfound'": 2,
        "rows left out: a null row": 1,
        "rows left out: empty answer": 1,
        "rows left out: empty problem": 1,
    }
    gone = ("duplicate problems dropped", "problems beyond problems.limit left out")
    used = ("problems to train on", "problems held out")
    total = len(found.left_out) + sum(found.facts.get(name, 0) for name in (*gone, *used))
    assert total == len(MIXED)


def test_one_line_says_how_many_of_how_many_rows_are_used(tmp_path: Path) -> None:
    found = read(tmp_path, MIXED, held_out=0.5)
    held_out = len(found.split(Split.HELD_OUT))
    assert found.summary == (
        f"3 of 12 rows are used: {3 - held_out} to train on, {held_out} held out; not used: "
        "1 duplicate problems dropped; 3 two different answers to one problem; "
        "2 the answer is 'notfound'; 1 a null row; 1 empty answer; 1 empty problem"
    )


def test_a_file_of_which_nothing_can_be_used_is_refused(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}?", "answer": {"value": i}} for i in range(7)]
    with pytest.raises(UserError) as caught:
        read(tmp_path, rows)
    assert str(caught.value).splitlines()[0] == (
        "p.jsonl:1: the answer is an object with 'value'; "
        "choose one with --set problems.fields.answer=answer.value"
    )
    assert caught.value.hint == "no row can be used; correct these rows"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1/2", "0.5"),
        ("\\frac{1}{2}", "$\\dfrac12$"),
        ("1,000", "1000"),
        ("Monday", "monday."),
        ("\\text{east}", "East"),
        ("x + 1", "$x+1$"),
    ],
)
def test_one_answer_in_two_spellings_is_a_duplicate(tmp_path: Path, one: str, other: str) -> None:
    rows = [{"problem": "?", "answer": one}, {"problem": "?", "answer": other}]
    found = read(tmp_path, rows, unusable="refuse")
    assert [problem.answer for problem in found.problems] == [one]
    assert found.facts["duplicate problems dropped"] == 1


def test_of_two_different_answers_neither_is_used(tmp_path: Path) -> None:
    rows = [
        {"problem": "0?", "answer": 0},
        {"problem": "?", "answer": 1},
        {"problem": "?", "answer": 2},
    ]
    found = read(tmp_path, rows)
    assert [problem.answer for problem in found.problems] == ["0"]
    assert [one.place for one in found.left_out] == ["p.jsonl:2", "p.jsonl:3"]


def test_a_list_of_one_answer_is_that_answer_and_of_several_none(tmp_path: Path) -> None:
    rows = [
        {"problem": "1?", "answer": ["3"]},
        {"problem": "2?", "answer": '["\\\\frac{1}{2}"]'},
        {"problem": "3?", "answer": ["1", "2"]},
        {"problem": "4?", "answer": "[1, 2]"},
    ]
    found = read(tmp_path, rows)
    assert [problem.answer for problem in found.problems] == ["3", "\\frac{1}{2}", "[1, 2]"]
    assert found.facts["rows left out: the answer is a list of several"] == 1
