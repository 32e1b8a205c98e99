"""Views for looking at reports: of made-up runs, changed ones, and none at all.

The numbers of the evaluation are invented.
"""

import io
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from heal.method.intervals import Interval
from heal.method.summary import ArmScore, Difference, EvalSummary
from heal.report.load import load_view
from heal.report.table import print_table
from heal.report.view import RunView
from heal.store import (
    Store,
)

Record = TypeVar("Record")

UNREPAIRED = (
    "UPDATE traces SET gate = 'incorrect' WHERE gate IS NOT NULL",
    "DELETE FROM selected WHERE pool <> 'D1'",
    "DELETE FROM scores WHERE stage = 'pure'",
)
"""Every repair of a run refused by its gate."""


def minimal_view(**fields: object) -> RunView:
    """A run that has just been started."""
    empty = RunView(
        name="runs/empty", date="2026-03-14", seed=0, teacher="teacher", config_yaml="run: x\n"
    )
    return replace(empty, **fields)  # type: ignore[arg-type]


def lab_view(folder: Path) -> RunView:
    """What a report shows of such a run, with an invented evaluation."""
    with Store.open(folder, write=False) as store:
        return replace(load_view(store), evaluation=evaluation())


def rewrite(
    store: Store,
    stage: str,
    kind: type[Record],
    change: Callable[[Record], Record],
    problems: Collection[str] | None = None,
) -> None:
    """Every body of a stage, changed; of these problems only, if any are named."""
    sql = "SELECT key, problem FROM records WHERE stage = ?"
    for key, problem in list(store.query(sql, (stage,))):
        found = store.get(stage, key, problem, kind)
        if found is not None and (problems is None or problem in problems):
            store.put(stage, key, problem, change(found))


def changed(
    lab: Path, folder: Path, *statements: str, edit: Callable[[Store], None] | None = None
) -> RunView:
    """What a report shows of a copy, in `folder`/run, once it was changed."""
    shutil.copytree(lab, folder / "run")
    with Store.open(folder / "run") as store:
        for statement in statements:
            list(store.query(statement))
        if edit is not None:
            edit(store)
    return lab_view(folder / "run")


def evaluation(seeds: int = 3) -> EvalSummary:
    """Invented held-out results of three arms."""
    means = {
        "base": (0.61, 0.18, 0.02, 0.10),
        "rft": (0.84, 0.33, 0.05, 0.19),
        "rft_more": (0.85, 0.36, 0.06, 0.21),
        "heal": (0.83, 0.41, 0.17, 0.29),
    }
    groups = (("easy", 79), ("hard", 17), ("extreme", 24), ("hard+extreme", 41))
    arms = tuple(
        ArmScore(
            arm,
            stratum,
            _around(mean, n),
            pass_at={8: _around(min(1.0, mean * 1.4), n)},
            maj_k=_around(mean * 1.05, n),
            truncated=_around(0.01, n),
            no_answer=_around(0.02, n),
            repeating=_around(0.005, n),
            tokens=Interval(118.4, 109.7, 126.2, n),
        )
        for arm, values in means.items()
        for (stratum, n), mean in zip(groups, values, strict=True)
    )
    differences = (
        Difference(
            "heal", "rft_more", "hard+extreme", Interval(0.08, 0.012, 0.149, 41), primary=True
        ),
        Difference("heal", "rft", "hard+extreme", Interval(0.10, 0.031, 0.171, 41)),
        Difference("heal", "rft", "easy", Interval(-0.01, -0.034, 0.012, 79)),
        Difference("heal", "base", "hard+extreme", Interval(0.19, 0.09, 0.28, 41)),
    )
    return EvalSummary(k=8, seeds=seeds, arms=arms, differences=differences)


def _around(mean: float, n: int) -> Interval:
    half = 1.6 * (mean * (1 - mean) / n) ** 0.5
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), n)


VOID = {"meta", "br", "use", "path", "hr", "img", "rect"}


class Page(HTMLParser):
    """Tags that do not close, ids, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.elements: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)


def printed(view: RunView, *, terminal: bool = False, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        print_table(view, Console(file=file, force_terminal=terminal, width=120))
        file.flush()
        return raw.getvalue().decode(encoding)
