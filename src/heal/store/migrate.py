"""A run folder of schema 1, brought to the present form.

In: a folder whose lock is held. Out: a line that says what became of it. Schema 1 held every body
as JSON with its arrays in base64, and no columns: they are filled from what was live. The new
database is made beside the old one and takes its place in one step at the end: a kill at any moment
leaves one of the two, whole. The old one stays as `run.sqlite.schema1`. The next run asks every
problem again, which owes nothing, and fills in the columns of controls' repairs.
"""

import base64
import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import msgspec
import numpy as np
from pydantic import ValidationError

from heal.config import Gear, Pure
from heal.errors import UserError
from heal.store.bodies import encode
from heal.store.columns import Row, insertion
from heal.store.disk import DATABASE, NEW, connect_to_write, disk_errors, fold_in, keep, take_place
from heal.store.kinds import KINDS
from heal.store.old_rows import TRACES, OldProblem
from heal.store.schema import MAKE, OLD_SCHEMA, SCHEMA
from heal.wording import plural

KEPT = f"{DATABASE}.schema{OLD_SCHEMA}"
"""The database as it was."""

_STAGES: dict[str, str | None] = {
    **{stage: stage for stage in KINDS},
    **TRACES,
    "answer_hint": "hint",
    "ceiling": None,
    "gate": None,
    "selected": None,
}
"""Where bodies are stored now, by their old stage; None: the columns say as much."""
_LISTED = ("problem", "plan", "train", "server", "audit")
"""Stages without columns begin so: what was live stays live."""


@dataclass
class Brought:
    """What became of a folder."""

    records: int = 0
    spent: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    """Bodies by stage: their work is owed again."""
    unknown: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """Selected traces without a record of their own."""


def migrate(folder: Path) -> str:
    """Bring a folder to the present form; its lock is held. Raises: UserError."""
    old, new = folder / DATABASE, folder / NEW
    with disk_errors(folder):
        _settle(folder)
        before = old.stat().st_size
        try:
            new.unlink(missing_ok=True)
            with (
                closing(sqlite3.connect(old, isolation_level=None)) as source,
                closing(sqlite3.connect(new, isolation_level=None)) as target,
            ):
                # A file that is thrown away unless it is finished needs no journal.
                target.execute("PRAGMA journal_mode=OFF")
                target.executescript(MAKE)
                target.execute("BEGIN IMMEDIATE")
                brought = _bring(source, target)
                target.execute("COMMIT")
            after = new.stat().st_size
            kept = keep(old, folder / KEPT)
            take_place(new, old)
        finally:
            new.unlink(missing_ok=True)
    return _told(folder, brought, before, after, kept)


def _settle(folder: Path) -> None:
    """Fold the old database's log in: it would be taken for the new one's."""
    database = connect_to_write(folder / DATABASE)
    folded = fold_in(database)
    database.close()
    if not folded:
        raise UserError(
            f"{folder}: was written by an older HEAL, and another process is reading it",
            hint="close that, then run the same command again",
        )


def _told(folder: Path, brought: Brought, before: int, after: int, kept: bool) -> str:
    line = (
        f"{folder}: brought from schema {OLD_SCHEMA} to {SCHEMA}: "
        f"{plural(brought.records, 'record')}, "
        f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now"
    )
    for what, counts in (
        ("could not be read and are owed again", brought.unreadable),
        ("are of stages nobody knows and were left behind", brought.unknown),
    ):
        if counts:
            stages = ", ".join(f"{n} × {stage}" for stage, n in sorted(counts.items()))
            line += f"; {counts.total()} {what} ({stages})"
    if brought.lost:
        line += f"; {plural(brought.lost, 'selected trace')} had no record"
    if kept:
        return f"{line}; the old database stays as {KEPT}"
    return f"{line}; there was no room to keep the old database"


def _bring(source: sqlite3.Connection, target: sqlite3.Connection) -> Brought:
    meta = {
        name: json.loads(value) for name, value in source.execute("SELECT name, value FROM meta")
    }
    live: dict[tuple[str, str], list[str]] = {}
    for stage, tag, key in source.execute("SELECT stage, tag, key FROM live"):
        live.setdefault((stage, key), []).append(tag)
    brought = Brought()
    place = 0
    for one in _problems(source, meta.get("config") or {}, live, brought):
        _store(target, one, one.rows(place))
        place += one.counts
        brought.spent += one.spent()
        brought.lost += one.lost
        brought.records += sum(map(len, one.records.values()))
    _carry_over(source, target, meta, brought)
    return brought


