"""A small world for whole runs on the scripted engine: problems whose every outcome is known.

A world is rows for the problem file and rules for the script; `ScriptedRun` puts it in a folder
and runs it, through the library or the command line. Run as a script it is a run that can be
killed: `python scripted_run.py RECIPE WHERE K` dies by SIGKILL where `kill` says.
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import yaml

from heal.execute import execute
from heal.functions import allow_code
from heal.recipe import load
from heal.records import Gate, Problem, Split, Stratum
from heal.report.view import RunView
from heal.store import (
    DATABASE,
    AttemptRow,
    CutRow,
    HintRow,
    ProblemRow,
    Row,
    ScoreRow,
    SelectedRow,
    Store,
    TraceRow,
)

ANSWER = "142"
WAYS = ("red", "green", "blue", "brown", "white")
"""A word per failed path; every sentence holds it, so that no two paths are near-duplicates."""
MAGIC = "all falls into place"
PAGE = "heal.report.html.render_html"
HINT = "Remember to carry the one."

Question = dict[str, Any]
Rule = dict[str, Any]
World = tuple[list[Question], list[Rule]]
Record = TypeVar("Record")
Columns = TypeVar("Columns", bound=Row)
COLUMNS = (ProblemRow, TraceRow, CutRow, HintRow, ScoreRow, SelectedRow, AttemptRow)
DRAWN = ("sample", "hint_draw", "hinted", "repair", "matched", "evaluate")
SCORED = ("scores", "pure", "reliance")


def steps(*lines: str) -> str:
    return "\n\n".join(lines)


def failed(name: str, way: str) -> str:
    """Six steps that break at the third and end on a wrong answer."""
    return steps(
        f"First I look at the {way} {name} and add.",
        f"The tens come to {way} thirteen {name}.",
        f"Wait, this {way} part is not clear to me at all.",
        f"I simply go on in the {way} way and add the units one after another, slow as I am.",
        f"Then I add the rest of the {way} ones and hope that nothing was left out on the way.",
        f"So \\boxed{{{100 + WAYS.index(way)}}}.",
    )


def kept_prefix(name: str, way: str) -> str:
    """What a cut before the surge keeps of `failed`."""
    return steps(*failed(name, way).split("\n\n")[:2], "")


def honest(way: str) -> str:
    return steps(
        f"Carrying the one in the {way} way makes the tens four.",
        f"The hundred of {way} ones stays as it was before.",
        f"That leaves the {way} units, and there are two of them.",
        f"So \\boxed{{{ANSWER}}}.",
    )


def shortcut(way: str) -> str:
    return steps(
        f"And then, in a {way} flash, {MAGIC} for me.",
        f"Nothing more is {way} enough to be done here.",
        f"So \\boxed{{{ANSWER}}}.",
    )


def row(name: str) -> Question:
    return {"problem": f"How many {name} are 61 {name} and 81 {name}?", "answer": ANSWER}


def unaided(name: str, *replies: str, **more: Any) -> Rule:
    return {"match": rf"many {name} .*<assistant>\Z", "replies": list(replies), **more}


def right(name: str, way: str) -> str:
    return steps(
        f"The {name} in {way} baskets have twelve tens and two units.",
        f"With the {way} hundred that makes \\boxed{{{ANSWER}}}.",
    )


def easy(name: str) -> World:
    """Always solved, in two ways of saying it."""
    return [row(name)], [unaided(name, right(name, "tall"), right(name, "wide"))]


def hard(name: str) -> World:
    """Solved one time in four; with the answer in view, always."""
    wrong = [failed(name, way) for way in WAYS[:3]]
    return [row(name)], [hinted(name), unaided(name, right(name, "tall"), *wrong)]


def hinted(name: str) -> Rule:
    replies = [right(name, "deep"), right(name, "flat")]
    return {"match": rf"many {name} .*Hint:.*<assistant>\Z", "replies": replies}


def extreme(name: str, *, hints: Iterable[str] = (HINT,), repairs: Any = None) -> World:
    """Never solved. Each of five failed paths is repaired honestly, but the last by a leap.

    `repairs`: way → replies; [] has no rule, so the repair fails in the engine.
    """
    found = repairs or {way: [honest(way)] for way in WAYS[:4]} | {WAYS[4]: [shortcut(WAYS[4])]}
    rules = [{"match": rf"A student is solving.*many {name} ", "replies": list(hints)}]
    rules += [
        {"match": rf"many {name} .*Hint:.*<assistant>First I look at the {way} ", "replies": said}
        for way, said in found.items()
    ]
    rules += [hinted(name), unaided(name, *(failed(name, way) for way in WAYS))]
    return [row(name)], rules + scores(name)


def scores(name: str) -> list[Rule]:
    return [
        {
            "match": rf"many {name} .*<assistant>.*{MAGIC}",
            "logprobs": [-0.3, -0.3, -4.0, -0.3],
            "answer_logprob": [-3.0, -3.0, -3.0, -0.01],
        },
        {
            "match": rf"many {name} .*<assistant>.*Carrying the one",
            "logprobs": -0.3,
            "answer_logprob": [-3.0, -3.0, -3.0, -2.0, -1.5, -1.0, -0.05],
        },
        {
            "match": rf"many {name} .*<assistant>.*not clear to me",
            "entropies": [0.2, 0.3, 2.5, 0.4],
        },
    ]


def miscounting(name: str) -> World:
    """As `extreme`, but two steps claim a number, and the teacher doubts that of the fifth."""
    asked, rules = extreme(name)
    text = json.dumps(rules)
    for old, new in (
        ("The tens come to", "As 60 + 80 = 140 I have"),
        ("add the rest", "see 140 + 2 = 152 in the rest"),
    ):
        assert old in text
        text = text.replace(old, new)
    spoilt = json.loads(text)
    spoilt[-1]["entropies"] = [0.2, 0.2, 0.2, 0.2, 2.5, 0.2]
    return asked, spoilt


def summing(name: str) -> World:
    """As `extreme`, but every repair asserts a sum: a false one that of the last path."""
    end = f"So it is \\boxed{{{ANSWER}}}."
    said = {way: [steps("Now 60 + 80 = 140, and two more.", end)] for way in WAYS[:4]}
    said[WAYS[4]] = [steps("Now 60 + 80 = 150.", "That is 140, and two more.", end)]
    return extreme(name, repairs=said)


def world(*parts: World) -> World:
    return [r for rows, _ in parts for r in rows], [r for _, rules in parts for r in rules]


def small_world() -> World:
    """One problem of each stratum."""
    return world(easy("apples"), hard("pears"), extreme("plums"))


SETTINGS: dict[str, Any] = {
    "run": "run",
    "problems": {"path": "problems.jsonl", "verifier": "exact", "held_out": 0},
    "teacher": {"engine": "scripted", "model": "script.json"},
    "sampling": {"n": 40},
    # Failed traces are scored and cut by entropy; random cuts have tests of their own.
    "gear": {"breakpoint": "difference", "paths": 5, "candidates": 2, "hinted_samples": 4},
    # Scripted numbers are written for the ratio; what `calibrated` does has tests of its own.
    "pure": {"selection": "fraction"},
    # What trains here is not asked for more: `test_rehearsal.py` and the lab's tests do that.
    "pace": {"rehearsal": 0},
}


@dataclass
class Watch:
    """An observer that remembers."""

    lines: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """By the part of the work they came in."""
    under_way: int = 0
    tokens: int = 0
    done: Counter[str] = field(default_factory=Counter)
    reused: Counter[str] = field(default_factory=Counter)
    totals: dict[str, int] = field(default_factory=dict)
    stage: str = ""

    def begin(self, stage: str, total: int, unit: str = "items") -> None:
        self.stage = stage
        self.totals[stage] = total

    def stored(self, count: int) -> None:
        self.reused[self.stage] += count

    def advance(self, count: int = 1) -> None:
        self.done[self.stage] += count

    def arrived(self, outcome: str, tokens: int) -> None:
        self.answers[self.stage] += 1
        self.tokens += tokens

    def waiting(self, count: int) -> None:
        self.under_way = count

    def end(self, stage: str, line: str) -> None:
        self.lines[stage] = line

    def say(self, text: str) -> None:
        self.said.append(text)


class Killer(Watch):
    """Dies by SIGKILL at the k-th step or attempt of a stage; at its beginning for k = 0."""

    def __init__(self, stage: str, k: int) -> None:
        super().__init__()
        self.doomed, self.k = stage, k

    def begin(self, stage: str, total: int, unit: str = "items") -> None:
        super().begin(stage, total, unit)
        self._die_if(self.k == 0)

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        self._die_if(self.done[self.stage] >= self.k)

    def _die_if(self, now: bool) -> None:
        if now and self.stage == self.doomed:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class ScriptedRun:
    """A world in a folder of its own."""

    home: Path
    world: World = field(default_factory=small_world)
    settings: dict[str, Any] = field(default_factory=dict)
    page: bool = False
    """Whether the real page is rendered; its charts take longer than all the rest."""
    watch: Watch = field(default_factory=Watch)
    """What the last run showed."""
    view: RunView | None = None

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.write_problems(self.world[0])
        self.write_script(self.world[1])
        (self.home / "recipe.yaml").write_text(yaml.safe_dump(merge(SETTINGS, self.settings)))

    @property
    def folder(self) -> Path:
        return self.home / "run"

    def write_problems(self, rows: Iterable[Question]) -> None:
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (self.home / "problems.jsonl").write_text(text)

    def write_script(self, rules: list[Rule]) -> None:
        (self.home / "script.json").write_text(json.dumps(rules))

    def go(
        self,
        *overrides: str,
        until: str | None = None,
        watch: Watch | None = None,
        adopt: bool = False,
    ) -> Watch:
        """Run it, as `heal run` would; what was seen."""
        self.watch = watch or Watch()
        page = nullcontext() if self.page else patch(PAGE, lambda view: "no charts")
        with page, unsynced():
            self.view = run_recipe(self.home, overrides, until, self.watch, adopt)
        return self.watch

    def read(self, stage: str, kind: type[Record], tag: str = "") -> list[Record]:
        """The live records of a stage."""
        with Store.open(self.folder, write=False) as store:
            return [record for _, record in store.live(stage, kind, tag)]

    def everything(self, stage: str, kind: type[Record]) -> dict[str, Record]:
        """Whatever is stored of a stage, live or not, by key."""
        with Store.open(self.folder, write=False) as store:
            return dict(store.read(stage, kind))

    def rows(self, kind: type[Columns], where: str = "", *parameters: Any) -> list[Columns]:
        """What the columns say."""
        with Store.open(self.folder, write=False) as store:
            return list(store.rows(kind, where, *parameters))

    def meta(self, name: str) -> Any:
        with Store.open(self.folder, write=False) as store:
            return store.meta(name)

    def live(self) -> dict[str, set[Any]]:
        """All that belongs to the run: its columns, and the bodies that no column speaks for."""
        with Store.open(self.folder, write=False) as store:
            columns = {kind.__name__: {_plain(row) for row in store.rows(kind)} for kind in COLUMNS}
            others = (
                "SELECT l.stage, l.tag, l.key, r.body FROM live l JOIN records r"
                " USING (problem, stage, key)"
            )
            return columns | {"live": set(store.query(others))}

    def stored(self) -> dict[str, set[str]]:
        """Keys ever stored, by stage."""
        keys: dict[str, set[str]] = {}
        for stage, key in self._query("SELECT stage, key FROM records"):
            keys.setdefault(stage, set()).add(key)
        return keys

    def nouns(self) -> dict[str, str]:
        """Each problem's noun, by its id."""
        return {p.id: p.problem.split()[2] for p in self.read("problem", Problem)}

    def split(self) -> dict[str, Split]:
        """Each problem's side, by its id."""
        return {p.id: p.split for p in self.read("problem", Problem)}

    def lost(self) -> int:
        """Requests that were in flight when a process ended."""
        with Store.open(self.folder, write=False) as store:
            return store.totals().lost

    def claims(self) -> int:
        return len(self._query("SELECT * FROM claims"))

    def data(self) -> dict[str, str]:
        """The training files by name."""
        return {p.name: p.read_text() for p in sorted((self.folder / "data").iterdir())}

    def stage_rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data()[name].splitlines()]

    def _query(self, query: str) -> list[tuple[Any, ...]]:
        database = sqlite3.connect(self.folder / DATABASE)
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()


