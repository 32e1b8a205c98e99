"""Columns: one short row per problem, trace, cut, hint, score, choice and attempt.

They say what belongs to the run *as it is configured now*, and hold what is counted, summed or
sorted by: whoever wants totals asks SQL for them and never opens a body. The rows of one problem
are replaced together whenever the stages are done with it. In a table the order of the columns is
that of the class here.
"""

from typing import NamedTuple


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
    """Where the columns say which records of a stage are live: `where` with these parameters."""

    table: str
    key: str = "key"
    where: str = "l.stage=? AND l.tag=?"
    parameters: tuple[str, ...] = ("stage", "tag")


HOMES = {
    **dict.fromkeys(("sample", "hinted", "repair", "matched"), Home("traces")),
    **dict.fromkeys(("scores", "pure", "reliance"), Home("scores")),
    **dict.fromkeys(("cut",), Home("cuts", where="l.tag=?", parameters=("tag",))),
    **dict.fromkeys(("hint",), Home("hints", where="l.tag=?", parameters=("tag",))),
    **dict.fromkeys(("evaluate",), Home("attempts", where="1", parameters=())),
}
"""By stage; any other stage is in the table `live`."""

DDL = """
CREATE TABLE IF NOT EXISTS problems (
    problem TEXT PRIMARY KEY, place INTEGER NOT NULL, split TEXT NOT NULL, family TEXT,
    n INTEGER NOT NULL, correct INTEGER NOT NULL, truncated INTEGER NOT NULL,
    unverifiable INTEGER NOT NULL, stratum TEXT NOT NULL, rho REAL, paths INTEGER NOT NULL,
    settled TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS traces (
    problem TEXT NOT NULL, stage TEXT NOT NULL, tag TEXT NOT NULL, key TEXT NOT NULL,
    seed_index INTEGER NOT NULL, finish TEXT NOT NULL, tokens INTEGER NOT NULL,
    new_tokens INTEGER NOT NULL, verdict TEXT, answer TEXT, gate TEXT, hint TEXT, cut TEXT,
    failed INTEGER NOT NULL, PRIMARY KEY (problem, stage, tag, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cuts (
    problem TEXT NOT NULL, tag TEXT NOT NULL, key TEXT NOT NULL, trace TEXT NOT NULL,
    step INTEGER NOT NULL, steps INTEGER NOT NULL, margin REAL NOT NULL, fallback TEXT,
    undecided INTEGER NOT NULL, blind INTEGER NOT NULL, PRIMARY KEY (problem, tag, key, trace)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hints (
    problem TEXT NOT NULL, tag TEXT NOT NULL, key TEXT NOT NULL, cut TEXT, kind TEXT NOT NULL,
    asked TEXT NOT NULL, leaks INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
    cut_off INTEGER NOT NULL, empty INTEGER NOT NULL, failed INTEGER NOT NULL,
    PRIMARY KEY (problem, tag, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores (
    problem TEXT NOT NULL, stage TEXT NOT NULL, tag TEXT NOT NULL, key TEXT NOT NULL,
    trace TEXT NOT NULL, scored_tokens INTEGER NOT NULL, failed INTEGER NOT NULL,
    commitment INTEGER, surprisal REAL, PRIMARY KEY (problem, stage, tag, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS selected (
    arm TEXT NOT NULL, problem TEXT NOT NULL, trace TEXT NOT NULL, pool TEXT NOT NULL,
    "drop" TEXT NOT NULL, score REAL, tokens INTEGER NOT NULL, student_tokens INTEGER, doubt REAL,
    stage TEXT NOT NULL, PRIMARY KEY (arm, problem, trace)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts (
    problem TEXT NOT NULL, arm TEXT NOT NULL, seed INTEGER NOT NULL, seed_index INTEGER NOT NULL,
    key TEXT NOT NULL, verdict TEXT NOT NULL, answer TEXT, finish TEXT NOT NULL,
    tokens INTEGER NOT NULL, error TEXT, PRIMARY KEY (arm, seed, problem, seed_index)
) WITHOUT ROWID;
"""
