r"""Rows to problems: the whole question, its gold answer, or the reason why a row is left out.

In: rows and settings. Out: `Reading`: problems by id, rows left out, what was done. Two answers to
one problem cast doubt on both, so neither is used. Knows nothing of splits.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from heal.config import Problems
from heal.data import options
from heal.data.columns import Columns, find_columns, look_up
from heal.data.golds import UnusableRowError, asked, gold_answer, plain
from heal.data.rows import Row, Rows, kind, raise_bad, whole_text
from heal.method.final_answers import same_text
from heal.records import Problem

ID_CHARS = 16

_INSTRUCTIONS = (
    (
        "Solve the following math problem step by step. The last line of your response should be of"
        " the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.",
        'Remember to put your answer on its own line after "Answer:".',
    ),
    ("Return your final response within \\boxed{}.", ""),
    ("", "Please reason step by step, and put your final answer within \\boxed{}."),
    ("", "Let's think step by step and output the final answer within \\boxed{}."),
)
"""What data sets put around a problem in a chat: it would contradict the recipe's own prompt."""

_CONTRADICTION = "two different answers to one problem"


@dataclass(frozen=True)
class LeftOut:
    """A row that is used neither for training nor for evaluation."""

    place: str
    """`file:line`."""
    reason: str
    """To count by."""
    words: str
    """What a message says of this row."""


def read_rows(rows: Rows, settings: Problems) -> "Reading":
    """Map the columns and read every row. Raises: UserError without a problem or answer column."""
    if not rows.rows:
        return Reading(rows, Columns({}, ()), None, settings.option_seed)
    columns = find_columns(rows, settings.fields)
    unread: tuple[str, ...] = ()
    way = options.how_named(rows, columns) if columns.has_options else None
    if columns.has_options and way is None:
        unread = (columns.names.get("options") or ", ".join(columns.options),)
        columns = columns.without_options()
    reading = Reading(rows, columns, way, settings.option_seed, unread)
    for row in rows.rows:
        reading.add(row)
    reading.drop_contradictions()
    return reading


