"""Columns: one short row per problem, trace, cut, hint, score, choice and attempt.

They say what belongs to the run *as it is configured now*, and hold what is counted, summed or
sorted by: whoever wants totals asks SQL for them and never opens a body. The rows of one problem
are replaced together whenever the stages are done with it. The tables are made from the classes.
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import NoneType
from typing import Any, NamedTuple, TypeVar, cast, get_args, get_type_hints


class ProblemRow(NamedTuple):
    """One problem and the unaided teacher's ceiling on it."""

    problem: str
    place: int
    """Where it stands in the problem set."""
    split: str
    family: str | None
    n: int
    """Unaided traces that count."""
    correct: int
    truncated: int
    unverifiable: int
    stratum: str
    rho: float | None
    paths: int
    """Failed traces chosen for repair."""
    settled: str | None
    """Names the settings under which nothing more was owed; None: something failed, or the stages
    were not all asked."""


class TraceRow(NamedTuple):
    """One trace of the teacher."""

    problem: str
    stage: str
    """`sample`, `hinted`, `repair` or `matched`: the stage its body is stored under."""
    tag: str
    """Of repairs, the breakpoint they follow; of `matched`, the arm; else ''."""
    key: str
    seed_index: int
    finish: str
    tokens: int
    new_tokens: int
    verdict: str | None
    """None: not verified yet."""
    answer: str | None
    gate: str | None
    """None for unaided traces, which no gate looks at."""
    hint: str | None
    cut: str | None
    failed: bool
    """The engine failed on it."""


class CutRow(NamedTuple):
    """One failed trace and where it was cut."""

    problem: str
    tag: str
    """The breakpoint."""
    key: str
    trace: str
    step: int
    steps: int
    margin: float
    fallback: str | None
    undecided: bool
    blind: bool
    """A control that does not ask the entropy."""


class HintRow(NamedTuple):
    """One hint."""

    problem: str
    tag: str
    """The breakpoint of the path it is for; `answer` for those of whole traces."""
    key: str
    cut: str | None
    kind: str
    asked: str
    leaks: int
    new_tokens: int
    cut_off: bool
    empty: bool
    failed: bool


class ScoreRow(NamedTuple):
    """One scoring of one trace."""

    problem: str
    stage: str
    """`scores` (locating), `pure` or `reliance`."""
    tag: str
    """Of `pure`: the breakpoint whose repair it is of, `hinted` for whole traces, `honest` for the
    unaided ones that lines are drawn by; else ''."""
    key: str
    trace: str
    scored_tokens: int
    failed: bool
    commitment: int | None
    """k_c; 0: it never settled; None where U was not asked for."""
    surprisal: float | None
    """The answer's own, nats; None where no new step writes it."""


class SelectedRow(NamedTuple):
    """What became of one candidate in one arm's sets."""

    arm: str
    problem: str
    trace: str
    pool: str
    drop: str
    score: float | None
    tokens: int
    """Of the trace."""
    student_tokens: int | None
    """Of the example, prompt and end included, as the student reads it; None without a student."""
    doubt: float | None
    """Words of doubt per word, of a kept trace."""
    stage: str
    """Where the trace's body is: see `TraceRow`."""


class AttemptRow(NamedTuple):
    """One verified attempt of a student at a held-out problem."""

    problem: str
    arm: str
    seed: int
    seed_index: int
    key: str
    verdict: str
    answer: str | None
    finish: str
    tokens: int
    error: str | None


Row = ProblemRow | TraceRow | CutRow | HintRow | ScoreRow | SelectedRow | AttemptRow

