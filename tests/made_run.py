"""A made-up but consistent run over number sequences, small or as large as one likes.

Every count that should add up does, and rows and bodies hang together by key as a real run's do.
Only what a report may open has a body.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import yaml

from heal.keys import content_key
from heal.method.metrics import doubt_rate
from heal.records import (
    Cut,
    Drop,
    Fallback,
    Finish,
    Gate,
    Hint,
    HintKind,
    Origin,
    Problem,
    PureScore,
    Split,
    StagePlan,
    Stratum,
    Trace,
    TrainResult,
    Verdict,
)
from heal.store import (
    AttemptRow,
    CutRow,
    HintRow,
    ProblemRow,
    Row,
    ScoreRow,
    SelectedRow,
    Store,
    Stored,
    TraceRow,
)

N = 30
BREAKPOINT = "difference"
CONFIG = """\
run: runs/lab
seed: 0
seeds: [0, 1, 2]
arms: [base, rft, rft_more, heal]
problems:
  source: heal.lab.source:pool
teacher:
  engine: local
  model: pkg://heal.lab/assets/rows/teacher
student:
  model: pkg://heal.lab/assets/rows/student
sampling:
  n: 30
  temperature: 0.6
gear:
  breakpoint: difference
  hint: guided
"""
RULE = "The final answer is "


def lab_run(folder: Path, problems: int = 240, held_out: int = 120, seed: int = 0) -> Path:
    """A complete run: about a fifth of the problems at the ceiling, most of them repaired."""
    with Store.open(folder) as store:
        _describe(store)
        for index in range(problems + held_out):
            split = Split.TRAIN if index < problems else Split.HELD_OUT
            found = _Made(f"p{index:05d}", index, split, random.Random(f"{seed}/{index}"))
            store.conclude(found.row(), _of_problem(found.rows), found.stored)
            store.insert(row for row in found.rows if isinstance(row, SelectedRow))
        _train(store)
    return folder


def fill(
    folder: Path,
    problems: int,
    *,
    held_out: int = 0,
    attempts: int = 0,
    arms: Sequence[str] = ("rft", "heal"),
    seed: int = 0,
) -> Path:
    """A run of any size, written in large transactions; `attempts` at each held-out problem."""
    with Store.open(folder) as store:
        _describe(store)
        made = (
            _Made(
                content_key(index),
                index,
                Split.TRAIN if index < problems else Split.HELD_OUT,
                random.Random(f"{seed}/{index}"),
                arms=arms,
            )
            for index in range(problems + held_out)
        )
        while batch := list(islice(made, 500)):
            store.insert(found.row() for found in batch)
            for kind in (TraceRow, CutRow, HintRow, ScoreRow, SelectedRow):
                store.insert(row for found in batch for row in found.rows if isinstance(row, kind))
            store.commit(stored for found in batch for stored in found.stored)
            tried = (found for found in batch if found.split is Split.HELD_OUT)
            store.insert(row for found in tried for row in _tried(found, attempts, arms))
        _train(store, arms)
    return folder


def _describe(store: Store) -> None:
    store.set_meta("config", yaml.safe_load(CONFIG))
    store.set_meta("date", "2026-03-14T09:30:00+00:00")
    versions = {"heal": "0.1.0", "python": "3.11.2", "torch": "2.9.0", "trl": "1.14.0"}
    store.set_meta("versions", versions)
    store.set_meta("facts", {"problem refused at the door: no answer": 3})
    store.set_meta("timings", {"sample": 81.2, "verify": 9.9, "repair": 22.0, "train": 3711.0})
    store.set_meta("complete", "yes")


def _of_problem(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not isinstance(row, SelectedRow)]


def _tried(found: "_Made", attempts: int, arms: Sequence[str]) -> Iterator[AttemptRow]:
    rng, share = found.rng, found.correct / N
    for arm in ("base", *arms):
        for seed in range(1 if arm == "base" else 3):
            for i in range(attempts):
                right = rng.random() < share
                verdict = Verdict.CORRECT if right else Verdict.WRONG
                answer = str(found.terms[6] if right else rng.randint(2, 99))
                key = f"{found.id}-{arm}{seed}-{i}"
                tokens = rng.randint(60, 900)
                yield AttemptRow(
                    found.id, arm, seed, i, key, verdict, answer, Finish.STOP, tokens, None
                )


@dataclass
class _Made:
    """One problem and everything that came of it."""

    id: str
    index: int
    split: Split
    rng: random.Random
    arms: Sequence[str] = ("rft", "heal")
    rows: list[Row] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        start, jump = rng.randint(3, 90), rng.randint(2, 9)
        self.terms = [start + jump * k + (k * k) // 2 for k in range(7)]
        correct = rng.choices(
            (rng.randint(16, N), rng.randint(2, 13), rng.choice((0, 0, 1))), (66, 14, 20)
        )[0]
        self.truncated = rng.choice((0, 0, 0, 0, 1, 2))
        self.correct = min(correct, N - self.truncated)
        self.rho = self.correct / (N - self.truncated)
        self.stratum = (
            Stratum.EXTREME
            if self.correct <= 1
            else Stratum.HARD
            if self.rho < 0.5
            else Stratum.EASY
        )
        question = "Q " + " ".join(map(str, self.terms[:6]))
        problem = Problem(self.id, question, str(self.terms[6]), self.split)
        self._store("problem", self.id, problem)
        self._unaided()
        if self.split is Split.HELD_OUT:
            return
        if self.stratum in (Stratum.HARD, Stratum.EXTREME):
            self._hinted()
        if self.stratum is Stratum.EXTREME:
            for path in range(4):
                self._broken(path)

    def row(self) -> ProblemRow:
        """Its columns."""
        return ProblemRow(
            self.id, self.index, self.split, None, N, self.correct, self.truncated, 0,
            self.stratum, self.rho, 4 if self.stratum is Stratum.EXTREME else 0, "settings",
        )  # fmt: skip

    def _store(self, stage: str, key: str, record: object) -> None:
        self.stored.append(Stored(stage, key, self.id, record))

    def _unaided(self) -> None:
        for k in range(N):
            right, cut_off = k < self.correct, k >= N - self.truncated
            verdict = Verdict.CORRECT if right else Verdict.TRUNCATED if cut_off else Verdict.WRONG
            finish = Finish.LENGTH if cut_off else Finish.STOP
            answer = None if cut_off else _answer(self.terms, right)
            tokens = self.rng.randint(60, 90)
            key = f"{self.id}-u{k:02d}"
            self._trace("sample", key, k, finish, tokens, tokens, verdict, answer)
            if right and self.split is Split.TRAIN:
                drop = Drop.KEPT if k < 4 else Drop.PROBLEM_CAP
                for arm in self.arms:
                    self._select(arm, key, "D1", drop, None, tokens, "sample", "")

    def _trace(
        self,
        stage: str,
        key: str,
        seed_index: int,
        finish: Finish,
        tokens: int,
        new: int,
        verdict: Verdict | None,
        answer: str | None,
        tag: str = "",
        gate: Gate | None = None,
        hint: str | None = None,
        cut: str | None = None,
    ) -> None:
        row = TraceRow(
            self.id, stage, tag, key, seed_index, finish, tokens, new, verdict, answer, gate, hint,
            cut, False,
        )  # fmt: skip
        self.rows.append(row)

    def _select(
        self,
        arm: str,
        key: str,
        pool: str,
        drop: Drop,
        score: float | None,
        tokens: int,
        stage: str,
        text: str,
    ) -> None:
        doubt = doubt_rate(text) if drop is Drop.KEPT else None
        self.rows.append(
            SelectedRow(arm, self.id, key, pool, drop, score, tokens, tokens + 40, doubt, stage)
        )

    def _hinted(self) -> None:
        hint = Hint(f"{self.id}-ha", self.id, HintKind.ANSWER, f"{RULE}{self.terms[6]}.")
        self._hint(hint, "answer")
        for k in range(3):
            trace = self._written(Origin.HINTED, f"{self.id}-a{k}", True)
            self._judge(replace(trace, hint=hint.key), "hinted", "D2")

    def _hint(self, hint: Hint, tag: str) -> None:
        self._store("hint", hint.key, hint)
        self.rows.append(
            HintRow(
                self.id,
                tag,
                hint.key,
                hint.cut,
                hint.kind,
                hint.asked,
                hint.leaks,
                hint.new_tokens,
                hint.cut_off,
                not hint.text,
                hint.error is not None,
            )
        )

    def _broken(self, path: int) -> None:
        rng = self.rng
        # the last of its unaided traces are cut off, those before are wrong
        key = f"{self.id}-u{N - self.truncated - 1 - path:02d}"
        failed = self._written(Origin.UNAIDED, key, False)
        self._store("sample", key, failed)
        cut = self._cut(failed)
        b, ends = cut.step, cut.step_ends
        self.rows.append(
            ScoreRow(self.id, "scores", "", f"{key}-s", key, len(failed.ids), False, None, None)
        )
        fell = rng.random() < 0.12
        text = f"{RULE}{self.terms[6]}." if fell else "Look at how the jumps change."
        hint = Hint(
            f"{key}-h",
            self.id,
            HintKind.ANSWER if fell else HintKind.GUIDED,
            text,
            cut=cut.key,
            asked=HintKind.GUIDED,
            leaks=4 if fell else rng.choice((0, 0, 0, 1)),
            new_tokens=19,
        )
        self._hint(hint, BREAKPOINT)
        hopeless = self.index % 9 == 0
        for k in range(4):
            right = not hopeless and rng.random() < 0.55
            trace = self._written(Origin.REPAIRED, f"{key}-r{k}", right)
            text = failed.text[: _chars(failed.text, b - 1)]
            text += trace.text[_chars(trace.text, b - 1) :]
            trace = replace(
                trace,
                ids=np.zeros(_ends(text)[-1] + 1, np.int32),
                text=text,
                prefix_tokens=ends[b - 2],
                parent=key,
                cut=cut.key,
                hint=hint.key,
            )
            self._judge(trace, "repair", "D3", right, b)

    def _cut(self, failed: Trace) -> Cut:
        rng, ends = self.rng, _ends(failed.text)
        entropy = np.array([rng.uniform(0.02, 0.2) for _ in ends], np.float32)
        b = 3 if rng.random() < 0.7 else 2
        entropy[b - 1] += rng.uniform(0.4, 1.1)
        surge = np.full(len(ends), np.nan, np.float32)
        surge[1:3] = np.diff(entropy)[:2]
        cut = Cut(
            f"{failed.key}-c",
            self.id,
            failed.key,
            b,
            ends[b - 2],
            ends,
            entropy,
            entropy + np.float32(0.08 if rng.random() < 0.3 else 0),
            surge,
            margin=float(surge[b - 1]),
            fallback=Fallback.NO_SURGE if rng.random() < 0.04 else None,
            undecided=rng.random() < 0.05,
        )
        self._store("cut", cut.key, cut)
        told = (b, len(ends), cut.margin, cut.fallback, cut.undecided, False)
        self.rows.append(CutRow(self.id, BREAKPOINT, cut.key, failed.key, *told))
        return cut

    def _judge(self, trace: Trace, stage: str, pool: str, right: bool = True, b: int = 1) -> None:
        rng, tag = self.rng, BREAKPOINT if stage == "repair" else ""
        talk = rng.choices((Gate.PASSED, Gate.HINT_TALK, Gate.EARLY_ANSWER), (88, 7, 5))[0]
        gate = talk if right else Gate.INCORRECT
        self._store(stage, trace.key, trace)
        self._trace(
            stage,
            trace.key,
            trace.seed_index,
            trace.finish,
            len(trace.ids),
            trace.new_tokens,
            Verdict.CORRECT if right else Verdict.WRONG,
            _answer(self.terms, right),
            tag=tag,
            gate=gate,
            hint=trace.hint,
            cut=trace.cut,
        )
        if gate is not Gate.PASSED:
            return
        score = self._profile(trace, tag or "hinted", b)
        drop = rng.choices(
            (Drop.KEPT, Drop.PURE, Drop.NEAR_DUPLICATE, Drop.PARENT_CAP, Drop.PROBLEM_CAP),
            (50, 20, 12, 10, 8),
        )[0]
        for arm in self.arms:
            if arm.startswith("heal"):
                text = trace.text
                self._select(arm, trace.key, pool, drop, score, len(trace.ids), stage, text)

    def _profile(self, trace: Trace, tag: str, b: int) -> float:
        rng, ends = self.rng, _ends(trace.text)
        steps, commits = len(ends), rng.randint(b + 1, len(ends))
        log_ppl = np.array([abs(rng.gauss(0.15, 0.1)) for _ in ends], np.float32)
        log_ppl[b] += rng.uniform(0.2, 1.6)
        uncertainty = np.full(steps + 1, np.nan, np.float32)
        for k in range(b - 1, steps + 1):
            uncertainty[k] = 0.04 if k >= commits else rng.uniform(0.6, 2.4)
        pure = PureScore(
            f"{trace.key}-p",
            self.id,
            trace.key,
            log_ppl,
            uncertainty,
            np.diff([0, *ends]).tolist(),
            b,
            [True] * (steps - 1) + [False],
            scored_tokens=len(trace.ids) * 2,
        )
        self._store("pure", pure.key, pure)
        settled = 0 if rng.random() < 0.03 else commits
        surprisal = None if rng.random() < 0.02 else rng.uniform(0, 3)
        told = (pure.scored_tokens, False, settled, surprisal)
        self.rows.append(ScoreRow(self.id, "pure", tag, pure.key, trace.key, *told))
        return float(log_ppl[b] - np.log(uncertainty[b + 1] + 0.11))

    def _written(self, origin: Origin, key: str, right: bool) -> Trace:
        text = _solution(self.terms, right, self.rng)
        ids = np.zeros(_ends(text)[-1] + 1, np.int32)
        return Trace(key, self.id, origin, 0, ids, text, Finish.STOP, prompt_tokens=24)


def _train(store: Store, arms: Sequence[str] = ("rft", "heal")) -> None:
    """Three stages of each arm, over what is in its sets."""
    plans: list[tuple[str, str, object]] = []
    for arm in arms:
        kept = list(
            store.query(
                """SELECT pool, trace FROM selected WHERE arm = ? AND "drop" = 'kept'""", (arm,)
            )
        )
        for index, pools in enumerate((("D1",), ("D1", "D2"), ("D1", "D2", "D3")), start=1):
            shown = [trace for pool, trace in kept if pool in pools]
            shown += shown[: len(shown) // 3]
            batches = tuple(tuple(shown[i : i + 8]) for i in range(0, len(shown), 8))
            plans.append((f"{arm}-seed0-{index}", "", StagePlan(index, batches, 1.0)))
    store.record("plan", plans)
    results = [(result.key, "", result) for result in _training()]
    store.record("train", results)


def _training() -> list[TrainResult]:
    return [
        TrainResult(
            key=f"{arm}-{seed}-{stage}",
            arm=arm,
            seed=seed,
            stage=stage,
            folder=f"students/{arm}/{seed}/{stage}",
            steps=120,
            tokens=98_000,
            presentations=960,
            distinct=400,
            refused_long=2 if arm == "heal" else 0,
            loss_first=0.91,
            loss_last=0.34 - 0.03 * stage,
            learning_rate=1e-5,
            seconds=160.0,
        )
        for arm in ("rft", "heal")
        for seed in (0, 1, 2)
        for stage in (1, 2, 3)
    ]


def _solution(terms: Sequence[int], right: bool, rng: random.Random) -> str:
    jumps = [b - a for a, b in pairwise(terms)]
    rule = "the jumps grow by a half step each time" if right else f"add {jumps[0]} each time"
    doubt = rng.choice(("", "Wait, let me check the first jump again. "))
    sums = [
        f"Check {a} + {j} = {b}, which is the term given here."
        for a, j, b in zip(terms, jumps, terms[1:6], strict=False)
    ]
    answer = _answer(terms, right)
    steps = [
        f"First the differences: {' '.join(map(str, jumps[:5]))} between the terms.",
        f"{doubt}Two of them may repeat, so I look at the rule.",
        f"The rule seems to be: {rule}.",
        *sums,
        f"The next term is therefore {answer}. So \\boxed{{{answer}}} is it.",
    ]
    return "\n\n".join(steps)


def _answer(terms: Sequence[int], right: bool) -> str:
    return str(terms[6] if right else terms[5] + terms[1] - terms[0])


def _ends(text: str) -> list[int]:
    """Step ends with every word a token."""
    return np.cumsum([len(step.split()) for step in text.split("\n\n")]).tolist()


def _chars(text: str, steps: int) -> int:
    """Where the text of the first so many steps ends, blank line included."""
    return sum(len(step) + 2 for step in text.split("\n\n")[:steps])