@dataclass
class Reading:
    """Rows on their way to problems: what was kept, dropped and left out."""

    rows: Rows
    columns: Columns
    way: options.Named | None
    option_seed: int
    unread_options: tuple[str, ...] = ()
    problems: dict[str, Problem] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """What was done to rows, with how often."""
    _first: dict[str, Row] = field(default_factory=dict)
    _copies: dict[str, list[Row]] = field(default_factory=dict)
    _contradicted: dict[str, list[LeftOut]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Take in a row, or note why it is left out."""
        try:
            problem = self._problem(row)
        except UnusableRowError as error:
            self.left_out.append(LeftOut(self.rows.place(row), error.reason, str(error)))
            return
        except RecursionError:
            self.left_out.append(LeftOut(self.rows.place(row), *["nested too deeply"] * 2))
            return
        first = self.problems.get(problem.id)
        if first is None:
            self.problems[problem.id] = problem
            self._first[problem.id] = row
        elif same_text(first.answer, problem.answer):
            self._copies.setdefault(problem.id, []).append(row)
        else:
            self._contradict(first, problem, row)

    def drop_contradictions(self) -> None:
        """Neither of two answers can be trusted: all rows of such a problem are left out."""
        for identity, contradicting in self._contradicted.items():
            del self.problems[identity]
            whole = [self._first[identity], *self._copies.pop(identity, ())]
            words = f"another answer to the same problem at {contradicting[0].place}"
            self.left_out += [LeftOut(self.rows.place(r), _CONTRADICTION, words) for r in whole]
            self.left_out += contradicting

    @property
    def duplicates(self) -> int:
        """Rows that give a problem again, with the same answer."""
        return sum(map(len, self._copies.values()))

    def refuse_bad_rows(self, settings: Problems) -> None:
        """Raises: UserError if rows are not to be left out, or if none is left."""
        bad = [
            f"{one.place}: {one.words}"
            for one in self.left_out
            # of two rows that contradict each other, the later one names both
            if one.reason != _CONTRADICTION or one.words.startswith("answer ")
        ]
        if settings.unusable == "refuse":
            raise_bad(bad, "correct or delete", ", or leave out: --set problems.unusable=skip")
        if not self.problems:
            raise_bad(bad, "no row can be used; correct")

    def _contradict(self, first: Problem, problem: Problem, row: Row) -> None:
        where = self.rows.place(self._first[problem.id])
        words = f"answer {problem.answer!r}, but {first.answer!r} to the same problem at {where}"
        one = LeftOut(self.rows.place(row), _CONTRADICTION, words)
        self._contradicted.setdefault(problem.id, []).append(one)

    def _problem(self, row: Row) -> Problem:
        text = self._asked(row)
        column = self.columns.names["answer"]
        given = look_up(row.values, column)
        if self.way is not None:
            text, answer = options.ask(text, row.values, self.columns, self.way, self.option_seed)
            solution = None
        else:
            answer, solution = gold_answer(given, column)
            self.done["answers taken out of worked solutions"] += solution is not None or (
                isinstance(given, str) and given.strip() != answer
            )
        if "solution" in self.columns.names:
            solution = _joined(look_up(row.values, self.columns.names["solution"])) or solution
        return Problem(
            problem_id(text), text.strip(), answer, solution=solution, meta=self._meta(row),
            verifier_data=_as_json(row.values.get("verifier_data")),
        )  # fmt: skip

    def _asked(self, row: Row) -> str:
        """The whole question: a passage before it and an input behind it belong to it."""
        column = self.columns.names["problem"]
        self._refuse_invalid(row)
        text = self._question(look_up(row.values, column), column)
        if further := self._part(row, "input"):
            text = f"{text.rstrip()}\n\n{further}"
        if (passage := self._part(row, "context")) and passage not in text:
            text = f"{passage}\n\n{text.lstrip()}"
        return text

    def _question(self, value: Any, column: str) -> str:
        said = asked(value)
        if said is not None:
            value = _without_instructions(said)
            self.done["instructions around problems taken off"] += value != said
        if not isinstance(value, str | None):
            raise UnusableRowError(f"the problem is {kind(value)}, not text")
        if not value or not value.strip():
            raise UnusableRowError(f"empty problem (column {column!r})", "empty problem")
        text = whole_text(value)
        self.done["problems whose broken characters became U+FFFD"] += text != value
        return text

    def _refuse_invalid(self, row: Row) -> None:
        for column in self.columns.pictures():
            if not is_nothing(row.values.get(column)):
                raise UnusableRowError(
                    f"the problem needs a picture (column {column!r})",
                    "the problem needs a picture",
                )
        valid = row.values.get("problem_is_valid")
        if isinstance(valid, str) and valid.strip().casefold() not in ("", "yes", "true"):
            raise UnusableRowError(
                f"its data set calls the problem invalid: {valid.strip()[:60]!r}",
                "its data set calls the problem invalid",
            )

    def _part(self, row: Row, name: str) -> str | None:
        column = self.columns.names.get(name)
        value = look_up(row.values, column) if column else None
        text = _joined(value)
        self.done[f"rows whose {name} could not be read from column {column!r}"] += (
            text is None and not is_nothing(value)
        )
        return text

    def _meta(self, row: Row) -> dict[str, str]:
        given = row.values.get("meta")
        meta = {str(k): str(v) for k, v in given.items()} if isinstance(given, Mapping) else {}
        if "family" in self.columns.names:
            family = plain(look_up(row.values, self.columns.names["family"]))
            if family is not None:
                meta["family"] = family
        return {whole_text(k): whole_text(v) for k, v in meta.items()}


def text_asked(value: Any) -> str | None:
    """A question's text as a problem holds it, whatever surrounds it in a file; None for none."""
    text = asked(value) or (value if isinstance(value, str) else None)
    return whole_text(_without_instructions(text)).strip() or None if text else None


def _without_instructions(text: str) -> str:
    for before, after in _INSTRUCTIONS:
        bare = text.strip()
        if bare.startswith(before) and bare.endswith(after):
            return bare.removeprefix(before).removesuffix(after).strip()
    return text


def _joined(value: Any) -> str | None:
    """Text, or texts of a list one after the other; None for anything else."""
    if isinstance(value, list | tuple):
        texts = [plain(one) for one in value]
        return "\n\n".join(text for text in texts if text) or None if all(texts) else None
    return plain(value)


def is_nothing(value: Any) -> bool:
    """Whether a column holds nothing in a row: null, NaN, an empty text or list."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, str | Sequence | Mapping) and (
        not value or (isinstance(value, str) and not value.strip())
    )


def _as_json(value: Any) -> str | None:
    if isinstance(value, str | None):
        return None if value is None else whole_text(value)
    try:
        return json.dumps(value, default=_of_json)
    except (TypeError, ValueError) as error:
        raise UnusableRowError(
            f"verifier_data is not JSON: {error}", "verifier_data is not JSON"
        ) from None


def _of_json(value: Any) -> Any:
    """Dates and decimals, which Parquet holds and JSON does not."""
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"it holds a {type(value).__name__}")


def problem_id(problem: str) -> str:
    """First 64 bits of the SHA-256 of the text, in hex; spacing does not count."""
    text = " ".join(unicodedata.normalize("NFC", problem).split())
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ID_CHARS]
