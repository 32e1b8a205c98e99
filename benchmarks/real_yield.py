"""What a real teacher's tokens bought: valid repairs by way of helping, and what training gets.

In: a run folder of `heal score` or later, as its settings stand now; the run may be unfinished.
Out: of every way the teacher was helped (a breakpoint's repairs, whole traces under the answer)
what it yields on extreme training problems per 1,000 teacher tokens; of every arm the fudged share
of its training traces and the extreme problems it covers. *Valid* is past the gates and over no
false equation that the arithmetic checker can read; *fudged* is past the gates over one. Intervals
resample problems. Needs no model.

    python -m benchmarks.real_yield RUN [--json FILE]
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.real_model_readings import write_figures

from heal.method.intervals import Interval, Scores, paired_difference, ratio_of_sums, wilson
from heal.records import Breakpoint, Drop, Gate, Outcome, Problem, Trace
from heal.steps import first_wrong_step
from heal.store import Store

SCORED_TOKEN_COST = 0.5
"""Of a sampled one; as the lab's benchmark fixes it, so that a table says the same anywhere."""
RESAMPLES = 10_000
WHOLE = "whole traces"
BLIND = (Breakpoint.RANDOM, Breakpoint.FIXED_THIRD, Breakpoint.RESTART)
"""They cut without a look at scores, so scoring is none of their cost."""
_CUTS = "SELECT DISTINCT tag FROM traces WHERE stage='repair' AND tag NOT LIKE 'probe-%'"
"""What was tried to choose a kind of hint is on few problems alone."""
_EXTREME = "SELECT problem FROM problems WHERE split='train' AND stratum='extreme'"


@dataclass(frozen=True)
class Way:
    """One way of helping the teacher, on the extreme training problems of a run."""

    name: str
    problems: list[str]
    tokens: list[float]
    """By problem: sampled for traces and hints; a scored one counts `SCORED_TOKEN_COST`."""
    valid: list[int]
    """By problem; traces that hold nothing the checker can read are among them."""
    counts: dict[str, int]
    """Traces `tried`, `right`, `passed` the gates, of these `fudged` and `unreadable`."""
    hints: dict[str, int]
    """By `asked → told`."""


@dataclass(frozen=True)
class Gets:
    """What one arm's training gets in one of its sets, in traces."""

    arm: str
    pool: str
    kept: dict[str, int]
    """By the checker's word."""
    dropped_by_pure: dict[str, int]
    """Likewise."""

    @property
    def fudged(self) -> Interval | None:
        """Share of the checkable ones; None without any."""
        return _fudged(self.kept)


