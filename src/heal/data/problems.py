r"""Problems: read, map the columns, take the answers out, drop duplicates, split, decontaminate.

In: the `problems` settings. Out: a `ProblemSet` whose facts add up. An id is a hash of the
problem's text and the split a hash of (`split_seed`, id), so neither order nor company matters:
adding a problem moves no other; it may only take a training problem out that it overlaps with.
A row that gives no problem and answer is left out and counted, or refuses the file.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from heal.config import Problems
from heal.data.arrow_rows import read_hub
from heal.data.columns import ALIASES
from heal.data.golds import asked, plain
from heal.data.overlap import overlaps
from heal.data.reading import LeftOut, Reading, is_nothing, problem_id, read_rows
from heal.data.rows import Rows, listed
from heal.data.shapes import same_name
from heal.data.sources import read_function, read_gym, read_path
from heal.data.traces import read_questions
from heal.errors import UserError
from heal.records import Problem, Split
from heal.wording import plural

__all__ = ["ALIASES", "LeftOut", "ProblemSet", "problem_id", "read_problems", "split_of"]


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a run, and how they came about."""

    problems: tuple[Problem, ...]
    columns: Mapping[str, str]
    """Field → the column it was read from."""
    facts: Mapping[str, int]
    """What was done to the rows, in words, with how often; zero counts are left out."""
    verifier: str = "math"
    """The verifier to judge with: the recipe's, or the one these problems call for."""
    shape: str | None = None
    """The data set whose columns these are; None: they have the usual names."""
    left_out: tuple[LeftOut, ...] = ()

    def split(self, side: Split) -> tuple[Problem, ...]:
        """The problems on one side of the split."""
        return tuple(problem for problem in self.problems if problem.split is side)

    @property
    def summary(self) -> str:
        """One line: how many of how many rows are used, and what became of the others."""
        rows = self.facts.get("problem rows read", len(self.problems))
        held_out = len(self.split(Split.HELD_OUT))
        others = [f"{count:,} {text}" for text, count in self.facts.items() if text in _AWAY]
        others += [
            f"{count:,} {text.removeprefix(_LEFT_OUT)}"
            for text, count in self.facts.items()
            if text.startswith(_LEFT_OUT)
        ]
        return (
            f"{len(self.problems):,} of {plural(rows, 'row')} are used: "
            f"{len(self.problems) - held_out:,} to train on, {held_out:,} held out"
            + (f"; not used: {'; '.join(others)}" if others else "")
        )


_LEFT_OUT = "rows left out: "
_DUPLICATES = "duplicate problems dropped"
_BEYOND = "problems beyond problems.limit left out"
_OVERLAPPING = "training problems that overlap with what is evaluated on removed"
_AWAY = (_DUPLICATES, _BEYOND, _OVERLAPPING)


def read_problems(settings: Problems, base: Path) -> ProblemSet:
    """Read, map, deduplicate, split, decontaminate; relative paths are taken from `base`.

    Raises: UserError naming the place of everything that is wrong, and the next command.
    """
    rows = _read_rows(settings, base)
    rows.raise_broken()
    empty = rows.empty_rows()
    if not rows.rows and not empty:
        raise UserError(
            f"{rows.name}: holds no problems", hint="give one problem per line, as JSON"
        )
    reading = read_rows(rows, settings)
    reading.left_out[:0] = [LeftOut(place, "a null row", why) for place, why in empty]
    reading.refuse_bad_rows(settings)
    kept = list(islice(reading.problems.values(), settings.limit))
    split = [replace(p, split=split_of(p.id, settings.split_seed, settings.held_out)) for p in kept]
    problems, removed = _without_overlaps(split, settings, base)
    facts = _facts(rows, reading, len(kept), problems, removed)
    shape = reading.columns.shape
    return ProblemSet(
        problems, reading.columns.names, facts, _verifier(settings, reading),
        shape.name if shape else None, tuple(reading.left_out),
    )  # fmt: skip


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
    if settings.hub is not None:
        return read_hub(settings.hub, settings.subset, settings.split)
    if settings.path is None:
        assert settings.traces is not None, "config gives one source, or traces alone"
        return read_questions(settings.traces, base)
    return read_path(_under(base, settings.path), settings.path, settings.split)


