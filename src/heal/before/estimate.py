"""What a run would cost at most, in tokens, time and money, before it is begun.

In: a config, its problems, how long traces are and how fast they come. Out: tokens of each part.
What only the run can find out (how long traces and steps are, how many problems are hard, whether a
scored token takes less time than a sampled one) is assumed. All else is a bound: no target, gate or
cap ends anything sooner, every hint leaks until its last draw, a repair is read from a late cut and
written from an early one.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from heal.config import Config
from heal.method.arms import (
    TRAINED,
    Extra,
    selections,
    wants_reliance,
    wants_scores,
    wants_uncertainty,
)
from heal.method.pure import LINED
from heal.records import Breakpoint, HintKind, Problem, Split
from heal.stages.guide import SOLUTION_SHARE, WRITTEN
from heal.stages.probe import CANDIDATES, PATHS

STEP_TOKENS = 40
"""A step's usual length, where `gear.min_step_tokens` does not ask for more."""
READ_SPEEDUP = 20
"""A token that is read takes this much less time than one that is written; servers gain more."""
SCORED_COST = 1.0
"""A scored token beside a sampled one, where `evaluate.scored_token_cost` leaves it to be timed."""


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
    """Tokens of each part; every request reads its whole prompt, which a prefix cache may spare.

    HEAL's own parts come first, then what arms with cuts or samples of their own add to them.
    """
    listed = list(problems)
    train = [p for p in listed if p.split is Split.TRAIN]
    held_out = len(listed) - len(train) if config.student is not None else 0
    sampled = len(train) * config.sampling.n + held_out * config.evaluate.teacher_n
    if config.problems.traces is not None and not config.problems.traces.top_up:
        sampled = 0
    most = _UpperBound(config, train, a)
    own = [most.locate(), *most.probe(), most.guide(), most.repair(), most.hinted(), most.score()]
    honest = most.honest()
    return [
        Cost("sample", sampled * a.prompt_tokens, sampled * a.trace_tokens),
        *own,
        *honest,
        *most.controls(),
        *most.matched([*own, *honest] if config.pure.selection in LINED else own),
    ]


