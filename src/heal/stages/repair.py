"""Repair: try again with a hint, then ask the gates (docs/method.md §2, injection, budget, gates).

The hint stands in the user turn, the assistant turn opens with the kept prefix, and the training
pair later leaves the hint out. Repairs come in rounds that double, every path of a problem alike,
until enough of them passed the gates.
"""

from collections.abc import Iterator

from heal.method.gates import passes_gates
from heal.prompts import Prompts, fill
from heal.records import (
    Breakpoint,
    Gate,
    Hint,
    HintKind,
    Origin,
    Outcome,
    Problem,
    Stratum,
    Trace,
)
from heal.stages import guide, locate, sample, verify
from heal.stages.draw import Draw, Wanted, make_draw, owed_draws, traces_of
from heal.stages.found import Found, Request, Setup, TextModel
from heal.stages.steps import word_of
from heal.store.columns import HintRow, TraceRow

HINTED, REPAIRED = "hinted", "repair"


def hinted_ids(problem: Problem, hint: Hint, prompts: Prompts, model: TextModel) -> tuple[int, ...]:
    """The prompt with the hint in the user turn."""
    user = fill(prompts.solve_hinted, problem=problem.problem, hint=hint.text)
    return model.render(user, system=prompts.system)


def rounds(total: int) -> Iterator[int]:
    """Candidates per path after each round: 1, 3, 7 … and `total`.

    Rounds of 1, 2, 4 … keep a server busy while the early ones stay small, so that easy repairs
    stay cheap. What would not fill a further round joins the last one: every round waits for its
    longest trace, and the last problems of a run wait for all their rounds.
    """
    drawn, size = 0, 1
    while drawn < total:
        drawn, size = drawn + size, 2 * size
        if total - drawn < size:
            drawn = total
        yield drawn


def owes(found: Found, setup: Setup) -> Iterator[Request]:
    """Traces that are not drawn, then verdicts on those that are."""
    wanted = list(_wanted(found, setup))
    owed = list(owed_draws(found, setup, wanted))
    there = (t for stage, draw, places in wanted for t in traces_of(found, stage, draw, places))
    yield from owed or verify.owed_checks(found, setup, there)


def hinted(found: Found, setup: Setup) -> list[Trace]:
    """Whole traces under the answer: PACE's D2, before any gate."""
    if not _is_hinted(found, setup):
        return []
    draw = hinted_draw(found, setup)
    return traces_of(found, HINTED, draw, range(setup.config.gear.hinted_samples))


def repairs(found: Found, setup: Setup, kind: Breakpoint) -> list[tuple[Trace, Hint]]:
    """The repairs that follow from one breakpoint, each with its hint, before any gate."""
    upto = _candidates(found, setup, kind)
    return [
        (trace, hint)
        for draw, hint in _repair_draws(found, setup, kind)
        for trace in traces_of(found, REPAIRED, draw, range(upto))
    ]


def gate_of(found: Found, setup: Setup, trace: Trace, hint: Hint) -> Gate | None:
    """The first gate that refuses a trace, or `PASSED`; None while its verdict is owed."""
    check = verify.check_of(found, setup, trace)
    if check is None:
        return None

    def ask() -> Gate:
        decode = setup.teacher.decode
        return passes_gates(
            problem=found.problem.problem,
            answer=found.problem.answer,
            hint=hint.text,
            prefix=decode(trace.ids[: trace.prefix_tokens].tolist()),
            continuation=decode(trace.ids[trace.prefix_tokens :].tolist()),
            verdict=check.verdict,
            finish=trace.finish,
            settings=setup.config.gear,
            has_wrong_step=lambda: _has_wrong_step(found, setup, trace),
        )

    return found.once(("gate", trace.key, hint.text), ask)


def passed(
    found: Found, setup: Setup, traces: list[tuple[Trace, Hint]]
) -> list[tuple[Trace, Hint]]:
    """Those of the traces that passed every gate."""
    return [(t, hint) for t, hint in traces if gate_of(found, setup, t, hint) is Gate.PASSED]


