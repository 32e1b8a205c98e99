"""What a sampling and repair budget that adapts saves in the lab, and what it costs.

In: the lab's recipe under several plans of sampling and repair, one after the other in one run
folder, so that what two plans have in common is drawn once. Out: per plan the teacher tokens it
asks for, per valid trace that training could use. Only data is made; no student is trained.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heal.config import Config
from heal.errors import UserError
from heal.execute import execute
from heal.lab.benchmark import lab_config
from heal.lab.judged import Named, judged
from heal.method.intervals import Interval, ratio_of_sums, wilson
from heal.records import Drop, Stratum
from heal.session import Observer
from heal.stages import repair
from heal.store import Store
from heal.wording import plural

ARM = "heal"
FULL = ("gear.paths=10", "gear.candidates=20")
PLANS: Mapping[str, tuple[str, ...]] = {
    "fixed 10 × 20": (*FULL, "gear.target=null"),
    "fixed, ends at 8": FULL,
    "adaptive sampling, fixed, ends at 8": (*FULL, "sampling.adaptive=true"),
}
"""The plan of docs/method.md §2 without and with its early stop, and with adaptive sampling."""


@dataclass(frozen=True)
class Budget:
    """One plan, over the extreme training problems of its own strata."""

    plan: str
    sampled: int
    """Tokens of unaided traces of training problems."""
    repaired: int
    """Tokens of hints and repairs."""
    per_passed: Interval | None
    """Tokens of hints and repairs per valid repair past the gates."""
    per_used: Interval | None
    """The same per valid repair that PURE and PACE keep: what the student is shown."""
    covered: Interval
    """Extreme problems with a valid repair among those kept."""
    misplaced: Interval
    """Training problems in another stratum than under the first plan."""


def compare_budgets(world: str, overrides: Sequence[str], observer: Observer) -> tuple[Budget, ...]:
    """Run every plan and count. Raises: UserError."""
    found: list[Budget] = []
    reference: dict[str, Stratum] = {}
    for name, settings in PLANS.items():
        config = lab_config(world, ["student=null", f"arms=[{ARM}]", *overrides, *settings])
        observer.say(f"plan: {name}")
        execute(config, observer)
        with Store.open(Path(config.run), write=False) as store:
            strata = _strata(store)
            reference = reference or strata
            found.append(_count(store, config, name, strata, reference))
    return tuple(found)


def _strata(store: Store) -> dict[str, Stratum]:
    rows = store.query("SELECT problem, stratum FROM problems WHERE split='train'")
    return {problem: Stratum(stratum) for problem, stratum in rows}


def _count(
    store: Store,
    config: Config,
    plan: str,
    strata: Mapping[str, Stratum],
    reference: Mapping[str, Stratum],
) -> Budget:
    extreme = sorted(p for p, stratum in strata.items() if stratum is Stratum.EXTREME)
    if not extreme:
        raise UserError(
            f"of {plural(len(strata), 'training problem')} none is extreme: nothing to repair",
            hint="ask for more with --problems",
        )
    main = str(config.gear.breakpoint)
    tokens, (passed, used) = _tokens(store, main), _valid(store, main)
    costs = np.array([tokens[p] for p in extreme])
    return Budget(
        plan=plan,
        sampled=_sampled(store),
        repaired=int(costs.sum()),
        per_passed=ratio_of_sums(costs, np.array([passed[p] for p in extreme]), seed=0),
        per_used=ratio_of_sums(costs, np.array([used[p] for p in extreme]), seed=0),
        covered=wilson(sum(used[p] > 0 for p in extreme), len(extreme)),
        misplaced=wilson(sum(strata[p] is not reference[p] for p in strata), len(strata)),
    )


def _sampled(store: Store) -> int:
    """Tokens of the unaided traces of training problems."""
    ((total,),) = store.query(
        "SELECT COALESCE(SUM(t.new_tokens), 0) FROM traces t JOIN problems p"
        " ON p.problem=t.problem WHERE t.stage='sample' AND p.split='train'"
    )
    return int(total)


def _tokens(store: Store, main: str) -> Counter[str]:
    """Tokens of each problem's hints and repairs."""
    rows = store.query(
        "SELECT problem, SUM(new_tokens) FROM (SELECT problem, new_tokens FROM hints WHERE tag=?"
        " UNION ALL SELECT problem, new_tokens FROM traces WHERE stage='repair' AND tag=?)"
        " GROUP BY problem",
        (main, main),
    )
    return Counter(dict(rows))


def _valid(store: Store, main: str) -> tuple[Counter[str], Counter[str]]:
    """Each problem's valid repairs: those past the gates, and those that training is shown."""
    rows = store.query(
        "SELECT t.problem, t.key, s.trace IS NOT NULL FROM traces t LEFT JOIN selected s"
        ' ON s.arm=? AND s.problem=t.problem AND s.trace=t.key AND s."drop"=?'
        " WHERE t.stage='repair' AND t.tag=? AND t.gate='passed' ORDER BY t.problem, t.key",
        (ARM, Drop.KEPT, main),
    )
    used_too = {Named(problem, repair.REPAIRED, key): kept for problem, key, kept in rows}
    passed, used = Counter[str](), Counter[str]()
    for named, _, truth in judged(store, used_too):
        passed[named.problem] += truth.valid
        used[named.problem] += truth.valid and used_too[named]
    return passed, used
