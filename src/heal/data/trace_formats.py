"""The forms that sampled traces are kept in: which columns tell a form, and what is read from them.

In: one row's columns. Out: the question as the problem reader takes it, and the traces on it, each
with what the file says of it. One row of the table `FORMATS` per form. Reads no file, matches
nothing, judges nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heal.config import TraceFields
from heal.data.columns import ALIASES, look_up
from heal.data.rows import kind, listed
from heal.errors import UserError

Values = Mapping[str, Any]

GENERATIONS = (
    *("generations", "generation", "completions", "completion", "responses", "response"),
    *("traces", "trace", "samples"),
)
FINISHES = ("finish_reasons", "finish_reason", "stop_reason")
VERDICTS = ("correct", "is_correct", "correctness", "reward")
"""Columns tried by `generic`, as `config.TraceFields` documents."""

_ANSWERS = ("answer", "expected_answer", "ground_truth", "gold_answer", "final_answer", "solution")
_CARRIED = (
    *("solution", "family", "category", "subject", "type", "options", "choices", "verifier_data"),
    *("meta", "problem_is_valid"),
)
_USER = frozenset({"user", "human"})
_ASSISTANT = frozenset({"assistant", "gpt", "model"})
_THOUGHT = "<think>\n{}\n</think>\n\n"
"""How thinking that a file keeps apart is put before what was said."""


@dataclass(frozen=True, slots=True)
class Given:
    """One trace as a file gives it."""

    text: str
    finish: str | None = None
    """Why it ended, in the file's own word."""
    said: bool | None = None
    """The file's own verdict."""
    repeated: bool = False
    """The file repeats it from row to row: the same text again is the same trace."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A trace that cannot be used, and why, in words to count by."""

    reason: str


@dataclass(frozen=True)
class Format:
    """One form."""

    name: str
    needs: tuple[tuple[str, ...], ...]
    """Sets of columns, any one of which tells it."""
    question: Callable[[Values], dict[str, Any]]
    traces: Callable[[Values], Iterator[Given | LeftOut]]

    def fits(self, values: Values) -> bool:
        """Whether a row has the columns."""
        return any(all(name in values for name in needed) for needed in self.needs)


def format_of(name: str, first: Values, place: str, fields: TraceFields) -> Format:
    """The form called so, or the one that a first row has. Raises: UserError naming the columns."""
    if name == "generic" or fields.generation:
        return _mapped(first, place, fields)
    if name != "auto":
        (found,) = (one for one in FORMATS if one.name == name)
        if not found.fits(first):
            needed = " or ".join(" and ".join(map(repr, names)) for names in found.needs)
            raise UserError(
                f"{place}: not of the form {name}, which has {needed}; columns: {listed(first)}",
                hint="heal import auto FILE, or map the columns: heal import generic FILE "
                "--fields generation=COLUMN",
            )
        return found
    return next((one for one in FORMATS if one.fits(first)), None) or _mapped(first, place, fields)


def question_of(form: Format, values: Values, fields: TraceFields) -> dict[str, Any]:
    """What a row asks, by the names the problem reader knows."""
    found = form.question(values)
    for name in ("problem", "answer"):
        if column := getattr(fields, name):
            found[name] = look_up(values, column)
    return found


# ── the forms ───────────────────────────────────────────────────────────────────────────────────


def _open_r1(values: Values) -> Iterator[Given | LeftOut]:
    texts = _list(values.get("generations"))
    for i, text in enumerate(texts):
        words = (_at(values.get(f"correctness_{by}"), i) for by in ("math_verify", "llama"))
        said = [word for word in words if isinstance(word, bool)]
        finish = _at(values.get("finish_reasons"), i)
        if finish is None and _at(values.get("is_reasoning_complete"), i) is False:
            finish = "length"
        # whoever was asked second was asked because the first could not tell
        yield _given(text, finish, any(said) if said else None)


def _nemo_skills(values: Values) -> Iterator[Given | LeftOut]:
    text = values.get("_full_generation") or values.get("generation")
    thought = values.get("reasoning_content")
    if isinstance(thought, str) and thought and isinstance(text, str):
        text = _THOUGHT.format(thought) + text
    said = _truth(values.get("symbolic_correct", values.get("is_correct")))
    judgement = values.get("judgement")
    if isinstance(judgement, str) and "judgement:" in judgement.casefold():
        said = judgement.casefold().rpartition("judgement:")[2].strip(" *").startswith("yes")
    yield _given(text, values.get("finish_reason"), said)


