"""What of a run folder is whole, what is not, and what can be mended.

In: a run folder, in whatever state. Out: lines that say so, and whether anything was lost. A
damaged database is read as far as it can be and kept under another name; a damaged body is dropped,
with the rows that speak of it, and its problem is asked again, so that the next run makes it anew.
Where nothing can be written it only looks. Never deletes what it could not read.
"""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from heal.errors import UserError
from heal.records import TrainResult
from heal.store.bodies import DamagedError, decode
from heal.store.disk import (
    BUSY_S,
    DATABASE,
    DamagedDatabaseError,
    connect_to_read,
    connect_to_write,
    disk_errors,
    fold_in,
    roll_back,
    take_lock,
    wants_log,
    written_whole,
)
from heal.store.kinds import KINDS
from heal.store.migrate import migrate
from heal.store.opening import (
    Say,
    is_new,
    refuse_other,
    require_tables,
    schema_of,
    stored_schema,
)
from heal.store.salvage import FORGET, SMALL, Salvaged, is_whole, resume, salvage
from heal.store.schema import OLD_SCHEMA, SCHEMA
from heal.wording import plural

SHOWN = 20
"""Names of what was lost that are said; their number is said in any case."""

_OF_STAGE = "r.problem = l.problem AND r.stage = l.stage AND r.key = l.key"
_BODY_OF = {
    "traces": _OF_STAGE,
    "scores": _OF_STAGE,
    "live": _OF_STAGE,
    "hints": "r.problem = l.problem AND r.stage = 'hint' AND r.key = l.key",
    "attempts": "r.problem = l.problem AND r.stage = 'evaluate' AND r.key = l.key",
    "selected": "r.problem = l.problem AND r.stage = l.stage AND r.key = l.trace",
}
"""Rows that speak of a body, and of which. Cuts may have none: controls' are worked out anew."""
_UNUSED = """
SELECT COUNT(*) FROM (
    SELECT problem, stage, key FROM records WHERE stage IN ('sample', 'hinted', 'repair', 'matched',
        'scores', 'pure', 'reliance', 'hint', 'evaluate')
    EXCEPT SELECT problem, stage, key FROM traces
    EXCEPT SELECT problem, stage, key FROM scores
    EXCEPT SELECT problem, 'hint', key FROM hints
    EXCEPT SELECT problem, 'evaluate', key FROM attempts
)
"""
"""Bodies that have rows where they are used, and have none."""


class _Body(NamedTuple):
    problem: str
    stage: str
    key: str


@dataclass
class _Patient:
    """A folder that is looked at; `mend` where something may be written."""

    folder: Path
    say: Say
    mend: bool
    whole: bool = True

    def change(self, *steps: tuple[str, Iterable[tuple[object, ...]]]) -> None:
        """Statements with the parameters of each time they are executed, in one transaction."""
        if not self.mend:
            return
        file = self.folder / DATABASE
        with closing(sqlite3.connect(file, isolation_level=None, timeout=BUSY_S)) as database:
            database.execute("BEGIN IMMEDIATE")
            for statement, parameters in steps:
                database.executemany(statement, parameters)
            database.execute("COMMIT")

    def lost(self, line: str) -> None:
        """Say that something is not there any more."""
        self.whole = False
        self.say(line)

    def lost_names(self, what: str, names: Sequence[Iterable[str]]) -> None:
        """Say which, and how many."""
        self.lost(f"{len(names):,} {what}:")
        for name in names[:SHOWN]:
            self.say(f"  {' '.join(name)}")
        if len(names) > SHOWN:
            self.say(f"  … and {len(names) - SHOWN:,} more")


def doctor(folder: Path, say: Say) -> bool:
    """Look at a folder, mend what can be mended, and tell whether nothing was lost.

    Raises: UserError if it is no run folder, or another process is writing to it.
    """
    if not folder.is_dir() or not any(file.name.startswith(DATABASE) for file in folder.iterdir()):
        raise UserError(f"{folder}: not a run folder", hint="heal run -c FILE.yaml makes one")
    if not os.access(folder, os.W_OK):
        say(f"{folder}: cannot be written to, so it is only looked at")
        return _examined(_Patient(folder, say, mend=False))
    with closing(take_lock(folder)), disk_errors(folder):
        return _examined(_Patient(folder, say, mend=True))


