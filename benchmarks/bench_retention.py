"""Cures for forgetting, each alone against none, where the truth is known: the lab.

In: a world, problem seeds and training seeds. The teacher's side (traces, repairs, scores) is made
once per run folder; each cure gets a copy of it, and repeats only what it reaches: the choice of
sets, training, examination. Out: per cure what the student keeps of easy problems (heal − base) and
what it gains below the ceiling (heal − rft_more, and against HEAL without a cure), and how much of
what it lost comes back within a few steps on easy rows: suppressed, not erased. Intervals resample
problems and training seeds, paired. It resumes: what is finished is not made again.

    python -m benchmarks.bench_retention --world walks [--json FILE] [--cures NAME …]
"""

import argparse
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.real_model_readings import write_figures
from rich.console import Console

from heal.cli.progress import ConsoleObserver
from heal.config import Config
from heal.execute import execute
from heal.keys import seed_for
from heal.lab.benchmark import SCORED_TOKEN_COST, lab_config
from heal.lab.truth import judge
from heal.method.intervals import Interval, ratio_of_sums
from heal.method.summary import HARD_AND_EXTREME, EvalSummary, summarise
from heal.records import EvalTrace, Problem, Split, StagePlan, Stratum, Verdict
from heal.run import Run
from heal.session import Observer, Session
from heal.store import AttemptRow, Store
from heal.students.arms import Student, folder_of
from heal.students.exam import STAGE
from heal.students.sets import StoredExamples, beside
from heal.students.train import train_arm

NONE = "none"
CURES: Mapping[str, tuple[str, ...]] = {
    NONE: (),
    "fresh text": ("pace.fresh_text=true",),
    "gentler rates": ("pace.stage_lr=[1.0, 0.5, 0.25]",),
    "gentler and shorter": ("pace.stage_lr=[1.0, 0.5, 0.25]", "pace.stage_share=[0.7, 0.15, 0.15]"),
    "early frontier, easy replay": ("pace.frontier_from=2", "pace.replay_easy=true"),
    "own D1": ("pace.own_d1=true",),
    "own answers, 30 %, shorter foundation": (
        "pace.own_replay=0.3",
        "pace.stage_share=[0.3, 0.35, 0.35]",
    ),
    "closing mix": ("pace.closing=0.4",),
    "probability-weighted loss": ("train.loss=dft",),
    "own answers, 10 %": ("pace.own_replay=0.1",),
    "own answers, 30 %": ("pace.own_replay=0.3",),
    "anchor 0.1": ("train.anchor=0.1",),
    "anchor 1": ("train.anchor=1",),
    "own answers, 15 %, shorter foundation": (
        "pace.own_replay=0.15",
        "pace.stage_share=[0.35, 0.325, 0.325]",
    ),
    "rehearsal, 10 %": ("pace.rehearsal=0.1",),
    "rehearsal, 20 %": ("pace.rehearsal=0.2",),
    "rehearsal, 30 %": ("pace.rehearsal=0.3",),
    "rehearsal, 20 %, early frontier, easy replay": (
        "pace.rehearsal=0.2",
        "pace.frontier_from=2",
        "pace.replay_easy=true",
    ),
    "own answers and own D1": (
        "pace.own_replay=0.15",
        "pace.own_d1=true",
        "pace.stage_share=[0.35, 0.325, 0.325]",
    ),
}
RELEARN_STEPS, RELEARN_ROWS = 5, 32
"""The test for suppression: so many steps of so many easy rows."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Fared:
    """How HEAL's students fared under one cure, in shares of 1."""

    cure: str
    settings: tuple[str, ...]
    easy: Interval
    """avg@k on easy held-out problems."""
    frontier: Interval
    """avg@k on hard and extreme ones."""
    kept: Interval
    """Easy: heal − base."""
    gained: Interval
    """Hard and extreme: heal − rft_more, which is trained without a cure."""
    easy_against_none: Interval | None
    frontier_against_none: Interval | None
    by_seed: dict[str, list[float]]
    """avg@k of each training seed, by group of problems."""
    sound: dict[str, Interval | None]
    """Of right attempts, by group of problems: the share in which every step holds."""


@dataclass(frozen=True)
class Relearned:
    """What a few steps on easy rows bring back."""

    cure: str
    steps: int
    rows: int
    before: Interval
    """avg@k on easy problems."""
    after: Interval
    back: Interval
    """after − before."""
    missing: Interval
    """after − base."""
    frontier: Interval
    """avg@k on hard and extreme problems, after."""
    frontier_lost: Interval
    """That − before."""


def recipe(world: str, problem_seed: int, overrides: Sequence[str], run: Path) -> Config:
    """The lab's recipe as every cure starts from it: with none, rehearsal included."""
    settings = (
        f"run={run}",
        f"problems.args.seed={problem_seed}",
        f"evaluate.scored_token_cost={SCORED_TOKEN_COST}",
        "engine.local.products=mkl",
        "train.threads=1",
        "pace.rehearsal=0",  # a cure of its own
        *overrides,
    )
    return lab_config(world, settings)


