"""Match the budget: what else HEAL's teacher tokens could have drawn (docs/method.md §5).

`rft_more` draws unaided traces, `star` whole traces under the answer, for as many tokens as HEAL
spends after sampling. Breadth-first over all problems below their cap, extreme ones first. The two
arms this feeds are the likeliest to embarrass the method.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from heal.config import Config
from heal.method.arms import Arm, Extra
from heal.method.pace import cap
from heal.method.pure import LINED
from heal.records import Stratum, Trace, Verdict
from heal.stages import repair, sample, verify
from heal.stages.draw import Draw, owed_draws, traces_of
from heal.stages.found import Found, Request, Setup
from heal.store import Store, TraceRow

STAGE = "matched"
ROUND = 5
"""Traces per open problem and round; the last round is cut to what the budget still allows."""
HARD_FIRST = (Stratum.EXTREME, Stratum.HARD, Stratum.EASY)

Plan = Mapping[str, range]
"""By problem: which of its traces to draw."""


def tokens_to_match(store: Store, config: Config, cost: float) -> int:
    """What HEAL spends after sampling, in sampled teacher tokens; a scored one counts `cost`."""
    main = str(config.gear.breakpoint)
    sampled = _sum(
        store,
        "SELECT SUM(new_tokens) FROM (SELECT DISTINCT key, new_tokens FROM traces"
        " WHERE stage='hinted' OR (stage='repair' AND (tag=? OR tag LIKE 'probe-%')))",
        main,
    )
    hints = _sum(
        store,
        "SELECT SUM(new_tokens) FROM (SELECT DISTINCT key, new_tokens FROM hints"
        " WHERE tag=? OR tag LIKE 'probe-%')",
        main,
    )
    tags = ["", "hinted", main] + ["honest"] * (config.pure.selection in LINED)
    marks = ",".join("?" * len(tags))
    scored = _sum(
        store,
        f"SELECT SUM(scored_tokens) FROM scores WHERE tag IN ({marks})",
        *tags,
    )
    return round(sampled + hints + cost * scored)


def relative_cost(work: Mapping[str, Sequence[float]]) -> float:
    """Time of a scored token over that of a written one; 1 where either was never timed."""
    written, write_s = work.get("write", (0, 0))
    scored, score_s = work.get("score", (0, 0))
    if not (scored and score_s and written and write_s):
        return 1.0
    return (score_s / scored) / (write_s / written)


@dataclass
class Matching:
    """One arm's draws so far."""

    arm: str
    kind: Extra
    budget: int
    first_index: int
    """Behind the fixed plan, even where less of it was drawn: that may be asked for again."""
    typical_tokens: float
    """Mean length of an unaided trace: decides how many are asked for, never how many count."""
    strata: Mapping[str, Stratum]
    """Of the problems that may be drawn for, in the order they deserve it."""
    room: dict[str, int]
    """Correct traces each problem's set still takes."""
    left: int = 0
    rows: list[TraceRow] = field(default_factory=list)
    _drawn: list[TraceRow] = field(default_factory=list)
    _index: int = 0

    def __post_init__(self) -> None:
        self.left, self._index = self.budget, self.first_index
        self._place = {problem: number for number, problem in enumerate(self.strata)}

    def next_round(self) -> Plan:
        """What to draw next; nothing when the budget is spent or no problem wants any more."""
        wanting = [problem for problem in self.strata if self.room[problem] > 0]
        affordable = int(self.left / self.typical_tokens)
        if not wanting or not affordable:
            return {}
        each = max(1, min(ROUND, affordable // len(wanting)))
        start, self._index = self._index, self._index + each
        return {problem: range(start, start + each) for problem in wanting[:affordable]}

    def take(self, rows: Iterable[TraceRow]) -> bool:
        """Count what was drawn, in the order asked for; whether there may be more.

        Never more than the budget: the first trace that exceeds it, and what was drawn after it,
        is left out.
        """
        drawn = sorted(rows, key=lambda row: (row.seed_index, self._place[row.problem]))
        if not any(row.new_tokens for row in drawn):
            return False  # the engine fails on all of them, and would go on for nothing
        for row in drawn:
            if row.new_tokens > self.left:
                return False
            self.rows.append(row)
            self.left -= row.new_tokens
            self.room[row.problem] -= row.verdict == Verdict.CORRECT
        return True


def matching(store: Store, setup: Setup, name: str, arm: Arm, budget: int) -> Matching:
    """An arm with nothing drawn yet."""
    c, samples = setup.config, arm.extra is Extra.SAMPLES
    pool, stage = ("D1", sample.STAGE) if samples else ("D2", repair.HINTED)
    # What `star` draws goes into D2, which has no easy problems.
    strata = _by_need(store, HARD_FIRST if samples else HARD_FIRST[:2])
    have = Counter(
        dict(
            store.query(
                "SELECT problem, COUNT(*) FROM traces WHERE stage=? AND verdict='correct'"
                " GROUP BY problem",
                (stage,),
            )
        )
    )
    return Matching(
        name,
        arm.extra,
        budget,
        c.sampling.n if samples else c.gear.hinted_samples,
        _typical_tokens(store),
        strata,
        {p: cap(pool, stratum, c.pace) - have[p] for p, stratum in strata.items()},
    )


def owes(found: Found, setup: Setup, kind: Extra, plan: Plan) -> Iterator[Request]:
    """A round's draws of one problem, then their verdicts."""
    draw, places = _draw(found, setup, kind), plan[found.problem.id]
    owed = list(owed_draws(found, setup, [(STAGE, draw, places)]))
    yield from owed or verify.owed_checks(found, setup, traces_of(found, STAGE, draw, places))


def conclude(found: Found, setup: Setup, arm: str, kind: Extra, plan: Plan) -> Iterator[TraceRow]:
    """Rows of a round's draws of one problem."""
    for trace in _traces(found, setup, kind, plan):
        yield verify.trace_row(found, setup, trace, STAGE, arm)


def _traces(found: Found, setup: Setup, kind: Extra, plan: Plan) -> Collection[Trace]:
    return traces_of(found, STAGE, _draw(found, setup, kind), plan[found.problem.id])


def _draw(found: Found, setup: Setup, kind: Extra) -> Draw:
    if kind is Extra.SAMPLES:
        return sample.unaided_draw(found, setup)
    return repair.hinted_draw(found, setup)


def _by_need(store: Store, strata: Sequence[Stratum]) -> dict[str, Stratum]:
    """Training problems of these strata, stratum after stratum; nothing is drawn for the rest."""
    found: dict[str, Stratum] = {}
    for stratum in strata:
        rows = store.query(
            "SELECT problem FROM problems WHERE split='train' AND stratum=? ORDER BY place",
            (stratum,),
        )
        found |= {problem: stratum for (problem,) in rows}
    return found


def _typical_tokens(store: Store) -> float:
    (found,) = store.query("SELECT AVG(new_tokens) FROM traces WHERE stage='sample'")
    return float(found[0] or 0.0) or 1.0


def _sum(store: Store, sql: str, *parameters: str) -> int:
    ((total,),) = store.query(sql, parameters)
    return int(total or 0)
