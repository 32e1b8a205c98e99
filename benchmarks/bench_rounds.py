"""A second round of HEAL against one of plain sampling, where the truth is known: the lab.

In: a world, problem seeds and training seeds. Round one is one run. Of each training seed its
student `heal` is sampled on the training problems and starts a run of its own: `heal` again, and
`rft_more`, the teacher's plain samples for as many tokens, both from that same student. A third
cuts its traces by `claims`, for the entropy tells where the teacher is unsure, not where a student
erred. The trivial rival is round one trained for the tokens of both rounds together. Out: avg@k on
held-out problems in the strata of round one, paired differences, and what second rounds were made
of: how often the students failed, what of the kept traces is truly valid. Students of two rounds
have different dice in their exams. Intervals resample problems and training seeds. It resumes: what
is finished is not made again.

    python -m benchmarks.bench_rounds --world walks [--json FILE]
"""

import argparse
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmarks.bench_retention import RESAMPLES, difference, known, points, recipe
from benchmarks.real_model_readings import write_figures
from rich.console import Console

from heal.cli.progress import ConsoleObserver
from heal.config import Config
from heal.execute import execute
from heal.lab.judged import Named, judged
from heal.lab.truth import split_steps
from heal.method.intervals import Interval, wilson
from heal.method.summary import HARD_AND_EXTREME, EvalSummary, summarise
from heal.recipe import load
from heal.records import Breakpoint, Drop, Split, Stratum, Trace, TrainResult
from heal.rounds import Round, make_round, plan_round
from heal.session import Observer
from heal.store import AttemptRow, SelectedRow, Store

UNTRAINED, PLAIN_ONE, ONE = "base", "plain, round one", "HEAL, round one"
LONGER, PLAIN_TWO, TWO = "HEAL, round one, longer", "plain, round two", "HEAL, round two"
BY_CLAIMS = "HEAL, round two, cut by claims"
ARMS = (UNTRAINED, PLAIN_ONE, ONE, LONGER, PLAIN_TWO, TWO, BY_CLAIMS)
PAIRS = (
    *((TWO, ONE), (TWO, PLAIN_TWO), (TWO, LONGER), (PLAIN_TWO, ONE)),
    *((BY_CLAIMS, PLAIN_TWO), (BY_CLAIMS, TWO)),
)
PRIMARY = (TWO, PLAIN_TWO)
GROUPS = (str(Stratum.EASY), HARD_AND_EXTREME, str(Stratum.EXTREME))
TRAINED = ("rft_more", "heal")


@dataclass(frozen=True)
class Kept:
    """One set that a second round trained on."""

    pool: str
    traces: int
    problems: int
    valid: Interval
    """Share of its traces that are truly valid; over traces, and so too narrow."""
    bad_prefix: int
    """Repairs whose kept prefix has a bad step: no continuation can mend them."""


@dataclass(frozen=True)
class Second:
    """One student's second round."""

    seed: int
    made: Round
    forgotten: int
    """Extreme for the student, and easy for the teacher in round one."""
    kept: Mapping[str, tuple[Kept, ...]]
    """By student."""
    tokens: Mapping[str, int]
    """Trained on, by student."""


@dataclass(frozen=True)
class Compared:
    """Two students on a group of held-out problems: avg@k of the one minus the other's."""

    arm: str
    against: str
    stratum: str
    interval: Interval
    primary: bool


# ── runs ────────────────────────────────────────────────────────────────────────────────────────


def first_round(home: Path, given: argparse.Namespace, observer: Observer) -> Config:
    """Round one, to its end."""
    arms = f"arms=[{UNTRAINED}, {', '.join(TRAINED)}]"
    seeds = f"seeds={list(range(given.seeds))}"
    more = (f"problems.args.n={given.problems}", seeds, arms, *given.set)
    config = recipe(given.world, given.problem_seed, more, home / "first")
    execute(config, observer)
    return config


def second_round(home: Path, seed: int, observer: Observer) -> tuple[Config, Round]:
    """One student's second round, to its end."""
    own = (f"seeds=[{seed}]", f"arms=[{', '.join(TRAINED)}]")
    out = home / f"second-{seed}.yaml"
    made = make_round(plan_round(home / "first", out, seed=seed, overrides=own), observer)
    config = load(out)
    execute(config, observer)
    return config, made


