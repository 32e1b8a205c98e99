"""Programs in a text: the fenced code blocks of Markdown, in one pass over its lines.

In: plain text. Out: blocks with their language, the program a trace ends on, or the text without
its programs. Knows no language: a block counts as a program by the word behind its fence.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON = frozenset({"python", "python3", "py", "py3"})
_UNNAMED = ""
_THINK_END = "</think>"
_MARKS = ("```", "~~~")


@dataclass(frozen=True)
class Block:
    """One fenced block: the word behind its fence, its text, and the lines it takes, from 0."""

    language: str
    text: str
    first: int
    last: int


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks, in order; one that is never closed reaches to the end."""
    lines = text.split("\n")
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        bare = line.strip()
        if opened is None:
            opened = _opening(number, bare)
            continue
        first, fence, language = opened
        if bare.startswith(fence) and not bare.strip(fence[0]):
            yield _block(lines, language, first, number)
            opened = None
    if opened is not None:
        yield _block(lines, opened[2], opened[0], len(lines))


def last_program(text: str) -> str | None:
    """The last block named Python, else the last without a name; only behind `</think>`.

    A block of another language is an example of output or input, never the program.
    """
    found = list(blocks(text.rpartition(_THINK_END)[2]))
    named = [block for block in found if block.language in PYTHON]
    unnamed = [block for block in found if block.language == _UNNAMED]
    chosen = (named or unnamed)[-1:]
    return chosen[0].text if chosen and chosen[0].text.strip() else None


def without_programs(text: str) -> str:
    """The text with its Python blocks left out: what a program assigns is not what a text says."""
    if not any(mark in text for mark in _MARKS):
        return text
    lines, kept, at = text.split("\n"), list[str](), 0
    for block in blocks(text):
        if block.language in PYTHON:
            kept += lines[at : block.first]
            at = block.last + 1
    return "\n".join([*kept, *lines[at:]])


def _opening(number: int, bare: str) -> tuple[int, str, str] | None:
    if not bare.startswith(_MARKS):
        return None
    behind = bare.lstrip(bare[0])
    # ```x``` on one line is code inside a sentence
    if bare[0] in behind:
        return None
    return number, bare[: len(bare) - len(behind)], _language(behind)


def _block(lines: list[str], language: str, first: int, last: int) -> Block:
    return Block(language, textwrap.dedent("\n".join(lines[first + 1 : last])), first, last)


def _language(behind: str) -> str:
    words = behind.strip(" \t{}.").split()
    return words[0].casefold() if words else _UNNAMED
