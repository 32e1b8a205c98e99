"""Scoring requests that open with the same ids: the repairs of one path, the traces of one problem.

What they share goes through the model once. Only what no probe branches off from can be shared, and
every request keeps a token of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heal.engines.base import ScoreRequest

_WORTH = 16
"""Sharing fewer ids saves nothing."""
_KEPT = 0.75
"""One more sibling is welcome while this much of what the others share remains."""


@dataclass(frozen=True)
class Family:
    """Requests whose first `shared` ids are the same; 0 for one that is alone."""

    requests: tuple[ScoreRequest, ...]
    shared: int

    @property
    def trunk(self) -> tuple[int, ...]:
        """The shared ids."""
        return ids_of(self.requests[0])[: self.shared]

    @property
    def widest(self) -> int:
        """Most tokens that one of them has to itself, probes included."""
        return max(map(tokens_of, self.requests)) - self.shared


def ids_of(request: ScoreRequest) -> tuple[int, ...]:
    """Context and target."""
    return (*request.context_ids, *request.target_ids)


def tokens_of(request: ScoreRequest) -> int:
    """Tokens that go through the model, probes included."""
    probes = sum(len(p.ids) for p in request.probes)
    return len(request.context_ids) + len(request.target_ids) + probes


def families(requests: Sequence[ScoreRequest]) -> list[Family]:
    """Every request in exactly one family."""
    found: list[Family] = []
    for request in sorted(requests, key=ids_of):
        last = found[-1] if found else None
        shared = 0 if last is None else _shared(last.requests[-1], request)
        if last is not None and last.shared:
            shared = min(shared, last.shared)
        if last is not None and shared >= max(_WORTH, _KEPT * last.shared):
            found[-1] = Family((*last.requests, request), shared)
        else:
            found.append(Family((request,), 0))
    return found


def _shared(a: ScoreRequest, b: ScoreRequest) -> int:
    """Ids that both open with and may share."""
    left, right = ids_of(a), ids_of(b)
    low, high = 0, min(_sharable(a), _sharable(b))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _sharable(request: ScoreRequest) -> int:
    first_branch = min((p.at for p in request.probes), default=len(request.target_ids))
    return min(len(request.context_ids) + first_branch, len(ids_of(request)) - 1)
