"""Options: what a problem chooses from, how it is asked, and the letter of the right one.

In: a row's columns. Out: the question with its options as `A. …` lines, and the gold letter. How a
file names the right option (its label, its text, its number from 0 or from 1) is decided once for
the whole file, by what fits most rows. Options whose right one stands apart (GPQA, SciQ) are
shuffled by a hash of their own text, so that neither order nor company of problems matters.
"""

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from heal.data.columns import Columns, look_up
from heal.data.golds import UnusableRowError, plain
from heal.data.rows import Rows
from heal.method.final_answers import same_text
from heal.wording import plural

LETTERS = "ABCDEFGHIJ"
"""The letters that the `choice` verifier reads."""

_LONGEST_LISTING = 20_000
_TEXT_KEYS = ("text", "content", "value", "option", "answer")
_LABEL_KEYS = ("label", "letter", "key", "id")
_MARK = re.compile(r"(?:^|(?<=[\s,;(\[]))\(?([A-Ja-j]) ?[).:\]] ?")
_AROUND_LABEL = " ()[].:*\"'`$\n"


class Named(StrEnum):
    """How the right option is named."""

    LABEL = "by its label"
    TEXT = "by its text"
    FROM_0 = "by its number, counted from 0"
    FROM_1 = "by its number, counted from 1"
    APART = "in a column of its own"


@dataclass(frozen=True)
class Option:
    """One option: what the file calls it, its text, its place in the file from 0."""

    label: str
    text: str
    place: int


def how_named(rows: Rows, columns: Columns) -> Named | None:
    """How this file names right options; None: it does not, in most rows that have options."""
    if columns.wrong:
        return Named.APART
    fits: Counter[Named] = Counter()
    asked = 0
    for row in rows.rows:
        options = options_of(row.values, columns)
        gold = plain(look_up(row.values, columns.names["answer"]))
        if gold is None or not options:
            continue
        asked += 1
        fits.update(way for way in _WAYS if find(gold, options, way) is not None)
    for way in (Named.FROM_0, Named.FROM_1):
        # a number may be an answer like any other: it counts options only if it always can
        fits[way] *= fits[way] == asked
    best = max(_WAYS, key=lambda way: fits[way])
    return best if 2 * fits[best] >= max(1, asked) else None


def options_of(values: Mapping[str, Any], columns: Columns) -> list[Option]:
    """A row's options in the file's order; empty where it has fewer than two."""
    if columns.wrong:
        right = plain(look_up(values, columns.names["answer"]))
        wrong = [value for name in columns.wrong for value in _flat(look_up(values, name))]
        found = [Option("", text, i) for i, text in enumerate([right, *wrong]) if text]
        found = found if right else []
    elif "options" in columns.names:
        found = _listed(look_up(values, columns.names["options"]))
    else:
        texts = [plain(values.get(column)) for column in columns.options]
        found = [Option(LETTERS[i], text, i) for i, text in enumerate(texts) if text]
    return found if len(found) > 1 else []


def find(gold: str, options: list[Option], way: Named) -> int | None:
    """Where the right option stands in the list, or None."""
    if way is Named.APART:
        return 0
    if way is Named.LABEL:
        label = gold.strip(_AROUND_LABEL).casefold()
        return _only(i for i, option in enumerate(options) if option.label.casefold() == label)
    if way is Named.TEXT:
        return _only(i for i, option in enumerate(options) if _alike(option.text, gold))
    if not gold.isdecimal() or len(gold) > 2:
        return None
    place = int(gold) - (way is Named.FROM_1)
    return _only(i for i, option in enumerate(options) if option.place == place)


