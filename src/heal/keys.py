"""Content keys and seeds: the same work always gets the same name and the same dice.

A key hashes what was asked (problem, rendered ids, sampling, model), never a position in a file
and never how many more samples were asked for beside it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

KEY_CHARS = 20


def content_key(*parts: Any) -> str:
    """First 80 bits of the SHA-256 of the parts as canonical JSON, in hex."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_CHARS]


def trace_key(request_key: str, index: int) -> str:
    """Name of the index-th continuation of a request."""
    return f"{request_key}-{index}"


def seed_for(run_seed: int, request_key: str, index: int) -> int:
    """A 31-bit seed of one draw; independent of every other request."""
    digest = hashlib.sha256(f"{run_seed}:{request_key}:{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def owed(request_key: str, indices: Iterable[int], done: Any) -> tuple[int, ...]:
    """The indices whose continuation is not in `done` yet."""
    return tuple(i for i in indices if trace_key(request_key, i) not in done)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"cannot put a {type(value).__name__} into a content key")