@contextmanager
def unsynced() -> Iterator[None]:
    """Spares the disk: syncing only matters when the power goes, and may take seconds each."""
    with opened_with("PRAGMA synchronous=OFF"), patch("heal.store.folder.make_durable"):
        yield


@contextmanager
def small_disk(pages: int = 4) -> Iterator[None]:
    """Lets a run folder grow by so many pages of 4 KiB after it was opened."""

    def limit(store: Store) -> str:
        ((now,),) = store.query("PRAGMA page_count")
        return f"PRAGMA max_page_count={now + pages}"

    with opened_with(limit):
        yield


@contextmanager
def opened_with(pragma: str | Callable[[Store], str]) -> Iterator[None]:
    init = Store.__init__

    def opened(self: Store, *given: Any) -> None:
        init(self, *given)
        self._database.execute(pragma if isinstance(pragma, str) else pragma(self))

    with patch.object(Store, "__init__", opened):
        yield


@contextmanager
def dying_at(stage: str, k: int) -> Iterator[None]:
    """Dies by SIGKILL once the k-th record of a stage is stored, with whatever came with it."""
    commit, conclude, count = Store.commit, Store.conclude, 0

    def die_if(stages: list[str]) -> None:
        nonlocal count
        count += stages.count(stage)
        if stage in stages and count >= k:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(self: Store, rows: Iterable[Any], **counts: Any) -> None:
        listed = list(rows)
        commit(self, listed, **counts)
        die_if([row.stage for row in listed])

    def concluded(self: Store, found: ProblemRow, rows: Any, records: Any) -> None:
        conclude(self, found, rows, records)
        die_if(["problem done"])

    with patch.object(Store, "commit", counted), patch.object(Store, "conclude", concluded):
        yield


