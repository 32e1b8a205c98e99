"""Programs as answers: the last Python block of a trace, run on the problem's own tests.

In: a trace, and tests as JSON in `verifier_data`, or in the answer column where that holds such
JSON (`cases` reads their shapes). Correct is a program that passes every test; a wrong one comes
with the first test it fails. A program that loops, crashes, eats memory or forks is wrong and
costs one verdict. Tests that cannot be used, and a time limit of ours that ends before the
program's own, are `UNVERIFIABLE`.

Every test runs in a process of its own (`programs`, `confined`). That is no security boundary: it
keeps careless programs from hanging or filling the machine, not a determined one from reading
files. Judge programs you do not trust in a container or a virtual machine.
"""

from __future__ import annotations

import ast
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from heal.method.programs import last_program
from heal.records import Problem, Verdict
from heal.verifiers import programs
from heal.verifiers.base import Finding, Question
from heal.verifiers.cases import (
    Asserts,
    Stdin,
    Suite,
    SuiteError,
    Test,
    holds_tests,
    read_suite,
)
from heal.verifiers.outputs import same_output, same_value
from heal.verifiers.programs import Ending
from heal.verifiers.worker import Judge
from heal.wording import plural

OPENER = "heal.verifiers.code:open_judge"

_LONGEST_PROGRAM = 200_000
_BUDGET_SHARE = 0.9
"""Of the time for a verdict; the rest is for starting and replying."""
_TEST_SHARE = 1 / 3
"""Of that, for the CPU of one test at most: a loop is the program's fault, not our limit's."""
_SHOWN = 60

log = logging.getLogger("heal.verifiers.code")


def read(text: str, problem: Problem) -> Finding | Question:
    """Ask for a trace's program to be run."""
    program = last_program(text)
    if program is None:
        return Finding(Verdict.NO_ANSWER, detail="no Python block")
    if len(program) > _LONGEST_PROGRAM:
        detail = f"a program of {plural(len(program), 'character')}"
        return Finding(Verdict.UNVERIFIABLE, detail=detail)
    tests = tests_of(problem)
    if tests is None:
        return Finding(Verdict.UNVERIFIABLE, program, "the problem carries no tests")
    return Question(program, candidate=program, reference=tests)


def read_gold(problem: Problem) -> Finding | Question:
    """Doubt tests that cannot be read, and a reference program that fails the first of them."""
    tests = tests_of(problem)
    if tests is None:
        return Finding(Verdict.UNVERIFIABLE, detail="the problem carries no tests")
    answer = None if tests == problem.answer else problem.answer
    return Question(None, candidate=None, reference=json.dumps([tests, answer]))


def tests_of(problem: Problem) -> str | None:
    """The tests a problem carries; None where it carries none."""
    if problem.verifier_data is not None:
        return problem.verifier_data
    return problem.answer if holds_tests(problem.answer) else None


@cache
def warn_of_open_doors() -> None:
    """Say once, in words, what a tested program is not kept from on this machine."""
    if words := open_doors(programs.doors()):
        log.warning("verifier code: programs of the model run here, and %s", words)


def open_doors(doors: programs.Doors) -> str:
    """In words; empty where everything is shut."""
    left = {
        "the network is not blocked": doors.network,
        "they may start processes": doors.processes,
        "they may write wherever you may": doors.writes,
    }
    return ", ".join(words for words, shut in left.items() if not shut)


def open_judge(timeout_s: float) -> Judge:
    """The judge of a worker that has `timeout_s` for each verdict."""
    budget_s = _BUDGET_SHARE * timeout_s

    @lru_cache(maxsize=8)
    def suite(tests: str) -> Suite:
        read = read_suite(tests)
        return replace(read, time_s=min(read.time_s, _TEST_SHARE * budget_s))

    def judge(candidate: str | None, reference: str) -> tuple[str, str | None]:
        try:
            if candidate is None:
                tests, answer = json.loads(reference)
                return _judge_gold(suite(tests), answer, budget_s)
            return _judge(candidate, suite(reference), budget_s)
        except SuiteError as error:
            return Verdict.UNVERIFIABLE, f"the tests cannot be used: {error}"

    return judge


def _judge_gold(suite: Suite, answer: str | None, budget_s: float) -> tuple[Verdict, str]:
    program = answer and _reference_program(answer)
    if not program:
        return Verdict.CORRECT, f"{len(suite.tests)} tests"
    # all tests of all problems would take as long as judging a trace of each
    verdict, detail = _judge(program, suite, budget_s, only=1)
    return verdict, detail if verdict is Verdict.CORRECT else f"its own program: {detail}"


def _reference_program(answer: str) -> str | None:
    """An answer that is itself a program: fenced, or text that Python reads as statements."""
    if (fenced := last_program(answer)) is not None:
        return fenced
    try:
        body = ast.parse(answer).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    is_program = any(not isinstance(node, ast.Expr) for node in body)
    calls = any(isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) for node in body)
    return answer if is_program or calls else None


def _judge(
    program: str, suite: Suite, budget_s: float, only: int | None = None
) -> tuple[Verdict, str]:
    total = len(suite.tests)
    for number, (test, ran) in enumerate(_runs(program, suite, budget_s, only), 1):
        at = f"test {number} of {total}"
        if ran.ending is Ending.NO_TIME:
            return Verdict.UNVERIFIABLE, (
                f"{number - 1} of {total} tests passed, then the time for a verdict was up"
            )
        if ran.ending is Ending.NO_SETUP:
            return Verdict.UNVERIFIABLE, f"{at}: the tests' own setup failed: {ran.words}"
        if ran.ending is Ending.FAILED:
            return Verdict.WRONG, f"{at}: {ran.words}{_asserted(test)}"
        if difference := _difference(test, ran):
            return Verdict.WRONG, f"{at}: {difference}"
    return Verdict.CORRECT, f"passed {total if only is None else min(only, total)} tests"


def _runs(
    program: str, suite: Suite, budget_s: float, only: int | None
) -> Iterator[tuple[Test, programs.Ran]]:
    ends = time.monotonic() + budget_s
    for test in suite.tests[:only]:
        yield test, programs.run(program, test, suite, ends - time.monotonic())


def _asserted(test: Test) -> str:
    is_line = isinstance(test, Asserts) and "\n" not in test.code.strip()
    return f" in {_shown(test.code.strip())}" if is_line and isinstance(test, Asserts) else ""


def _difference(test: Test, ran: programs.Ran) -> str:
    """What a run that ended well did instead of what was expected; empty if nothing."""
    if isinstance(test, Stdin):
        if same_output(ran.printed, test.expected):
            return ""
        return f"printed {_shown(ran.printed.strip())}, expected {_shown(test.expected.strip())}"
    if isinstance(test, Asserts):
        return ""
    accepted = [test.expected]
    if test.wrapped and isinstance(test.expected, list) and len(test.expected) == 1:
        accepted += test.expected
    if any(same_value(ran.value, expected) for expected in accepted):
        return ""
    return f"returned {_shown(ran.value)}, expected {_shown(test.expected)}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of more than 4,300 digits
        return "a huge number"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
