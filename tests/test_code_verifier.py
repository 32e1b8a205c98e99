"""Programs as answers: what is read, what is run, and what a bad program cannot do."""

import json
import logging
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.timing import cpu_seconds

from heal.config import Problems
from heal.data.problems import read_problems
from heal.method.programs import blocks, last_program, without_programs
from heal.records import Finish, Problem, Verdict
from heal.verifiers import Verifier, code, open_verifier, programs, verify_answer
from heal.verifiers.cases import SuiteError, read_suite
from heal.verifiers.outputs import same_output, same_value

pytestmark = pytest.mark.skipif(
    not programs.doors().processes, reason="these programs fork and kill, which nothing stops here"
)

CASES = Path(__file__).parent / "cases"
SQUARES = json.dumps({"inputs": ["2", "3"], "outputs": ["4", "9"]})
SQUARE = "print(int(input())**2)"


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text().splitlines()]


def fenced(program: str) -> str:
    return f"I write it down.\n\n````python\n{program}\n````\n"


def problem(tests: str | None = SQUARES, answer: str = "-") -> Problem:
    return Problem(f"id of {answer[:9]}", "Write a program.", answer, verifier_data=tests)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    opened = open_verifier(Problems(path="-", verifier="code", verify_timeout_s=12))
    yield opened
    opened.close()


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("case", cases("programs"), ids=lambda c: repr(c["text"][:30]))
def test_the_program_is_the_last_python_block_of_the_answer(case: dict[str, Any]) -> None:
    assert last_program(case["text"]) == case["program"]


@given(st.text())
def test_reading_programs_never_fails_and_without_them_there_are_none(text: str) -> None:
    last_program(text)
    rest = without_programs(text)
    assert rest.count("\n") <= text.count("\n")
    if not any(block.language in ("python", "py", "python3", "py3") for block in blocks(text)):
        assert rest == text


def test_time_to_read_programs_grows_with_the_length_alone() -> None:
    for piece in ("```python\n", "```\n", "`" * 50 + "\n", "~~~ a\n```\n", "</think>```py\n", "`"):
        taken = [cpu_seconds(partial(last_program, piece * times)) for times in (20_000, 80_000)]
        assert taken[1] < 0.5 + 8 * taken[0]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9),
                    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(
                        ["inputs", "outputs", "tests", "cases", "test", "entry_point", "args",
                         "expected", "input", "output", "input_output", "metadata", "time_s"]),
                        inner), max_leaves=12))  # fmt: skip
def test_tests_of_any_shape_are_read_or_refused_in_words(raw: Any) -> None:
    try:
        assert read_suite(json.dumps(raw)).tests
    except SuiteError as error:
        assert str(error)


def test_deep_tests_are_refused() -> None:
    with pytest.raises(SuiteError, match="not JSON"):
        read_suite("[" * 100_000)


# ------------------------------------------------------------------ what is decided


@pytest.mark.parametrize("case", cases("code_verdicts"), ids=lambda c: c["name"])
def test_code_verdicts(verifier: Verifier, case: dict[str, Any]) -> None:
    if case["name"] == "a file elsewhere" and not programs.doors().writes:
        pytest.skip("this kernel has no Landlock")
    found = verifier.check(fenced(case["program"]), problem(json.dumps(case["tests"])))
    assert (found.verdict, case["reason"] in (found.detail or "")) == (
        Verdict(case["verdict"]),
        True,
    ), found.detail
    assert found.answer == case["program"]


def test_a_trace_without_a_program_states_no_answer(verifier: Verifier) -> None:
    found = verifier.check("It is easy.", problem())
    assert (found.verdict, found.detail) == (Verdict.NO_ANSWER, "no Python block")


def test_a_problem_without_tests_is_unverifiable(verifier: Verifier) -> None:
    found = verifier.check(fenced(SQUARE), problem(None))
    assert (found.verdict, found.detail) == (
        Verdict.UNVERIFIABLE,
        "the problem carries no tests",
    )


def test_tests_may_stand_in_the_answer_column() -> None:
    assert verify_answer(fenced(SQUARE), SQUARES, "code").verdict is Verdict.CORRECT
    assert verify_answer(fenced("print(4)"), SQUARES, "code").verdict is Verdict.WRONG


def test_a_truncated_program_is_never_run(verifier: Verifier) -> None:
    (check,) = verifier.verify_all([("t", fenced(SQUARE), Finish.LENGTH, problem())])
    assert check is not None and check.verdict is Verdict.TRUNCATED


