r"""Problems: read, map the columns, take the answers out, drop duplicates, split.

In: the `problems` settings. Out: a `ProblemSet` whose facts add up. An id is a hash of the
problem's text and the split a hash of (`split_seed`, id), so neither order nor company matters:
adding a problem moves no other. Bad rows are collected into one `UserError`.
"""

import difflib
import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from heal.config import Fields, Problems
from heal.data.sources import Row, Rows, read_function, read_gym, read_path
from heal.errors import UserError
from heal.method.final_answers import boxed, same_text
from heal.records import Problem, Split

ID_CHARS = 16

ALIASES: Mapping[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "prompt", "instruction", "query", "input"),
    "answer": (
        "answer", "expected_answer", "final_answer", "gold_answer", "target", "solution", "output",
    ),
    "solution": ("solution", "rationale"),
    "family": ("family", "category", "subject", "type"),
}  # fmt: skip
"""Column names tried for each field, in this order; the same as `config.Fields` documents."""

_NAMED = 5
_LONGEST_BARE_ANSWER = 200


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a run, and how they came about."""

    problems: tuple[Problem, ...]
    columns: Mapping[str, str]
    """Field → the column it was read from."""
    facts: Mapping[str, int]
    """What was done to the rows, in words, with how often; zero counts are left out."""

    def split(self, side: Split) -> tuple[Problem, ...]:
        """The problems on one side of the split."""
        return tuple(problem for problem in self.problems if problem.split is side)


def read_problems(settings: Problems, base: Path) -> ProblemSet:
    """Read, map, deduplicate and split; relative paths are taken from `base`.

    Raises: UserError naming the place of everything that is wrong, and the next command.
    """
    rows = _read_rows(settings, base)
    if not rows.rows and not rows.broken:
        raise UserError(
            f"{rows.name}: holds no problems", hint="give one problem per line, as JSON"
        )
    columns = _map_columns(rows, settings.fields) if rows.rows else {}
    reading = _Reading(rows.name, columns)
    for row in rows.rows:
        reading.add(row)
    reading.raise_bad_rows(rows.broken)
    kept = list(reading.problems.values())[: settings.limit]
    problems = tuple(
        replace(p, split=split_of(p.id, settings.split_seed, settings.held_out)) for p in kept
    )
    return ProblemSet(problems, columns, _facts(rows, columns, reading, problems))


def problem_id(problem: str) -> str:
    """First 64 bits of the SHA-256 of the text, in hex; spacing does not count."""
    text = " ".join(unicodedata.normalize("NFC", problem).split())
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ID_CHARS]


def split_of(identity: str, split_seed: int, held_out: float) -> Split:
    """The side a problem falls on, whatever other problems there are."""
    digest = hashlib.sha256(f"{split_seed}:{identity}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return Split.HELD_OUT if share < held_out else Split.TRAIN


def _read_rows(settings: Problems, base: Path) -> Rows:
    if settings.gym is not None:
        return read_gym(settings.gym)
    if settings.source is not None:
        return read_function(settings.source, settings.args)
    assert settings.path is not None, "config gives exactly one of path, gym, source"
    return read_path(base / Path(settings.path).expanduser(), settings.path)


def _map_columns(rows: Rows, fields: Fields) -> dict[str, str]:
    present = list(dict.fromkeys(name for row in rows.rows for name in row.values))
    columns: dict[str, str] = {}
    for name in ALIASES:
        chosen = getattr(fields, name)
        if chosen is not None:
            _require(rows, name, chosen, present)
        else:
            chosen = _usual(name, present, columns)
        if chosen is not None:
            columns[name] = chosen
        elif name in ("problem", "answer"):
            raise UserError(
                f"{rows.name}: no {name} column; columns found: {', '.join(present)}",
                hint=f"--set problems.fields.{name}={_guess(name, present, columns)}",
            )
    return columns


def _usual(name: str, present: Sequence[str], columns: Mapping[str, str]) -> str | None:
    taken = set(columns.values())
    return next((alias for alias in ALIASES[name] if alias in present and alias not in taken), None)


def _guess(name: str, present: Sequence[str], columns: Mapping[str, str]) -> str:
    free = [column for column in present if column not in columns.values()]
    for alias in ALIASES[name]:
        near = difflib.get_close_matches(alias, free, n=1, cutoff=0.5)
        if near:
            return near[0]
    return "COLUMN"


def _require(rows: Rows, name: str, column: str, present: Sequence[str]) -> None:
    if any(_look_up(row.values, column) is not None for row in rows.rows):
        return
    near = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
    raise UserError(
        f"{rows.name}: no column {column!r} (problems.fields.{name}); "
        f"columns found: {', '.join(present)}",
        hint=f"--set problems.fields.{name}={near[0] if near else 'COLUMN'}",
    )


def _look_up(values: Mapping[str, Any], column: str) -> Any:
    """A column's value; `a.b` looks inside, `a.0` into a list; None where there is none."""
    if column in values:
        return values[column]
    node: Any = values
    for part in column.split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, Sequence) and not isinstance(node, str) and part.isdigit():
            node = node[int(part)] if int(part) < len(node) else None
        else:
            return None
    return node