TABLES: dict[type, str] = {
    ProblemRow: "problems",
    TraceRow: "traces",
    CutRow: "cuts",
    HintRow: "hints",
    ScoreRow: "scores",
    SelectedRow: "selected",
    AttemptRow: "attempts",
}
KEYS: dict[type, tuple[str, ...]] = {
    ProblemRow: ("problem",),
    TraceRow: ("problem", "stage", "tag", "key"),
    CutRow: ("problem", "tag", "key", "trace"),
    HintRow: ("problem", "tag", "key"),
    ScoreRow: ("problem", "stage", "tag", "key"),
    SelectedRow: ("arm", "problem", "trace"),
    AttemptRow: ("arm", "seed", "problem", "seed_index"),
}
"""What tells two rows of a table apart, and the order they come in."""
OF_PROBLEM = (TraceRow, CutRow, HintRow, ScoreRow)
"""What is known of a problem's traces."""
FORGET = (
    "DELETE FROM traces WHERE problem=? AND stage<>'matched'",
    "DELETE FROM cuts WHERE problem=?",
    "DELETE FROM hints WHERE problem=?",
    "DELETE FROM scores WHERE problem=? AND tag<>'honest'",
)
"""Replaced when a problem is concluded; stages that see all problems choose the rest."""


class Home(NamedTuple):
    """Where the columns say which records of a stage are live."""

    table: str
    where: str
    parameters: tuple[str, ...]
    """Of `where`."""
    order: str
    """The table's own, so that nothing is sorted and bodies come one at a time."""


LIVE = Home("live", "l.stage=? AND l.tag=?", ("stage", "tag"), "l.problem, l.key")
# The plus keeps SQLite from taking a column for constant, and the table's order for unfit.
_OF_STAGE = ("+l.stage=? AND +l.tag=?", ("stage", "tag"), "l.problem, l.stage, l.tag, l.key")
HOMES = {
    **dict.fromkeys(("sample", "hinted", "repair", "matched"), Home("traces", *_OF_STAGE)),
    **dict.fromkeys(("scores", "pure", "reliance"), Home("scores", *_OF_STAGE)),
    "cut": Home("cuts", "+l.tag=?", ("tag",), "l.problem, l.tag, l.key, l.trace"),
    "hint": Home("hints", "+l.tag=?", ("tag",), "l.problem, l.tag, l.key"),
    "evaluate": Home("attempts", "1", (), "l.arm, l.seed, l.problem, l.seed_index"),
}
"""By stage; any other is in the table `live`."""


Columns = TypeVar("Columns", bound=Row)
_SQL = {str: "TEXT", int: "INTEGER", float: "REAL", bool: "INTEGER"}


def names(kind: type) -> str:
    """A class's columns, in order, as SQL."""
    return ", ".join(f'"{name}"' for name in get_type_hints(kind))


def insertion(kind: type) -> str:
    """The statement that adds a row, or replaces that of the same key."""
    marks = ", ".join("?" * len(get_type_hints(kind)))
    return f"INSERT OR REPLACE INTO {TABLES[kind]} ({names(kind)}) VALUES ({marks})"


@cache
def maker(kind: type[Columns]) -> Callable[[Sequence[Any]], Columns]:
    """From what SQLite returns, which has no truth values, to a row."""
    make = cast(Callable[[Sequence[Any]], Columns], kind._make)
    flags = [place for place, hint in enumerate(get_type_hints(kind).values()) if hint is bool]

    def with_flags(row: Sequence[Any]) -> Columns:
        values = list(row)
        for place in flags:
            values[place] = values[place] != 0
        return make(values)

    return with_flags if flags else make


def _table(kind: type) -> str:
    columns = []
    for name, hint in get_type_hints(kind).items():
        optional = NoneType in get_args(hint)
        plain = get_args(hint)[0] if optional else hint
        columns.append(f'"{name}" {_SQL[plain]}{"" if optional else " NOT NULL"}')
    key = f"PRIMARY KEY ({', '.join(KEYS[kind])})"
    return f"CREATE TABLE IF NOT EXISTS {TABLES[kind]} ({', '.join((*columns, key))}) WITHOUT ROWID"


DDL = ";\n".join(map(_table, TABLES)) + ";\n"
"""Short rows stand in their key's order, with nothing beside them to keep in step."""