def test_a_poison_program_costs_one_verdict(verifier: Verifier) -> None:
    tests = json.dumps(json.loads(SQUARES) | {"time_s": 0.5, "memory_mb": 200})
    poisons = ["while True: pass", "x = [0]\nwhile True: x += x", "import os\nos.abort()",
               "import os\nwhile True: os.fork()", "import os\nos.kill(-1, 9)"]  # fmt: skip
    mixed = [program for poison in poisons for program in (SQUARE, poison, "print(4)")]
    items = [(str(i), fenced(p), Finish.STOP, problem(tests)) for i, p in enumerate(mixed)]
    found = {check.trace: check.verdict for check in verifier.verify_all(items) if check}
    expected = [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG] * len(poisons)
    assert [found[str(i)] for i in range(len(mixed))] == expected


def test_preflight_names_tests_that_cannot_be_used_and_programs_that_fail_them(
    verifier: Verifier,
) -> None:
    told = [problem(answer=SQUARE), problem(answer=fenced("print(5)")), problem(answer="prose"),
            problem("[]", "none"), problem(None, "missing"), problem(None, SQUARES)]  # fmt: skip
    found = verifier.preflight(told)
    assert (found.checked, found.doubtful) == (6, 3)
    assert [line.partition("': ")[2] for line in found.named] == [
        "its own program: test 1 of 2: printed '5', expected '4'",
        "the tests cannot be used: no tests in it: give inputs and outputs, cases, or asserts",
        "the problem carries no tests",
    ]


def test_every_reference_program_of_the_recipe_passes_all_its_tests(verifier: Verifier) -> None:
    path = Path(__file__).parent.parent / "recipes" / "code-problems.jsonl"
    shipped = read_problems(Problems(path=str(path), verifier="code"), Path.cwd()).problems
    assert verifier.preflight(shipped).doubtful == 0
    items = [(p.id, fenced(p.answer), Finish.STOP, p) for p in shipped]
    found = [check for check in verifier.verify_all(items) if check]
    assert {check.verdict for check in found} == {Verdict.CORRECT}, found


# ------------------------------------------------------------------ what a program finds


def told_by(program: str, left_s: float = 20) -> str:
    suite = read_suite(json.dumps({"inputs": [""], "outputs": [""]}))
    ran = programs.run(program, suite.tests[0], suite, left_s)
    assert ran.ending is programs.Ending.DONE, ran.words
    return ran.printed


def test_a_program_sees_none_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_KEY", "s3cret")
    shown = json.loads(told_by("import os, json\nprint(json.dumps(dict(os.environ)))"))
    assert "s3cret" not in shown.values()
    assert set(shown) <= {"PATH", "LANG", "HOME", "TMPDIR", "PYTHONHASHSEED", "PYTHONUTF8",
                          "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}  # fmt: skip


def test_a_program_starts_in_an_empty_folder_that_is_gone_afterwards() -> None:
    program = "import os\nprint(os.getcwd(), os.listdir())\nopen('left behind', 'w').write('x')"
    folder, _, listed = told_by(program).strip().partition(" ")
    assert listed == "[]"
    assert not Path(folder).exists()


def test_a_program_holds_no_file_of_ours() -> None:
    program = "import os\nprint([f for f in os.listdir('/proc/self/fd') if int(f) > 2])"
    (report, _listing) = json.loads(told_by(program).replace("'", '"'))
    assert int(report) > 2


def test_a_program_does_not_outlive_its_time() -> None:
    suite = read_suite(json.dumps({"inputs": [""], "outputs": [""]}))
    started = time.monotonic()
    program = "import time, sys\nprint('x' * 99, flush=True)\ntime.sleep(99)"
    ran = programs.run(program, suite.tests[0], suite, 1.0)
    assert ran.ending is programs.Ending.NO_TIME
    assert time.monotonic() - started < 5
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not any(b"confined" in Path(f"/proc/{c}/cmdline").read_bytes() for c in children)


def test_what_is_not_shut_is_said_once_in_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code.warn_of_open_doors.cache_clear()
    monkeypatch.setattr(programs, "doors", lambda: programs.Doors(False, True, False))
    with caplog.at_level(logging.WARNING):
        code.warn_of_open_doors()
        code.warn_of_open_doors()
    code.warn_of_open_doors.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "verifier code: programs of the model run here, and the network is not blocked, "
        "they may write wherever you may"
    ]


# ------------------------------------------------------------------ what agrees


@given(st.integers(), st.integers())
def test_integers_agree_only_if_they_are_equal(a: int, b: int) -> None:
    assert same_value(a, b) == same_output(str(a), str(b)) == (a == b)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-5, 1))
def test_a_decimal_that_is_off_by_more_than_a_millionth_is_another(x: float, by: float) -> None:
    other = x * (1 + by)
    if x and other != x and abs(x) < 1e300 and abs(x) > 1e-5:
        assert not same_output(repr(other), f"{x!r}")
        assert not same_value(other, x)
    assert same_value(x, x) and same_output(repr(x), repr(x))


@given(st.text(max_size=30), st.text(max_size=30))
def test_comparing_outputs_never_fails_and_needs_the_same_lines(a: str, b: str) -> None:
    same = same_output(a, b)
    if same:
        assert len(a.split()) == len(b.split())