@dataclass
class _Reading:
    """Rows on their way to problems: what was kept, dropped and refused."""

    name: str
    columns: Mapping[str, str]
    problems: dict[str, Problem] = field(default_factory=dict)
    bad: list[tuple[int, str]] = field(default_factory=list)
    duplicates: int = 0
    extracted: int = 0
    _line_of: dict[str, int] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        try:
            problem = self._problem(row)
        except _BadRowError as error:
            self.bad.append((row.line, str(error)))
            return
        first = self.problems.get(problem.id)
        if first is None:
            self.problems[problem.id] = problem
            self._line_of[problem.id] = row.line
        elif same_text(first.answer, problem.answer):
            self.duplicates += 1
        else:
            where = f"{self.name}:{self._line_of[problem.id]}"
            reason = (
                f"answer {problem.answer!r}, but {first.answer!r} to the same problem at {where}"
            )
            self.bad.append((row.line, reason))

    def raise_bad_rows(self, broken: Iterable[tuple[int, str]]) -> None:
        """Raises: UserError with the first few bad rows and their number."""
        bad = sorted([*broken, *self.bad])
        if not bad:
            return
        lines = [f"{self.name}:{line}: {reason}" for line, reason in bad[:_NAMED]]
        if len(bad) > _NAMED:
            lines.append(f"… and {len(bad) - _NAMED} more bad rows ({len(bad)} in all)")
        one = len(bad) == 1
        raise UserError(
            "\n".join(lines), hint=f"correct or delete {'that row' if one else 'these rows'}"
        )

    def _problem(self, row: Row) -> Problem:
        text = _look_up(row.values, self.columns["problem"])
        if not isinstance(text, str | None):
            raise _BadRowError(f"the problem is {_kind(text)}, not text")
        if not text or not text.strip():
            raise _BadRowError(f"empty problem (column {self.columns['problem']!r})")
        column = self.columns["answer"]
        given = _answer_text(_look_up(row.values, column), column)
        answer, solution = _split_solution(given, column)
        self.extracted += answer != given
        if "solution" in self.columns:
            solution = _plain(_look_up(row.values, self.columns["solution"])) or solution
        return Problem(
            problem_id(text), text.strip(), answer, solution=solution, meta=self._meta(row),
            verifier_data=_as_json(row.values.get("verifier_data")),
        )  # fmt: skip

    def _meta(self, row: Row) -> dict[str, str]:
        given = row.values.get("meta")
        meta = {str(k): str(v) for k, v in given.items()} if isinstance(given, Mapping) else {}
        if "family" in self.columns:
            family = _plain(_look_up(row.values, self.columns["family"]))
            if family is not None:
                meta["family"] = family
        return meta


class _BadRowError(Exception):
    """Why a row is refused; collected, never seen outside."""


def _answer_text(value: Any, column: str) -> str:
    if isinstance(value, bool):
        raise _BadRowError(f"the answer is {_kind(value)}; write it as text")
    if isinstance(value, Mapping):
        keys = list(value)
        raise _BadRowError(
            f"the answer is an object with {', '.join(map(repr, keys[:_NAMED]))}; choose one with "
            f"--set problems.fields.answer={column}.{keys[0] if keys else 'KEY'}"
        )
    text = _plain(value)
    is_empty = value is None or isinstance(value, str) or _is_nan(value)
    if text is None and not is_empty:
        raise _BadRowError(f"the answer is {_kind(value)}; give one answer as text or number")
    if not text:
        raise _BadRowError(f"empty answer (column {column!r})")
    return text


def _plain(value: Any) -> str | None:
    """Text of a text or number; `42.0` is `42`; None for anything else and for nothing."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or value is None or _is_nan(value):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
    return str(value) if isinstance(value, int) or type(value).__name__ == "Decimal" else None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _split_solution(given: str, column: str) -> tuple[str, str | None]:
    r"""The final answer of a worked solution (`#### 42`, `\boxed{42}`) and the whole of it."""
    worked, marked, final = given.rpartition("####")
    if marked and final.strip() and "\n" not in final.strip():
        return final.strip(), given if worked.strip() else None
    if boxes := boxed(given):
        is_bare = given.strip().strip("$").startswith("\\boxed{") and given.rstrip("$ .").endswith(
            "}"
        )
        return boxes[-1], None if is_bare and len(boxes) == 1 else given
    if column in ALIASES["solution"] and (len(given) > _LONGEST_BARE_ANSWER or "\n" in given):
        raise _BadRowError(f"no final answer (\\boxed{{}} or ####) in column {column!r}")
    return given, None


def _as_json(value: Any) -> str | None:
    return value if isinstance(value, str | None) else json.dumps(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def _facts(
    rows: Rows, columns: Mapping[str, str], reading: _Reading, problems: Sequence[Problem]
) -> dict[str, int]:
    held_out = sum(problem.split is Split.HELD_OUT for problem in problems)
    facts = {
        "problem rows read": len(rows.rows),
        "duplicate problems dropped": reading.duplicates,
        "problems beyond problems.limit left out": len(reading.problems) - len(problems),
        "problems to train on": len(problems) - held_out,
        "problems held out": held_out,
        "answers taken out of worked solutions": reading.extracted,
    }
    for name, column in columns.items():
        if name != column:
            facts[f"rows whose {name} is read from column {column!r}"] = len(rows.rows)
    return {text: count for text, count in facts.items() if count}
