"""Two models on one page of 80 columns: each one's prompt, and what follows it.

In: a meeting. Out: lines of runs, each run's text and whether it bears loss. Without colour, loss
stands between ⟦ and ⟧. A line break of the models' text shows as ⏎; special tokens as they are.
"""

import itertools
import re
import textwrap
from collections.abc import Iterator

from rich.cells import cell_len

from heal.before.meeting import Meeting, Side
from heal.redaction import redact, visible

COLUMN = 38
"""Cells of a column; with what stands between them two fill 79."""
PROMPT_LINES = 6
"""Of a prompt's end."""
Run = tuple[str, bool]
"""Text, and whether it bears loss."""
_BETWEEN = " │ "
_PIECES = re.compile(r"<[^<>\s]+>|[^\s<]+|<|\s")
"""Tokens that look like tags, words, and spaces one by one: where lines may be broken."""


def lines_of(meeting: Meeting, *, colour: bool) -> Iterator[list[Run]]:
    """The page. colour: whether runs will be told apart by it."""
    left, right = meeting.teacher, meeting.student
    told = "trained on" if colour else "trained on what is in ⟦ ⟧"
    yield from _rows([_name(left)], [_name(right)])
    yield from _rows(_prose(left.told), _prose(right.told))
    yield from _ruled("its prompt ends", "its prompt ends")
    yield from _rows(_end(left.prompt), _end(right.prompt))
    yield from _ruled("it goes on", told if right.bears_loss else "a row")
    marks = right.bears_loss and not colour
    row = f"⟦{right.row}⟧" if marks else right.row
    yield from _rows(_wrapped(left.row), _wrapped(row), right.bears_loss)


def _name(side: Side) -> str:
    """On one line; of a long path, its end."""
    role, _, model = _plain(side.name).partition(": ")
    room = COLUMN - cell_len(role) - 2
    while cell_len(model) > room:
        model = "…" + model.removeprefix("…")[1:]
    return f"{role}: {model}"


def _prose(text: str) -> list[str]:
    return textwrap.wrap(_plain(text), COLUMN)


def _end(prompt: str) -> list[str]:
    lines = _wrapped(prompt)
    return lines if len(lines) <= PROMPT_LINES else ["…", *lines[1 - PROMPT_LINES :]]


def _wrapped(text: str) -> list[str]:
    """A model's text in lines of a column, broken where it breaks and where they are full."""
    lines = [""]
    for piece in _PIECES.findall(_plain(text).replace("\t", "⇥")):
        shown = "⏎" if piece == "\n" else piece
        if cell_len(lines[-1] + shown) > COLUMN:
            lines[-1] = lines[-1].rstrip(" ")
            lines.append("")
            shown = shown.lstrip(" ")
        for char in shown:
            if cell_len(lines[-1] + char) > COLUMN:
                lines.append("")
            lines[-1] += char
        if piece == "\n":
            lines.append("")
    return lines if lines[-1] else lines[:-1]


def _rows(left: list[str], right: list[str], bears_loss: bool = False) -> Iterator[list[Run]]:
    for one, other in itertools.zip_longest(left, right, fillvalue=""):
        cell = one + " " * (COLUMN - cell_len(one))
        yield [(cell + (_BETWEEN if other else _BETWEEN.rstrip()), False), (other, bears_loss)]


def _ruled(left: str, right: str) -> Iterator[list[Run]]:
    heads = [f"── {words} ".ljust(COLUMN, "─") for words in (left, right)]
    yield [("─┼─".join(heads), False)]


def _plain(text: str) -> str:
    return visible(redact(text))