class Words:
    """The checker's word on any trace of a run, asked once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Outcome] = {}

    def of(self, problem_id: str, stage: str, key: str) -> Outcome:
        """What the whole text asserts: whether an equation is false is no matter of steps."""
        if key not in self._known:
            problem = self._store.get("problem", problem_id, problem_id, Problem)
            trace = self._store.get(stage, key, problem_id, Trace)
            assert problem is not None and trace is not None, "columns name only what is stored"
            self._known[key] = first_wrong_step([trace.text], problem.problem).outcome
        return self._known[key]


# ── ways of helping ─────────────────────────────────────────────────────────────────────────────


def ways(store: Store, words: Words) -> list[Way]:
    """Every breakpoint that has repairs, and whole traces."""
    tags = [tag for (tag,) in store.query(_CUTS)]
    problems = [problem for (problem,) in store.query(f"{_EXTREME} ORDER BY problem")]
    return [_way(store, words, name, problems) for name in (*sorted(tags), WHOLE)]


def _way(store: Store, words: Words, name: str, problems: list[str]) -> Way:
    stage, tag = ("hinted", "") if name == WHOLE else ("repair", name)
    rows = store.query(
        "SELECT problem, key, new_tokens, verdict, gate FROM traces"
        f" WHERE stage=? AND tag=? AND problem IN ({_EXTREME})",
        (stage, tag),
    )
    tokens, valid, counts = _beside_traces(store, name), Counter[str](), Counter[str]()
    for problem, key, new_tokens, verdict, gate in rows:
        tokens[problem] += new_tokens
        counts.update({"tried": 1, "right": verdict == "correct"})
        if gate == Gate.PASSED:
            word = words.of(problem, stage, key)
            wrong, unread = word is Outcome.WRONG_STEP, word is Outcome.CANNOT_TELL
            counts.update({"passed": 1, "fudged": wrong, "unreadable": unread})
            valid[problem] += not wrong
    asked = "SELECT asked || ' → ' || kind, COUNT(*) FROM hints WHERE tag=? GROUP BY 1"
    own = [tokens[p] for p in problems], [valid[p] for p in problems]
    return Way(name, problems, *own, dict(counts), dict(store.query(asked, (name,))))


def _beside_traces(store: Store, name: str) -> defaultdict[str, float]:
    """What hints and scoring cost, by problem."""
    costs = defaultdict[str, float](float)
    hints = "SELECT problem, SUM(new_tokens) FROM hints WHERE tag=? GROUP BY problem"
    for problem, sampled in store.query(hints, (name,)):
        costs[problem] += sampled
    if name != WHOLE and name not in BLIND:
        scored = "SELECT problem, SUM(scored_tokens) FROM scores WHERE stage='scores' GROUP BY 1"
        for problem, tokens in store.query(scored):
            costs[problem] += SCORED_TOKEN_COST * tokens
    return costs


def yielded(way: Way) -> Interval | None:
    """Valid traces per 1,000 teacher tokens; None where nothing was tried."""
    if not sum(way.tokens):
        return None
    return ratio_of_sums(1000.0 * np.array(way.valid), np.array(way.tokens), seed=0)


def times(way: Way, other: Way) -> dict[str, float] | None:
    """How many times the other's yield a way has, the same problems drawn for both.

    None where the interval has no end (too many resamples in which the other yields nothing) or no
    width.
    Raises: ValueError where they were tried on different problems.
    """
    if way.problems != other.problems:
        raise ValueError(f"{way.name} and {other.name} were tried on different problems")
    n = len(way.problems)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    draws = np.vstack([np.ones((1, n)), counts])  # the first draw is the sample itself
    own, theirs = (_rate(draws, each) for each in (way, other))
    ratios = np.divide(own, theirs, out=np.full(len(own), np.inf), where=theirs > 0)
    low, high = np.quantile(ratios[1:], [0.025, 0.975], method="nearest")
    if not np.isfinite([ratios[0], high]).all() or low == high:
        return None
    return {"share": float(ratios[0]), "low": float(low), "high": float(high), "n": n}


def _rate(draws: Any, way: Way) -> Any:
    paid = draws @ np.array(way.tokens)
    return np.divide(draws @ np.array(way.valid), paid, out=np.zeros(len(draws)), where=paid > 0)


# ── what training gets ──────────────────────────────────────────────────────────────────────────


def gets(store: Store, words: Words) -> list[Gets]:
    """Every arm's assisted sets, and its unaided one, by the checker's word."""
    sorts = {str(Drop.KEPT): 0, str(Drop.PURE): 1}
    counted: dict[tuple[str, str], tuple[Counter[str], Counter[str]]] = {}
    rows = store.query('SELECT arm, pool, "drop", problem, stage, trace FROM selected')
    for arm, pool, drop, problem, stage, trace in rows:
        both = counted.setdefault((arm, pool), (Counter(), Counter()))
        if drop in sorts:
            both[sorts[drop]][str(words.of(problem, stage, trace))] += 1
    return [Gets(*name, *map(dict, both)) for name, both in sorted(counted.items())]


def fudged_of(found: Sequence[Gets], arm: str, pools: Sequence[str]) -> Interval | None:
    """Share of an arm's checkable traces in these sets that are fudged."""
    total = Counter[str]()
    for own in found:
        if own.arm == arm and own.pool in pools:
            total.update(own.kept)
    return _fudged(total)


def _fudged(kept: Mapping[str, int]) -> Interval | None:
    fudged = kept.get(str(Outcome.WRONG_STEP), 0)
    checkable = fudged + kept.get(str(Outcome.NONE_FOUND), 0)
    return wilson(fudged, checkable) if checkable else None


