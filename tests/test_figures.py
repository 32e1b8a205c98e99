"""Figures as JSON that any parser reads."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from heal.figures import as_json, plain
from heal.method.intervals import Interval
from heal.records import Verdict
from heal.report.words import problems_name


class Row(NamedTuple):
    name: str
    share: float


@dataclass(frozen=True)
class Page:
    rows: tuple[Row, ...]
    verdicts: Counter[Verdict]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32("nan"), None),
        (np.array([0.5, np.nan]), [0.5, None]),
        (np.int64(3), 3),
        (True, True),
        (Path("runs/x"), "runs/x"),
        ((1, "2"), [1, "2"]),
        (iter([1]), [1]),
        (Row("a", float("nan")), {"name": "a", "share": None}),
        ({Verdict.CORRECT: 2}, {"correct": 2}),
        (
            Interval(0.5, float("nan"), float("nan"), 1),
            {"mean": 0.5, "low": None, "high": None, "n_problems": 1, "n_seeds": 1},
        ),
        (
            Page((Row("a", 0.5),), Counter({Verdict.WRONG: 1})),
            {"rows": [{"name": "a", "share": 0.5}], "verdicts": {"wrong": 1}},
        ),
    ],
)
def test_anything_of_ours_is_standard_json(given: object, written: object) -> None:
    assert plain(given) == written
    if not hasattr(given, "__next__"):
        assert json.loads(as_json(given), parse_constant=pytest.fail) == written


def test_problems_are_called_by_the_source_they_came_from() -> None:
    none = {"hub": None, "path": None, "gym": None, "source": None}
    for given, name in (
        ({"hub": "a/b"}, "a/b"),
        ({"gym": {"task": "lcm"}}, "lcm"),
        ({"traces": {"path": "imported.jsonl"}}, "imported.jsonl"),
    ):
        assert problems_name({"problems": {**none, **given}}) == name
