"""Imported traces: read row by row, joined to their problems, and how each of them ended.

In: the `problems.traces` settings. Out: questions for the problem reader; then, problem by problem
that a run has, texts with their finish. A row is joined by the text of its problem, spacing aside;
failing that, by a part of its prompt that is a problem's whole text; or by id, where the settings
name a column. Nothing is kept in memory but keys: files may be of any size.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heal.config import Traces
from heal.data.columns import look_up
from heal.data.reading import problem_id, text_asked
from heal.data.rows import Row, Rows, whole_text
from heal.data.trace_files import File, stream_rows, trace_files
from heal.data.trace_formats import Format, Given, LeftOut, format_of, question_of
from heal.errors import UserError
from heal.method.final_answers import extract_answer
from heal.method.programs import last_program
from heal.method.thinking import BRACKETS, CHANNELS, CLOSE, OPEN, TAGS
from heal.records import Finish, Problem

ENDS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<|return|>"),
    *("<｜end▁of▁sentence｜>", "<end_of_turn>", "</s>", "<|eom_id|>"),
)
"""What models end a turn with; a text that ends so ended by itself."""
_OPENED, _CLOSED = TAGS.opens + TAGS.inside, TAGS.inside + TAGS.closes + TAGS.after
_SPELLINGS = (
    ("<|begin_of_thought|>", _OPENED),
    ("<|end_of_thought|>", _CLOSED),
    ("<|begin_of_solution|>", "\n\n"),
    ("<|end_of_solution|>", ""),
    *((form.closes, _CLOSED) for form in (CHANNELS, BRACKETS)),
    *((form.opens, _OPENED) for form in (CHANNELS, BRACKETS)),
    (CHANNELS.bare, ""),
)
"""How other files set thinking apart, and the canonical form of it."""
_STOPPED = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence", "completed"})
_CUT = frozenset({"length", "max_tokens", "model_length", "max_length", "max_output_tokens"})
_MOST_PARTS = 12


@dataclass(frozen=True, slots=True)
class Found:
    """One row of a trace file: what it asks, and its traces."""

    row: Row
    question: dict[str, Any]
    traces: tuple[Given | LeftOut, ...]
    known_as: str | None
    """The id it gives its problem."""

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.row.file}:{self.row.line}"


class TraceFile:
    """The trace files that a config names, and the form they have. Raises: UserError."""

    def __init__(self, settings: Traces, base: Path) -> None:
        self.settings = settings
        self.files: list[File] = trace_files(settings.path, base)
        self.form: Format | None = None
        """Known once a row was read."""

    def rows(self) -> Iterator[Found]:
        """Every row. Raises: UserError for damage, and for rows of another form."""
        fields = self.settings.fields
        for row in stream_rows(self.files):
            place = f"{row.file}:{row.line}"
            form = self.form = self.form or format_of(
                self.settings.format, row.values, place, fields
            )
            known = look_up(row.values, fields.id) if fields.id else None
            if not form.fits(row.values) and form.needs:
                traces: tuple[Given | LeftOut, ...] = (LeftOut(f"not of the form {form.name}"),)
                yield Found(row, {}, traces, None)
                continue
            question = question_of(form, row.values, fields)
            traces = tuple(form.traces(row.values)) or (LeftOut("a row without traces"),)
            yield Found(row, question, traces, None if known is None else str(known))


def read_questions(settings: Traces, base: Path) -> Rows:
    """The different questions of a trace file, as rows of problems. Raises: UserError."""
    file, seen = TraceFile(settings, base), set[bytes]()
    found = Rows(settings.path, files=len(file.files))
    for one in file.rows():
        told = json.dumps(one.question, sort_keys=True, default=str)
        digest = hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()[:16]
        if one.question and digest not in seen:
            seen.add(digest)
            found.rows.append(Row(one.row.line, one.question, one.row.file))
    golds = any(len(row.values.keys() - {"problem"}) for row in found.rows)
    if found.rows and not golds and file.form:
        raise UserError(
            f"{settings.path}: traces of the form {file.form.name}, without the gold answers "
            "that verdicts need",
            hint="name the problems they were sampled on: --set problems.path=FILE",
        )
    return found


class Matcher:
    """Finds a row's problem among those of a run."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.by_parts = 0
        """Rows joined by a part of their prompt."""
        self._known: set[str] = set()
        self._by_text: dict[str, str | None] = {}
        for problem in problems:
            self._known.add(problem.id)
            # behind a blank line may stand the options, which logs keep apart
            stem = problem_id(problem.problem.partition("\n\nA. ")[0])
            self._by_text[stem] = None if stem in self._by_text else problem.id
        self._by_text |= {identity: identity for identity in self._known}

    def find(self, found: Found) -> str | None:
        """The id of the problem a row is about; None if the run has none, or two."""
        if found.known_as is not None:
            return found.known_as if found.known_as in self._known else None
        text = text_asked(found.question.get("problem"))
        if text is None:
            return None
        if (whole := problem_id(text)) in self._by_text:
            return self._by_text[whole]
        hits = {self._by_text.get(problem_id(part)) for part in _parts(text)} - {None}
        if len(hits) != 1:
            return None
        self.by_parts += 1
        return hits.pop()


@dataclass
class Ending:
    """How traces ended: as their file says, or by the settings' rule."""

    settings: Traces
    verifier: str
    counted: Counter[str] = field(default_factory=Counter)

    def of(self, given: Given) -> tuple[str, Finish | None]:
        """The text without the token that ended it, and why it ended; None: ask `derive`."""
        text = self._in_tags(whole_text(given.text))
        bare = text.rstrip()
        end = next((mark for mark in ENDS if bare.endswith(mark)), None)
        if end is not None:
            self.counted["imported traces whose end token was taken off their text"] += 1
            text = bare.removesuffix(end)
        told = (given.finish or "").casefold()
        if told in _CUT:
            return text, Finish.LENGTH
        return text, Finish.STOP if told in _STOPPED or end is not None else None

    def _in_tags(self, text: str) -> str:
        found = text
        for mark, tag in _SPELLINGS:
            if mark in found:
                first, *parts = found.split(mark)
                found = tag.join([first.rstrip(), *(part.strip() for part in parts)])
        if found != text:
            self.counted["imported traces whose thinking was put in <think> tags"] += 1
        return found

    def derive(self, text: str, tokens: int) -> Finish:
        """Why a trace ended of which nothing says so. tokens: its length, 0 if unknown."""
        limit, finish = self.settings.max_tokens, Finish.LENGTH
        if limit is not None and tokens >= limit:
            finish = Finish.LENGTH
        elif self.settings.finish != "derive":
            finish = Finish(self.settings.finish)
        elif is_closed(text, self.verifier):
            finish = Finish.STOP
        how = "they ended by themselves" if finish is Finish.STOP else "they were cut off"
        self.counted[f"imported traces without a finish reason: {how}, by the rule"] += 1
        return finish


def is_closed(text: str, verifier: str) -> bool:
    """Whether a text's thinking is closed and its final answer is there."""
    if text.rfind(OPEN) > text.rfind(CLOSE):
        return False
    if ":" in verifier:  # only the user's function knows what an answer is
        return True
    if verifier == "code":
        return last_program(text) is not None and text.rstrip().count("```") % 2 == 0
    return extract_answer(text) is not None


def _parts(text: str) -> Iterator[str]:
    """What a prompt says between blank lines, and every run of such parts."""
    parts = [part for part in text.split("\n\n") if part.strip()]
    if len(parts) > _MOST_PARTS:
        return
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            yield "\n\n".join(parts[start:end])
