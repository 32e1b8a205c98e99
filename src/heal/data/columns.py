"""Which column is what: the recipe's word first, then a known shape, then the usual names.

In: rows and `problems.fields`. Out: `Columns`. A column that looks needed (a passage, a table) and
is not used is named, never dropped in silence.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heal.config import Fields
from heal.data.rows import Rows, listed
from heal.data.shapes import Shape, same_name, shape_of
from heal.errors import UserError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "prompt", "instruction", "query", "input"),
    "answer": (
        "answer", "expected_answer", "final_answer", "gold_answer", "target", "solution", "output",
        "correct_answer", "ground_truth",
    ),
    "solution": ("solution", "rationale"),
    "family": ("family", "category", "subject", "type"),
    "options": ("options", "choices", "answer_choices"),
    "context": ("context", "passage", "article"),
    "input": ("input",),
}  # fmt: skip
"""Column names tried for each field, in this order; the same as `config.Fields` documents."""

_NEEDED = ("problem", "answer")
_KEYS = ("answer_key", "answerkey", "answer_letter", "answer_idx", "correct_option", "correct")
_LAST_KEYS = ("label", "answer_index", "cop")
"""Where the right option of several is named: before, and after, the usual names."""
_LETTERED = (
    ("option_{}", "abcdefghij"),
    ("option{}", "abcdefghij"),
    ("op{}", "abcdefghij"),
    ("choice_{}", "abcdefghij"),
    ("option_{}", "123456789"),
    ("option{}", "123456789"),
    ("choice{}", "123456789"),
)
_BARE = "ABCDEFGHIJ"
_FEWEST_BARE = 3
_LOOKS_NEEDED = frozenset(
    {"context", "passage", "article", "ctx", "background", "premise", "hypothesis", "table", "code"}
    | {"starter_code", "test_cases", "tests", "instruction", "options", "choices", "story", "facts"}
    | {"input", "document", "figure", "constraints"}
)
_PICTURES = frozenset({"image", "images", "picture", "img", "image_1", "decoded_image", "diagram"})


@dataclass(frozen=True)
class Columns:
    """Field → column, and what else was found out about them."""

    names: Mapping[str, str]
    """A path with dots looks inside."""
    present: tuple[str, ...]
    shape: Shape | None = None
    options: tuple[str, ...] = ()
    """Columns that each hold one option, in the options' order."""
    wrong: tuple[str, ...] = ()
    """Columns that hold wrong options; the answer's column holds the right one."""

    @property
    def has_options(self) -> bool:
        """Whether rows choose among options."""
        return bool("options" in self.names or self.options or self.wrong)

    def without_options(self) -> "Columns":
        """The same, with options left unread."""
        names = {name: column for name, column in self.names.items() if name != "options"}
        return Columns(names, self.present, self.shape)

    def used(self) -> frozenset[str]:
        """Every column that is read, by its first name."""
        read = (*self.names.values(), *self.options, *self.wrong)
        whole = {column for column in read if column in self.present}
        return frozenset(whole | {column.partition(".")[0] for column in read})

    def unused(self) -> Iterator[str]:
        """Columns that look needed and are not read."""
        read = self.used()
        for column in self.present:
            if column not in read and same_name(column) in _LOOKS_NEEDED:
                yield column

    def pictures(self) -> Iterator[str]:
        """Columns that hold pictures, which no text model sees."""
        read = self.used()
        for column in self.present:
            if column not in read and same_name(column) in _PICTURES:
                yield column


def find_columns(rows: Rows, fields: Fields) -> Columns:
    """Raises: UserError where the problem or the answer is in no column."""
    present = list(dict.fromkeys(name for row in rows.rows for name in row.values))
    shape = shape_of(present)
    found = _Finding(rows, fields, present, shape)
    wrong = found.wrong()
    found.find("problem")
    options = () if wrong else found.options()
    found.find("answer", shape.right if shape and wrong else None, bool(options))
    for name in ("solution", "family", "context"):
        found.find(name)
    if same_name(found.names.get("problem", "")) == "instruction" or fields.input:
        found.find("input")
    names = {name: found.names[name] for name in ALIASES if name in found.names}
    return Columns(names, tuple(present), shape, options if len(options) > 1 else (), wrong)


