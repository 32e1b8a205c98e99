"""Tests of a program, read from the shapes public data sets give them in.

In: JSON. Out: a `Suite`: what to feed the program, what to call, or what to assert, in order.
Reads standard input and output (`inputs` and `outputs` lists as in APPS and TACO, lists of `input`
and `output` as in LiveCodeBench), function calls (`fn_name` with the same lists, or `cases` of
`args` and `expected`), and asserts (`test` with `entry_point` as in HumanEval, `test_list` as in
MBPP). Knows nothing of running them. Tests that are not all readable are none: a program is not
called correct for passing half of them.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TIME_S = 4.0
MEMORY_MB = 1024
_LISTS = ("public_test_cases", "private_test_cases", "tests", "test_cases", "cases")
_ASSERTED = ("test_list", "challenge_test_list")
_INSIDE = ("input_output", "verification_info", "tests", "test_cases")
_ENTRIES = ("entry_point", "fn_name", "func_name", "function_name")
_NESTED = 4


class SuiteError(ValueError):
    """Why tests cannot be used."""


@dataclass(frozen=True)
class Stdin:
    """What a whole program is fed, and what it must print."""

    fed: str
    expected: str


@dataclass(frozen=True)
class Call:
    """What a function is called with, and what it must return."""

    entry: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    expected: Any
    wrapped: bool = False
    """The expected value may stand in a list of one, as in APPS."""


@dataclass(frozen=True)
class Asserts:
    """Code that runs behind the program and must not raise."""

    code: str
    entry: str | None = None
    """What a `check` function in the code is called with."""


Test = Stdin | Call | Asserts


@dataclass(frozen=True)
class Suite:
    """All tests of one problem."""

    tests: tuple[Test, ...]
    setup: str = ""
    """Runs before the program: the imports its function was asked for with."""
    time_s: float = TIME_S
    """CPU seconds per test."""
    memory_mb: int = MEMORY_MB


def read_suite(data: str) -> Suite:
    """The tests in a JSON text. Raises: SuiteError saying what is wrong."""
    raw = _opened(_parsed(data))
    entry = _entry(raw)
    tests = (*_paired(raw, entry), *_listed(raw, entry), *_asserted(raw, entry))
    if not tests:
        raise SuiteError("no tests in it: give inputs and outputs, cases, or asserts")
    return Suite(
        tests, _setup(raw), _positive(raw, "time_s", TIME_S),
        math.ceil(_positive(raw, "memory_mb", MEMORY_MB)),
    )  # fmt: skip


def holds_tests(data: str | None) -> bool:
    """Whether a text is JSON that looks like tests at all."""
    return data is not None and data.lstrip()[:1] in ("{", "[")


def _parsed(data: Any) -> Any:
    try:
        return json.loads(data) if isinstance(data, str) else data
    except (ValueError, RecursionError):
        raise SuiteError(f"not JSON: {str(data)[:40]!r}") from None


def _opened(raw: Any) -> dict[str, Any]:
    """One object with everything in it: objects inside texts and under wrappers come up."""
    for _ in range(_NESTED):
        if isinstance(raw, list):
            raw = {"tests": raw}
        if not isinstance(raw, dict):
            raise SuiteError(f"neither an object nor a list: {str(raw)[:40]!r}")
        name = next((name for name in _INSIDE if _is_wrapper(raw.get(name))), None)
        if name is None:
            return raw
        inner = _parsed(raw[name])
        rest = {key: value for key, value in raw.items() if key != name}
        raw = rest | (inner if isinstance(inner, dict) else {"tests": inner})
    raise SuiteError("wrapped too often")


def _is_wrapper(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and holds_tests(value))


def _entry(raw: Mapping[str, Any]) -> str | None:
    told = raw.get("metadata")
    if holds_tests(told if isinstance(told, str) else None):
        told = _parsed(told)
    places = (raw, told if isinstance(told, dict) else {})
    names = (place.get(key) for place in places for key in _ENTRIES)
    return next((name for name in names if isinstance(name, str) and name), None)


def _paired(raw: Mapping[str, Any], entry: str | None) -> Iterator[Test]:
    inputs, outputs = raw.get("inputs"), raw.get("outputs")
    if inputs is None and outputs is None:
        return
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise SuiteError("inputs and outputs must both be lists")
    if len(inputs) != len(outputs):
        raise SuiteError(f"{len(inputs)} inputs but {len(outputs)} outputs")
    for given, expected in zip(inputs, outputs, strict=True):
        yield _fed_or_called(given, expected, entry)


def _listed(raw: Mapping[str, Any], entry: str | None) -> Iterator[Test]:
    for name in _LISTS:
        items = raw.get(name)
        if isinstance(items, str):
            items = _parsed(items)
        if items is None:
            continue
        if not isinstance(items, list):
            raise SuiteError(f"{name} is no list")
        for item in items:
            yield _item(item, entry)


def _item(item: Any, entry: str | None) -> Test:
    if isinstance(item, str):
        return _checked(Asserts(item, entry))
    if isinstance(item, list) and len(item) == 2 and isinstance(item[0], list) and entry:
        return Call(entry, item[0], {}, item[1])
    if not isinstance(item, dict):
        raise SuiteError(f"no test: {str(item)[:40]!r}")
    if "expected" in item and entry:
        kwargs = item.get("kwargs") or {}
        if not isinstance(item.get("args", []), list) or not isinstance(kwargs, dict):
            raise SuiteError("args must be a list and kwargs an object")
        return Call(entry, item.get("args", []), kwargs, item["expected"])
    if "input" in item and "output" in item:
        kind = item.get("testtype", item.get("type"))
        named = _entry(item) or entry
        return _fed_or_called(
            item["input"], item["output"], None if kind in ("stdin", "stdin_stdout") else named
        )
    raise SuiteError(f"a test with {', '.join(map(repr, list(item)[:5]))}")


def _fed_or_called(given: Any, expected: Any, entry: str | None) -> Test:
    if entry is None:
        return Stdin(_text(given), _text(expected))
    if isinstance(given, str):  # a line of JSON for each argument
        args = [_parsed(line) for line in given.split("\n") if line.strip()]
        return Call(entry, args, {}, _parsed(expected))
    if isinstance(given, dict):
        return Call(entry, [], given, expected, wrapped=True)
    if not isinstance(given, list):
        raise SuiteError(f"no list of arguments: {str(given)[:40]!r}")
    return Call(entry, given, {}, expected, wrapped=True)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise SuiteError(f"neither text nor lines of text: {str(value)[:40]!r}")


def _asserted(raw: Mapping[str, Any], entry: str | None) -> Iterator[Test]:
    for name in _ASSERTED:
        for code in raw.get(name) or ():
            if not isinstance(code, str):
                raise SuiteError(f"{name} holds {str(code)[:40]!r}")
            yield _checked(Asserts(code, entry))
    code = raw.get("test")
    if code is not None:
        if not isinstance(code, str):
            raise SuiteError("test is no text")
        yield _checked(Asserts(code, entry))


def _checked(test: Asserts) -> Asserts:
    """Refuses code that would pass whatever the program does."""
    try:
        body = ast.parse(test.code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SuiteError(f"asserts that are no Python: {error}") from None
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    called = "check" in functions and test.entry is not None
    if called or any(name.startswith("test") for name in functions):
        return test
    if not any(isinstance(node, ast.Assert | ast.Expr | ast.For | ast.With) for node in body):
        raise SuiteError("asserts that assert nothing (`check` needs an entry_point)")
    return test


def _setup(raw: Mapping[str, Any]) -> str:
    imports = raw.get("test_imports") or []
    parts = [*imports, raw.get("test_setup_code") or "", raw.get("setup") or ""]
    if not all(isinstance(part, str) for part in parts):
        raise SuiteError("setup code that is no text")
    return "\n".join([*parts, *_imports(raw.get("prompt"))]).strip()


def _imports(prompt: Any) -> list[str]:
    """The imports above a function's header, which an answer need not repeat."""
    lines = prompt.split("\n") if isinstance(prompt, str) else []
    return [line for line in lines if line.startswith(("import ", "from "))]


def _positive(raw: Mapping[str, Any], name: str, default: float) -> float:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise SuiteError(f"{name} is {value!r}, not a positive number")
    return float(value)