def coverage(store: Store, words: Words) -> dict[str, dict[str, Scores]]:
    """Arm → `accepted`, `valid` → 1 for each extreme training problem with such a trace kept."""
    problems = list(store.query(_EXTREME.replace("problem FROM", "problem, family FROM")))
    names, families = zip(*problems, strict=True) if problems else ((), ())
    found = {}
    for (arm,) in list(store.query("SELECT DISTINCT arm FROM selected")):
        accepted, valid = set[str](), set[str]()
        rows = store.query(
            f"""SELECT problem, stage, trace FROM selected WHERE arm=? AND "drop"='{Drop.KEPT}'
            AND problem IN ({_EXTREME})""",
            (arm,),
        )
        for problem, stage, trace in rows:
            accepted.add(problem)
            if words.of(problem, stage, trace) is not Outcome.WRONG_STEP:
                valid.add(problem)
        found[arm] = {
            kind: Scores(np.array([[float(p in own) for p in names]]), names, families)
            for kind, own in (("accepted", accepted), ("valid", valid))
        }
    return found


# ── tables ──────────────────────────────────────────────────────────────────────────────────────


def table(store: Store) -> dict[str, Any]:
    """Every figure of a run as its settings stand."""
    words = Words(store)
    own, sets, covered = ways(store, words), gets(store, words), coverage(store, words)
    strata = store.query("SELECT stratum, COUNT(*) FROM problems WHERE split='train' GROUP BY 1")
    arms = sorted({found.arm for found in sets})
    return {
        "strata": dict(strata),
        "ways": [asdict(way) for way in own],
        "yields": {way.name: short(yielded(way)) for way in own},
        "gets": [asdict(found) for found in sets],
        "fudged": {arm: short(fudged_of(sets, arm, ("D2", "D3"))) for arm in arms},
        "coverage": {arm: _covered(covered, arm) for arm in arms},
    }


def _covered(found: Mapping[str, Mapping[str, Scores]], arm: str) -> dict[str, Any]:
    """Extreme problems an arm covers, and how many points it is above `rft_more`."""
    told: dict[str, Any] = {}
    for kind, scores in found[arm].items():
        if not scores.problems:
            continue
        told[kind] = short(wilson(int(scores.values.sum()), len(scores.problems)))
        if "rft_more" in found and arm != "rft_more":
            gap = paired_difference(scores, found["rft_more"][kind], resamples=RESAMPLES, seed=0)
            told[f"{kind} − rft_more"] = short(gap)
    return told


def short(found: Interval | None) -> dict[str, float] | None:
    """A figure as it is stored: share or rate, both ends, n."""
    if found is None:
        return None
    return {"share": found.mean, "low": found.low, "high": found.high, "n": found.n_problems}


def print_table(found: Mapping[str, Any]) -> None:
    """The figures as three tables."""
    print("problems:", ", ".join(f"{k} {n}" for k, n in sorted(found["strata"].items())))
    print("\n| way | tried | right | passed | fudged | unreadable | valid per 1,000 tokens |")
    print("|---|---|---|---|---|---|---|")
    for way in found["ways"]:
        kinds = ("tried", "right", "passed", "fudged", "unreadable")
        cells = [str(way["counts"].get(kind, 0)) for kind in kinds]
        print(f"| {way['name']} | {' | '.join(cells)} | {said(found['yields'][way['name']])} |")
    print("\n| arm | fudged of the checkable in D2 and D3 | extreme: accepted | extreme: valid |")
    print("|---|---|---|---|")
    for arm, share in found["fudged"].items():
        cells = [said(found["coverage"][arm].get(kind), 100) for kind in ("accepted", "valid")]
        print(f"| {arm} | {said(share, 100)} | {' | '.join(cells)} |")
    gaps = found["coverage"].get("heal", {})
    for kind in ("accepted − rft_more", "valid − rft_more"):
        print(f"heal, extreme {kind}: {said(gaps.get(kind), 100)}")


def said(found: Mapping[str, float] | None, scale: float = 1) -> str:
    """A figure with its interval and what it rests on."""
    if found is None:
        return "–"
    digits = 0 if scale > 1 else 2
    mean, low, high = (f"{scale * found[k]:.{digits}f}" for k in ("share", "low", "high"))
    return f"{mean} [{low}, {high}], n = {found['n']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with Store.open(args.run, write=False) as store:
        found = table(store)
    print_table(found)
    if args.json:
        write_figures(args.json, found)


if __name__ == "__main__":
    main()
