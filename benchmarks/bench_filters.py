"""What each selection of PURE's leaves in training, where the truth is known: the lab's worlds.

In: worlds and a problem seed. One run per world, up to the choice of sets, chosen anew under every
selection: nothing is drawn twice. Out: per world and selection the AUROC of fudged traces against
valid ones, and of the traces that HEAL's student would be shown of extreme problems how many are
valid, beside as many dropped at random and beside none dropped. Intervals resample problems where
they are of AUROC, and count traces, so are too narrow, where they are of shares. It resumes.

    python -m benchmarks.bench_filters [--worlds rows walks moves] [--json FILE]
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.bench_retention import points, recipe
from benchmarks.real_model_readings import write_figures
from rich.console import Console

from heal.cli.progress import ConsoleObserver
from heal.execute import execute
from heal.lab.benchmark import Coverage, Detection, measure_run
from heal.method.intervals import wilson
from heal.records import Selection
from heal.session import Observer
from heal.store import Store

ARMS = ("heal", "heal-random-drop", "heal-no-pure")
SELECTIONS = (
    *(Selection.SURPRISAL, Selection.RELIANCE, Selection.JOINT),
    *(Selection.MEAN_NLL, Selection.LENGTH),
)


@dataclass(frozen=True)
class Cleaned:
    """What is left under one selection."""

    world: str
    selection: str
    coverage: tuple[Coverage, ...]
    """By arm, of extreme training problems."""
    detection: tuple[Detection, ...]
    """Its own readings, of whole hinted traces (D2) and of repairs (D3)."""


def cleaned(
    home: Path, world: str, given: argparse.Namespace, kind: Selection, observer: Observer
) -> Cleaned:
    """Choose the world's sets by one selection."""
    settings = (
        f"arms=[{', '.join(ARMS)}]",
        "pure.measure_reliance=true",
        "pure.measure_calibrated=true",
        f"problems.args.n={given.problems}",
        f"pure.selection={kind}",
        *given.set,
    )
    config = recipe(world, given.problem_seed, settings, home / f"{world}-{given.problem_seed}")
    execute(config, observer, until="select")
    with Store.open(Path(config.run), write=False) as store:
        found = measure_run(store, config)
    own = tuple(d for d in found.detection if d.name == kind)
    return Cleaned(world, str(kind), found.coverage, own)


def table(found: Sequence[Cleaned]) -> str:
    """AUROC, and valid traces of all that are kept, by arm."""
    lines = [
        f"| world | selection | AUROC, whole hinted | repairs | {' | '.join(ARMS)} |",
        "|---" * (4 + len(ARMS)) + "|",
    ]
    for one in found:
        seen = {d.pool: d.auroc for d in one.detection}
        shares = [
            f"{c.valid_traces} of {c.traces}, {points(wilson(c.valid_traces, c.traces))}"
            for c in one.coverage
        ]
        ranks = [points(seen.get(pool)) for pool in ("D2", "D3")]
        lines.append(f"| {' | '.join([one.world, one.selection, *ranks, *shares])} |")
    return "\n".join(lines)


def main() -> None:
    """Choose, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worlds", nargs="+", default=["rows", "walks", "moves"])
    parser.add_argument("--out", type=Path, default=Path("runs/filters"))
    parser.add_argument("--problem-seed", type=int, default=9)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--set", action="append", default=[], help="a setting, as heal takes it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    observer, found = ConsoleObserver(Console()), list[Cleaned]()
    for world in given.worlds:
        for kind in SELECTIONS:
            found.append(cleaned(given.out, world, given, kind, observer))
            if given.json:
                write_figures(
                    given.json,
                    {
                        "problem_seed": given.problem_seed,
                        "problems": given.problems,
                        "selections": [asdict(one) for one in found],
                    },
                )
    observer.close()
    print(table(found))


if __name__ == "__main__":
    main()
