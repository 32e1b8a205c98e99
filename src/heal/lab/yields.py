"""What each way of cutting failed traces yields, where the truth of every step is known.

In: the lab's recipe, once for every way, in one run folder, so that all of them repair the same
failed traces of the same problems. Out: where each way cuts against the first bad step, what its
repairs cost, and how many of them are valid or fudged. Only data is made; nothing is filtered and
no student is trained.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heal.config import Config
from heal.errors import UserError
from heal.execute import execute
from heal.lab.benchmark import SCORED_TOKEN_COST, lab_config
from heal.lab.judged import Named, judged
from heal.lab.truth import split_steps
from heal.method.intervals import Interval, percentiles, ratio_of_sums, wilson
from heal.records import Breakpoint, Cut
from heal.session import Observer
from heal.stages import locate, repair, sample
from heal.store import Store
from heal.wording import plural

RESAMPLES = 4_000
PLAN = ("gear.paths=4", "gear.candidates=4", "gear.target=null")
"""As many repairs of every path, whatever came of those before."""
TRUTH = ("gear.breakpoint=checker", "steps.checker=heal.lab.source:first_wrong_step")
ANSWER = "gear.hint=answer"
WAYS: Mapping[str, tuple[str, ...]] = {
    "difference": ("gear.breakpoint=difference",),
    "difference, whole trace": ("gear.breakpoint=difference", "gear.window=1"),
    "zscore, whole trace": ("gear.breakpoint=zscore", "gear.window=1"),
    "cusum, whole trace": ("gear.breakpoint=cusum", "gear.window=1"),
    "claims": ("gear.breakpoint=claims",),
    "random": ("gear.breakpoint=random",),
    "random, whole trace": ("gear.breakpoint=random", "gear.window=1"),
    "fixed_third": ("gear.breakpoint=fixed_third",),
    "restart": ("gear.breakpoint=restart",),
    "the truth": (*TRUTH, "steps.gate=false"),
    "answer: difference": ("gear.breakpoint=difference", ANSWER),
    "answer: random": ("gear.breakpoint=random", ANSWER),
    "answer: restart": ("gear.breakpoint=restart", ANSWER),
    "answer: the truth": (*TRUTH, "steps.gate=false", ANSWER),
}
"""Under guided hints, then under the bare answer. The truth cuts at the first bad step itself."""
WHOLE = "answer: whole traces"
"""What D2 draws: no trace is kept of."""
AGAINST = {False: "random", True: "answer: random"}
"""What ways are compared with, by whether they are under the bare answer."""
READS_SCORES = {Breakpoint.DIFFERENCE, Breakpoint.ZSCORE, Breakpoint.CUSUM, Breakpoint.CLAIMS}
"""Of the lab's ways; its checker always has a word."""


@dataclass(frozen=True)
class Places:
    """Where one way cuts, over failed traces."""

    hit: Interval
    """The first step dropped is the first bad one."""
    late: Interval
    """The first bad step is kept."""
    kept: float
    """Mean share of the steps before the first bad one that are kept."""


@dataclass(frozen=True)
class Yield:
    """One way, over the extreme training problems."""

    way: str
    places: Places | None
    tokens: int
    """Of hints, repairs and, at half price, of what the cut was read from."""
    tried: int
    passed: Interval | None
    """Tries that pass the gates."""
    fudged: Interval | None
    """Of those, the ones that are right by steps that do not hold."""
    valid: int
    per_1000: Interval | None
    """Valid ones per 1,000 tokens; problems are resampled."""
    gain: Interval | None
    """Difference in that to a random cut within the window, over the same problems."""
    covered: Interval
    """Extreme problems with a valid one."""


@dataclass
class _Tally:
    """One way, by problem."""

    way: str
    places: Places | None
    costs: Counter[str]
    tried: int
    passed: int
    valid: Counter[str]


def compare_yields(world: str, overrides: Sequence[str], observer: Observer) -> tuple[Yield, ...]:
    """Run every way and count. Raises: UserError."""
    tallies: list[_Tally] = []
    extreme: list[str] = []
    for way, settings in WAYS.items():
        given = ["student=null", "arms=[rft, heal-no-pure]", *PLAN, *overrides, *settings]
        config = lab_config(world, given)
        observer.say(f"way: {way}")
        execute(config, observer)
        with Store.open(Path(config.run), write=False) as store:
            extreme = extreme or _extreme(store)
            tallies.append(_repairs(store, config, way))
            if way == list(WAYS)[-1]:
                tallies.append(_whole_traces(store, extreme))
    against = {each.way: each for each in tallies}
    return tuple(
        _figures(each, against[AGAINST[each.way.startswith("answer")]], extreme) for each in tallies
    )


