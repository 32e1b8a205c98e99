r"""Gold answers: text of whatever a column holds, or the reason why it is none.

In: a column's value. Out: the final answer as text, and the worked solution it was taken out of.
What stands for "no answer" (`notfound`, `proof`, `N/A`, `?`) is told from answers by its exact
words, so `Na`, `\infty` and `undefined` stay answers.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from heal.data.rows import NAMED, kind, whole_text
from heal.method.final_answers import boxed, cleaned

_LONGEST_BARE_ANSWER = 200

WORKED = frozenset(
    {"solution", "rationale", "output", "ground_truth_solution", "conversations", "messages"}
)
"""Columns that hold worked solutions: a long text without a marked final answer is none."""

_PLACEHOLDERS = {
    "notfound": ("notfound", "not found", "not_found", "not-found", "no answer", "no_answer"),
    "proof": ("proof", "prove", "see proof", "see solution", "proved", "q.e.d", "qed"),
    "none": ("none", "null", "nil"),
    "nan": ("nan",),
    "unknown": ("unknown", "tbd", "todo", "missing", "not available", "not given"),
    "n/a": ("n/a", "n.a", "#n/a"),
    "?": ("?", "??", "???"),
    "[]": ("[]", "{}", "()", '""', "''", "[none]", "[null]"),
    "...": ("...", "…", "-", "--", "—", "–", ".", "..", "_", "\\ldots", "\\dots"),
}
"""What stands where an answer should; the whole answer, case aside."""
_CASED = {"NA": "n/a", "na": "n/a"}  # Na is sodium
_PLACEHOLDER = {word: name for name, words in _PLACEHOLDERS.items() for word in words}
_LONGEST_PLACEHOLDER = 40

_USER = frozenset({"user", "human"})
_ASSISTANT = frozenset({"assistant", "gpt", "model"})


class UnusableRowError(Exception):
    """Why a row is left out: `reason` to count by, and the words for a message about that row."""

    def __init__(self, words: str, reason: str | None = None) -> None:
        super().__init__(words)
        self.reason = reason or words


def gold_answer(value: Any, column: str) -> tuple[str, str | None]:
    r"""The final answer (of `#### 42`, `\boxed{42}` too) and the solution that held it.

    Raises: UnusableRowError.
    """
    given = answer_text(value, column)
    answer, solution = _split_solution(given, column)
    _refuse_placeholder(answer)
    return answer, solution


def answer_text(value: Any, column: str) -> str:
    """A column's value as text. Raises: UnusableRowError."""
    value = _only_element(value, column)
    if isinstance(value, bool):
        raise UnusableRowError(f"the answer is {kind(value)}; write it as text", _is_a(value))
    if isinstance(value, Mapping):
        keys = list(value)
        raise UnusableRowError(
            f"the answer is an object with {', '.join(map(repr, keys[:NAMED]))}; choose one with "
            f"--set problems.fields.answer={column}.{keys[0] if keys else 'KEY'}",
            _is_a(value),
        )
    text = plain(value)
    if text:
        return text
    if value is None or isinstance(value, str) or _is_nan(value):
        raise UnusableRowError(f"empty answer (column {column!r})", "empty answer")
    raise UnusableRowError(
        f"the answer is {kind(value)}; give one answer as text or number", _is_a(value)
    )


def plain(value: Any) -> str | None:
    """Text of a text or number; `42.0` is `42`; None for anything else and for nothing."""
    if isinstance(value, str):
        return whole_text(value.strip()) or None
    if isinstance(value, bool) or value is None or _is_nan(value):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
    if isinstance(value, int):
        return _integer(value)
    return str(value) if type(value).__name__ == "Decimal" else None


def turn(value: Any, roles: frozenset[str]) -> str | None:
    """The text of a chat's turn: the first of a user, the last of an assistant; None if no chat."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    said = [
        one.get("content", one.get("value"))
        for one in value
        if isinstance(one, Mapping) and str(one.get("role", one.get("from"))).casefold() in roles
    ]
    texts = [text for text in said if isinstance(text, str)]
    return None if not texts else texts[0] if roles is _USER else texts[-1]


def asked(value: Any) -> str | None:
    """What the user asks in a chat."""
    return turn(value, _USER)


def answered(value: Any) -> str | None:
    """What the assistant says last in a chat."""
    return turn(value, _ASSISTANT)


def _only_element(value: Any, column: str) -> Any:
    """The one element of a list, of a list written as JSON text, or what the chat ends on."""
    said = answered(value)
    if said is not None:
        return said
    if isinstance(value, str) and value.startswith('["') and value.endswith("]"):
        try:
            value = _strings(json.loads(value), value)
        except (ValueError, RecursionError):
            return value
    if not isinstance(value, list | tuple) or not value:
        return value
    if len(value) == 1 and not isinstance(value[0], list | tuple):
        return value[0]
    raise UnusableRowError(
        f"the answer is a list of {len(value)}; give one answer as text or number",
        "the answer is a list of several",
    )


def _strings(found: Any, otherwise: str) -> Any:
    return (
        found if isinstance(found, list) and all(isinstance(x, str) for x in found) else otherwise
    )


def _is_a(value: Any) -> str:
    return f"the answer is {kind(value)}"


def _integer(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        raise UnusableRowError("a number of thousands of digits; write it as text") from None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _refuse_placeholder(answer: str) -> None:
    if len(answer) > _LONGEST_PLACEHOLDER:
        return
    tight = cleaned(answer).strip(" .'\"`") or answer.strip()
    name = _CASED.get(tight) or _PLACEHOLDER.get(tight.casefold())
    name = name or _PLACEHOLDER.get(answer.strip().casefold())
    if name:
        raise UnusableRowError(f"the answer is {answer!r}", f"the answer is {name!r}")


def _split_solution(given: str, column: str) -> tuple[str, str | None]:
    worked, marked, final = given.rpartition("####")
    if marked and final.strip() and "\n" not in final.strip():
        return final.strip(), given if worked.strip() else None
    if boxes := boxed(given):
        is_bare = given.strip().strip("$").startswith("\\boxed{") and given.rstrip("$ .").endswith(
            "}"
        )
        return boxes[-1], None if is_bare and len(boxes) == 1 else given
    is_long = len(given) > _LONGEST_BARE_ANSWER or "\n" in given
    if column.casefold() in WORKED and is_long:
        raise UnusableRowError(
            f"no final answer (\\boxed{{}} or ####) in column {column!r}",
            "a worked solution without a final answer (\\boxed{} or ####)",
        )
    return given, None