def _under(base: Path, path: str) -> Path:
    try:
        return base / Path(path).expanduser()
    except (RuntimeError, ValueError):  # ~name of nobody, and what is no path at all
        return base / path


def _verifier(settings: Problems, reading: Reading) -> str:
    if settings.verifier != "auto":
        return settings.verifier
    return "choice" if reading.way is not None else "math"


def _without_overlaps(
    problems: Sequence[Problem], settings: Problems, base: Path
) -> tuple[tuple[Problem, ...], Counter[str]]:
    """Problems without the training ones that overlap, and how many went by which rule."""
    removed: Counter[str] = Counter()
    if settings.decontaminate is None:
        return tuple(problems), removed
    evaluated: dict[str, list[str]] = {}
    if settings.gym is None:  # a task's problems are alike by design, and drawn apart
        held_out = [p.problem for p in problems if p.split is Split.HELD_OUT]
        evaluated["a held-out problem"] = held_out
    for path in settings.decontaminate:
        evaluated[path] = _questions(path, base)
        removed[f"problems of {path} to decontaminate against"] = len(evaluated[path])
    train = [p for p in problems if p.split is Split.TRAIN]
    found, templates = overlaps([p.problem for p in train], evaluated)
    for one in found:
        removed[f"training problems removed: {one.rule} as {one.source}"] += 1
    removed[_OVERLAPPING] = len(found)
    removed["training problems whose wording many share, so that it tells no copy"] = templates
    gone = {train[one.index].id for one in found}
    return tuple(p for p in problems if p.id not in gone), removed


def _questions(path: str, base: Path) -> list[str]:
    """The problems of an evaluation file; their answers are not asked for."""
    rows = read_path(_under(base, path), path)
    rows.raise_broken()
    names = {same_name(name): name for row in rows.rows for name in row.values}
    column = next((names[alias] for alias in ALIASES["problem"] if alias in names), None)
    if column is None:
        raise UserError(
            f"{path}: no problem column (problems.decontaminate); "
            f"columns found: {listed(names.values())}",
            hint=f"name it one of {', '.join(ALIASES['problem'])}",
        )
    values = (row.values.get(column) for row in rows.rows)
    return [text for value in values if (text := asked(value) or plain(value))]


def _facts(
    rows: Rows,
    reading: Reading,
    kept: int,
    problems: Sequence[Problem],
    removed: Mapping[str, int],
) -> dict[str, int]:
    held_out = sum(problem.split is Split.HELD_OUT for problem in problems)
    left_out = Counter(one.reason for one in reading.left_out)
    facts = {
        "problem files read": rows.files if rows.files > 1 else 0,
        "problem rows read": len(rows.rows) + len(rows.empty_rows()),
        _DUPLICATES: reading.duplicates,
        _BEYOND: len(reading.problems) - kept,
        "problems to train on": len(problems) - held_out,
        "problems held out": held_out,
    }
    facts |= {f"{_LEFT_OUT}{reason}": count for reason, count in left_out.most_common()}
    facts |= removed
    facts |= reading.done
    for name, column in reading.columns.names.items():
        if name != column:
            facts[f"rows whose {name} is read from column {column!r}"] = len(rows.rows)
    for column in reading.columns.unused():
        filled = sum(not is_nothing(row.values.get(column)) for row in rows.rows)
        facts[f"rows whose column {column!r} looks needed and is not used"] = filled
    for column in reading.unread_options:
        facts[f"rows whose options {column!r} are not used: no gold names one"] = len(rows.rows)
    if reading.way is not None:
        facts[f"rows whose right option is named {reading.way}"] = len(rows.rows)
    return {text: count for text, count in facts.items() if count}
