"""Spend: what else HEAL's bill could have bought (METHOD §5).

In: problems in the order they deserve it, and a budget in teacher tokens. Out: rounds of draws,
until the budget is spent. The two arms this feeds are the likeliest to embarrass the method.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from heal.records import Ceiling, Problem, Stratum, Trace

ROUND = 5
"""Traces per open problem and round; the last round is cut to what the budget still allows."""

HARD_FIRST = (Stratum.EXTREME, Stratum.HARD, Stratum.EASY)

Buy = Callable[[Sequence[tuple[Problem, tuple[int, ...]]]], Mapping[str, Trace]]
"""Draws traces with these indices of each problem."""


def by_need(
    problems: Iterable[Problem], ceilings: Mapping[str, Ceiling], strata: Sequence[Stratum]
) -> list[Problem]:
    """Problems of these strata, stratum after stratum; the rest are not bought for."""
    rank = {stratum: place for place, stratum in enumerate(strata)}
    wanted = [p for p in problems if ceilings[p.id].stratum in rank]
    return sorted(wanted, key=lambda p: rank[ceilings[p.id].stratum])


def spend(
    problems: Sequence[Problem],
    budget: int,
    typical_tokens: float,
    first_index: int,
    below_cap: Callable[[Mapping[str, Trace]], Collection[str]],
    buy: Buy,
) -> tuple[dict[str, Trace], int]:
    """Traces bought and tokens left over; breadth-first over all problems below their cap.

    One trace of each at a time, in the order given. Problem after problem would not do: an extreme
    problem hardly ever reaches its cap, so the first few would swallow the whole bill and the arm
    would learn nothing new, a baseline weaker than anyone would make it.

    `below_cap` names the problems that still want correct traces, given those bought so far. What
    is left over was not spendable: less than a trace, or no problem wants any more. Never spends
    more than the budget: the first trace that exceeds it, and what was drawn after it, is left out.
    """
    bought: dict[str, Trace] = {}
    left, index = budget, first_index
    place = {problem.id: number for number, problem in enumerate(problems)}
    while True:
        wanting = below_cap(bought)
        still = [problem for problem in problems if problem.id in wanting]
        room = int(left / typical_tokens)
        if not still or not room:
            return bought, left
        each = max(1, min(ROUND, room // len(still)))
        plan = [(problem, tuple(range(index, index + each))) for problem in still[:room]]
        drawn = sorted(buy(plan).values(), key=lambda t: (t.seed_index, place[t.problem_id]))
        if not any(trace.new_tokens for trace in drawn):
            return bought, left  # the engine fails on all of them, and would go on for nothing
        for trace in drawn:
            if trace.new_tokens > left:
                return bought, left
            bought[trace.key] = trace
            left -= trace.new_tokens
        index += each