def by_claims(home: Path, second: Config, observer: Observer) -> Config:
    """The same second round, its traces cut where they claim what the teacher would not."""
    folder = home / f"claims-{second.seeds[0]}"
    _copy(Path(second.run), folder)
    gear = second.gear.model_copy(update={"breakpoint": Breakpoint.CLAIMS})
    config = second.model_copy(update={"run": str(folder), "arms": ("heal",), "gear": gear})
    execute(config, observer)
    return config


def longer(home: Path, first: Config, seconds: Sequence[Config], observer: Observer) -> Config:
    """Round one's data, trained for the tokens of both rounds together."""
    once = trained_tokens(first)["heal"] / len(first.seeds)
    twice = sum(trained_tokens(config)["heal"] for config in seconds) / len(seconds)
    factor = (once + twice) / once
    _copy(home / "first", home / "longer")
    epochs, least = first.pace.epochs * factor, round(first.pace.min_tokens * factor)
    pace = first.pace.model_copy(update={"epochs": epochs, "min_tokens": least})
    run = str(home / "longer")
    config = first.model_copy(update={"run": run, "arms": ("heal",), "pace": pace})
    execute(config, observer)
    return config


def _copy(run: Path, folder: Path) -> None:
    """A run's folder once more, without its students, whole or not at all."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(run, part, ignore=shutil.ignore_patterns("students", "data"))
        part.rename(folder)


def trained_tokens(config: Config) -> dict[str, int]:
    """Presented to the students of a run, by arm, over all seeds."""
    found = Counter[str]()
    with Store.open(Path(config.run), write=False) as store:
        for _, result in store.live("train", TrainResult):
            found[result.arm] += result.tokens
    return dict(found)


# ── figures ─────────────────────────────────────────────────────────────────────────────────────


def attempts(
    first: Config, seconds: Sequence[Config], claims: Sequence[Config], again: Config
) -> Iterator[AttemptRow]:
    """Every student's attempts at held-out problems, under the names of this page."""
    yield from _named(first, {"base": UNTRAINED, "rft_more": PLAIN_ONE, "heal": ONE})
    yield from _named(again, {"heal": LONGER})
    for config in seconds:
        yield from _named(config, {"rft_more": PLAIN_TWO, "heal": TWO})
    for config in claims:
        yield from _named(config, {"heal": BY_CLAIMS})


def _named(config: Config, names: Mapping[str, str]) -> Iterator[AttemptRow]:
    with Store.open(Path(config.run), write=False) as store:
        for row in store.rows(AttemptRow):
            yield row._replace(arm=names[row.arm])


def compared(rows: Sequence[AttemptRow], first: Config) -> tuple[EvalSummary, list[Compared]]:
    """All students on the same problems, over the same resamples."""
    strata, families = known(first)
    found = summarise(rows, strata, families, resamples=RESAMPLES, seed=0, arms=ARMS)
    assert found is not None, "every student was examined"
    there = {score.stratum for score in found.arms}
    own = [
        Compared(arm, against, group, difference(found, arm, against, group),
                 (arm, against, group) == (*PRIMARY, HARD_AND_EXTREME))
        for arm, against in PAIRS
        for group in GROUPS
        if group in there
    ]  # fmt: skip
    return found, own


def made_of(first: Config, second: Config, claims: Config, made: Round) -> Second:
    """What one student's second rounds trained on, and whether it is true."""
    with Store.open(Path(second.run), write=False) as store:
        extreme = _strata(store, Stratum.EXTREME)
        kept = {TWO: tuple(_kept(store, "heal")), PLAIN_TWO: tuple(_kept(store, "rft_more"))}
    with Store.open(Path(claims.run), write=False) as store:
        kept[BY_CLAIMS] = tuple(_kept(store, "heal"))
    with Store.open(Path(first.run), write=False) as store:
        easy = _strata(store, Stratum.EASY)
    own = trained_tokens(second)
    tokens = {
        TWO: own["heal"],
        PLAIN_TWO: own["rft_more"],
        BY_CLAIMS: trained_tokens(claims)["heal"],
    }
    return Second(second.seeds[0], made, len(extreme & easy), kept, tokens)