@dataclass(frozen=True)
class _UpperBound:
    """The most that each part of one recipe reads and writes, sampling apart."""

    config: Config
    train: Sequence[Problem]
    a: Assumed

    @property
    def paths(self) -> float:
        """Failed traces cut, once for each way of cutting."""
        return len(self.train) * self.a.extreme * self.config.gear.paths

    @property
    def whole_traces(self) -> float:
        """Traces written under the answer."""
        return len(self.train) * self.a.hard * self.config.gear.hinted_samples

    @property
    def step(self) -> float:
        """What a step is taken to be long."""
        return min(self.a.trace_tokens, max(STEP_TOKENS, self.config.gear.min_step_tokens))

    @property
    def kept(self) -> float:
        """Tokens before a cut; it lies in the window, or behind a first step that fills that."""
        gear = self.config.gear
        window = (
            1.0
            if gear.breakpoint in (Breakpoint.CLAIMS, Breakpoint.CHECKER)
            else max(gear.window, 1 / 3)
        )
        return min(self.a.trace_tokens, self.a.trace_tokens * window + self.step)

    @property
    def kinds(self) -> set[HintKind]:
        """Kinds of hints that may be asked for."""
        hint = self.config.gear.hint
        return set(HintKind) if hint == "auto" else {hint}

    @property
    def answer(self) -> int:
        """Tokens of the longest answer; no tokenizer makes more of a text than it has bytes."""
        return max((_bytes(p.answer) for p in self.train), default=0)

    @property
    def answer_prompt(self) -> float:
        """A prompt that holds the answer as its hint."""
        prompts = self.config.prompts
        frame = prompts.solve_hinted.removeprefix(prompts.solve)
        told = _bytes(prompts.answer_hint) + self.answer
        return self.a.prompt_tokens + _bytes(frame) + told

    @property
    def hinted_prompt(self) -> float:
        """A prompt that holds a hint of any kind."""
        solution = max((_bytes(p.solution or "") for p in self.train), default=0)
        length = {
            **dict.fromkeys(WRITTEN, self.config.gear.hint_max_tokens),
            HintKind.PARTIAL: solution * SOLUTION_SHARE,
            HintKind.SIBLING: self.a.trace_tokens * SOLUTION_SHARE,
        }
        return self.answer_prompt + max(length.get(kind, 0) for kind in self.kinds)

    def locate(self) -> Cost:
        """Every failed trace is read once, however many ways it is cut; or not at all."""
        each = self.a.prompt_tokens + self.a.trace_tokens if wants_scores(self.config) else 0
        return Cost("locate", self.paths * each, 0)

    def guide(self) -> Cost:
        """Hints the teacher writes: of each cut, as often as one may leak."""
        gear, prompts = self.config.gear, self.config.prompts
        draws = self.paths * (1 + gear.hint_redraws) * (not self.kinds.isdisjoint(WRITTEN))
        words = _bytes(prompts.write_hint) + _bytes(prompts.think_close or "") * 2 + self.answer
        prompt = self.a.prompt_tokens + words + self.kept + self.step
        return Cost("guide", draws * prompt, draws * gear.hint_max_tokens)

    def probe(self) -> list[Cost]:
        """What is tried before `auto` chooses: hints of every kind, and the repairs under them."""
        gear = self.config.gear
        if gear.hint != "auto":
            return []
        paths = gear.hint_probe * min(PATHS, gear.paths)
        draws = paths * min(CANDIDATES, gear.candidates) * len(HintKind)
        hints = paths * (1 + gear.hint_redraws) * len(WRITTEN)
        read = draws * (self.hinted_prompt + self.kept) + hints * (self.answer_prompt + self.kept)
        written = draws * self.a.trace_tokens + hints * gear.hint_max_tokens
        return [Cost("trying kinds of hints", read, written)]

    def repair(self) -> Cost:
        """Every candidate of every path."""
        draws = self.paths * self.config.gear.candidates
        return Cost("repair", draws * (self.hinted_prompt + self.kept), draws * self.a.trace_tokens)

    def hinted(self) -> Cost:
        """Whole traces under the answer."""
        draws = self.whole_traces
        return Cost("hinted traces", draws * self.answer_prompt, draws * self.a.trace_tokens)

    def score(self) -> Cost:
        """PURE reads what was repaired or hinted, as if all of it had passed the gates."""
        repairs = self.paths * self.config.gear.candidates
        return Cost("score", (repairs + self.whole_traces) * self._profile(aided=True), 0)

    def honest(self) -> list[Cost]:
        """Unaided correct traces scored to learn what honest ones look like."""
        pure = self.config.pure
        if not pure.measure_calibrated and selections(self.config).isdisjoint(LINED):
            return []
        traces = min(pure.calibration_traces, len(self.train) * self.config.sampling.n)
        return [Cost("honest traces", traces * self._profile(aided=False), 0)]

    def controls(self) -> Iterator[Cost]:
        """Arms with a cut of their own: hints, repairs and scores once more for each."""
        seen: set[Breakpoint | None] = {None, self.config.gear.breakpoint}
        for name in self.config.arms:
            kind = TRAINED[name].breakpoint if name in TRAINED else None
            if kind in seen:
                continue
            seen.add(kind)
            guide, repair = self.guide(), self.repair()
            scored = self.paths * self.config.gear.candidates * self._profile(aided=True)
            yield Cost(name, guide.read + repair.read + scored, guide.written + repair.written)

    def matched(self, own: Sequence[Cost]) -> Iterator[Cost]:
        """Arms that sample for the matched token budget: all that HEAL uses after sampling."""
        cost = self.config.evaluate.scored_token_cost
        scored = sum(c.read for c in own if not c.written)
        budget = sum(c.written for c in own) + (SCORED_COST if cost is None else cost) * scored
        for name in dict.fromkeys(self.config.arms):
            extra = TRAINED[name].extra if name in TRAINED else Extra.NOTHING
            if extra is not Extra.NOTHING:
                samples = extra is Extra.SAMPLES
                prompt = self.a.prompt_tokens if samples else self.answer_prompt
                yield Cost(name, budget / self.a.trace_tokens * prompt, budget)

    def _profile(self, *, aided: bool) -> float:
        """Tokens read to score one trace; with U it is read again up to each of its steps."""
        a, prompts = self.a, self.config.prompts
        read = a.prompt_tokens + a.trace_tokens
        if wants_uncertainty(self.config):
            steps = max(1.0, a.trace_tokens / self.step)
            words = (prompts.think_close or "") + prompts.probe + prompts.probe_close
            asked = a.prompt_tokens + _bytes(words) + self.answer
            read += steps * asked + a.trace_tokens * (steps + 1) / 2
        if aided and wants_reliance(self.config):
            read += self.hinted_prompt + a.trace_tokens
        return read


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
    yield f"Estimate, at most, if traces take {a.trace_tokens:,.0f} tokens and prompts are like the"
    yield f"first, {a.extreme:.0%} of the problems are extreme and {a.hard:.0%} solved below half:"
    yield f"  {'':<16} {'tokens written':>18} {'tokens read':>18}"
    for cost in (*parts, total):
        yield f"  {cost.part:<16} {cost.written:>18,.0f} {cost.read:>18,.0f}"
    most = (total.written + total.read / READ_SPEEDUP) / max(tokens_s, 1e-9)
    # What sampling alone takes is owed whatever the problems are like.
    least = parts[0].written / max(tokens_s, 1e-9)
    yield f"  {clock(least)} to {clock(most)} h:mm for the teacher, at {tokens_s:,.0f} tokens/s"
    if price_in is not None or price_out is not None:
        money = (total.read * (price_in or 0) + total.written * (price_out or 0)) / 1e6
        yield f"  {money:,.2f} in money, at {price_in or 0:g} and {price_out or 0:g} per million"


def clock(seconds: float) -> str:
    """`5400.0` → `1:30`, hours and minutes, rounded up."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60:,}:{minutes % 60:02d}"


def _bytes(text: str) -> int:
    return len(text.encode())