def _extreme(store: Store) -> list[str]:
    rows = store.query(
        "SELECT problem FROM problems WHERE stratum='extreme' AND split='train' ORDER BY problem"
    )
    found = [problem for (problem,) in rows]
    if not found:
        ((n,),) = store.query("SELECT COUNT(*) FROM problems WHERE split='train'")
        raise UserError(
            f"of {plural(n, 'training problem')} none is extreme: nothing to repair",
            hint="ask for more with --problems",
        )
    return found


def _repairs(store: Store, config: Config, way: str) -> _Tally:
    kind = config.gear.breakpoint
    costs = Counter[str]()
    for table, where in (("hints", ""), ("traces", "AND stage='repair'")):
        spent = f"SELECT problem, SUM(new_tokens) FROM {table} WHERE tag=? {where} GROUP BY problem"
        costs.update(dict(store.query(spent, (str(kind),))))
    if kind in READS_SCORES:
        read = "SELECT problem, SUM(scored_tokens) FROM scores WHERE stage=? GROUP BY problem"
        costs.update({p: SCORED_TOKEN_COST * n for p, n in store.query(read, (locate.STAGE,))})
    rows = store.query(
        "SELECT problem, key, gate='passed' FROM traces WHERE stage='repair' AND tag=?"
        " ORDER BY problem, key",
        (str(kind),),
    )
    return _tally(store, way, _places(store, kind), costs, repair.REPAIRED, list(rows))


def _whole_traces(store: Store, extreme: Sequence[str]) -> _Tally:
    rows = [
        row
        for row in store.query(
            "SELECT problem, key, gate='passed', new_tokens FROM traces WHERE stage='hinted'"
            " ORDER BY problem, key"
        )
        if row[0] in set(extreme)
    ]
    costs = Counter[str]()
    for problem, _, _, tokens in rows:
        costs[problem] += tokens
    return _tally(store, WHOLE, None, costs, repair.HINTED, [row[:3] for row in rows])


def _tally(
    store: Store,
    way: str,
    places: Places | None,
    costs: Counter[str],
    stage: str,
    rows: Sequence[tuple[str, str, bool]],
) -> _Tally:
    """rows: problem, trace, and whether it passed the gates."""
    past = [Named(problem, stage, key) for problem, key, passed in rows if passed]
    valid = Counter(named.problem for named, _, truth in judged(store, past) if truth.valid)
    return _Tally(way, places, costs, len(rows), len(past), valid)


def _places(store: Store, kind: Breakpoint) -> Places | None:
    """Where this way's cuts lie; steps are compared where a run's are the lab's paragraphs."""
    hits, late, kept = 0, 0, list[float]()
    rows = store.query(
        "SELECT problem, trace, key FROM cuts WHERE tag=? ORDER BY key", (str(kind),)
    )
    n = 0
    for problem, trace_key, cut_key in rows:
        ((_, trace, truth),) = judged(store, [Named(problem, sample.STAGE, trace_key)])
        cut = store.get("cut", cut_key, problem, Cut)
        assert cut is not None, "columns name only what is stored"
        if truth.first_bad is None or len(split_steps(trace.text)) != len(cut.step_ends):
            continue
        n, before = n + 1, cut.step - 1
        hits, late = hits + (before == truth.first_bad), late + (before > truth.first_bad)
        if truth.first_bad:
            kept.append(min(before, truth.first_bad) / truth.first_bad)
    return Places(wilson(hits, n), wilson(late, n), float(np.mean(kept))) if n and kept else None


def _figures(own: _Tally, other: _Tally, extreme: Sequence[str]) -> Yield:
    valid, costs = _arrays(own, extreme)
    total = sum(own.valid.values())
    return Yield(
        way=own.way,
        places=own.places,
        tokens=round(costs.sum()),
        tried=own.tried,
        passed=wilson(own.passed, own.tried) if own.tried else None,
        fudged=wilson(own.passed - total, own.passed) if own.passed else None,
        valid=total,
        per_1000=ratio_of_sums(1_000 * valid, costs, seed=0),
        gain=None if own is other else _difference((valid, costs), _arrays(other, extreme)),
        covered=wilson(int((valid > 0).sum()), len(extreme)),
    )


_Arrays = tuple[NDArray[np.float64], NDArray[np.float64]]


def _arrays(tally: _Tally, extreme: Sequence[str]) -> _Arrays:
    """Valid ones and costs, float64[problems]."""
    by_problem: defaultdict[str, float] = defaultdict(float, tally.costs)
    valid = np.array([float(tally.valid[problem]) for problem in extreme])
    return valid, np.array([by_problem[problem] for problem in extreme])


def _difference(own: _Arrays, other: _Arrays) -> Interval:
    """Valid ones per 1,000 tokens, own − other; the same problems are drawn for both."""
    n = len(own[0])
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    counts = np.vstack([np.ones(n, np.int64), drawn])
    a, b = (1_000 * (counts @ valid) / np.maximum(counts @ cost, 1) for valid, cost in (own, other))
    return percentiles(float((a - b)[0]), (a - b)[1:], n)
