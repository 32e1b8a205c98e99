"""Which accepted traces a student should learn from, where the truth is known: the lab.

In: a world, problem seeds and training seeds. Every choice is an arm of one run: the teacher's side
is made once, and all students train for HEAL's tokens and steps. Out: per choice, avg@k against
HEAL's usual choice (`diverse`) on easy problems, on hard and extreme ones and on all; intervals
resample problems and training seeds, paired. Beside it what there was to choose from, how much a
choice changed, and what the student scored for it: a choice that changes little shows little.
It resumes: what is finished is not made again.

    python -m benchmarks.bench_choice --world walks [--json FILE] [--choices NAME …]
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.real_model_readings import write_figures
from rich.console import Console

from heal.cli.progress import ConsoleObserver
from heal.config import Config
from heal.execute import execute
from heal.figures import plain
from heal.lab.benchmark import SCORED_TOKEN_COST, lab_config
from heal.lab.judged import Named, judged
from heal.method.arms import TRAINED
from heal.method.intervals import Interval, ratio_of_sums
from heal.method.pace import POOLS
from heal.method.summary import ALL, HARD_AND_EXTREME, EvalSummary
from heal.records import Choice, Drop, Stratum, StudentScore
from heal.report.choice_words import trace_choice_sentences
from heal.report.view import RunView
from heal.store import Store
from heal.students.choice import STAGE

ARMS: Mapping[str, str] = {
    str(arm.choice): name for name, arm in TRAINED.items() if arm.choice is not None
}
"""By the choice each is of."""
GROUPS = (str(Stratum.EASY), HARD_AND_EXTREME, ALL)


@dataclass(frozen=True)
class Fared:
    """How one choice's students fared, in shares of 1, by group of held-out problems."""

    choice: str
    avg: dict[str, Interval]
    """avg@k."""
    against_diverse: dict[str, Interval]
    """Empty for `diverse` itself."""
    kept: int
    """Traces of its sets."""
    other: int
    """Of these, texts that those of `diverse` lack."""
    valid: Interval | None
    """Share of its hinted and repaired traces (D2, D3) that are valid in truth; problems are
    resampled. None: it has none."""
    tokens_per_trace: float
    """Of the student, prompt and end included: a choice may be one of length."""
    trained_tokens: list[int]
    """Of each training seed, over all stages: what must be equal."""


@dataclass(frozen=True)
class Offered:
    """What there was to choose from."""

    problems: int
    """With an accepted trace."""
    contested: int
    """Of these, with more of them than a set takes."""
    left_out: dict[str, int]
    """By set, problems of which it left out, for its cap or a prefix's, what is no
    near-duplicate."""
    spread_within: float
    """Standard deviation of the student's mean log-prob over one problem's texts, in nats; mean
    over problems. How differently it reads what it may choose from."""
    spread_between: float
    """That of the problems' means."""


def recipe(
    world: str, problem_seed: int, choices: Sequence[str], more: Sequence[str], run: Path
) -> Config:
    """The lab's recipe with an arm for each choice."""
    settings = (
        f"run={run}",
        f"problems.args.seed={problem_seed}",
        f"arms=[{', '.join(('base', 'heal', *(ARMS[choice] for choice in choices)))}]",
        f"evaluate.scored_token_cost={SCORED_TOKEN_COST}",
        "engine.local.products=mkl",
        "train.threads=1",
        "pace.rehearsal=0",  # what was chosen has the last word
        *more,
    )
    return lab_config(world, settings)


def measured(config: Config, view: RunView, choices: Sequence[str]) -> tuple[Offered, list[Fared]]:
    """Everything of a finished run that speaks of its choices."""
    assert view.evaluation is not None and view.choice is not None, "the run is finished"
    own = {found.arm: found for found in view.choice.arms}
    first = view.choice.arms[0]
    with Store.open(Path(config.run), write=False) as store:
        left_out = {pool: _left_out(store, pool) for pool in POOLS}
        offered = Offered(first.problems, first.contested, left_out, *_spread(store))
        lengths, valid = _lengths(store), _valid(store)
    fared = []
    for choice in (str(Choice.DIVERSE), *choices):
        arm = ARMS.get(choice, "heal")
        kept, tokens = lengths[arm]
        fared.append(
            Fared(
                choice,
                {s.stratum: s.avg for s in view.evaluation.arms if s.arm == arm},
                _against(view.evaluation, arm),
                kept,
                own[arm].other if arm in own else 0,
                valid.get(arm),
                tokens,
                _trained(view, arm),
            )
        )
    return offered, fared


def _against(found: EvalSummary, arm: str) -> dict[str, Interval]:
    return {d.stratum: d.interval for d in found.differences
            if (d.arm, d.against) == (arm, "heal")}  # fmt: skip


def _left_out(store: Store, pool: str) -> int:
    query = (
        "SELECT COUNT(DISTINCT problem) FROM selected"
        " WHERE arm='heal' AND pool=? AND \"drop\" IN (?, ?)"
    )
    ((count,),) = store.query(query, (pool, Drop.PROBLEM_CAP, Drop.PARENT_CAP))
    return int(count)