def look_up(values: Mapping[str, Any], column: str) -> Any:
    """A column's value; `a.b` looks inside, `a.0` into a list; None where there is none."""
    if column in values:
        return values[column]
    node: Any = values
    for part in column.split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, Sequence) and not isinstance(node, str) and part.isdecimal():
            node = node[int(part)] if len(part) < 10 and int(part) < len(node) else None
        else:
            return None
    return node


class _Finding:
    """Columns as they are found, field by field; one that is taken is not taken again."""

    def __init__(
        self, rows: Rows, fields: Fields, present: Sequence[str], shape: Shape | None
    ) -> None:
        self.names: dict[str, str] = {}
        self._rows, self._fields, self._present, self._shape = rows, fields, present, shape
        self._by_name: dict[str, str] = {}
        for column in present:
            self._by_name.setdefault(same_name(column), column)

    def find(self, name: str, shaped: str | None = None, among_options: bool = False) -> None:
        """The column of one field: as the recipe says, as the shape has it, by the usual names."""
        chosen = getattr(self._fields, name)
        if chosen == "" and name not in _NEEDED:
            return
        if chosen:
            self._require(name, chosen)
        else:
            told = self._shape.fields.get(name) if self._shape else None
            chosen = self._of_shape(shaped or told)
            chosen = chosen or self._usual(name, among_options)
        if chosen is not None:
            self.names[name] = chosen
        elif name in _NEEDED:
            raise UserError(
                f"{self._rows.name}: no {name} column; columns found: {listed(self._present)}",
                hint=f"--set problems.fields.{name}={self._guess(name)}",
            )

    def options(self) -> tuple[str, ...]:
        """The columns that hold options: one of them for all, or one for each."""
        if self._fields.options == "":
            return ()
        self.find("options")
        if "options" in self.names:
            return (self.names["options"],)
        free = [c for c in self._present if c not in self.names.values()]
        bare = tuple(_leading(_BARE, {c: c for c in free}, "{}"))
        if len(bare) >= _FEWEST_BARE:
            return bare
        by_name = {same_name(column): column for column in free}
        each = (tuple(_leading(signs, by_name, form)) for form, signs in _LETTERED)
        return next((columns for columns in each if len(columns) > 1), ())

    def wrong(self) -> tuple[str, ...]:
        """The columns of wrong options, where the shape has the right one apart."""
        fields, shape = self._fields, self._shape
        if shape is None or not shape.wrong or fields.answer or fields.options is not None:
            return ()
        return tuple(self._by_name[name] for name in shape.wrong if name in self._by_name)

    def _of_shape(self, path: str | None) -> str | None:
        if not path:
            return None
        first, dot, rest = path.partition(".")
        column = self._by_name.get(first)
        return column and f"{column}{dot}{rest}"

    def _usual(self, name: str, among_options: bool) -> str | None:
        taken = set(self.names.values())
        aliases = ALIASES[name]
        if among_options:
            aliases = (*_KEYS, *aliases, *_LAST_KEYS)
        exact = (alias for alias in aliases if alias in self._present and alias not in taken)
        alike = (
            self._by_name[alias]
            for alias in aliases
            if alias in self._by_name and self._by_name[alias] not in taken
        )
        return next(exact, None) or next(alike, None)

    def _guess(self, name: str) -> str:
        free = [column for column in self._present if column not in self.names.values()]
        for alias in ALIASES[name]:
            near = difflib.get_close_matches(alias, free, n=1, cutoff=0.5)
            if near:
                return near[0]
        return "COLUMN"

    def _require(self, name: str, column: str) -> None:
        if any(look_up(row.values, column) is not None for row in self._rows.rows):
            return
        near = difflib.get_close_matches(column, self._present, n=1, cutoff=0.5)
        raise UserError(
            f"{self._rows.name}: no column {column!r} (problems.fields.{name}); "
            f"columns found: {listed(self._present)}",
            hint=f"--set problems.fields.{name}={near[0] if near else 'COLUMN'}",
        )


def _leading(signs: str, columns: Mapping[str, str], form: str) -> Iterator[str]:
    """The columns named by the first signs, up to the first that is missing."""
    for sign in signs:
        column = columns.get(form.format(sign))
        if column is None:
            return
        yield column
