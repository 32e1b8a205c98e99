"""What a dialect is: how one kind of server is asked, and how its answers read.

In: token ids and sampling settings. Out: paths and JSON bodies; from a response's bytes, sampled
ids or log-probs. No dialect uses a chat route or lets a server's defaults decide anything: every
filter and penalty is written out. An answer that does not have the expected shape is a
`BadAnswerError`. Knows nothing of connections, retries or how many servers there are.
"""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar, cast

import msgspec
import numpy as np

from heal.engines.base import Sampling
from heal.engines.http.failures import BadAnswerError
from heal.records import FloatArray, IntArray

CLAMPED = -9000.0
"""vLLM writes −9999 for a log-prob of −inf."""


@dataclass(frozen=True)
class SampleRequest:
    """What to draw from one prompt in one request."""

    prompt: tuple[int, ...]
    sampling: Sampling
    stop_ids: tuple[int, ...]
    n: int = 1
    seed: int | None = None
    """None sends no seed."""


@dataclass(frozen=True)
class Sample:
    """One sampled continuation, as the server told it."""

    index: int
    ids: list[int]
    reason: str
    """`stop` and `length` are what is expected."""
    stop_id: int | None = None
    """The id that ended it, where the server leaves it out of `ids`."""
    text: str | None = None


@dataclass(frozen=True)
class Values:
    """Log-probs of `ids[start:]`: float32[T], and the k largest at each token, float32[T, k]."""

    logprob: FloatArray
    top: FloatArray
    rank: IntArray | None = None
    """int32[T]: one more than how many tokens were likelier; None: the server does not say."""


@dataclass(frozen=True)
class HttpRequest:
    """One POST: its path and its JSON body."""

    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class ServerInfo:
    """What a server reports: its models, each with its context in tokens where it says so."""

    models: Mapping[str, int | None]


class Dialect(Protocol):
    """One kind of server."""

    name: str
    scores: bool
    """Whether it can give log-probs of given ids; `openai` is tried."""
    ranks: bool
    """Whether it says how many tokens were likelier than each given one."""
    seeds: bool
    """Whether a request's seed is honoured."""
    filters: bool
    """Whether it knows top_k and min_p."""
    health: tuple[str, ...]
    """Paths that answer 200 while the server is healthy; the last one lists its models."""

    def write(self, model: str, request: SampleRequest) -> HttpRequest:
        """Draw continuations."""
        ...

    def written(self, body: bytes) -> list[Sample]:
        """The continuations. Raises: BadAnswerError."""
        ...

    def score(self, model: str, ids: Sequence[int], start: int, k: int) -> HttpRequest:
        """Log-probs of `ids[start:]`, start ≥ 1, with the k likeliest at each token."""
        ...

    def scored(self, body: bytes, ids: Sequence[int], start: int, k: int) -> Values:
        """The log-probs. Raises: BadAnswerError."""
        ...

    def info(self, body: bytes) -> ServerInfo:
        """What the last health path says. Raises: BadAnswerError."""
        ...


class Model(msgspec.Struct):
    """One entry of `/v1/models`."""

    id: str
    max_model_len: int | None = None


class Models(msgspec.Struct):
    """`/v1/models`."""

    data: list[Model]


Shape = TypeVar("Shape")


@cache
def _decoder(shape: Any, many: bool) -> Any:
    return msgspec.json.Decoder(list[shape] | shape if many else shape)


def read_as(body: bytes, shape: type[Shape]) -> Shape:
    """Decode and check a response's shape; half an answer is not JSON."""
    return cast(Shape, _decoded(body, _decoder(cast(Any, shape), False)))


def read_all(body: bytes, shape: type[Shape]) -> list[Shape]:
    """One object, or a list of them, as servers answer to n = 1 and n > 1."""
    found = _decoded(body, _decoder(cast(Any, shape), True))
    return found if isinstance(found, list) else [found]


def _decoded(body: bytes, decoder: Any) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if b"Infinity" in body or b"NaN" in body:
            with contextlib.suppress(ValueError, RecursionError):
                return _decoded_beyond_json(body, decoder.type)
        # the byte offset differs from answer to answer, and causes are counted
        told = str(error).partition(" (byte")[0]
        raise BadAnswerError(f"an answer that cannot be read: {told}") from None


def _decoded_beyond_json(body: bytes, shape: Any) -> Any:
    """Python servers write `-Infinity` for a token of probability 0, which is no JSON.

    Raises: ValueError, msgspec.ValidationError among them.
    """
    return msgspec.convert(json.loads(body), shape, str_keys=True)


def arranged(
    ids: Sequence[int], seen: Sequence[int], logprobs: Sequence[float | None], top: Any, k: int
) -> Values:
    """Check and arrange; `top` has one sequence of log-probs per token."""
    if list(seen) != list(ids):
        raise BadAnswerError("log-probs of other tokens than were sent")
    if any(value is None for value in logprobs):
        raise BadAnswerError("a token without its log-prob")
    if k and (len(top) != len(ids) or not all(top)):
        raise BadAnswerError("top log-probs are missing")
    actual = np.array(logprobs, np.float64)
    table = np.full((len(ids), max(k, 1)), -np.inf)
    for row, found in enumerate(top):
        if math.isnan(sum(found)):
            raise BadAnswerError("log-probs that are no numbers")
        best = sorted(found, reverse=True)[: table.shape[1]]
        table[row, : len(best)] = best
    _refuse_garbage(actual, table)
    return Values(actual.astype(np.float32), table.astype(np.float32))


def _refuse_garbage(actual: Any, table: Any) -> None:
    if np.isnan(actual).any():
        raise BadAnswerError("log-probs that are no numbers")
    if (actual > 1e-3).any() or (table > 1e-3).any():
        raise BadAnswerError("log-probs above 0")
    if (actual < CLAMPED).any():
        raise BadAnswerError("a token of probability 0, so its log-prob is unknown")
    if (np.exp(table).sum(axis=1) > 1.01).any():
        raise BadAnswerError("top log-probs that add up to more than 1")
