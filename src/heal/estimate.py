"""What a run would cost, in tokens, time and money, before it is begun.

In: a config, its problems, how long traces are and how fast they come. Out: tokens of each part.
What only the run can find out (how many problems are hard) is assumed, and said to be. Repairs are
counted at most: `gear.target` ends many problems sooner.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from heal.config import Config
from heal.method.arms import wants_uncertainty
from heal.records import Problem, Split

STEP_TOKENS = 40
"""A step's usual length, where `gear.min_step_tokens` does not ask for more."""
READ_SPEEDUP = 20
"""A token that is read takes this much less time than one that is written; servers gain more."""


@dataclass(frozen=True)
class Assumed:
    """What an estimate needs beside the recipe."""

    trace_tokens: float
    prompt_tokens: int
    extreme: float = 0.1
    """Share of training problems the teacher almost never solves."""
    hard: float = 0.3
    """Share it solves less than half of the time, extreme ones included."""


@dataclass(frozen=True)
class Cost:
    """Tokens of one part of a run."""

    part: str
    read: float
    written: float


def costs(config: Config, problems: Iterable[Problem], a: Assumed) -> list[Cost]:
    """Tokens of each part; every request reads its whole prompt, which a prefix cache may spare."""
    g, sides = config.gear, [p.split for p in problems]
    train = sides.count(Split.TRAIN)
    held_out = sides.count(Split.HELD_OUT) if config.student is not None else 0
    sampled = train * config.sampling.n + held_out * config.evaluate.teacher_n
    paths, hinted = train * a.extreme * g.paths, train * a.hard * g.hinted_samples
    repairs = paths * g.candidates
    # cuts fall evenly in the window, and a repair writes what its kept prefix leaves of a trace
    kept = a.trace_tokens * g.window / 2
    steps = max(1.0, a.trace_tokens / max(STEP_TOKENS, g.min_step_tokens))
    whole = a.prompt_tokens + a.trace_tokens
    return [
        Cost("sample", sampled * a.prompt_tokens, sampled * a.trace_tokens),
        Cost("locate", paths * whole, 0),
        Cost("guide", paths * (a.prompt_tokens + kept), paths * g.hint_max_tokens),
        Cost("repair", repairs * (a.prompt_tokens + kept), repairs * (a.trace_tokens - kept)),
        Cost("hinted traces", hinted * a.prompt_tokens, hinted * a.trace_tokens),
        # PURE reads a trace once; with U, it reads it again up to each of its steps
        Cost("score", (repairs + hinted) * whole * (1 + wants_uncertainty(config) * steps / 2), 0),
    ]


def lines_of(
    found: Iterable[Cost],
    a: Assumed,
    tokens_s: float,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Iterator[str]:
    """The estimate as a table. Prices are per million tokens read and written; None: no money."""
    parts = [*found]
    total = Cost("in all", sum(c.read for c in parts), sum(c.written for c in parts))
    yield (
        f"Estimate, at most, if traces take {a.trace_tokens:,.0f} tokens, {a.extreme:.0%} of the "
        f"problems are extreme and {a.hard:.0%} below half:"
    )
    yield f"  {'':<14} {'tokens written':>15} {'tokens read':>15}"
    for cost in (*parts, total):
        yield f"  {cost.part:<14} {cost.written:>15,.0f} {cost.read:>15,.0f}"
    hours = (total.written + total.read / READ_SPEEDUP) / max(tokens_s, 1e-9) / 3600
    yield f"  {hours:,.1f} hours at {tokens_s:,.0f} tokens/s; more traces at once are faster"
    if price_in is not None or price_out is not None:
        money = (total.read * (price_in or 0) + total.written * (price_out or 0)) / 1e6
        yield f"  {money:,.2f} in money, at {price_in or 0:g} and {price_out or 0:g} per million"