def _chat(column: str) -> Callable[[Values], Iterator[Given | LeftOut]]:
    def traces(values: Values) -> Iterator[Given | LeftOut]:
        yield _last_turn(values.get(column), None, None)
        for rejected in _list(values.get("rejected_response")):
            yield _given(rejected, None, None, repeated=True)

    return traces


def _openthoughts(values: Values) -> Iterator[Given | LeftOut]:
    if "conversations" in values:
        yield _last_turn(values["conversations"], None, None)
        return
    thought, said = values.get("deepseek_reasoning"), values.get("deepseek_solution")
    yield _given(_THOUGHT.format(thought) + said if thought and isinstance(said, str) else said)


def _verifiers(values: Values) -> Iterator[Given | LeftOut]:
    if values.get("error"):
        yield LeftOut("an error ended them")
        return
    cut = values.get("is_truncated")
    finish = None if not isinstance(cut, bool) else "length" if cut else "stop"
    said, reward = None, values.get("reward")
    if isinstance(reward, int | float) and not isinstance(reward, bool):
        said = True if reward >= 1 else False if reward <= 0 else None
    completion = values.get("completion")
    if isinstance(completion, str):
        yield _given(completion, finish, said)
    else:
        yield _last_turn(completion, finish, said)


def _inspect(values: Values) -> Iterator[Given | LeftOut]:
    if values.get("error"):
        yield LeftOut("an error ended them")
        return
    output = _object(values.get("output"))
    choice = _object(_at(output.get("choices"), 0))
    finish = choice.get("stop_reason")
    if _object(values.get("limit")).get("type") in ("token", "context"):
        finish = "length"
    scores = [_object(score).get("value") for score in _object(values.get("scores")).values()]
    said = next((word for word in map(_truth, scores) if word is not None), None)
    if _turns(values.get("messages")) > 1:
        yield LeftOut("a conversation of several turns")
        return
    attachments = _object(values.get("attachments"))
    text = _content(choice.get("message")) or output.get("completion")
    yield _given(_attached(text, attachments), finish, said)


def _inspect_question(values: Values) -> dict[str, Any]:
    attachments = _object(values.get("attachments"))
    asked = _attached(_user(values.get("input")), attachments)
    choices = values.get("choices")
    return {"problem": asked, "answer": values["target"]} | (
        {"choices": choices} if choices else {}
    )


def _mapped(first: Values, place: str, fields: TraceFields) -> Format:
    """`generic`: columns as they are mapped, or by their usual names. Raises: UserError."""
    text = fields.generation or next((name for name in GENERATIONS if name in first), None)
    if text is None or (fields.generation and look_up(first, text) is None):
        raise UserError(
            f"{place}: no column with traces; columns: {listed(first)}",
            hint="heal import generic FILE --fields problem=COLUMN,answer=COLUMN,generation=COLUMN",
        )
    finish = fields.finish_reason or next((name for name in FINISHES if name in first), "")
    verdict = fields.verdict or next((name for name in VERDICTS if name in first), "")

    def traces(values: Values) -> Iterator[Given | LeftOut]:
        found, ends, words = (look_up(values, c) if c else None for c in (text, finish, verdict))
        several = isinstance(found, Sequence) and not isinstance(found, str)
        for i, one in enumerate(_list(found)):
            ended, said = (_at(x, i) if several and _is_list(x) else x for x in (ends, words))
            yield _given(one, ended, _truth(said))

    return Format("generic", (), lambda values: _columns(values, text), traces)


# ── parts of rows ───────────────────────────────────────────────────────────────────────────────


def _columns(values: Values, *taken: str) -> dict[str, Any]:
    """Problem and answer by their usual names, and what problems carry along."""
    found = {name: values[name] for name in _CARRIED if values.get(name) is not None}
    for name, aliases in (("problem", ALIASES["problem"]), ("answer", ALIASES["answer"])):
        column = next((a for a in aliases if values.get(a) is not None and a not in taken), None)
        if column is not None and column not in found:
            found[name] = values[column]
    return found