def _examined(patient: _Patient) -> bool:
    folder, say = patient.folder, patient.say
    if patient.mend:
        resume(folder)
        roll_back(folder / DATABASE)
    if patient.mend and is_new(folder):
        say("nothing was stored here yet")
        return True
    _check_log(patient)
    trouble = _trouble(folder)
    if trouble is not None:
        _treat(patient, trouble)
    if trouble is not None and not patient.mend:
        return False
    if stored_schema(folder) == OLD_SCHEMA:
        if not patient.mend:
            say(f"{DATABASE}: of an older HEAL (schema {OLD_SCHEMA}), with every page in order")
            return True
        say(migrate(folder))
    with closing(connect_to_read(folder / DATABASE)) as database:
        size = (folder / DATABASE).stat().st_size
        say(f"{DATABASE}: {size / 1e6:,.1f} MB, schema {SCHEMA}, every page in order")
        _check_bodies(patient, database)
        _check_rows(patient, database)
        _check_files(patient, database)
    if patient.mend and wants_log(folder / DATABASE):
        with closing(connect_to_write(folder / DATABASE)) as database:
            fold_in(database)
    say("whole" if patient.whole else _outlook(patient))
    return patient.whole


def _outlook(patient: _Patient) -> str:
    if not patient.mend:
        return "not whole: heal doctor mends what can be mended where the folder can be written to"
    return "the rest is whole; the next heal run makes what was lost anew"


# --- the database --------------------------------------------------------------------------------


def _check_log(patient: _Patient) -> None:
    """A run that was cut off left its log; a copy without it lacks what was stored last."""
    log = patient.folder / f"{DATABASE}-wal"
    if not wants_log(patient.folder / DATABASE) or log.exists():
        return
    try:
        if stored_schema(patient.folder) == OLD_SCHEMA:  # which closed its folders so
            return
    except UserError:
        pass
    patient.lost(
        f"{log.name} is not there: the run was cut off, and this copy may lack what it stored last"
    )


def _trouble(folder: Path) -> str | None:
    """What is wrong with a database as such; None if nothing is. Raises: UserError."""
    try:
        with closing(connect_to_read(folder / DATABASE)) as database, disk_errors(folder):
            found = [str(line) for (line,) in database.execute("PRAGMA integrity_check(3)")]
            if found != ["ok"]:
                return "; ".join(line.replace("\n", " ") for line in found)
            schema = schema_of(database, folder)
            if schema == SCHEMA:
                require_tables(database, folder)
                _read_rows(database)
    except DamagedDatabaseError as error:
        return str(error).removeprefix(f"{folder / DATABASE}: ")
    refuse_other(folder, schema, OLD_SCHEMA)
    return None


def _read_rows(database: sqlite3.Connection) -> None:
    """Whether all short rows are text and numbers: SQLite looks at the order of pages only."""
    for table in SMALL:
        for _ in database.execute(f"SELECT * FROM {table}"):
            pass
    for _ in database.execute("SELECT problem, stage, key FROM records"):
        pass


def _treat(patient: _Patient, trouble: str) -> None:
    patient.say(f"{DATABASE}: {trouble}{_cut_short(patient.folder / DATABASE)}")
    if not patient.mend:
        patient.whole = False
        return
    found: Salvaged = salvage(patient.folder)
    patient.say(f"read what can be read: {found.bodies:,} bodies; it stays as {found.kept}")
    if found.cut_short:
        patient.lost(f"tables of which only a part was left: {', '.join(found.cut_short)}")
    if found.lost:
        patient.lost_names("bodies could not be read", found.lost)
    if not found.counted:
        patient.lost("how many bodies there were is not known any more")


def _cut_short(file: Path) -> str:
    """How much of a file is there, where its head says there was more."""
    with file.open("rb") as opened:
        head = opened.read(32)
    said = int.from_bytes(head[16:18], "big") * int.from_bytes(head[28:32], "big")
    size = file.stat().st_size
    return f" ({size:,} of {plural(said, 'byte')} are there)" if size < said else ""


# --- bodies and rows -----------------------------------------------------------------------------


def _check_bodies(patient: _Patient, database: sqlite3.Connection) -> None:
    stages, damaged = Counter[str](), list[tuple[int, _Body]]()
    query = "SELECT rowid, problem, stage, key, body FROM records"
    for number, problem, stage, key, body in database.execute(query):
        if is_whole(problem, stage, key, body):
            stages[stage] += 1
        else:
            damaged.append((number, _Body(problem, stage, key)))
    listed = ", ".join(f"{stage} {count:,}" for stage, count in sorted(stages.items()))
    patient.say(f"bodies: {stages.total():,} whole" + (f" ({listed})" if listed else ""))
    unknown = [f"{stage} {count:,}" for stage, count in stages.items() if stage not in KINDS]
    if unknown:
        patient.say(f"of stages that are not known here, whole but not read: {', '.join(unknown)}")
    if not damaged:
        return
    patient.change(
        ("DELETE FROM records WHERE rowid=?", [(number,) for number, _ in damaged]),
        *_asking_again({body.problem for _, body in damaged}),
    )
    what = "damaged bodies dropped" if patient.mend else "damaged bodies"
    patient.lost_names(what, [(body.stage, body.key) for _, body in damaged])


