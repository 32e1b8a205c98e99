"""Problems: any order, any company, the same ids and sides; every bad input says where."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal import functions
from heal.config import Fields, GymSource, Problems
from heal.data.problems import ALIASES, ProblemSet, problem_id, read_problems, split_of
from heal.errors import UserError
from heal.recipe import load
from heal.records import Split

ROOT = Path(__file__).parent.parent

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        return tmp_path

    return save


def jsonl(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(base: Path, name: str = "p.jsonl", **settings: Any) -> ProblemSet:
    return read_problems(Problems(path=name, **settings), base)


def refusal(base: Path, name: str = "p.jsonl", **settings: Any) -> tuple[str, str | None]:
    with pytest.raises(UserError) as caught:
        read(base, name, **settings)
    return str(caught.value), caught.value.hint


TWO = [{"problem": "1 + 1?", "answer": 2}, {"problem": "2 + 2?", "answer": "4"}]


# ------------------------------------------------------------------ ids and the split


@given(st.text(min_size=1), st.sampled_from([" ", "\n", "\t", "  "]))
def test_an_id_does_not_depend_on_spacing(text: str, space: str) -> None:
    words = text.split()
    assert problem_id(space.join(words)) == problem_id(f" {' '.join(words)}\n")
    assert len(problem_id(text)) == 16


@given(st.text(), st.text())
def test_different_texts_have_different_ids(one: str, other: str) -> None:
    normal = [problem_id(text) == problem_id(" ".join(text.split())) for text in (one, other)]
    assert all(normal)
    if one.isascii() and other.isascii() and one.split() != other.split():
        assert problem_id(one) != problem_id(other)


def test_an_id_is_pinned() -> None:
    assert problem_id("1 + 1?") == "c97c3a9c9b990740"


@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=30, unique=True),
    st.randoms(use_true_random=False),
    st.integers(0, 5),
)
def test_neither_order_nor_company_moves_a_problem(
    numbers: list[int], random: Any, split_seed: int
) -> None:
    rows = [{"problem": f"{n} + 1?", "answer": n + 1} for n in numbers]
    whole = _sides(rows, split_seed)
    shuffled = random.sample(rows, len(rows))
    assert _sides(shuffled, split_seed) == whole
    half = _sides(shuffled[: len(rows) // 2 + 1], split_seed)
    assert half.items() <= whole.items()


def _sides(rows: Sequence[Mapping[str, Any]], split_seed: int) -> dict[str, Split]:
    source = Problems(
        source="json:loads", args={"s": json.dumps(rows)}, split_seed=split_seed, held_out=0.4
    )
    with patch.multiple(functions, _allowed=True, _named=set()):
        return {p.id: p.split for p in read_problems(source, Path()).problems}


@given(st.text(), st.integers(), st.floats(0, 0.5), st.floats(0, 0.49))
def test_a_larger_held_out_share_only_adds_problems(
    identity: str, seed: int, share: float, more: float
) -> None:
    if split_of(identity, seed, share) is Split.HELD_OUT:
        assert split_of(identity, seed, share + more) is Split.HELD_OUT
    assert split_of(identity, seed, 0.0) is Split.TRAIN


def test_the_split_is_about_as_large_as_asked() -> None:
    held_out = sum(split_of(str(i), 0, 0.2) is Split.HELD_OUT for i in range(5000))
    assert 900 < held_out < 1100


def test_another_split_seed_is_another_split() -> None:
    sides = [[split_of(str(i), seed, 0.5) for i in range(100)] for seed in (0, 1)]
    assert sides[0] != sides[1]


# ------------------------------------------------------------------ formats


def test_every_file_format_gives_the_same_problems(write: Write) -> None:
    import pyarrow
    import pyarrow.parquet

    base = write("p.jsonl", jsonl(TWO) + "\n")
    write("p.json", json.dumps(TWO, indent=1))
    write("lines.json", jsonl(TWO))
    write("bom.jsonl", b"\xef\xbb\xbf" + jsonl(TWO).encode())
    write("crlf.jsonl", jsonl(TWO).replace("\n", "\r\n"))
    write("p.csv", 'problem,answer\n"1 + 1?",2\n"2 + 2?",4\n')
    pyarrow.parquet.write_table(
        pyarrow.table({"problem": ["1 + 1?", "2 + 2?"], "answer": [2.0, 4.0]}), base / "p.parquet"
    )
    expected = read(base).problems
    assert [p.answer for p in expected] == ["2", "4"]
    for name in ("p.json", "lines.json", "bom.jsonl", "crlf.jsonl", "p.csv", "p.parquet"):
        assert read(base, name).problems == expected, name


def test_a_saved_data_set_is_read_and_a_choice_of_splits_is_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"problem": "1 + 1?", "answer": "2"}])
    data.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "single"))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "several"))
    assert read(tmp_path, "plain").problems == read(tmp_path, "single").problems
    assert read(tmp_path, "several/test").problems == read(tmp_path, "plain").problems
    assert refusal(tmp_path, "several") == (
        "several: holds the splits test, train; choose one",
        "--set problems.path=several/train",
    )


def test_a_line_separator_inside_a_text_does_not_split_the_line(write: Write) -> None:
    text = '{"problem": "one\u2028line", "answer": "2"}\n'
    assert len(read(write("p.jsonl", text)).problems) == 1


def test_a_csv_text_may_hold_line_breaks_and_later_rows_keep_their_line(write: Write) -> None:
    base = write("p.csv", 'problem,answer\n"1\n+ 1?",2\n"2 + 2?",\n')
    assert refusal(base, "p.csv", unusable="refuse")[0] == "p.csv:4: empty answer (column 'answer')"


def test_an_absolute_path_is_taken_as_it_is(write: Write) -> None:
    base = write("p.jsonl", jsonl(TWO))
    assert len(read(Path("/nowhere"), str(base / "p.jsonl")).problems) == 2


# ------------------------------------------------------------------ columns


def test_documented_column_names_are_the_ones_tried() -> None:
    source = (ROOT / "src" / "heal" / "config" / "problems.py").read_text()
    fields = source[source.index("class Fields(") : source.index("class Problems(")]
    for names in ALIASES.values():
        assert ", ".join(f"`{n}`" for n in names) in " ".join(fields.split())


@pytest.mark.parametrize("answer", ALIASES["answer"])
@pytest.mark.parametrize("problem", ALIASES["problem"])
def test_usual_column_names_are_found(write: Write, problem: str, answer: str) -> None:
    found = read(write("p.jsonl", jsonl([{problem: "1 + 1?", answer: "2"}])))
    assert (found.problems[0].problem, found.problems[0].answer) == ("1 + 1?", "2")
    assert found.columns == {"problem": problem, "answer": answer}


def test_an_explicit_column_wins_and_may_be_nested(write: Write) -> None:
    row = {
        "problem": "not this",
        "data": {"turns": [{"content": "1 + 1?"}], "gold": 2},
        "answer": "not this",
    }
    fields = Fields(problem="data.turns.0.content", answer="data.gold")
    found = read(write("p.jsonl", jsonl([row])), fields=fields)
    assert (found.problems[0].problem, found.problems[0].answer) == ("1 + 1?", "2")
    assert found.facts["rows whose answer is read from column 'data.gold'"] == 1


def test_a_column_whose_name_has_a_dot_is_found_as_it_is(write: Write) -> None:
    base = write("p.jsonl", jsonl([{"q.text": "1 + 1?", "answer": 2}]))
    assert read(base, fields=Fields(problem="q.text")).problems[0].problem == "1 + 1?"


def test_family_solution_and_meta_are_carried_along(write: Write) -> None:
    row = {
        "problem": "1 + 1?", "answer": 2, "solution": "Count. \\boxed{2}", "subject": "sums",
        "meta": {"level": 1},
    }  # fmt: skip
    (found,) = read(write("p.jsonl", jsonl([row]))).problems
    assert found.solution == "Count. \\boxed{2}"
    assert found.meta == {"level": "1", "family": "sums"}


@pytest.mark.parametrize(
    ("given", "text"),
    [(42, "42"), (42.0, "42"), (0.5, "0.5"), (-7, "-7"), (" 3/4 ", "3/4"), (1e300, "1e+300")],
)
def test_numbers_are_accepted_as_answers(write: Write, given: Any, text: str) -> None:
    base = write("p.jsonl", jsonl([{"problem": "?", "answer": given}]))
    assert read(base).problems[0].answer == text


# ------------------------------------------------------------------ answers inside solutions


@pytest.mark.parametrize(
    ("column", "given", "answer", "solution"),
    [
        ("answer", "48/2 = 24\n#### 1,072", "1,072", "48/2 = 24\n#### 1,072"),
        ("answer", "#### 72", "72", None),
        ("solution", "So \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", "So \\boxed{\\frac{1}{2}}."),
        ("solution", "$\\boxed{5}$", "5", None),
        ("answer", "\\boxed{5}", "5", None),
        ("solution", "5", "5", None),
        ("output", "One \\boxed{1}, then\n\n\\boxed{2}", "2", "One \\boxed{1}, then\n\n\\boxed{2}"),
    ],
)  # fmt: skip
def test_the_final_answer_is_taken_out_of_a_worked_solution(
    write: Write, column: str, given: str, answer: str, solution: str | None
) -> None:
    found = read(write("p.jsonl", jsonl([{"problem": "?", column: given}])))
    assert found.problems[0].answer == answer
    assert found.problems[0].solution == solution
    assert found.facts.get("answers taken out of worked solutions", 0) == int(given != answer)


def test_a_solution_without_a_final_answer_is_refused(write: Write) -> None:
    base = write("p.jsonl", jsonl([{"problem": "?", "solution": "First\nthen."}]))
    assert refusal(base) == (
        "p.jsonl:1: no final answer (\\boxed{} or ####) in column 'solution'",
        "no row can be used; correct that row",
    )


# ------------------------------------------------------------------ duplicates, limit, facts


def test_duplicates_are_dropped_and_the_facts_add_up(write: Write) -> None:
    rows = [
        *TWO,
        {"problem": " 1 +  1?\n", "answer": "2.0"},
        {"problem": "3 + 3?", "answer": 6},
    ]
    found = read(write("p.jsonl", jsonl(rows)), limit=2, held_out=0.5)
    facts = found.facts
    sides = facts.get("problems to train on", 0) + facts.get("problems held out", 0)
    assert facts["problem rows read"] == 4
    assert facts["duplicate problems dropped"] == 1
    assert facts["problems beyond problems.limit left out"] == 1
    assert sides == len(found.problems) == 2
    assert len(found.split(Split.TRAIN)) + len(found.split(Split.HELD_OUT)) == 2


def test_one_problem_with_two_answers_is_refused_with_both_lines(write: Write) -> None:
    base = write("p.jsonl", jsonl([*TWO, {"problem": "1 + 1?", "answer": 3}]))
    assert refusal(base, unusable="refuse") == (
        "p.jsonl:3: answer '3', but '2' to the same problem at p.jsonl:1",
        "correct or delete that row, or leave out: --set problems.unusable=skip",
    )


# ------------------------------------------------------------------ bad files


def test_a_missing_file_is_named_with_the_nearest(write: Write) -> None:
    base = write("problems.jsonl", jsonl(TWO))
    assert refusal(base, "problem.jsonl") == (
        "problem.jsonl: no such file; did you mean problems.jsonl?",
        "--set problems.path=problems.jsonl",
    )


def test_a_missing_file_without_a_near_name_points_to_the_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ("p.jsonl: no such file", f"ls {tmp_path}")
    assert refusal(tmp_path, "data/p.jsonl") == (
        f"data/p.jsonl: no such file, and no such folder {tmp_path}/data",
        f"ls {tmp_path}",
    )


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.parquet"])
def test_an_empty_file_is_refused(write: Write, name: str) -> None:
    assert refusal(write(name, ""), name) == (
        f"{name}: empty file",
        "give one problem per line, as JSON",
    )


@pytest.mark.parametrize(
    ("name", "content"), [("p.jsonl", "\n\n"), ("p.json", "[]"), ("p.csv", "problem,answer\n")]
)
def test_a_file_without_problems_is_refused(write: Write, name: str, content: str) -> None:
    assert refusal(write(name, content), name) == (
        f"{name}: holds no problems",
        "give one problem per line, as JSON",
    )


def test_an_unknown_extension_is_refused(write: Write) -> None:
    hint = "convert it to one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet"
    assert refusal(write("p.xlsx", "x"), "p.xlsx") == ("p.xlsx: cannot read .xlsx", hint)
    assert refusal(write("p", "x"), "p") == ("p: cannot read a file without an extension", hint)


@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf"])
def test_bytes_that_are_not_utf8_are_named_with_offset_and_line(write: Write, lead: bytes) -> None:
    first = lead + jsonl(TWO[:1]).encode()
    base = write("p.jsonl", first + '{"problem": "Größe?"'.encode("latin1"))
    offset = len(first) + len('{"problem": "Gr')
    assert refusal(base) == (
        f"p.jsonl:2: not UTF-8: byte 0xf6 at offset {offset}",
        "iconv -f LATIN1 -t UTF-8 p.jsonl > utf8-p.jsonl",
    )


def test_broken_json_is_named_with_its_line(write: Write) -> None:
    base = write("p.jsonl", jsonl(TWO) + '{"problem": "?" "answer": 1}\n')
    assert refusal(base) == (
        "p.jsonl:3: not valid JSON: Expecting ',' delimiter at column 17",
        "correct or delete that row",
    )
    base = write("p.json", '[\n{"problem": "?",}\n]')
    message, hint = refusal(base, "p.json")
    assert message.startswith("p.json:2: not valid JSON: ")
    assert hint == "python -m json.tool p.json"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('["a"]', "a list"),
        ('"a"', "text"),
        ("3", "a number"),
        ("null", "null"),
        ("true", "true or false"),
    ],
)
def test_a_line_that_is_no_object_is_refused(write: Write, line: str, found: str) -> None:
    assert refusal(write("p.jsonl", f"{line}\n"))[0] == (
        f"p.jsonl:1: expected an object, found {found}"
    )


def test_a_json_object_around_the_list_is_refused(write: Write) -> None:
    assert refusal(write("p.json", json.dumps({"data": TWO, "version": 1})), "p.json") == (
        "p.json: expected a list of problems, found an object with 'data', 'version'",
        "save the list itself, or one problem per line as .jsonl",
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,b,c", "p.csv:2: 3 values under 2 columns"),
        ("a", "p.csv:2: 1 value under 2 columns"),
    ],
)
def test_a_csv_row_of_another_width_is_refused(write: Write, row: str, message: str) -> None:
    assert refusal(write("p.csv", f"problem,answer\n{row}\n"), "p.csv")[0] == message


def test_broken_csv_is_refused_with_its_line(write: Write) -> None:
    assert refusal(write("p.csv", 'problem,answer\n"a"b,2\n'), "p.csv") == (
        "p.csv:2: not valid CSV: ',' expected after '\"'",
        "quote every text that holds a comma, a quote or a line break",
    )


def test_a_file_that_is_no_parquet_is_refused(write: Write) -> None:
    message, hint = refusal(write("p.parquet", "not parquet"), "p.parquet")
    assert message.startswith("p.parquet: cannot be read as Parquet: ")
    assert hint == "write it again, for instance with pandas' to_parquet"


# ------------------------------------------------------------------ bad columns and rows


def test_a_missing_answer_column_lists_the_columns_and_the_setting(write: Write) -> None:
    base = write("p.jsonl", jsonl([{"problem": "?", "the_answer": 1, "n": 2}]))
    assert refusal(base) == (
        "p.jsonl: no answer column; columns found: problem, the_answer, n",
        "--set problems.fields.answer=the_answer",
    )


def test_a_missing_problem_column_without_a_near_name_leaves_the_choice(write: Write) -> None:
    assert refusal(write("p.jsonl", jsonl([{"xyz": "?", "answer": 1}]))) == (
        "p.jsonl: no problem column; columns found: xyz, answer",
        "--set problems.fields.problem=COLUMN",
    )


def test_an_explicit_column_that_is_not_there_is_refused(write: Write) -> None:
    base = write("p.jsonl", jsonl([{"problem": "?", "result": 1}]))
    assert refusal(base, fields=Fields(answer="results")) == (
        "p.jsonl: no column 'results' (problems.fields.answer); columns found: problem, result",
        "--set problems.fields.answer=result",
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"problem": "?"}, "empty answer (column 'answer')"),
        ({"problem": "?", "answer": " "}, "empty answer (column 'answer')"),
        ({"problem": "?", "answer": None}, "empty answer (column 'answer')"),
        ({"problem": "?", "answer": float("nan")}, "empty answer (column 'answer')"),
        ({"problem": "?", "answer": True}, "the answer is true or false; write it as text"),
        (
            {"problem": "?", "answer": [1, 2]},
            "the answer is a list of 2; give one answer as text or number",
        ),
        (
            {"problem": "?", "answer": {"value": 1}},
            "the answer is an object with 'value'; "
            "choose one with --set problems.fields.answer=answer.value",
        ),
        ({"problem": "", "answer": 1}, "empty problem (column 'problem')"),
        ({"answer": 1}, "empty problem (column 'problem')"),
        ({"problem": [{"role": "user"}], "answer": 1}, "the problem is a list, not text"),
    ],
)
def test_a_bad_row_is_named_with_its_line(write: Write, row: dict[str, Any], reason: str) -> None:
    base = write("p.jsonl", jsonl([*TWO, row]))
    assert refusal(base, unusable="refuse") == (
        f"p.jsonl:3: {reason}",
        "correct or delete that row, or leave out: --set problems.unusable=skip",
    )
    found = read(base)
    assert len(found.problems) == 2
    assert [(one.place, one.words) for one in found.left_out] == [("p.jsonl:3", reason)]


def test_several_bad_rows_make_one_message(write: Write) -> None:
    bad = [{"problem": f"{i}?", "answer": ""} for i in range(6)]
    base = write("p.jsonl", jsonl([*TWO, *bad]))
    lines = [f"p.jsonl:{line}: empty answer (column 'answer')" for line in range(3, 8)]
    assert refusal(base, unusable="refuse") == (
        "\n".join([*lines, "… and 1 more bad row (6 in all)"]),
        "correct or delete these rows, or leave out: --set problems.unusable=skip",
    )


def test_damaged_lines_refuse_a_file_whatever_is_done_with_unusable_rows(write: Write) -> None:
    base = write("p.jsonl", jsonl([*TWO, {"problem": "?", "answer": ""}]) + "oops\n" * 6)
    message, hint = refusal(base, unusable="skip")
    assert message.splitlines()[0] == "p.jsonl:4: not valid JSON: Expecting value at column 1"
    assert message.splitlines()[-1] == "… and 1 more bad row (6 in all)"
    assert hint == "correct or delete these rows"


# ------------------------------------------------------------------ functions and reasoning-gym


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code_allowed: None) -> Path:
    (tmp_path / "my_sources.py").write_text(
        "def sums(n, start=1):\n"
        "    for i in range(start, start + n):\n"
        "        yield {'problem': f'{i} + 1?', 'answer': i + 1,\n"
        "               'meta': {'family': 'sums'}, 'verifier_data': {'i': i}}\n"
        "def text(): return 'problems'\n"
        "def pairs(): return [('1 + 1?', 2)]\n"
    )
    monkeypatch.chdir(tmp_path)
    # the module is imported anew from each test's own folder
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_sources", raising=False)
    return tmp_path


def source(spec: str, **args: Any) -> Problems:
    return Problems(source=spec, args=args)


def test_a_function_gives_problems_with_their_meta(sources: Path) -> None:
    found = read_problems(source("my_sources:sums", n=3), sources)
    assert [p.answer for p in found.problems] == ["2", "3", "4"]
    assert found.problems[0].meta == {"family": "sums"}
    assert found.problems[0].verifier_data == '{"i": 1}'


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        (
            source("my_sources:sum", n=3),
            "problems.source: my_sources has no function 'sum'; did you mean 'sums'?",
            "define it in {folder}/my_sources.py",
        ),
        (
            source("my_sources:sums", size=3),
            "problems.args: my_sources:sums missing a required argument: 'n'",
            "it takes (n, start=1)",
        ),
        (
            source("my_sources:text"),
            "problems.source: my_sources:text returned a str",
            "return a list of dicts with 'problem' and 'answer'",
        ),
        (
            source("my_sources:pairs"),
            "my_sources:pairs:1: expected an object, found a tuple",
            "correct or delete that row",
        ),
        (
            source("my_sources"),
            "problems.source: 'my_sources' is not module:function",
            "--set problems.source=my_module:my_name",
        ),
        (
            source("my_sauces:sums"),
            "problems.source: no module 'my_sauces' (looked in the Python path and {folder})",
            "run from the folder that holds my_sauces.py",
        ),
    ],
)
def test_a_bad_function_is_refused(
    sources: Path, settings: Problems, message: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_problems(settings, sources)
    assert str(caught.value) == message.format(folder=sources)
    assert caught.value.hint == hint.format(folder=sources)


def test_a_gym_task_gives_problems_with_their_entries() -> None:
    pytest.importorskip("reasoning_gym")
    settings = Problems(gym=GymSource(task="chain_sum", size=5, seed=1))
    found = read_problems(settings, Path())
    assert len(found.problems) == 5
    first = found.problems[0]
    assert first.meta == {"family": "chain_sum"}
    entry = json.loads(first.verifier_data or "")
    assert (entry["question"], entry["answer"]) == (first.problem, first.answer)
    assert found == read_problems(settings, Path())


@pytest.mark.parametrize(
    ("gym", "message", "hint"),
    [
        (
            GymSource(task="gsm_symbolik"),
            "problems.gym.task: reasoning-gym has no task 'gsm_symbolik'; "
            "did you mean gsm_symbolic?",
            "--set problems.gym.task=gsm_symbolic",
        ),
        (
            GymSource(task="chain_sum", settings={"max_sum": 3}),
            "problems.gym.settings: chain_sum refuses them: "
            "ChainSumConfig.__init__() got an unexpected keyword argument 'max_sum'",
            "leave problems.gym.settings out to use the task's own",
        ),
    ],
)
def test_a_bad_gym_source_is_refused(gym: GymSource, message: str, hint: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UserError) as caught:
        read_problems(Problems(gym=gym), Path())
    assert (str(caught.value), caught.value.hint) == (message, hint)


def test_missing_reasoning_gym_is_an_error_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError) as caught:
        read_problems(Problems(gym=GymSource(task="chain_sum")), Path())
    assert str(caught.value) == "problems.gym needs reasoning-gym, which is not installed"
    assert caught.value.hint == "pip install reasoning-gym"


# ------------------------------------------------------------------ the recipe for one's own file


def test_the_example_of_ones_own_problems_reads_whole() -> None:
    settings = load(ROOT / "recipes" / "own.yaml")
    found = read_problems(settings.problems, ROOT)
    assert len(found.problems) == 30
    assert found.columns == {"problem": "text", "answer": "result", "family": "topic"}
    assert {p.meta["family"] for p in found.problems} == {
        "money", "travel", "kitchen", "school", "garden",
    }  # fmt: skip
    assert settings.student is None
