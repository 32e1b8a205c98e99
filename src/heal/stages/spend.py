"""Spend: what else HEAL's bill could have bought (METHOD §5, RESOLUTIONS 1).

In: problems in the order they deserve it, and a budget in teacher tokens. Out: rounds of draws,
until the budget is spent. The two arms this feeds are the likeliest to embarrass the method.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from heal.records import Ceiling, Problem, Stratum, Trace

ROUND = 10
"""Traces per open problem and round; the last round is cut to what the budget still allows."""

_ORDER = (Stratum.EXTREME, Stratum.HARD, Stratum.EASY)

Buy = Callable[[Sequence[tuple[Problem, tuple[int, ...]]]], Mapping[str, Trace]]
"""Draws traces with these indices of each problem."""


def by_need(problems: Iterable[Problem], ceilings: Mapping[str, Ceiling]) -> list[list[Problem]]:
    """Extreme problems first, then hard, then easy ones; the rest are in no stratum."""
    groups: dict[Stratum, list[Problem]] = {stratum: [] for stratum in _ORDER}
    for problem in problems:
        stratum = ceilings[problem.id].stratum
        if stratum in groups:
            groups[stratum].append(problem)
    return [groups[stratum] for stratum in _ORDER]


def spend(
    groups: Sequence[Sequence[Problem]],
    budget: int,
    typical_tokens: float,
    first_index: int,
    below_cap: Callable[[Mapping[str, Trace]], Collection[str]],
    buy: Buy,
) -> tuple[dict[str, Trace], int]:
    """Traces bought and tokens left over; breadth-first over a group, group after group.

    `below_cap` names the problems that still want correct traces, given those bought so far. What
    is left over was not spendable: less than a trace, or no problem wants any more. Never spends
    more than the budget: the first trace that exceeds it, and what was drawn after it, is left out.
    """
    bought: dict[str, Trace] = {}
    left = budget
    for group in groups:
        index = first_index
        while True:
            wanting = below_cap(bought)
            still = [problem for problem in group if problem.id in wanting]
            room = int(left / typical_tokens)
            if not still or not room:
                break
            each = max(1, min(ROUND, room // len(still)))
            plan = [(problem, tuple(range(index, index + each))) for problem in still[:room]]
            drawn = sorted(buy(plan).values(), key=lambda trace: trace.seed_index)
            if not any(trace.new_tokens for trace in drawn):
                break  # the engine fails on all of them, and would go on for nothing
            for trace in drawn:
                if trace.new_tokens > left:
                    return bought, left
                bought[trace.key] = trace
                left -= trace.new_tokens
            index += each
    return bought, left