def _strata(store: Store, stratum: Stratum) -> set[str]:
    sql = "SELECT problem FROM problems WHERE split=? AND stratum=?"
    return {problem for (problem,) in store.query(sql, (Split.TRAIN, stratum))}


def _kept(store: Store, arm: str) -> Iterator[Kept]:
    rows = [*store.rows(SelectedRow, 'arm=? AND "drop"=?', arm, Drop.KEPT)]
    for pool in sorted({row.pool for row in rows}):
        named = sorted(Named(r.problem, r.stage, r.trace) for r in rows if r.pool == pool)
        read = [*judged(store, named)]
        valid = sum(truth.valid for _, _, truth in read)
        bad = sum(
            truth.first_bad is not None and truth.first_bad < _steps_kept(store, trace)
            for _, trace, truth in read
        )
        problems = len({one.problem for one in named})
        yield Kept(pool, len(named), problems, wilson(valid, len(named)), bad)


def _steps_kept(store: Store, trace: Trace) -> int:
    """Steps that a repair has from its parent; 0 for a whole trace."""
    parent = store.get("sample", trace.parent or "", trace.problem_id, Trace)
    if parent is None:
        return 0
    pairs = zip(split_steps(trace.text), split_steps(parent.text), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


# ── the page ────────────────────────────────────────────────────────────────────────────────────


def page(found: EvalSummary, own: Sequence[Compared], rounds: Sequence[Second]) -> str:
    """Points of 100, with 95 % intervals."""
    score = {(s.arm, s.stratum): s.avg for s in found.arms}
    lines = [f"| student | {' | '.join(GROUPS)} |", "|---" * (len(GROUPS) + 1) + "|"]
    for arm in ARMS:
        cells = (points(score.get((arm, group))) for group in GROUPS)
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    differ = {(c.arm, c.against, c.stratum): c.interval for c in own}
    lines += ["", f"| difference | {' | '.join(GROUPS)} |", "|---" * (len(GROUPS) + 1) + "|"]
    for arm, against in PAIRS:
        cells = (points(differ.get((arm, against, group))) for group in GROUPS)
        lines.append(f"| {arm} − {against} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *map(_line, rounds)])


def _line(own: Second) -> str:
    sets = "; ".join(
        f"{who} {k.pool}: {k.traces} traces on {k.problems} problems, {points(k.valid)} valid"
        + (f", {k.bad_prefix} with a bad step in the kept prefix" if k.pool == "D3" else "")
        for who, kept in own.kept.items()
        for k in kept
    )
    return (
        f"seed {own.seed}: {own.made.repairable} of {own.made.problems} training problems to repair"
        f" ({own.forgotten} extreme ones were easy for the teacher). {sets}"
    )


def main() -> None:
    """Run both rounds of every seed, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", default="walks")
    parser.add_argument("--out", type=Path, default=Path("runs/rounds"))
    parser.add_argument("--problem-seed", type=int, default=7)
    parser.add_argument("--problems", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--set", action="append", default=[], help="a setting, as heal takes it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    home = given.out / f"{given.world}-{given.problem_seed}"
    observer = ConsoleObserver(Console())
    first = first_round(home, given, observer)
    made = [second_round(home, seed, observer) for seed in first.seeds]
    seconds = [config for config, _ in made]
    claims = [by_claims(home, config, observer) for config in seconds]
    again = longer(home, first, seconds, observer)
    observer.close()
    found, own = compared([*attempts(first, seconds, claims, again)], first)
    rounds = [
        made_of(first, config, cut, one) for (config, one), cut in zip(made, claims, strict=True)
    ]
    told: dict[str, Any] = {
        **{name: getattr(given, name) for name in ("world", "problem_seed", "problems", "seeds")},
        "students": [asdict(s) for s in found.arms if s.stratum in GROUPS],
        "differences": [asdict(c) for c in own],
        "rounds": [asdict(one) for one in rounds],
        "tokens": {"first": trained_tokens(first), "longer": trained_tokens(again)},
    }
    if given.json:
        write_figures(given.json, told)
    print(page(found, own, rounds))


if __name__ == "__main__":
    main()