def _asked_in(column: str) -> Callable[[Values], dict[str, Any]]:
    """The question of a chat, and the gold where a column beside it has one."""

    def question(values: Values) -> dict[str, Any]:
        gold = {name: values[name] for name in _ANSWERS if values.get(name) is not None}
        return {"problem": _user(values.get(column)), **gold}

    return question


def _openthoughts_question(values: Values) -> dict[str, Any]:
    if "conversations" in values:
        return _asked_in("conversations")(values)
    worked = values.get("ground_truth_solution")
    return {"problem": values.get("problem"), **({"solution": worked} if worked else {})}


def _last_turn(chat: Any, finish: str | None, said: bool | None) -> Given | LeftOut:
    """What the assistant says in a conversation in which it speaks once, at the end."""
    if not _is_list(chat) or not chat:
        return LeftOut("not a conversation")
    if _turns(chat) != 1 or _role(chat[-1]) not in _ASSISTANT:
        several = _turns(chat) > 1
        return LeftOut("a conversation of several turns" if several else "nobody answers")
    return _given(_content(chat[-1]), finish, said)


def _turns(chat: Any) -> int:
    return sum(_role(one) in _ASSISTANT for one in _list(chat))


def _user(chat: Any) -> Any:
    """The last turn of a user, for whatever stands before it is an example."""
    if not _is_list(chat):
        return chat
    return next((_content(one) for one in reversed(chat) if _role(one) in _USER), None)


def _role(turn: Any) -> str:
    turn = _object(turn)
    return str(turn.get("role", turn.get("from", ""))).casefold()


def _content(turn: Any) -> str | None:
    """A turn's text, its thinking before it where that is kept apart."""
    turn = _object(turn)
    text, thought = turn.get("content", turn.get("value")), turn.get("reasoning_content")
    if _is_list(text):
        parts = [_object(part) for part in text]
        thought = thought or "\n".join(str(p["reasoning"]) for p in parts if p.get("reasoning"))
        text = "".join(str(part["text"]) for part in parts if isinstance(part.get("text"), str))
    if not isinstance(text, str):
        return None
    return _THOUGHT.format(thought) + text if isinstance(thought, str) and thought else text


def _attached(text: Any, attachments: Mapping[str, Any]) -> Any:
    """Inspect keeps long texts once, and names them where they stand."""
    if not isinstance(text, str) or not text.startswith("attachment://"):
        return text
    return attachments.get(text.removeprefix("attachment://"))


def _given(
    text: Any, finish: Any = None, said: bool | None = None, repeated: bool = False
) -> Given | LeftOut:
    if not isinstance(text, str):
        return LeftOut("no text" if text is None else f"{kind(text)} in place of text")
    if not text.strip():
        return LeftOut("empty")
    return Given(text, finish if isinstance(finish, str) else None, said, repeated)


def _truth(value: Any) -> bool | None:
    """A verdict as files write it: true, 1, "C"; None for anything between."""
    if isinstance(value, str):
        return {"c": True, "i": False, "true": True, "false": False, "yes": True, "no": False}.get(
            value.strip().casefold()
        )
    if isinstance(value, bool):
        return value
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _list(value: Any) -> Sequence[Any]:
    return value if _is_list(value) else () if value is None else (value,)


def _at(values: Any, index: int) -> Any:
    return values[index] if _is_list(values) and index < len(values) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


FORMATS = (
    Format("inspect", (("input", "target", "output"),), _inspect_question, _inspect),
    Format("open-r1", (("problem", "generations"),), _columns, _open_r1),
    Format(
        "nemo-skills",
        (("generation", "expected_answer"), ("generation", "predicted_answer")),
        lambda values: _columns(values, "generation", "predicted_answer"),
        _nemo_skills,
    ),
    Format(
        "verifiers",
        (("prompt", "completion", "reward"),),
        lambda values: _columns({**values, "problem": _user(values["prompt"])}),
        _verifiers,
    ),
    Format(
        "openthoughts",
        (("conversations",), ("deepseek_reasoning", "deepseek_solution")),
        _openthoughts_question,
        _openthoughts,
    ),
    Format("ms-swift", (("messages",),), _asked_in("messages"), _chat("messages")),
)
"""In the order they are tried; whatever fits none is read as `generic`."""
