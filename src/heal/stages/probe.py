"""Probe: every kind of hint on a few extreme problems, before one is chosen (docs/method.md §2.6).

For `gear.hint: auto` alone. The probed problems are repaired under each kind from the same cuts, on
few paths, with the step checker's gate. Nothing drawn here is lost: under the kind that is chosen
the same traces are asked for again, and found.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from heal.config import Config
from heal.keys import content_key
from heal.method.hint_choice import Tried
from heal.records import Breakpoint, Gate, HintKind
from heal.stages import guide, locate, repair, verify
from heal.stages.found import Found, Request, Setup
from heal.store.columns import HintRow, TraceRow

PATHS, CANDIDATES = 3, 2
"""Failed traces of a problem, and continuations of each, under each kind."""
TAG = "probe-"
"""Before a kind: what its repairs and hints are called in the columns."""

Rows = list[HintRow | TraceRow]


def problems_to_probe(extreme: Sequence[str], config: Config) -> frozenset[str]:
    """Some of the extreme problems, by a hash of their ids and the run's seed."""
    by_hash = sorted(extreme, key=lambda problem: content_key("probe", config.seed, problem))
    return frozenset(by_hash[: config.gear.hint_probe])


def owes(found: Found, setup: Setup) -> Iterator[Request]:
    """Hints of every kind, then the repairs under them."""
    for kind in kinds(found, setup):
        own, aside = _under(setup, kind), found.aside(kind)
        yield from list(guide.owes(aside, own)) or repair.owes(aside, own)


def conclude(found: Found, setup: Setup) -> Iterator[HintRow | TraceRow]:
    """Rows of what every kind was told and gave; `TAG` tells them from the run's own."""
    for kind in kinds(found, setup):
        own, aside, tag = _under(setup, kind), found.aside(kind), f"{TAG}{kind}"
        for path in locate.paths(aside, own, _cut(own)):
            hint = guide.hint_of(aside, own, path)
            if hint is not None:
                yield guide.hint_row(hint, tag)
        for trace, hint in repair.repairs(aside, own, _cut(own)):
            gate = repair.gate_of(aside, own, trace, hint)
            yield verify.trace_row(aside, own, trace, repair.REPAIRED, tag, gate)


def kinds(found: Found, setup: Setup) -> tuple[HintKind, ...]:
    """The kinds that one problem can be told; none where it is not probed."""
    if found.problem.id not in setup.probed:
        return ()
    return found.once("kinds", lambda: tuple(k for k in HintKind if _can_be_told(found, setup, k)))


def tally(rows: Mapping[str, Rows]) -> dict[HintKind, Tried]:
    """What each kind cost and gave, from the rows of the probed problems, by problem.

    A problem that a kind has nothing to say of would be told the answer, and counts as under it.
    """
    told = {r.tag for own in rows.values() for r in own}
    return {
        kind: _tried([_rows_of(kind, own) for own in rows.values()])
        for kind in HintKind
        if f"{TAG}{kind}" in told
    }


def _rows_of(kind: HintKind, own: Rows) -> Rows:
    tags = {row.tag for row in own}
    tag = f"{TAG}{kind}"
    return [row for row in own if row.tag == (tag if tag in tags else f"{TAG}{HintKind.ANSWER}")]


def _tried(by_problem: Sequence[Rows]) -> Tried:
    hints = [row for own in by_problem for row in own if isinstance(row, HintRow)]
    repairs = [row for own in by_problem for row in own if isinstance(row, TraceRow)]
    passed = Counter(row.problem for row in repairs if row.gate == Gate.PASSED)
    return Tried(
        tokens=[sum(row.new_tokens for row in own) for own in by_problem],
        valid=[passed[own[0].problem] if own else 0 for own in by_problem],
        repairs=len(repairs),
        refused=sum(row.leaks for row in hints),
        fell_back=sum(row.kind != row.asked for row in hints),
    )


def _can_be_told(found: Found, setup: Setup, kind: HintKind) -> bool:
    own, aside = _under(setup, kind), found.aside(kind)
    paths = locate.paths(aside, own, _cut(own))
    if kind in guide.WRITTEN or kind is HintKind.ANSWER:
        return bool(paths)
    return any(guide.known_to(aside, own, path, kind) for path in paths)


def _cut(setup: Setup) -> Breakpoint:
    return setup.config.gear.breakpoint


def _under(setup: Setup, kind: HintKind) -> Setup:
    """The run as the probe sees it: one kind, few paths, every gate, no arm but HEAL."""

    def settings() -> Config:
        config, gear = setup.config, setup.config.gear
        few = {"paths": min(PATHS, gear.paths), "candidates": min(CANDIDATES, gear.candidates)}
        own = gear.model_copy(update={**few, "hint": kind, "target": None, "hinted_samples": 0})
        gated = config.steps.model_copy(update={"gate": True})
        return config.model_copy(update={"gear": own, "steps": gated, "arms": ("heal",)})

    return setup.variant(kind, settings)
