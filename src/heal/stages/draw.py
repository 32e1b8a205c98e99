"""Draw traces: the one loop behind sampling, hinted answering and repair.

In: draws (a prompt, perhaps a kept prefix, and how many traces to take from it), an engine and
what is done already. Out: traces as they finish, in any order. Only what is owed is asked for.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from heal.engines.base import Engine, Generated, GenRequest, Sampling
from heal.keys import content_key, owed, seed_for, trace_key
from heal.records import Origin, Trace

Claim = Callable[[Collection[str]], None]
"""Told the keys of what is handed to the engine, before it is."""


@dataclass(frozen=True)
class Draw:
    """One prompt to continue, and what its continuations are."""

    problem_id: str
    origin: Origin
    prompt_ids: tuple[int, ...]
    indices: tuple[int, ...]
    prefix_ids: tuple[int, ...] = ()
    parent: str | None = None
    cut: str | None = None
    hint: str | None = None


def request_key(draw: Draw, engine: Engine, sampling: Sampling, run_seed: int) -> str:
    """Everything the traces of a draw depend on, but not how many there are."""
    ids = (*draw.prompt_ids, -1, *draw.prefix_ids)
    # The parent: two failed traces may be cut to the same prefix and still deserve their own dice.
    source = (draw.origin, draw.problem_id, draw.parent)
    return content_key(source, ids, sampling, engine.model_id, run_seed)


def draw_keys(
    draws: Iterable[Draw], engine: Engine, sampling: Sampling, run_seed: int
) -> list[str]:
    """Keys of all traces the draws ask for, done or not."""
    return [
        trace_key(request_key(draw, engine, sampling, run_seed), index)
        for draw in draws
        for index in draw.indices
    ]


def draw_traces(
    draws: Iterable[Draw],
    engine: Engine,
    sampling: Sampling,
    run_seed: int,
    done: Collection[str],
    claim: Claim,
) -> Iterator[Trace]:
    """Traces still owed, as they finish. A failed one has `Finish.ERROR` and its reason."""
    asked: dict[str, tuple[Draw, tuple[int, ...]]] = {}

    def requests() -> Iterator[GenRequest]:
        for draw in draws:
            key = request_key(draw, engine, sampling, run_seed)
            indices = owed(key, draw.indices, done)
            if not indices or key in asked:
                continue
            asked[key] = (draw, indices)
            claim([trace_key(key, index) for index in indices])
            seeds = tuple(seed_for(run_seed, key, index) for index in indices)
            yield GenRequest(key, (*draw.prompt_ids, *draw.prefix_ids), seeds, sampling)

    for generated in engine.generate(requests()):
        draw, indices = asked[generated.request]
        yield _trace(draw, indices[generated.index], generated, engine)


def _trace(draw: Draw, index: int, generated: Generated, engine: Engine) -> Trace:
    ids = np.concatenate([np.asarray(draw.prefix_ids, np.int32), generated.ids.astype(np.int32)])
    return Trace(
        key=trace_key(generated.request, index),
        problem_id=draw.problem_id,
        origin=draw.origin,
        seed_index=index,
        ids=ids,
        text=engine.decode(ids.tolist()),
        finish=generated.finish,
        prompt_tokens=len(draw.prompt_ids),
        prefix_tokens=len(draw.prefix_ids),
        parent=draw.parent,
        cut=draw.cut,
        hint=draw.hint,
        error=generated.error,
    )