def run_cure(
    home: Path, cure: str, world: str, problem_seed: int, more: Sequence[str], observer: Observer
) -> Config:
    """Train and examine HEAL under one cure in its own copy of the teacher's side."""
    arms = "[base, rft_more, heal]"
    teacher = recipe(world, problem_seed, (f"arms={arms}", *more), home / "teacher")
    folder = home / cure.replace(" ", "-").replace(",", "").replace("-%", "")
    if not folder.exists():
        execute(teacher, observer, until="select")
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(home / "teacher", part, ignore=shutil.ignore_patterns("students", "data"))
        part.rename(folder)
    own = arms if cure == NONE else "[heal]"
    config = recipe(world, problem_seed, (f"arms={own}", *more, *CURES[cure]), folder)
    execute(config, observer)
    return config


def attempts(configs: Mapping[str, Config]) -> Iterator[AttemptRow]:
    """Every student's attempts; HEAL's named after its cure."""
    for cure, config in configs.items():
        with Store.open(Path(config.run), write=False) as store:
            for row in store.rows(AttemptRow):
                yield row._replace(arm=cure) if row.arm == "heal" else row


def known(config: Config) -> tuple[dict[str, str], dict[str, str]]:
    """Stratum and family of each held-out problem."""
    with Store.open(Path(config.run), write=False) as store:
        rows = [
            *store.query("SELECT problem, stratum, family FROM problems WHERE split='held_out'")
        ]
    return {p: s for p, s, _ in rows}, {p: f for p, _, f in rows}


def compared(configs: Mapping[str, Config]) -> tuple[list[Fared], EvalSummary]:
    """Each cure against base, rft_more and none, over the same resamples."""
    strata, families = known(configs[NONE])
    rows = list(attempts(configs))
    found = summarise(
        rows, strata, families, resamples=RESAMPLES, seed=0, arms=("base", "rft_more", *configs)
    )
    assert found is not None, "every student was examined"
    fared = []
    for cure, config in configs.items():
        own = [row for row in rows if row.arm == cure]
        fared.append(_fared(found, cure, own, strata, _sound(config, own, strata)))
    return fared, found


def _fared(
    found: EvalSummary,
    cure: str,
    rows: Sequence[AttemptRow],
    strata: Mapping[str, str],
    sound: dict[str, Interval | None],
) -> Fared:
    own = {s.stratum: s.avg for s in found.arms if s.arm == cure}
    easy, frontier = str(Stratum.EASY), HARD_AND_EXTREME
    none = None if cure == NONE else NONE
    return Fared(
        cure,
        CURES[cure],
        own[easy],
        own[frontier],
        difference(found, cure, "base", easy),
        difference(found, cure, "rft_more", frontier),
        difference(found, cure, none, easy) if none else None,
        difference(found, cure, none, frontier) if none else None,
        _by_seed(rows, strata),
        sound,
    )


GROUPS = (("easy", ("easy",)), (HARD_AND_EXTREME, ("hard", "extreme")))


def _sound(
    config: Config, rows: Sequence[AttemptRow], strata: Mapping[str, str]
) -> dict[str, Interval | None]:
    """Whether students that are right have reasoned so; intervals resample problems."""
    right, valid = Counter[str](), Counter[str]()
    with Store.open(Path(config.run), write=False) as store:
        questions = {key: problem.problem for key, problem in store.read("problem", Problem)}
        for row in rows:
            if row.verdict == Verdict.CORRECT:
                attempt = store.get(STAGE, row.key, row.problem, EvalTrace)
                assert attempt is not None, "an attempt's body is stored"
                right[row.problem] += 1
                valid[row.problem] += judge(questions[row.problem], attempt.text).valid
    found = dict[str, Interval | None]()
    for name, inside in GROUPS:
        own = [problem for problem in right if strata[problem] in inside]
        if own:
            counts = (np.array([c[problem] for problem in own]) for c in (valid, right))
            found[name] = ratio_of_sums(*counts, resamples=RESAMPLES, seed=0, bounds=(0.0, 1.0))
    return found


def difference(found: EvalSummary, arm: str, against: str, stratum: str) -> Interval:
    """avg@k of one arm minus the other's, on a group of problems."""
    return next(
        d.interval
        for d in found.differences
        if (d.arm, d.against, d.stratum) == (arm, against, stratum)
    )