def ask(
    question: str, values: Mapping[str, Any], columns: Columns, way: Named, seed: int
) -> tuple[str, str]:
    """The question with its options, and the letter of the right one.

    Raises: UnusableRowError.
    """
    options = options_of(values, columns)
    if not options:
        raise UnusableRowError("a row without options, in a file of options")
    if len(options) > len(LETTERS):
        raise UnusableRowError(
            f"{plural(len(options), 'option')}; at most {len(LETTERS)} can be told by letters",
            f"more than {plural(len(LETTERS), 'option')}",
        )
    gold = plain(look_up(values, columns.names["answer"]))
    if gold is None:
        raise UnusableRowError("empty answer")
    at = find(gold, options, way)
    if at is None:
        at = next(filter(lambda i: i is not None, (find(gold, options, w) for w in _SURE)), None)
    if at is None:
        raise UnusableRowError(
            f"the answer {gold[:60]!r} is none of its options", "the answer is none of the options"
        )
    right = options[at]
    if sum(_alike(option.text, right.text) for option in options) > 1:
        raise UnusableRowError("the right option stands there twice")
    if way is Named.APART:
        options = sorted(options, key=lambda option: _order(question, option.text, seed))
    letter = LETTERS[options.index(right)]
    return _with_options(question, options), letter


_WAYS = (Named.LABEL, Named.TEXT, Named.FROM_0, Named.FROM_1)
_SURE = (Named.LABEL, Named.TEXT)


def _with_options(question: str, options: list[Option]) -> str:
    marks = {mark[1].upper() for mark in _MARK.finditer(question)}
    if marks.issuperset(LETTERS[: len(options)]):
        return question  # it lists them itself
    lines = (f"{LETTERS[i]}. {option.text}" for i, option in enumerate(options))
    return f"{question.rstrip()}\n\n" + "\n".join(lines)


def _order(question: str, text: str, seed: int) -> bytes:
    told = f"{seed}\0{question}\0{text}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(told).digest()


def _listed(value: Any) -> list[Option]:
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, Mapping):
        return _of_object(value)
    if not isinstance(value, list | tuple):
        return []
    if value and all(isinstance(one, Mapping) for one in value):
        pairs = [(_first(one, _LABEL_KEYS), _first(one, _TEXT_KEYS)) for one in value]
    else:
        pairs = [(None, plain(one)) for one in value]
    return _numbered(_without_marks(pairs))


def _of_object(value: Mapping[str, Any]) -> list[Option]:
    texts, labels = value.get("text"), value.get("label")
    if isinstance(texts, list | tuple) and isinstance(labels, list | tuple):
        return _numbered([(plain(a), plain(b)) for a, b in zip(labels, texts, strict=False)])
    return _numbered([(str(label), plain(text)) for label, text in value.items()])


def _of_text(value: str) -> list[Option]:
    """A list written as JSON or Python, or `(a) one, (b) two`."""
    if len(value) > _LONGEST_LISTING:
        return []
    if value.lstrip()[:1] in ("[", "{"):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            return [] if isinstance(found, str) else _listed(found)
    marks: list[re.Match[str]] = []
    for mark in _MARK.finditer(value):
        if len(marks) < len(LETTERS) and mark[1].upper() == LETTERS[len(marks)]:
            marks.append(mark)
    if len(marks) < 2:
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(value)]
    pairs: list[tuple[str | None, str | None]] = [
        (mark[1].upper(), value[mark.end() : end].strip(" ,;\n"))
        for mark, end in zip(marks, ends, strict=True)
    ]
    return _numbered(pairs)


def _without_marks(
    pairs: list[tuple[str | None, str | None]],
) -> list[tuple[str | None, str | None]]:
    """`A)21` is 21 where every option carries its own letter."""
    marks = [_MARK.match(text) if text else None for _, text in pairs]
    told = [mark[1].upper() if mark else "" for mark in marks]
    if len(told) > len(LETTERS) or told != list(LETTERS[: len(told)]):
        return pairs
    return [
        (mark[1].upper(), text[mark.end() :].strip())
        for mark, (_, text) in zip(marks, pairs, strict=True)
        if mark and text
    ]


def _numbered(pairs: list[tuple[str | None, str | None]]) -> list[Option]:
    letters = LETTERS + "?" * len(pairs)
    return [
        Option(label if label is not None else letters[i], text, i)
        for i, (label, text) in enumerate(pairs)
        if text
    ]


def _first(one: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((text for key in keys if (text := plain(one.get(key)))), None)


def _flat(value: Any) -> list[str | None]:
    return [plain(one) for one in value] if isinstance(value, list | tuple) else [plain(value)]


def _alike(one: str, other: str) -> bool:
    return one == other or same_text(one, other)


def _only(found: Any) -> int | None:
    places = list(found)
    return places[0] if len(places) == 1 else None
