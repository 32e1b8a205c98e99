"""`heal problems FILE`: what a person sees before a recipe is written."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from heal.cli import app, guarded
from heal.config import Problems
from heal.data.problems import read_problems

ROOT = Path(__file__).parent.parent
CASES = {
    case["name"]: case
    for case in map(
        json.loads, (ROOT / "tests/cases/problem_shapes.jsonl").read_text().splitlines()
    )
}


def save(folder: Path, rows: list[Any]) -> None:
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def printed(*args: str) -> str:
    done = CliRunner().invoke(app, ["problems", *args])
    assert done.exit_code == 0, done.output
    return done.output


def test_it_shows_columns_verifier_examples_and_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = CASES["NuminaMath-1.5"]["rows"]
    save(tmp_path, [*rows, rows[0], *({"problem": f"{i}?", "answer": i} for i in range(9))])
    text = printed("p.jsonl", "--set", "problems.held_out=0")
    first, second, *_ = text.splitlines()
    assert first == (
        "p.jsonl: 10 of 14 rows are used: 10 to train on, 0 held out; not used: "
        "1 duplicate problems dropped; 1 the answer is 'proof'; 1 the answer is 'notfound'; "
        "1 its data set calls the problem invalid"
    )
    assert second == "read as: NuminaMath 1.5"
    assert "  answer    from column 'answer'\n" in text
    assert "\nverifier: math\n" in text
    assert text.count("\nexample ") == 5
    assert "left out: the answer is 'notfound' (1)\n  p.jsonl:3: the answer is 'notfound'" in text
    assert text.endswith("\ndoubtful golds: 0 of the first 10\n")


def test_a_file_of_options_is_shown_with_its_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path, CASES["AQuA"]["rows"])
    text = printed("p.jsonl")
    assert "read as: AQuA\n" in text
    assert "verifier: choice\n" in text
    assert "    C. 28\n" in text
    assert "  answer: C\n" in text


def test_a_doubtful_gold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path, [{"problem": "How many?", "answer": "about thirty or so apples"}])
    text = printed("p.jsonl")
    assert "doubtful golds: 1 of the first 1\n" in text
    assert "'about thirty or so apples': " in text


def test_a_recipe_is_shown_with_its_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = printed("recipes/own.yaml", "--set", "problems.limit=3")
    assert "3 of 30 rows are used" in text
    assert "27 problems beyond problems.limit left out" in text
    assert "  problem   from column 'text'\n" in text


def test_no_control_character_of_a_file_reaches_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = "\x1b[31m\u202ered\x07?"
    save(tmp_path, [{"problem": evil, "answer": evil}, {"problem": "?", "answer": [evil, 1]}])
    text = printed("p.jsonl")
    assert not set(text) & set("\x1b\x07\u202e")
    assert "\\u001b[31m\\u202ered" in text


def test_what_cannot_be_read_is_one_line_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path, [{"problem": "?", "answer": "1"}])
    assert guarded(lambda: app(["problems", "q.jsonl"], standalone_mode=False)) == 2
    assert capsys.readouterr().err == (
        "heal: q.jsonl: no such file; did you mean p.jsonl?\n  → --set problems.path=p.jsonl\n"
    )


@pytest.mark.parametrize(
    "case",
    [json.loads(x) for x in (ROOT / "tests/cases/problem_ids.jsonl").read_text().splitlines()],
    ids=lambda case: case["name"],
)
def test_ids_answers_and_sides_of_files_read_before_are_unchanged(
    case: dict[str, Any], code_allowed: None
) -> None:
    found = read_problems(Problems.model_validate(case["settings"]), ROOT)
    assert [[p.id, p.answer, p.split.value] for p in found.problems] == case["problems"]
