"""Scoring requests in batches of like length.

In: requests (or results already decided), pulled a window at a time. Out: exact values, batch by
batch. A batch that fails is retried request by request, so that one bad request costs no other.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from heal.engines.base import Scored, ScoreRequest, failed_score
from heal.engines.local.model import Model

_WINDOW = 32
"""Requests sorted by length together."""


def score_batches(
    model: Model, requests: Iterable[ScoreRequest | Scored], budget: int
) -> Iterator[Scored]:
    """Score every request; `budget` is padded tokens per batch."""
    source = iter(requests)
    while window := list(islice(source, _WINDOW)):
        yield from (item for item in window if isinstance(item, Scored))
        owed = [item for item in window if isinstance(item, ScoreRequest)]
        for batch in batches_by_length(owed, budget):
            yield from _score(model, batch)


def batches_by_length(
    requests: Sequence[ScoreRequest], budget: int
) -> Iterator[list[ScoreRequest]]:
    """Requests shortest first, cut where padding would exceed the budget (or double a row)."""
    batch: list[ScoreRequest] = []
    for request in sorted(requests, key=tokens_of):
        size = tokens_of(request)
        if batch:
            too_big = (len(batch) + 1) * size > budget
            if too_big or size > 2 * tokens_of(batch[0]) + 64:
                yield batch
                batch = []
        batch.append(request)
    if batch:
        yield batch


def tokens_of(request: ScoreRequest) -> int:
    """Tokens that go through the model, probes included."""
    probes = sum(len(p.ids) for p in request.probes)
    return len(request.context_ids) + len(request.target_ids) + probes


def _score(model: Model, batch: Sequence[ScoreRequest]) -> Iterator[Scored]:
    try:
        results = model.score(batch)
    except Exception as error:
        if len(batch) > 1:
            for request in batch:
                yield from _score(model, [request])
            return
        yield failed_score(batch[0], f"{type(error).__name__}: {error}")
        return
    yield from results
