"""The lab's second court: what the budgets that adapt save, and what they cost.

In: the lab's recipe under several plans of sampling and repair, one after the other in one run
folder, so that what two plans have in common is drawn once. Out: per plan the teacher tokens it
asks for, per valid trace that training could use. Only data is made; no student is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heal.errors import UserError
from heal.execute import execute
from heal.lab.benchmark import lab_config
from heal.lab.truth import judge
from heal.method.intervals import Interval, ratio_of_sums, wilson
from heal.records import (
    Ceiling,
    Drop,
    Gate,
    GateResult,
    Hint,
    Problem,
    Selected,
    Split,
    Stratum,
    Trace,
)
from heal.session import Observer
from heal.store import Store

ARM = "heal"
FULL = ("gear.paths=10", "gear.candidates=20")
PLANS: Mapping[str, tuple[str, ...]] = {
    "fixed 10 × 20": (*FULL, "gear.target=null"),
    "fixed, ends at 8": FULL,
    "adaptive sampling, fixed, ends at 8": (*FULL, "sampling.adaptive=true"),
}
"""METHOD's plan, with and without its early stop, and the two budgets that adapt."""


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
            found.append(_count(store, name, strata, reference))
    return tuple(found)


def _strata(store: Store) -> dict[str, Stratum]:
    problems = store.live("problem", Problem)
    ceilings = store.live("ceiling", Ceiling)
    return {p: c.stratum for p, c in ceilings.items() if problems[p].split is Split.TRAIN}


def _count(
    store: Store, plan: str, strata: Mapping[str, Stratum], reference: Mapping[str, Stratum]
) -> Budget:
    problems, repairs = store.live("problem", Problem), store.live("repair", Trace)
    extreme = sorted(p for p, stratum in strata.items() if stratum is Stratum.EXTREME)
    if not extreme:
        raise UserError(
            f"none of {len(strata)} training problems is extreme, so there is nothing to repair",
            hint="ask for more with --problems",
        )
    gates = store.live("gate", GateResult)
    kept = {
        x.trace
        for x in store.live("selected", Selected, tag=ARM).values()
        if x.drop is Drop.KEPT and x.trace in repairs
    }
    tokens, passed, used = (dict.fromkeys(extreme, 0) for _ in range(3))
    for hint in store.live("hint", Hint).values():
        tokens[hint.problem_id] += hint.new_tokens
    for key, trace in repairs.items():
        tokens[trace.problem_id] += trace.new_tokens
        if gates[key].gate is Gate.PASSED:
            valid = judge(problems[trace.problem_id].problem, trace.text).valid
            passed[trace.problem_id] += valid
            used[trace.problem_id] += valid and key in kept
    costs = np.array([tokens[p] for p in extreme])
    unaided = store.live("sample", Trace).values()
    return Budget(
        plan=plan,
        sampled=sum(t.new_tokens for t in unaided if t.problem_id in strata),
        repaired=int(costs.sum()),
        per_passed=ratio_of_sums(costs, np.array([passed[p] for p in extreme]), seed=0),
        per_used=ratio_of_sums(costs, np.array([used[p] for p in extreme]), seed=0),
        covered=wilson(sum(used[p] > 0 for p in extreme), len(extreme)),
        misplaced=wilson(sum(strata[p] is not reference[p] for p in strata), len(strata)),
    )
