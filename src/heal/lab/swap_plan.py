"""What the answer-swap audit asks: problems, a wrong answer for each, and prefixes to continue.

In: a run's columns. Out: cases. Opens only the problems' own records and, of the problems chosen,
the failed traces that were cut.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from heal.config import Config
from heal.method.audit import HIGH, LOW, answer_form, choose_problems, swapped_answer
from heal.records import AuditSide, Cut, Problem, Split, Trace
from heal.stages import sample
from heal.store import Store

DRAWS = 4
"""Continuations of each problem under each of the two answers, spread over its prefixes."""


@dataclass(frozen=True)
class Start:
    """A prefix to continue; empty for a whole trace."""

    ids: tuple[int, ...] = ()
    parent: str | None = None
    cut: str | None = None


@dataclass(frozen=True)
class Case:
    """One problem, the wrong answer that is hinted, and the prefixes to continue."""

    problem: Problem
    swapped: str
    starts: tuple[Start, ...]

    def told(self, side: AuditSide) -> Problem:
        """The problem with the answer that one side is hinted."""
        swap = side is AuditSide.SWAPPED
        return replace(self.problem, answer=self.swapped) if swap else self.problem


@dataclass(frozen=True)
class Plan:
    """What an audit asks, and what it left out."""

    cases: tuple[Case, ...]
    inside: int
    """Cases whose pass rate lies inside the band."""
    facts: Mapping[str, int]


def plan(store: Store, config: Config, n: int) -> Plan:
    """Up to n training problems to audit, each with a wrong answer and the prefixes it has."""
    facts = Counter({"unaided traces without a verdict, left out": _unjudged(store)})
    rho = _pass_rates(store, facts)
    swaps = _Swaps(store, config.seed)
    choice = choose_problems(rho, n, config.seed, swaps.find)
    facts["problems without another answer of the same form"] = swaps.missing
    cases = tuple(_case(store, config, key, swaps.found[key]) for key in choice.problems)
    widened = f"audited problems outside {LOW} < ρ < {HIGH}, for want of others"
    facts[widened] = len(cases) - choice.inside
    facts["audited problems without a kept prefix, continued from nothing"] = sum(
        case.starts == (Start(),) for case in cases
    )
    return Plan(cases, choice.inside, {fact: count for fact, count in facts.items() if count})


class _Swaps:
    """Finds wrong answers among the gold answers of other problems."""

    def __init__(self, store: Store, seed: int) -> None:
        self.found: dict[str, str] = {}
        self.missing = 0
        self._seed = seed
        problems = (problem for _, problem in store.live("problem", Problem))
        self._answers = {p.id: p.answer for p in problems if p.split is Split.TRAIN}
        self._of_form: dict[str, set[str]] = defaultdict(set)
        for answer in self._answers.values():
            self._of_form[answer_form(answer)].add(answer)
        self._seen: dict[str, set[str]] = defaultdict(set)
        for problem, answer in store.query(
            "SELECT DISTINCT problem, answer FROM traces WHERE stage='sample'"
            " AND answer IS NOT NULL"
        ):
            self._seen[problem].add(answer)

    def find(self, problem: str) -> bool:
        """Look for a wrong answer; whether there is one."""
        gold = self._answers[problem]
        others, seen = self._of_form[answer_form(gold)], self._seen[problem]
        swap = swapped_answer(problem, gold, others, seen, self._seed)
        if swap is None:
            self.missing += 1
            return False
        self.found[problem] = swap
        return True


def _unjudged(store: Store) -> int:
    ((found,),) = store.query(
        "SELECT COUNT(*) FROM traces WHERE stage='sample' AND verdict IS NULL"
    )
    return int(found)


def _pass_rates(store: Store, facts: Counter[str]) -> dict[str, float]:
    """ρ of the problems that may be audited; the others are counted in `facts`."""
    asked = {
        problem
        for (problem,) in store.query(
            "SELECT DISTINCT problem FROM traces WHERE stage IN ('hinted', 'repair')"
            " OR (stage='sample' AND verdict='wrong')"
        )
    }
    rho: dict[str, float] = {}
    train = "SELECT problem, rho FROM problems WHERE split='train' ORDER BY problem"
    for problem, rate in store.query(train):
        if rate is None:
            facts["problems whose traces could not be judged"] += 1
        elif problem not in asked:
            facts["problems without a failed or hinted trace"] += 1
        else:
            rho[problem] = rate
    return rho


def _case(store: Store, config: Config, problem_id: str, swapped: str) -> Case:
    problem = store.get("problem", problem_id, problem_id, Problem)
    assert problem is not None, "columns name only what is stored"
    starts: dict[tuple[int, ...], Start] = {}
    for start in _starts(store, config, problem_id):
        starts.setdefault(start.ids, start)
    return Case(problem, swapped, tuple(starts.values())[:DRAWS] or (Start(),))


def _starts(store: Store, config: Config, problem_id: str) -> Iterator[Start]:
    """A problem's kept prefixes, in the order of their cuts."""
    cuts = store.query(
        "SELECT key, trace FROM cuts WHERE problem=? AND tag=? ORDER BY key",
        (problem_id, str(config.gear.breakpoint)),
    )
    for cut_key, trace_key in cuts:
        cut = store.get("cut", cut_key, problem_id, Cut)
        trace = store.get(sample.STAGE, trace_key, problem_id, Trace)
        assert cut is not None, "columns name only what is stored"
        assert trace is not None, "columns name only what is stored"
        ids = tuple(trace.ids[: cut.prefix_tokens].tolist())
        yield Start(ids, trace.key, cut.key) if ids else Start()
