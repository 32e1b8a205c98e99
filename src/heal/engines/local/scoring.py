"""Scoring requests in batches of like length, siblings together.

In: requests (or results already decided), pulled a window at a time. Out: exact values, batch by
batch. A batch that fails is retried request by request, so that one bad request costs no other.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from heal.engines.base import Scored, ScoreRequest, failed_score
from heal.engines.local.model import Model
from heal.engines.local.siblings import Family, families

_WINDOW = 64
"""Requests sorted together."""


def score_batches(
    model: Model, requests: Iterable[ScoreRequest | Scored], budget: int
) -> Iterator[Scored]:
    """Score every request; `budget` is padded tokens per batch."""
    source = iter(requests)
    while window := list(islice(source, _WINDOW)):
        yield from (item for item in window if isinstance(item, Scored))
        owed = [item for item in window if isinstance(item, ScoreRequest)]
        for batch in batches_by_length(families(owed), budget):
            yield from _score(model, batch)


def batches_by_length(found: Sequence[Family], budget: int) -> Iterator[list[Family]]:
    """Families narrowest first, cut where padding would exceed the budget (or double a row)."""
    batch: list[Family] = []
    for family in sorted(_fitting(found, budget), key=lambda f: f.widest):
        if batch:
            too_big = _rows([*batch, family]) * family.widest > budget
            if too_big or family.widest > 2 * batch[0].widest + 64:
                yield batch
                batch = []
        batch.append(family)
    if batch:
        yield batch


def _fitting(found: Iterable[Family], budget: int) -> Iterator[Family]:
    """Families of no more rows than a batch holds."""
    for family in found:
        rows = max(1, budget // family.widest)
        for start in range(0, len(family.requests), rows):
            part = family.requests[start : start + rows]
            yield Family(part, family.shared if len(part) > 1 else 0)


def _rows(batch: Iterable[Family]) -> int:
    return sum(len(family.requests) for family in batch)


def _score(model: Model, batch: Sequence[Family]) -> Iterator[Scored]:
    try:
        results = model.score(batch)
    except Exception as error:
        requests = [request for family in batch for request in family.requests]
        if len(requests) > 1:
            for request in requests:
                yield from _score(model, [Family((request,), 0)])
            return
        yield failed_score(requests[0], f"{type(error).__name__}: {error}")
        return
    yield from results
