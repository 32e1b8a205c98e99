"""How a problem file is read, in lines for a person: columns, verifier, examples, what is left out.

In: what was read. Out: lines. Reads no file and opens no verifier; control characters of the
file's text are shown, never sent to the terminal.
"""

import unicodedata
from collections.abc import Iterator

from heal.data.problems import ProblemSet
from heal.data.reading import LeftOut
from heal.data.rows import NAMED
from heal.records import Problem

EXAMPLES = 5
_LONGEST = 600
_LONGEST_NAMED = 160
_INDENT = "    "


def lines_of(name: str, found: ProblemSet) -> Iterator[str]:
    """How `name` is read, what is used of it, and what is not."""
    yield f"{shown(name)}: {found.summary}"
    yield f"read as: {found.shape or 'usual column names'}"
    for field, column in found.columns.items():
        yield f"  {field:<9} from column {shown(column)!r}"
    yield f"verifier: {found.verifier}"
    yield ""
    yield "facts:"
    for text, count in found.facts.items():
        yield f"  {count:>9,}  {shown(text)}"
    for i, problem in enumerate(found.problems[:EXAMPLES], 1):
        yield from _example(i, problem)
    yield from _left_out(found.left_out)


def shown(text: str) -> str:
    """A text whose control and direction characters are visible, not at work."""
    return "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n" else c
        for c in text
    )


def _example(number: int, problem: Problem) -> Iterator[str]:
    yield ""
    yield f"example {number}: {problem.id}, {problem.split.value}"
    yield from (f"{_INDENT}{line}" for line in _short(problem.problem).split("\n"))
    yield f"  answer: {_short(problem.answer)}"


def _left_out(rows: tuple[LeftOut, ...]) -> Iterator[str]:
    by_reason: dict[str, list[LeftOut]] = {}
    for row in rows:
        by_reason.setdefault(row.reason, []).append(row)
    for reason, left_out in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        yield ""
        yield f"left out: {shown(reason)} ({len(left_out):,})"
        for row in left_out[:NAMED]:
            yield f"  {shown(row.place)}: {shown(row.words[:_LONGEST_NAMED])}"
        if len(left_out) > NAMED:
            yield f"  … and {len(left_out) - NAMED:,} more"


def _short(text: str) -> str:
    return shown(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …")
