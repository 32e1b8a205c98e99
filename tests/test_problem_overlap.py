"""Training problems that are held-out problems in other words are removed, by four rules."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from heal.config import GymSource, Problems
from heal.data.overlap import Rule, overlaps, words_of
from heal.data.problems import ProblemSet, read_problems
from heal.errors import UserError
from heal.records import Split

BENCHMARK = (
    "A farmer has 17 sheep and buys 5 more at the market before noon. "
    "How many sheep does the farmer have in the evening?"
)
STORY = " ".join(f"word{i}" for i in range(40))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (BENCHMARK.upper().replace(".", " !"), Rule.EQUAL),
        (BENCHMARK.replace("17", "23").replace("5", "9"), Rule.DIGITS),
        (f"Solve it. {BENCHMARK} Show your work.", Rule.SHORT),
        (BENCHMARK.replace("sheep and", "cows and"), Rule.SHORT),
        (BENCHMARK.partition(".")[0], Rule.SHORT),
        ("A farmer has 17 goats. How many legs do they have together, tails aside?", None),
        ("How many sheep does the farmer have?", None),
        ("An apple costs 3 and a pear costs 4. What do two of each cost?", None),
    ],
)
def test_a_copy_is_found_by_the_rule_it_breaks(text: str, rule: Rule | None) -> None:
    found, _ = overlaps([text], {"b.jsonl": [BENCHMARK]})
    assert [(one.rule, one.source) for one in found] == ([(rule, "b.jsonl")] if rule else [])


def test_a_long_run_inside_a_longer_text_is_a_copy() -> None:
    train = STORY.replace("word39", "end") + "".join(f" other{i}" for i in range(200))
    evaluated = STORY + "".join(f" own{i}" for i in range(200))
    found, _ = overlaps([train], {"b": [evaluated]})
    assert [one.rule for one in found] == [Rule.LONG]
    short = " ".join(STORY.split()[:31]) + "".join(f" other{i}" for i in range(200))
    assert overlaps([short], {"b": [evaluated]})[0] == []


def test_signs_of_unspaced_scripts_are_words() -> None:
    text = "小明有十七只羊，中午之前又买了五只。晚上他有几只羊？"
    assert len(words_of(text)) == 23
    (found,) = overlaps([f"请解答。{text}"], {"b": [text]})[0]
    assert found.rule is Rule.SHORT


def test_numbers_alone_make_no_copy() -> None:
    assert overlaps(["What is 3 + 4?"], {"b": ["What is 5 + 6?"]})[0] == []
    assert overlaps(["What is 3 + 4?"], {"b": ["what is 3+4"]})[0][0].rule is Rule.EQUAL


def test_wording_that_many_share_is_a_template_and_is_counted() -> None:
    made = [BENCHMARK.replace("17", str(n)).replace("5", str(n + 1)) for n in range(20, 40)]
    assert overlaps(made, {"b": [BENCHMARK]}) == ([], 20)
    found, _ = overlaps([*made, BENCHMARK], {"b": [BENCHMARK]})
    assert [one.rule for one in found] == [Rule.EQUAL]


def test_time_grows_with_the_length_alone() -> None:
    random_ = random.Random(0)
    words = [f"w{i}" for i in range(300)]

    def seconds(n: int) -> float:
        texts = [" ".join(random_.choices(words, k=60)) for _ in range(n)]
        same = " ".join(words[:60])
        train = [*texts, *(f"{same} {i}" for i in range(n))]
        evaluated = {"b": [*texts[: n // 4], *(f"{same} x{i}" for i in range(n // 4))]}
        start = time.process_time()
        overlaps(train, evaluated)
        return time.process_time() - start

    small, large = (min(seconds(n) for _ in range(3)) for n in (200, 1600))
    assert large < 8 * small * 3  # a quadratic one takes 64 times as long


# ------------------------------------------------------------------ in a problem set


def read(folder: Path, rows: list[Any], **settings: Any) -> ProblemSet:
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_problems(Problems(path="p.jsonl", **settings), folder)


def variants(n: int) -> list[dict[str, Any]]:
    names = ("Ann", "Bea", "Cid", "Dan", "Eva", "Fay", "Gus", "Hal", "Ida", "Jon")
    return [
        {
            "problem": f"{names[i % 10]} the {names[i // 10]} number{i} walks item{i} miles and "
            f"then thing{i} more miles on day{i} without a rest. How far is that{i}?",
            "answer": i,
        }
        for i in range(n)
    ]


def test_training_problems_that_copy_held_out_ones_are_removed_and_counted(tmp_path: Path) -> None:
    rows = variants(60)
    plain = read(tmp_path, rows, held_out=0.3)
    held_out = plain.split(Split.HELD_OUT)
    copies = [{"problem": f"{p.problem} Explain.", "answer": p.answer} for p in held_out]
    found = read(tmp_path, [*rows, *copies], held_out=0.3)
    # some copies are held out themselves: then both are, and nothing leaks
    kept = {p.problem for p in found.problems}
    trained = {p.problem for p in found.split(Split.TRAIN)}
    assert not trained & {c["problem"] for c in copies}
    removed = found.facts["training problems that overlap with what is evaluated on removed"]
    by_rule = "training problems removed: half of the 8-grams as a held-out problem"
    assert removed == found.facts[by_rule] == len(rows) + len(copies) - len(kept) > 0
    assert f"{removed:,} training problems that overlap" in found.summary
    assert all(problem in found.problems for problem in held_out)
    everything = read(tmp_path, [*rows, *copies], held_out=0.3, decontaminate=None)
    assert len(everything.problems) == len(rows) + len(copies)


def test_a_named_evaluation_file_cleans_the_training_problems(tmp_path: Path) -> None:
    rows = variants(10)
    test = [{"question": rows[3]["problem"].upper()}, {"question": "Something else?"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    found = read(tmp_path, rows, held_out=0, decontaminate=("test.jsonl",))
    assert [p.answer for p in found.problems] == [str(i) for i in range(10) if i != 3]
    assert found.facts["problems of test.jsonl to decontaminate against"] == 2
    assert found.facts["training problems removed: the same words as test.jsonl"] == 1


def test_an_evaluation_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "?"}\n')
    with pytest.raises(UserError, match=r"test.jsonl: no problem column .*columns found: text"):
        read(tmp_path, variants(3), decontaminate=("test.jsonl",))
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path, variants(3), decontaminate=("tests.jsonl",))


def test_problems_drawn_by_a_task_are_not_held_against_each_other() -> None:
    pytest.importorskip("reasoning_gym")
    settings = Problems(gym=GymSource(task="chain_sum", size=5, seed=1), held_out=0.4)
    found = read_problems(settings, Path())
    assert len(found.problems) == 5