class Crash(BaseException):
    """Stands for the power going: nothing in HEAL catches it, and nothing is written after it."""


def crash() -> None:
    raise Crash


def sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def dying_in(writes: int, phase: str, die: Callable[[], None] = crash) -> Iterator[None]:
    """Dies in the so-manieth transaction: `before` it, `within` it or `after` it; for good."""
    transaction, left = Store._transaction, writes

    @contextmanager
    def mortal(self: Store) -> Iterator[None]:
        nonlocal left
        left -= 1
        if left < 0 or (left == 0 and phase == "before"):
            die()
        with transaction(self):
            yield
            if left == 0 and phase == "within":
                die()
        if left == 0:
            die()

    with patch.object(Store, "_transaction", mortal):
        yield


@contextmanager
def small_batches(size: int = 7) -> Iterator[None]:
    """As from a slow engine: few answers are there at once."""
    with patch("heal.runner.AT_ONCE", size):
        yield


def run_recipe(
    home: Path, overrides: Iterable[str], until: str | None, watch: Watch, adopt: bool = False
) -> RunView | None:
    before = Path.cwd()
    os.chdir(home)
    try:
        return execute(load("recipe.yaml", list(overrides)), watch, until=until, adopt=adopt)
    finally:
        os.chdir(before)


def kill(home: Path, stage: str, k: int) -> None:
    """Run the recipe in a process of its own that dies by SIGKILL at the k-th of a stage.

    `calibrate`, `select`, `train` … count what is shown of it; `sample`, `repair`, `pure` … stored
    records; `problem done` problems; `before`, `within` and `after` transactions.
    """
    command = [sys.executable, __file__, str(home), stage, str(k)]
    root = Path(__file__).parent.parent
    dead = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280)
    assert dead.returncode == -signal.SIGKILL, dead.stderr