def _spread(store: Store) -> tuple[float, float]:
    """Within problems and between them; 0 where the student scored nothing."""
    found: dict[str, list[float]] = {}
    for _, score in store.live(STAGE, StudentScore):
        if score.mean_logprob is not None:
            found.setdefault(score.problem_id, []).append(score.mean_logprob)
    if not found:
        return 0.0, 0.0
    within = float(np.mean([np.std(own) for own in found.values()]))
    return within, float(np.std([np.mean(own) for own in found.values()]))


def _lengths(store: Store) -> dict[str, tuple[int, float]]:
    query = 'SELECT arm, COUNT(*), AVG(student_tokens) FROM selected WHERE "drop"=? GROUP BY arm'
    return {arm: (count, mean) for arm, count, mean in store.query(query, (Drop.KEPT,))}


def _valid(store: Store) -> dict[str, Interval]:
    assisted = "FROM selected WHERE \"drop\"='kept' AND pool<>'D1'"
    named = store.query(f"SELECT DISTINCT problem, stage, trace {assisted} ORDER BY 1, 2, 3")
    truth = {trace.key: true.valid for _, trace, true in judged(store, map(Named._make, named))}
    by_arm: dict[str, dict[str, list[bool]]] = {}
    for arm, problem, trace in store.query(f"SELECT arm, problem, trace {assisted} ORDER BY 1, 2"):
        by_arm.setdefault(arm, {}).setdefault(problem, []).append(truth[trace])
    return {
        arm: ratio_of_sums(
            np.array([sum(own) for own in found.values()]),
            np.array([len(own) for own in found.values()]),
            seed=0,
        )
        for arm, found in by_arm.items()
    }


def _trained(view: RunView, arm: str) -> list[int]:
    found: dict[int, int] = {}
    for result in view.training:
        if result.arm == arm:
            found[result.seed] = found.get(result.seed, 0) + result.tokens
    return [found[seed] for seed in sorted(found)]


# ── the command ─────────────────────────────────────────────────────────────────────────────────


def offered_lines(found: Offered, view: RunView) -> list[str]:
    """What there was to choose from, in sentences."""
    sets = ", ".join(f"{pool} {count:,}" for pool, count in found.left_out.items())
    assert view.choice is not None
    return [
        f"To choose from: {found.contested:,} of {found.problems:,} training problems have more"
        f" accepted traces than a set takes. Problems of which diverse leaves out more than"
        f" near-duplicates: {sets}.",
        *trace_choice_sentences(view.choice),
        f"Its mean log-prob differs by {found.spread_within:.4f} nats a token within a problem"
        f" (standard deviation), and by {found.spread_between:.4f} between problems.",
    ]


def table(found: Sequence[Fared]) -> str:
    """Points of 100, with 95 % intervals."""
    lines = [
        "| choice | " + " | ".join(GROUPS) + " | " + " | ".join(f"{g}, − diverse" for g in GROUPS)
        + " | traces changed | D2, D3 valid | tokens a trace | trained tokens |",
        "|---" * (2 * len(GROUPS) + 5) + "|",
    ]  # fmt: skip
    for f in found:
        figures = [f.avg.get(g) for g in GROUPS] + [f.against_diverse.get(g) for g in GROUPS]
        changed = f"{f.other:,} of {f.kept:,}"
        trained = f"{min(f.trained_tokens):,} to {max(f.trained_tokens):,}"
        cells = [
            *map(points, figures),
            changed,
            points(f.valid),
            f"{f.tokens_per_trace:.0f}",
            trained,
        ]
        lines.append(f"| {f.choice} | {' | '.join(cells)} |")
    return "\n".join(lines)


def points(found: Interval | None) -> str:
    """A share as points of 100."""
    if found is None:
        return "–"
    if not found.is_known:
        return f"{100 * found.mean:.1f}, no interval"
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def main() -> None:
    """Run the arms, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", default="walks")
    parser.add_argument("--out", type=Path, default=Path("runs/choice"))
    parser.add_argument("--problem-seed", type=int, default=6)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5, help="training seeds")
    parser.add_argument("--choices", nargs="*", choices=sorted(ARMS), default=list(ARMS))
    parser.add_argument("--set", action="append", default=[], help="a setting, as heal takes it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    size = (f"problems.args.n={given.problems}", f"seeds={list(range(given.seeds))}")
    folder = given.out / f"{given.world}-{given.problem_seed}"
    more = (*size, *given.set)
    config = recipe(given.world, given.problem_seed, given.choices, more, folder)
    view = execute(config, ConsoleObserver(Console()))
    offered, fared = measured(config, view, given.choices)
    told: dict[str, Any] = {
        "world": given.world,
        "problem_seed": given.problem_seed,
        "problems": given.problems,
        "seeds": given.seeds,
        "settings": given.set,
        "offered": asdict(offered),
        "scored": asdict(view.choice) if view.choice else None,
        "choices": [asdict(f) for f in fared],
    }
    if given.json:
        write_figures(given.json, plain(told))
    print("\n".join([*offered_lines(offered, view), "", table(fared)]))


if __name__ == "__main__":
    main()