def _problems(
    source: sqlite3.Connection,
    config: Mapping[str, Any],
    live: Mapping[tuple[str, str], Sequence[str]],
    brought: Brought,
) -> Iterator[OldProblem]:
    """Problem after problem, with all that was stored of it; what belongs to none comes first."""
    gear, pure = _settings(Gear, config, "gear"), _settings(Pure, config, "pure")
    # Without the bodies: sorting them would take their whole size once more.
    listed = source.execute("SELECT problem, stage, key FROM records ORDER BY problem, stage, key")
    reading = source.cursor()
    for problem, group in groupby(listed, key=lambda row: row[0]):
        records: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {}
        for _, stage, key in group:
            if stage not in _STAGES:
                brought.unknown[stage] += 1
                continue
            query = "SELECT body FROM records WHERE stage=? AND key=?"
            (body,) = reading.execute(query, (stage, key)).fetchone()
            try:
                records.setdefault(stage, {})[key] = _read(_kind(stage), body)
            except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
                brought.unreadable[stage] += 1
        _part_scores(records, live)
        yield OldProblem(problem, records, lambda s, k: live.get((s, k), ()), gear, pure)


def _part_scores(
    records: dict[str, dict[str, tuple[Any, dict[str, Any]]]],
    live: Mapping[tuple[str, str], Sequence[str]],
) -> None:
    """Give profiles back what they were before the hinted pass was counted in with them.

    Each pass is now counted where it is stored, and would else be counted twice.
    """
    hinted: dict[str, int] = {}
    passes = sorted(records.get("reliance", {}).items(), key=lambda p: ("reliance", p[0]) in live)
    for _, (found, _) in passes:  # the live ones last, so that they have the word
        if found.error is None:
            hinted[found.trace] = found.scored_tokens
    for key, (profile, plain) in records.get("pure", {}).items():
        if profile.hinted_log_ppl is not None and profile.trace in hinted:
            tokens = profile.scored_tokens - hinted[profile.trace]
            parted = replace(profile, hinted_log_ppl=None, scored_tokens=tokens)
            records["pure"][key] = (parted, plain)


def _store(target: sqlite3.Connection, one: OldProblem, rows: Iterable[Row]) -> None:
    for old, found in one.records.items():
        stage = _STAGES[old]
        if stage is None:
            continue
        target.executemany(
            "INSERT OR REPLACE INTO records (problem, stage, key, body) VALUES (?, ?, ?, ?)",
            [(one.id, stage, key, encode(record)) for key, (record, _) in found.items()],
        )
        if old.startswith(_LISTED):
            target.executemany(
                "INSERT INTO live (stage, tag, key, problem) VALUES (?, ?, ?, ?)",
                [(stage, tag, key, one.id) for key in found for tag in one.tags(old, key)],
            )
    by_kind: dict[type[Row], list[Row]] = {}
    for row in rows:
        by_kind.setdefault(type(row), []).append(row)
    for row_kind, own in by_kind.items():
        target.executemany(insertion(row_kind), own)


def _carry_over(
    source: sqlite3.Connection, target: sqlite3.Connection, meta: dict[str, Any], brought: Brought
) -> None:
    """Claims, what was spent, and what was remembered."""
    claims = source.execute("SELECT stage, key FROM claims").fetchall()
    target.executemany(
        "INSERT INTO claims (stage, key) VALUES (?, ?)",
        [(_STAGES.get(stage, stage), key) for stage, key in claims],
    )
    lost = int(meta.pop("in_flight_lost", None) or 0)
    target.execute("UPDATE totals SET spent=?, lost=?", (brought.spent, lost))
    if meta.get("complete"):
        # Complete as it was; a run still asks again, and fills in what the old one never kept.
        meta["complete"] = f"schema {OLD_SCHEMA}: {meta['complete']}"
    if "work" in meta:
        meta["work"] = _work(meta["work"])
    remembered = [(n, json.dumps(value)) for n, value in meta.items() if n != "schema"]
    target.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", remembered)


def _work(by_stage: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Tokens and seconds by who did the work, of the stages that were compared until now."""

    def total(*stages: str) -> list[float]:
        return [sum(by_stage.get(stage, (0, 0.0))[part] for stage in stages) for part in (0, 1)]

    return {"write": total("sample"), "score": total("scores", "pure")}


def _settings(kind: Any, config: Mapping[str, Any], name: str) -> Any:
    """A section of the old config; what it does not know is as it is by default."""
    own = {k: v for k, v in (config.get(name) or {}).items() if k in kind.model_fields}
    try:
        return kind.model_validate(own)
    except ValidationError:
        return kind()


def _kind(old: str) -> type | None:
    stage = _STAGES[old]
    return None if stage is None else KINDS[stage]


def _read(kind: type | None, body: bytes) -> tuple[Any, dict[str, Any]]:
    """An old body as a record, and as it stands."""
    plain = msgspec.json.decode(body)
    if kind is None:
        return None, plain
    # JSON has no NaN: it was written as null.
    numbers = {name: math.nan for name in _floats(kind) if plain.get(name, 0) is None}
    return msgspec.convert({**plain, **numbers}, kind, dec_hook=_array), plain


@cache
def _floats(kind: type) -> tuple[str, ...]:
    return tuple(name for name, hint in get_type_hints(kind).items() if hint is float)


def _array(kind: Any, value: Any) -> Any:
    scalar = get_args(get_args(kind)[1])[0]
    little = np.dtype(scalar).newbyteorder("<")
    return np.frombuffer(base64.b64decode(cast(str, value)), little).astype(scalar)