def _check_rows(patient: _Patient, database: sqlite3.Connection) -> None:
    """Rows without a body, bodies without a row, and what was in flight."""
    for table, body in _BODY_OF.items():
        where = f"NOT EXISTS (SELECT 1 FROM records r WHERE {body})"
        found = database.execute(f"SELECT DISTINCT l.problem FROM {table} l WHERE {where}")
        problems = {problem for (problem,) in found}
        if not problems:
            continue
        (rows,) = database.execute(f"SELECT COUNT(*) FROM {table} l WHERE {where}").fetchone()
        patient.change((f"DELETE FROM {table} AS l WHERE {where}", [()]), *_asking_again(problems))
        dropped = ", dropped" if patient.mend else ""
        patient.lost(f"rows of {table} whose body is not there: {rows:,}{dropped}")
    counts = {
        table: database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
        for table in ("problems", "traces", "scores", "selected", "attempts", "claims")
    }
    claims = counts.pop("claims")
    patient.say("rows: " + ", ".join(f"{table} {count:,}" for table, count in counts.items()))
    (unused,) = database.execute(_UNUSED).fetchone()
    if unused:
        patient.say(f"bodies that only other settings ask for, kept: {unused:,}")
    if claims:
        patient.say(f"requests in flight when the last process ended: {claims:,}; asked again")


def _asking_again(problems: Iterable[str]) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Have the next run ask these problems, and not take itself for complete."""
    settled = "UPDATE problems SET settled=NULL WHERE problem=?"
    return [(settled, [(problem,) for problem in problems]), (FORGET, [()])]


# --- files ---------------------------------------------------------------------------------------


def _check_files(patient: _Patient, database: sqlite3.Connection) -> None:
    folder, there = patient.folder, ["config.yaml", "report.html"]
    unfinished = [*folder.glob("*.part"), *folder.glob("data/*.part")]
    if unfinished and patient.mend:
        for part in unfinished:
            part.unlink()
        patient.say(f"unfinished files removed: {', '.join(part.name for part in unfinished)}")
    if not (folder / "config.yaml").exists():
        there.remove("config.yaml")
        _restore_config(patient, database)
    if not (folder / "report.html").exists():
        there.remove("report.html")
        patient.say(f"report.html is not there: heal report {folder} writes it")
    missing = [*_missing_data(folder, database), *_missing_students(folder, database)]
    for name in missing[:SHOWN]:
        patient.lost(f"{name} is not there")
    if len(missing) > SHOWN:
        patient.say(f"  … and {len(missing) - SHOWN:,} more")
    if missing:
        patient.change((FORGET, [()]))
    if there and not missing:
        patient.say(f"files: {', '.join(there)} and all data and students")


def _restore_config(patient: _Patient, database: sqlite3.Connection) -> None:
    row = database.execute("SELECT value FROM meta WHERE name='config'").fetchone()
    if row is None:
        patient.say("config.yaml is not there, nor what it said: heal run -c writes it")
    elif not patient.mend:
        patient.say("config.yaml is not there; the database knows what it said")
    else:
        text = yaml.safe_dump(json.loads(row[0]), sort_keys=False, allow_unicode=True)
        with written_whole(patient.folder / "config.yaml") as out:
            out.write(text.encode())
        patient.say("config.yaml was not there: written again from the database")


def _missing_data(folder: Path, database: sqlite3.Connection) -> list[str]:
    (chosen,) = database.execute("SELECT EXISTS (SELECT 1 FROM selected)").fetchone()
    stages = (1, 2, 3) if chosen else ()
    return [
        f"data/stage{n}_*.jsonl" for n in stages if not any(folder.glob(f"data/stage{n}_*.jsonl"))
    ]


def _missing_students(folder: Path, database: sqlite3.Connection) -> list[str]:
    query = (
        "SELECT r.body FROM live l JOIN records r USING (problem, stage, key)"
        " WHERE l.stage='train' ORDER BY l.key"
    )
    trained: list[str] = []
    for (body,) in database.execute(query):
        try:
            trained.append(decode(TrainResult, body).folder)
        except DamagedError:
            continue  # said already
    return sorted(name for name in trained if not any((folder / name).glob("*")))
