"""A made-up but consistent run over number sequences, for looking at reports.

Every count that should add up does, and the records hang together by key as a real run's do. The
numbers of the evaluation are invented.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from heal.method.intervals import Interval
from heal.method.summary import ArmScore, Difference, EvalSummary
from heal.records import (
    Ceiling,
    Check,
    Cut,
    Drop,
    Fallback,
    Finish,
    Gate,
    GateResult,
    Hint,
    HintKind,
    Origin,
    Problem,
    PureScore,
    Selected,
    Split,
    Stratum,
    Trace,
    TrainResult,
    Verdict,
)
from heal.report.view import (
    Fact,
    LedgerRow,
    PlanRow,
    RunView,
)

N = 30
CONFIG = """\
run: runs/lab
seed: 0
problems:
  source: heal.lab.problems:pool
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


def minimal_view(**fields: object) -> RunView:
    """A run that has just been started."""
    empty = RunView(
        name="runs/empty", date="2026-03-14", seed=0, teacher="teacher", config_yaml="run: x\n"
    )
    return replace(empty, **fields)  # type: ignore[arg-type]


def lab_view(problems: int = 240, held_out: int = 120, seed: int = 0) -> RunView:
    """A complete run: about a fifth of the problems at the ceiling, most of them repaired."""
    return _Lab(problems, held_out, seed).view()