def strata(run: ScriptedRun) -> dict[str, Stratum]:
    """By the problem's noun."""
    nouns = run.nouns()
    return {nouns[row.problem]: Stratum(row.stratum) for row in run.rows(ProblemRow)}


def gates(run: ScriptedRun, stage: str = "repair") -> Counter[Gate]:
    return Counter(Gate(row.gate) for row in run.rows(TraceRow, "stage=?", stage) if row.gate)


def counts(line: str) -> tuple[int, int]:
    """(the total a stage's line states, the sum of its parts)."""
    stated = re.search(r"([\d,]+) [a-z ]+: (.*)$", line)
    assert stated, line
    parts = [int(n.replace(",", "")) for n in re.findall(r"(?:^|· )([\d,]+) ", stated[2])]
    return int(stated[1].replace(",", "")), sum(parts)


def _plain(row: Row) -> tuple[Any, ...]:
    """Floats as text: NaN is equal to itself."""
    return tuple(repr(value) if isinstance(value, float) else value for value in row)


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, section by section."""
    both = {
        k: merge(under[k], v)
        for k, v in over.items()
        if isinstance(under.get(k), dict) and isinstance(v, dict)
    }
    return {**under, **over, **both}


if __name__ == "__main__":
    _, _home, _stage, _k = sys.argv
    allow_code()  # of a recipe that a test wrote
    with small_batches():
        if _stage in ("before", "within", "after"):
            with dying_in(int(_k), _stage, sigkill):
                run_recipe(Path(_home), [], None, Watch())
        elif _stage in ("calibrate", "match", "select", "train"):
            run_recipe(Path(_home), [], None, Killer(_stage, int(_k)))
        else:
            with dying_at(_stage, int(_k)):
                run_recipe(Path(_home), [], None, Watch())
