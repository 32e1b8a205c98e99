"""Scoring requests in batches of like length, siblings together.

In: requests (or results already decided), pulled a window at a time; None says that there is
nothing for the moment. Out: exact values, batch by batch. A batch that fails is retried request by
request, so that one bad request costs no other.
"""

from collections.abc import Iterable, Iterator, Sequence

from heal.engines.base import Scored, ScoreRequest, failed_score
from heal.engines.local.model import Model
from heal.engines.local.siblings import Family, families

_WINDOW = 64
"""Requests sorted together."""


def score_batches(
    model: Model, requests: Iterable[ScoreRequest | Scored | None], budget: int
) -> Iterator[Scored | None]:
    """Score every request; `budget` is padded tokens per batch."""
    for window, paused in _windows(requests):
        yield from (item for item in window if isinstance(item, Scored))
        owed = [item for item in window if isinstance(item, ScoreRequest)]
        for batch in batches_by_length(families(owed), budget):
            yield from _score(model, batch)
            if paused:
                yield None  # whoever shares this model has its turn between two batches
        if paused:
            yield None


def _windows(
    requests: Iterable[ScoreRequest | Scored | None],
) -> Iterator[tuple[list[ScoreRequest | Scored], bool]]:
    """Requests to sort together, and whether the source has ever paused."""
    window: list[ScoreRequest | Scored] = []
    paused = False
    for item in requests:
        paused = paused or item is None
        if item is not None:
            window.append(item)
        if item is None or len(window) == _WINDOW:
            yield window, paused
            window = []
    if window:
        yield window, paused


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