class _Lab:
    def __init__(self, problems: int, held_out: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.problems: list[Problem] = []
        self.ceilings: list[Ceiling] = []
        self.unaided: list[Trace] = []
        self.cuts: list[Cut] = []
        self.hints: list[Hint] = []
        self.repaired: list[Trace] = []
        self.hinted: list[Trace] = []
        self.checks: list[Check] = []
        self.gates: list[GateResult] = []
        self.pure: list[PureScore] = []
        self.commitments: dict[str, int | None] = {}
        self.selected: list[Selected] = []
        self.verdicts: dict[Split, Counter[Verdict]] = {s: Counter() for s in Split}
        for index in range(problems + held_out):
            self._problem(index, Split.TRAIN if index < problems else Split.HELD_OUT)

    def _problem(self, index: int, split: Split) -> None:
        rng = self.rng
        start, jump = rng.randint(3, 90), rng.randint(2, 9)
        terms = [start + jump * k + (k * k) // 2 for k in range(7)]
        problem = Problem(
            f"p{index:05d}", "Q " + " ".join(map(str, terms[:6])), str(terms[6]), split
        )
        correct = rng.choices(
            (rng.randint(16, N), rng.randint(2, 13), rng.choice((0, 0, 1))), (66, 14, 20)
        )[0]
        truncated = rng.choice((0, 0, 0, 0, 1, 2))
        correct = min(correct, N - truncated)
        rho = correct / (N - truncated)
        stratum = Stratum.EXTREME if correct <= 1 else Stratum.HARD if rho < 0.5 else Stratum.EASY
        self.problems.append(problem)
        self.ceilings.append(Ceiling(problem.id, N, correct, truncated, 0, stratum, rho))
        self.verdicts[split] += Counter(
            {
                Verdict.CORRECT: correct,
                Verdict.TRUNCATED: truncated,
                Verdict.WRONG: N - correct - truncated,
            }
        )
        if split is Split.HELD_OUT:
            return
        for k in range(min(correct, 5)):
            trace = self._trace(problem, Origin.UNAIDED, f"{problem.id}-u{k}", terms, True)
            self.unaided.append(trace)
            drop = Drop.KEPT if k < 4 else Drop.PROBLEM_CAP
            self.selected.append(Selected(trace.key, problem.id, "D1", drop))
        if stratum in (Stratum.HARD, Stratum.EXTREME):
            self._hinted(problem, terms)
        if stratum is Stratum.EXTREME:
            for path in range(4):
                self._broken(problem, terms, path)

    def _hinted(self, problem: Problem, terms: Sequence[int]) -> None:
        hint = Hint(f"{problem.id}-ha", problem.id, HintKind.ANSWER, f"The answer is {terms[6]}.")
        self.hints.append(hint)
        for k in range(3):
            trace = self._trace(problem, Origin.HINTED, f"{problem.id}-a{k}", terms, True)
            self.hinted.append(replace(trace, hint=hint.key))
            self._judge(self.hinted[-1], terms, "D2")

    def _broken(self, problem: Problem, terms: Sequence[int], path: int) -> None:
        rng, key = self.rng, f"{problem.id}-f{path}"
        failed = self._trace(problem, Origin.UNAIDED, key, terms, False)
        self.unaided.append(failed)
        wrong = _answer(terms, False)
        self.checks.append(Check(failed.key, Verdict.WRONG, wrong))
        ends = _ends(failed.text)
        entropy = np.array([rng.uniform(0.02, 0.2) for _ in ends], np.float32)
        b = 3 if rng.random() < 0.7 else 2
        entropy[b - 1] += rng.uniform(0.4, 1.1)
        surge = np.full(len(ends), np.nan, np.float32)
        surge[1:3] = np.diff(entropy)[:2]
        fallback = Fallback.NO_SURGE if rng.random() < 0.04 else None
        cut = Cut(
            f"{key}-c",
            problem.id,
            failed.key,
            b,
            ends[b - 2],
            ends,
            entropy,
            entropy + np.float32(0.08 if rng.random() < 0.3 else 0),
            surge,
            margin=float(surge[b - 1]),
            fallback=fallback,
            undecided=rng.random() < 0.05,
        )
        self.cuts.append(cut)
        fell = rng.random() < 0.12
        text = f"The final answer is {terms[6]}." if fell else "Look at how the jumps change."
        hint = Hint(
            f"{key}-h",
            problem.id,
            HintKind.ANSWER if fell else HintKind.GUIDED,
            text,
            cut=cut.key,
            asked=HintKind.GUIDED,
            leaks=4 if fell else rng.choice((0, 0, 0, 1)),
        )
        self.hints.append(hint)
        hopeless = int(problem.id[1:]) % 9 == 0
        for k in range(4):
            right = not hopeless and rng.random() < 0.55
            trace = self._trace(problem, Origin.REPAIRED, f"{key}-r{k}", terms, right)
            kept = failed.text[: _chars(failed.text, b - 1)]
            text = kept + trace.text[_chars(trace.text, b - 1) :]
            trace = replace(
                trace,
                ids=np.zeros(_ends(text)[-1] + 1, np.int32),
                text=text,
                prefix_tokens=cut.prefix_tokens,
                parent=failed.key,
                cut=cut.key,
                hint=hint.key,
            )
            self.repaired.append(trace)
            self._judge(trace, terms, "D3", right, b)

    def _judge(
        self, trace: Trace, terms: Sequence[int], pool: str, right: bool = True, b: int = 1
    ) -> None:
        rng = self.rng
        answer = _answer(terms, right)
        verdict = Verdict.CORRECT if right else Verdict.WRONG
        self.checks.append(Check(trace.key, verdict, answer))
        talk = rng.choices((Gate.PASSED, Gate.HINT_TALK, Gate.EARLY_ANSWER), (88, 7, 5))[0]
        gate = talk if right else Gate.INCORRECT
        self.gates.append(GateResult(trace.key, gate))
        if gate is not Gate.PASSED:
            return
        ends = _ends(trace.text)
        steps, commits = len(ends), rng.randint(b + 1, len(ends))
        log_ppl = np.array([abs(rng.gauss(0.15, 0.1)) for _ in ends], np.float32)
        log_ppl[b] += rng.uniform(0.2, 1.6)
        uncertainty = np.full(steps + 1, np.nan, np.float32)
        for k in range(b - 1, steps + 1):
            uncertainty[k] = 0.04 if k >= commits else rng.uniform(0.6, 2.4)
        score = float(log_ppl[b] - np.log(uncertainty[b + 1] + 0.11))
        self.pure.append(
            PureScore(
                f"{trace.key}-p",
                trace.problem_id,
                trace.key,
                log_ppl,
                uncertainty,
                np.diff([0, *ends]).tolist(),
                b,
                [True] * (steps - 1) + [False],
                scored_tokens=len(trace.ids) * 2,
            )
        )
        self.commitments[trace.key] = None if rng.random() < 0.03 else commits
        drop = rng.choices(
            (Drop.KEPT, Drop.PURE, Drop.NEAR_DUPLICATE, Drop.PARENT_CAP, Drop.PROBLEM_CAP),
            (50, 20, 12, 10, 8),
        )[0]
        self.selected.append(Selected(trace.key, trace.problem_id, pool, drop, score))

    def _trace(
        self, problem: Problem, origin: Origin, key: str, terms: Sequence[int], right: bool
    ) -> Trace:
        text = _solution(terms, right, self.rng)
        ids = np.zeros(_ends(text)[-1] + 1, np.int32)
        return Trace(key, problem.id, origin, 0, ids, text, Finish.STOP, prompt_tokens=24)

    def view(self) -> RunView:
        return RunView(
            name="runs/lab",
            date="2026-03-14T09:30:00+00:00",
            seed=0,
            teacher="pkg://heal.lab/assets/rows/teacher",
            student="pkg://heal.lab/assets/rows/student",
            config_yaml=CONFIG,
            versions={"heal": "0.1.0", "python": "3.11.2", "torch": "2.9.0", "trl": "1.14.0"},
            problems=tuple(self.problems),
            ceilings=tuple(self.ceilings),
            verdicts=self.verdicts,
            unaided=tuple(self.unaided),
            cuts=tuple(self.cuts),
            hints=tuple(self.hints),
            repaired=tuple(self.repaired),
            hinted=tuple(self.hinted),
            checks=tuple(self.checks),
            gates=tuple(self.gates),
            pure=tuple(self.pure),
            commitments=self.commitments,
            selected=tuple(self.selected),
            plan=tuple(_plan()),
            training=tuple(_training()),
            evaluation=evaluation(),
            stage_ledger=(
                LedgerRow("sample", 489_600, wasted=18_200, accepted=702),
                LedgerRow("guide", 9_120, wasted=1_400),
                LedgerRow("repair", 61_300, wasted=31_000, accepted=371),
                LedgerRow("locate", 0, scored=21_400),
                LedgerRow("score", 0, scored=118_000),
            ),
            arm_ledger=(
                LedgerRow("rft", 489_600, wasted=18_200, accepted=702),
                LedgerRow("heal", 560_020, 139_400, wasted=50_600, accepted=1_073),
            ),
            facts=(Fact("problem refused at the door: no answer", 3, 363),),
            timings={"sample": 81.2, "verify": 9.9, "repair": 22.0, "train": 3711.0},
        )


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


def _plan() -> list[PlanRow]:
    sets = ({"D1": 960}, {"D1": 150, "D2": 330}, {"D1": 90, "D2": 60, "D3": 330})
    return [
        PlanRow("heal", stage, 60 * (3 - stage) + 60, sum(shares.values()), 400, shares)
        for stage, shares in enumerate(sets, start=1)
    ]


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