def with_answer(found: Found, setup: Setup) -> list[tuple[Trace, Hint]]:
    """Whole traces beside their hint, the answer."""
    hint = answer_of(found, setup)
    return [(trace, hint) for trace in hinted(found, setup)]


def answer_of(found: Found, setup: Setup) -> Hint:
    """The bare answer, as whole traces are told it."""
    return found.once("answer hint", lambda: guide.answer_hint(found.problem, setup.prompts))


def hinted_draw(found: Found, setup: Setup) -> Draw:
    """The problem with its answer in view, to be continued."""

    def make() -> Draw:
        hint = answer_of(found, setup)
        ids = hinted_ids(found.problem, hint, setup.prompts, setup.teacher)
        return make_draw(setup, found.problem.id, Origin.HINTED, ids, hint=hint.key)

    return found.once("hinted", make)


def conclude(found: Found, setup: Setup) -> Iterator[TraceRow | HintRow | Hint]:
    """Rows of hinted traces and repairs, with what the gates said, and the answer as a hint."""
    if _is_hinted(found, setup):
        yield guide.hint_row(answer_of(found, setup), HintKind.ANSWER)
        yield answer_of(found, setup)
    for trace, hint in with_answer(found, setup):
        gate = gate_of(found, setup, trace, hint)
        yield verify.trace_row(found, setup, trace, HINTED, gate=gate)
    for kind in setup.breakpoints:
        for trace, hint in repairs(found, setup, kind):
            gate = gate_of(found, setup, trace, hint)
            yield verify.trace_row(found, setup, trace, REPAIRED, kind, gate)


def _is_hinted(found: Found, setup: Setup) -> bool:
    below = sample.is_in(found, setup, Stratum.HARD, Stratum.EXTREME)
    return below and setup.config.gear.hinted_samples > 0


def _has_wrong_step(found: Found, setup: Setup, trace: Trace) -> bool:
    word = word_of(found, setup, trace) if setup.config.steps.gate else None
    return word is not None and word.outcome is Outcome.WRONG_STEP


def _wanted(found: Found, setup: Setup) -> Iterator[Wanted]:
    """Everything wanted so far."""
    if _is_hinted(found, setup):
        yield HINTED, hinted_draw(found, setup), range(setup.config.gear.hinted_samples)
    for kind in setup.breakpoints:
        upto = _candidates(found, setup, kind)
        for draw, _ in _repair_draws(found, setup, kind):
            yield REPAIRED, draw, range(upto)


def _repair_draws(found: Found, setup: Setup, kind: Breakpoint) -> list[tuple[Draw, Hint]]:
    """A draw for each path of a breakpoint, once its hint is written."""

    def make() -> list[tuple[Draw, Hint]]:
        told = ((p, guide.hint_of(found, setup, p)) for p in locate.paths(found, setup, kind))
        return [(_repair_draw(setup, path, hint), hint) for path, hint in told if hint is not None]

    return found.once(("repair draws", kind), make)


def _repair_draw(setup: Setup, path: locate.Path, hint: Hint) -> Draw:
    return make_draw(
        setup,
        path.problem.id,
        Origin.REPAIRED,
        hinted_ids(path.problem, hint, setup.prompts, setup.teacher),
        prefix_ids=tuple(path.trace.ids[: path.cut.prefix_tokens].tolist()),
        parent=path.trace.key,
        cut=path.cut.key,
        hint=hint.key,
    )


def _candidates(found: Found, setup: Setup, kind: Breakpoint) -> int:
    """Candidates per path, as far as what came back decides it."""
    gear, draws, drawn = setup.config.gear, _repair_draws(found, setup, kind), 0
    if gear.target is None:
        return gear.candidates  # nothing that comes back changes it
    for upto in rounds(gear.candidates):
        own = [(t, h) for d, h in draws for t in traces_of(found, REPAIRED, d, range(drawn))]
        if len(passed(found, setup, own)) >= gear.target:
            return drawn
        if len(own) < drawn * len(draws) or any(
            gate_of(found, setup, t, hint) is None for t, hint in own
        ):
            return drawn
        drawn = upto
    return drawn
