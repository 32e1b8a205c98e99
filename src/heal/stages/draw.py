"""Draws: one prompt to continue, perhaps from a kept prefix, and the traces that come of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from heal.engines.base import Generated, GenRequest
from heal.keys import content_key, seed_for, trace_key
from heal.records import Origin, Trace
from heal.stages.found import Found, Lane, Request, Setup


@dataclass(frozen=True)
class Draw:
    """One prompt to continue, and what its continuations are."""

    key: str
    """Names everything its traces depend on, but not how many there are."""
    problem_id: str
    origin: Origin
    prompt_ids: tuple[int, ...]
    prefix_ids: tuple[int, ...] = ()
    parent: str | None = None
    cut: str | None = None
    hint: str | None = None


Wanted = tuple[str, Draw, Iterable[int]]
"""Traces that are wanted: where they are stored, the draw, and which of its traces."""


def make_draw(
    setup: Setup,
    problem_id: str,
    origin: Origin,
    prompt_ids: tuple[int, ...],
    prefix_ids: tuple[int, ...] = (),
    parent: str | None = None,
    cut: str | None = None,
    hint: str | None = None,
) -> Draw:
    """A draw with its name."""
    ids = (*prompt_ids, -1, *prefix_ids)
    # The parent: two failed traces may be cut to the same prefix and still deserve their own dice.
    source = (origin, problem_id, parent)
    key = content_key(source, ids, setup.sampling, setup.teacher.model_id, setup.config.seed)
    return Draw(key, problem_id, origin, prompt_ids, prefix_ids, parent, cut, hint)


def trace_of(found: Found, stage: str, draw: Draw, index: int) -> Trace | None:
    """The index-th trace of a draw; None if it is owed."""
    trace = found.get(stage, trace_key(draw.key, index), Trace)
    if trace is not None and trace.hint != draw.hint:
        # Under other settings a hint has another name but may say the same, and give the same key.
        return replace(trace, hint=draw.hint)
    return trace


def traces_of(found: Found, stage: str, draw: Draw, indices: Iterable[int]) -> list[Trace]:
    """Those of a draw's traces that are there."""
    found_all = (trace_of(found, stage, draw, index) for index in indices)
    return [trace for trace in found_all if trace is not None]


def owed_draws(found: Found, setup: Setup, wanted: Iterable[Wanted]) -> Iterator[Request]:
    """Requests for the traces that are not there; what two draws have in common is asked once."""
    asked: set[str] = set()
    for stage, draw, indices in wanted:
        owed = tuple(
            index
            for index in indices
            if (key := trace_key(draw.key, index)) not in asked
            and found.get(stage, key, Trace) is None
        )
        if owed:
            asked.update(trace_key(draw.key, index) for index in owed)
            yield _request(setup, stage, draw, owed)


def _request(setup: Setup, stage: str, draw: Draw, indices: tuple[int, ...]) -> Request:
    seeds = tuple(seed_for(setup.config.seed, draw.key, index) for index in indices)
    prompt = (*draw.prompt_ids, *draw.prefix_ids)
    return Request(
        Lane.WRITE,
        stage,
        tuple(trace_key(draw.key, index) for index in indices),
        GenRequest(draw.key, prompt, seeds, setup.sampling),
        lambda generated: _trace(setup, draw, indices[generated.index], generated),
    )


def _trace(setup: Setup, draw: Draw, index: int, generated: Generated) -> Trace:
    ids = np.concatenate([np.asarray(draw.prefix_ids, np.int32), generated.ids.astype(np.int32)])
    written = setup.teacher.decode(ids.tolist())
    return Trace(
        key=trace_key(draw.key, index),
        problem_id=draw.problem_id,
        origin=draw.origin,
        seed_index=index,
        ids=ids,
        text=setup.opened + written if written else "",
        finish=generated.finish,
        prompt_tokens=len(draw.prompt_ids),
        prefix_tokens=len(draw.prefix_ids),
        parent=draw.parent,
        cut=draw.cut,
        hint=draw.hint,
        error=generated.error,
    )
