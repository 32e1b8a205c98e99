"""Rows of every kind with any fate, and all of them as a reader would have them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.made_run import BREAKPOINT

from heal.records import Drop, Gate, HintKind, Problem, Split, Stratum, Verdict
from heal.report.ledger import MATCHED
from heal.store import (
    CutRow,
    HintRow,
    ProblemRow,
    Row,
    ScoreRow,
    SelectedRow,
    Store,
    TraceRow,
)

OTHER = "random"
"""Another breakpoint, of a control arm."""
KINDS = (TraceRow, CutRow, HintRow, ScoreRow, SelectedRow)
TEXT = "What is one and one?"


@dataclass(frozen=True)
class Rows:
    """Everything the columns hold, as a reader of all of it would."""

    problems: dict[str, ProblemRow]
    traces: list[TraceRow]
    cuts: list[CutRow]
    hints: list[HintRow]
    scores: list[ScoreRow]
    selected: list[SelectedRow]

    @classmethod
    def read(cls, store: Store) -> "Rows":
        return cls(
            {row.problem: row for row in store.rows(ProblemRow)},
            *(list(store.rows(kind)) for kind in KINDS),
        )

    def of(self, stage: str) -> list[TraceRow]:
        """A stage's traces, as the arm shown has them."""
        tag = BREAKPOINT if stage == "repair" else ""
        return [t for t in self.traces if (t.stage, t.tag) == (stage, tag)]

    def chosen(self, arm: str) -> dict[str, SelectedRow]:
        """What became of an arm's candidates, by trace."""
        return {row.trace: row for row in self.selected if row.arm == arm}

    def extreme(self) -> list[ProblemRow]:
        """Training problems at the ceiling."""
        at = (Split.TRAIN, Stratum.EXTREME)
        return [p for p in self.problems.values() if (p.split, p.stratum) == at]


def any_run(folder: Path, seed: int, problems: int = 40) -> Path:
    """Rows of every kind with any fate, of two breakpoints and three arms."""
    rng = random.Random(seed)
    with Store.open(folder) as store:
        arms = ["rft", "rft_more", "heal", "heal-random-cut"]
        store.set_meta("config", {"arms": arms, "gear": {"breakpoint": BREAKPOINT}})
        for index in range(problems):
            rows = list(_any_rows(f"p{index}", rng))
            stratum = rng.choice((*Stratum, Stratum.EXTREME, Stratum.EXTREME))
            split = Split.TRAIN if rng.random() < 0.7 else Split.HELD_OUT
            n, correct = rng.choice((0, 3, 8)), rng.randint(0, 3)
            known = (n, correct, 0, 0, stratum, None, 0, None)
            store.put("problem", f"p{index}", f"p{index}", Problem(f"p{index}", TEXT, "2", split))
            store.conclude(ProblemRow(f"p{index}", index, split, None, *known), (), ())
            for kind in KINDS:
                store.insert(row for row in rows if isinstance(row, kind))
    return folder


def _any_rows(problem: str, rng: random.Random) -> Iterator[Row]:
    def maybe(share: float = 0.3) -> bool:
        return rng.random() < share

    for tag in (BREAKPOINT, OTHER):
        for c in range(rng.randint(0, 3)):
            fallback, cut = rng.choice((None, "no_surge", "empty_window")), f"{problem}-{tag}-c{c}"
            margin = rng.random()
            yield CutRow(problem, tag, cut, f"{cut}t", 2, 5, margin, fallback, maybe(), False)
            for h in range(rng.randint(0, 2)):
                kind = rng.choice(list(HintKind))
                fate = (kind, rng.choice((kind, "guided")), rng.randint(0, 2), 7, maybe(), maybe())
                yield HintRow(problem, tag, f"{cut}-h{h}", cut, *fate, maybe())
        yield ScoreRow(problem, "scores", "", f"{problem}-{tag}-s", "t", 11, maybe(), None, None)
    yield HintRow(
        problem, "answer", f"{problem}-ha", None, "answer", "answer", 0, 0, False, False, maybe()
    )
    stages = [("sample", ""), ("hinted", ""), ("repair", BREAKPOINT), ("repair", OTHER)]
    for stage, tag in (*stages, *(("matched", arm) for arm in MATCHED)):
        for k in range(rng.randint(0, 6)):
            key = f"{problem}-{stage}-{tag}-{k}"
            verdict = rng.choice((None, *Verdict))
            gates = (None, *Gate, Gate.PASSED, Gate.PASSED)
            gate = None if stage == "sample" else rng.choice(gates)
            cut = f"{problem}-{tag}-c{rng.randint(0, 2)}" if stage == "repair" else None
            hint = f"{cut}-h{rng.randint(0, 1)}" if cut else None
            tokens = rng.randint(5, 50)
            new = (tokens, rng.randint(1, tokens), verdict, None)
            yield TraceRow(problem, stage, tag, key, k, "stop", *new, gate, hint, cut, maybe(0.15))
            pool = {"sample": "D1", "hinted": "D2", "repair": "D3", "matched": "D1"}[stage]
            for arm in ("rft", "rft_more", "heal"):
                if gate in (None, Gate.PASSED) and maybe(0.6):
                    drop = rng.choice((*Drop, Drop.KEPT, Drop.KEPT))
                    doubt = rng.random() / 9 if drop is Drop.KEPT else None
                    yield SelectedRow(
                        arm, problem, key, pool, drop, None, tokens, None, doubt, stage
                    )
            scored = "hinted" if stage == "hinted" else tag or "honest"
            if stage in ("sample", "hinted", "repair") and maybe(0.7):
                settled, surprisal = rng.choice((None, 0, 1, 4)), rng.choice((None, 0.5))
                failed = maybe(0.2)
                yield ScoreRow(
                    problem, "pure", scored, f"{key}-p", key, 13, failed, settled, surprisal
                )