def _by_seed(rows: Sequence[AttemptRow], strata: Mapping[str, str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, inside in GROUPS:
        own = [row for row in rows if strata[row.problem] in inside]
        for seed in sorted({row.seed for row in own}):
            hits = [row.verdict == "correct" for row in own if row.seed == seed]
            found.setdefault(name, []).append(sum(hits) / len(hits))
    return found


# ── suppressed, or erased ───────────────────────────────────────────────────────────────────────


def relearn(config: Config, cure: str, observer: Observer) -> Relearned:
    """Train HEAL's finished students a few steps on easy rows, and examine them again."""
    with Store.open(Path(config.run)) as store:
        session = Session(config, store, observer)
        try:
            after = _relearnt(Run(session), observer)
        finally:
            session.close()
        before = [row for row in store.rows(AttemptRow) if row.arm in ("heal", "base")]
    strata, families = known(config)
    rows, order = (*before, *after), ("base", "heal", "relearnt")
    found = summarise(rows, strata, families, resamples=RESAMPLES, seed=0, arms=order)
    assert found is not None, "every student was examined"
    avg = {(s.arm, s.stratum): s.avg for s in found.arms}
    easy, frontier = str(Stratum.EASY), HARD_AND_EXTREME
    return Relearned(
        cure,
        RELEARN_STEPS,
        RELEARN_STEPS * RELEARN_ROWS,
        avg["heal", easy],
        avg["relearnt", easy],
        difference(found, "relearnt", "heal", easy),
        difference(found, "relearnt", "base", easy),
        avg["relearnt", frontier],
        difference(found, "relearnt", "heal", frontier),
    )


def _relearnt(run: Run, observer: Observer) -> list[AttemptRow]:
    s, c = run.session, run.session.config
    held_out = run.problems(Split.HELD_OUT)
    rows: list[AttemptRow] = []
    observer.begin("relearn", len(c.seeds) * len(held_out) * c.evaluate.samples, "attempts")
    for seed in c.seeds:
        source = s.store.folder / folder_of("heal", seed) / f"stage{c.pace.stages}"
        plan = _easy_steps(s.store, c, seed)
        folder = s.store.folder / "relearnt" / f"seed{seed}"
        examples = StoredExamples(s.store, c, s.problems)
        (made,) = train_arm("relearnt", seed, [plan], examples, source, c.train, folder)
        student = Student("relearnt", seed, made.key, str(folder / "stage1"))
        rows += run.attempts(student, held_out, observer.advance)
    return rows


def _easy_steps(store: Store, config: Config, seed: int) -> StagePlan:
    easy = sorted(beside(store, "heal").easy)
    dice = random.Random(seed_for(config.seed, "relearn", seed))
    shown = [dice.choice(easy) for _ in range(RELEARN_STEPS * RELEARN_ROWS)]
    batches = [shown[i::RELEARN_STEPS] for i in range(RELEARN_STEPS)]
    return StagePlan(1, tuple(map(tuple, batches)), config.pace.stage_lr[2])


# ── the command ─────────────────────────────────────────────────────────────────────────────────


def table(found: Sequence[Fared]) -> str:
    """Points of 100, with 95 % intervals."""
    lines = [
        "| cure | easy | hard and extreme | easy, heal − base | hard and extreme, heal − rft_more |"
        " easy, − none | hard and extreme, − none | of right ones sound: easy | hard and extreme |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for f in found:
        shares = (f.easy, f.frontier, f.kept, f.gained, f.easy_against_none)
        sound = (f.sound.get(name) for name, _ in GROUPS)
        cells = [points(i) for i in (*shares, f.frontier_against_none, *sound)]
        lines.append(f"| {f.cure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def relearnt_line(own: Relearned) -> str:
    """What a few steps on easy rows bring back, in a sentence."""
    return (
        f"{own.cure}: {own.steps} steps of {own.rows} easy rows: easy {points(own.before)} →"
        f" {points(own.after)}, {points(own.back)} back, against base {points(own.missing)};"
        f" hard and extreme {points(own.frontier)}, {points(own.frontier_lost)}"
    )


def points(found: Interval | None) -> str:
    """A share as points of 100."""
    if found is None:
        return "–"
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def main() -> None:
    """Run the cures, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", default="walks")
    parser.add_argument("--out", type=Path, default=Path("runs/retention"))
    parser.add_argument("--problem-seed", type=int, default=5)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5, help="training seeds")
    parser.add_argument("--cures", nargs="*", choices=sorted(CURES), default=list(CURES))
    parser.add_argument("--relearn", nargs="*", choices=sorted(CURES), default=[NONE])
    parser.add_argument("--set", action="append", default=[], help="a setting, as heal takes it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    home = given.out / f"{given.world}-{given.problem_seed}"
    more = (*given.set, f"problems.args.n={given.problems}", f"seeds={list(range(given.seeds))}")
    configs = dict[str, Config]()
    observer = ConsoleObserver(Console())
    for cure in dict.fromkeys((NONE, *given.cures)):
        configs[cure] = run_cure(home, cure, given.world, given.problem_seed, more, observer)
        fared, _ = compared(configs)
        told: dict[str, Any] = {
            "world": given.world,
            "problem_seed": given.problem_seed,
            "problems": given.problems,
            "seeds": given.seeds,
            "cures": [asdict(f) for f in fared],
            "relearnt": [],
        }
        if given.json:
            write_figures(given.json, told)
    again = [relearn(configs[cure], cure, observer) for cure in given.relearn]
    if again:
        told["relearnt"] = [asdict(own) for own in again]
        if given.json:
            write_figures(given.json, told)
    print(table(fared))
    for own in again:
        print(relearnt_line(own))


if __name__ == "__main__":
    main()
