"""A whole run over a small code task: programs that are right, wrong, slow, greedy and worse.

The scripted teacher writes; the programs themselves are really run. Data only.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_run import ScriptedRun, Watch, steps

from heal.records import Check, Gate, Problem, Stratum, Trace, Verdict
from heal.store import ProblemRow, SelectedRow, Store, TraceRow
from heal.verifiers import programs

pytestmark = pytest.mark.skipif(
    not programs.doors().processes, reason="these programs fork and kill, which nothing stops here"
)

FENCE = "```python\n{}\n```"


def written(way: str, program: str) -> str:
    """A trace with a break: its third step is the uncertain one."""
    return steps(
        f"I read the {way} input first and see what it holds.",
        f"The {way} numbers have to be taken together somehow.",
        f"Wait, this {way} part is not clear to me at all.",
        f"I go on in the {way} way and write the program down as it comes to me now.",
        FENCE.format(program),
    )


def repaired(way: str, program: str) -> str:
    return steps(
        f"Then the {way} numbers are added one by one, from the left.",
        f"The {way} sum is printed at the end and nothing else.",
        FENCE.format(program),
    )


SUM = "print(sum(map(int, input().split())))"
LONG_SUM = "ans = 0\nfor x in input().split():\n    ans = ans + int(x)\nprint(ans)"
SQUARE = "def square(x):\n    return x * x"
WORSE = {
    "red": "print(max(map(int, input().split())))",
    "green": "while True:\n    pass",
    "blue": "print(int(input()) // 0)",
    "brown": "x = [0]\nwhile True:\n    x += x",
    "white": "import os\nwhile True:\n    os.fork()",
    "black": "import os\nos.kill(-1, 9)",
}
"""Wrong, looping, crashing, memory-eating, forking and killing programs for a sum."""
REASONS = {
    "red": "printed '2', expected '3'",
    "green": "took ",
    "blue": "ValueError: invalid literal for int()",
    "brown": "MemoryError",
    "white": "PermissionError",
    "black": "PermissionError",
}
LIMITS = {"time_s": 1, "memory_mb": 300}
TESTS = {
    "sum": {"inputs": ["1 2", "4 5 6"], "outputs": ["3", "15"], **LIMITS},
    "square": {"entry_point": "square", "test": "def check(f):\n    assert f(3) == 9\n", **LIMITS},
    "total": {"inputs": ["1 2", "7"], "outputs": ["3", "7"], **LIMITS},
}


def task() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    asked = {"sum": "Print the sum of a line of numbers.", "square": "Write square(x).",
             "total": "Print the total of the numbers you read."}  # fmt: skip
    answers = {"sum": SUM, "square": SQUARE, "total": SUM}
    rows = [
        {"problem": asked[name], "answer": answers[name], "verifier_data": TESTS[name]}
        for name in asked
    ]
    rules: list[dict[str, Any]] = [
        {"match": "A student is solving.*Print the total", "replies": ["Think of what + does."]},
        *(
            {"match": rf"Print the total.*Hint:.*<assistant>I read the {way} ",
             "replies": [repaired(way, LONG_SUM)]}
            for way in WORSE
        ),
        {"match": "Hint:.*<assistant>", "replies": [written("deep", SUM), written("flat", SUM)]},
        {"match": r"square\(x\).*<assistant>\Z",
         "replies": [written("tall", SQUARE), written("wide", "class Solution:\n    "
                     "def square(self, x):\n        return x ** 2")]},
        {"match": r"Print the sum.*<assistant>\Z",
         "replies": [written("calm", SUM), *(written(w, p) for w, p in WORSE.items()),
                     "I would rather not."]},
        {"match": r"Print the total.*<assistant>\Z",
         "replies": [written(w, p) for w, p in WORSE.items()]},
        {"match": "<assistant>.*not clear to me", "entropies": [0.2, 0.3, 2.5, 0.4]},
    ]  # fmt: skip
    return rows, rules


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedRun]:
    made = ScriptedRun(
        tmp_path_factory.mktemp("code"),
        task(),
        {
            "problems": {"verifier": "code", "verify_timeout_s": 12},
            "sampling": {"n": 24},
            "gear": {"paths": 6, "candidates": 1, "target": None},
            "prompts": {"solve": "{problem}", "solve_hinted": "{problem}\nHint: {hint}"},
        },
    )
    made.go()
    yield made


def verdicts(run: ScriptedRun) -> dict[str, Counter[Verdict]]:
    found: dict[str, Counter[Verdict]] = {}
    for row in run.rows(TraceRow, "stage=?", "sample"):
        assert row.verdict is not None
        found.setdefault(row.problem, Counter())[Verdict(row.verdict)] += 1
    names = {p.id: json.loads(p.verifier_data or "{}") for p in run.read("problem", Problem)}
    return {
        next(name for name, tests in TESTS.items() if tests == names[problem]): counted
        for problem, counted in found.items()
    }


def test_every_program_gets_the_verdict_its_tests_give_it(run: ScriptedRun) -> None:
    found = verdicts(run)
    assert found["square"] == {Verdict.CORRECT: 24}
    assert set(found["sum"]) == {Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER}
    assert found["total"] == {Verdict.WRONG: 24}
    strata = {Stratum(row.stratum) for row in run.rows(ProblemRow)}
    assert strata == {Stratum.EASY, Stratum.HARD, Stratum.EXTREME}


def test_every_wrong_program_has_its_reason(run: ScriptedRun) -> None:
    texts = {t.key: t.text for t in run.read("sample", Trace)}
    checks = run.everything("check", Check).values()
    seen = set()
    for check in checks:
        way = next((w for w in WORSE if f"the {w} input" in texts.get(check.trace, "")), None)
        if way is not None and check.verdict is Verdict.WRONG:
            assert check.detail is not None and REASONS[way] in check.detail
            assert check.answer == WORSE[way]
            seen.add(way)
    assert seen == set(WORSE)


def test_a_problem_that_was_never_solved_is_repaired_and_becomes_data(run: ScriptedRun) -> None:
    repairs = run.rows(TraceRow, "stage=?", "repair")
    assert {row.verdict for row in repairs} == {Verdict.CORRECT}
    # two assignments to `ans` are not two answers
    assert {row.gate for row in repairs} == {Gate.PASSED}
    kept = run.rows(SelectedRow, '"drop"=?', "kept")
    assert {row.pool for row in kept} == {"D1", "D2", "D3"}
    rows = [r for name in run.data() for r in run.stage_rows(name)]
    assert any("ans = ans + int(x)" in r["messages"][-1]["content"] for r in rows)


def test_nothing_was_left_undecided_and_nothing_doubted(run: ScriptedRun) -> None:
    assert not [c for c in run.everything("check", Check).values()
                if c.verdict is Verdict.UNVERIFIABLE]  # fmt: skip
    assert not [line for line in run.watch.said if "doubtful" in line]


def test_running_it_again_runs_no_program(run: ScriptedRun, monkeypatch: Any) -> None:
    before = run.stored()
    again = run.go(watch=Watch())
    assert "complete, nothing to do" in again.said[-1]
    assert run.stored() == before


def test_other_tests_judge_again_and_draw_nothing(run: ScriptedRun, tmp_path: Path) -> None:
    with Store.open(run.folder, write=False) as store:
        drawn = store.totals().spent
    rows, _ = task()
    for row in rows:
        if row["verifier_data"] == TESTS["square"]:
            row["verifier_data"] = TESTS["square"] | {"test": "def check(f):\n    assert f(3) == 6"}
    run.write_problems(rows)
    run.go(until="verify")
    found = [row for row in run.rows(TraceRow, "stage=?", "sample") if row.verdict == "correct"]
    with Store.open(run.folder, write=False) as store:
        assert store.totals().spent == drawn
    assert {t.problem for t in found} == {
        p.id for p in run.read("problem", Problem) if "sum of a line" in p.problem
    }
