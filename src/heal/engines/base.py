"""The one way a stage talks to a model: token ids in, token ids and log-probs out.

Token ids are the truth: prompts are rendered to ids once, continuations are ids, and nothing is
tokenised again across a join. Everything is synchronous; an engine hides its own concurrency and
yields results in any order. One failed item is a result with an `error`, never an exception.

A source of requests may yield None: nothing for the moment. An engine then goes on with what it
has, asks again later and, from the first None on, yields None itself whenever it has no result
without waiting: after a step or a batch of its own work, or with all its requests under way
elsewhere. So one thread can serve several engines, or one engine that writes and scores in turn.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from heal.records import Finish, FloatArray, IntArray, ServerFacts

Result = TypeVar("Result")


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; a stage asks before any token is spent."""

    score: bool
    """Teacher-forced log-probs of given ids."""
    entropy: str
    """`exact`, `topk` (bounds) or `none`."""
    seeds: bool
    """The same seed and prompt give the same tokens, up to numerical ties."""
    context: int
    """Longest prompt plus continuation, in tokens."""
    vocabulary: int
    ranks: bool = False
    """Scores can say how many tokens were likelier than each."""


@dataclass(frozen=True)
class Sampling:
    """How to draw; `top_k = 0`, `top_p = 1` and `min_p = 0` each switch that filter off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 512


@dataclass(frozen=True)
class GenRequest:
    """Continue one prompt once per seed. The prompt may end in the middle of an assistant turn."""

    id: str
    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Generated:
    """One continuation: `ids` int32[T], end-of-sequence included when it was sampled."""

    request: str
    index: int
    """Position in the request's `seeds`."""
    ids: IntArray
    finish: Finish
    error: str | None = None


@dataclass(frozen=True)
class Probe:
    """Ids to score after the first `at` target tokens, as a branch that never joins the rest."""

    at: int
    ids: tuple[int, ...]
    score_from: int
    """Only `ids[score_from:]` is scored (the answer, not the words that open it)."""


@dataclass(frozen=True)
class ScoreRequest:
    """Teacher-forced log-probs and entropies of `target_ids` after `context_ids`."""

    id: str
    context_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    probes: tuple[Probe, ...] = ()
    ranks: bool = False
    """Also the rank of each target, of an engine that can."""


@dataclass(frozen=True)
class Scored:
    """Values at temperature 1 over the full vocabulary, in nats, aligned with the target ids."""

    request: str
    logprob: FloatArray
    """float32[T]: ln p(target_t | context, target_<t)."""
    entropy_lo: FloatArray
    """float32[T]: entropy of the distribution token t was drawn from, or its lower bound."""
    entropy_hi: FloatArray
    probe_logprob: tuple[FloatArray, ...] = ()
    """One float32[len(ids) − score_from] per probe."""
    tokens: int = 0
    """Tokens that went through the model for this request, probes included."""
    error: str | None = None
    rank: IntArray | None = None
    """int32[T]: one more than how many tokens were likelier; None where nobody asked, or the engine
    cannot say."""


def failed_generation(request: GenRequest, index: int, error: str) -> Generated:
    """The result of a sample that could not be drawn."""
    return Generated(request.id, index, np.zeros(0, np.int32), Finish.ERROR, error)


def failed_score(request: ScoreRequest, error: str) -> Scored:
    """The result of a request that could not be scored."""
    empty = np.zeros(0, np.float32)
    return Scored(request.id, empty, empty, empty, error=error)


def answers(stream: Iterable[Result | None]) -> Iterator[Result]:
    """A stream for whoever has nothing else to do meanwhile."""
    return (answer for answer in stream if answer is not None)


class Engine(Protocol):
    """Anything that can render, write and score. `model_id` fingerprints the weights."""

    model_id: str
    capabilities: Capabilities
    end_ids: frozenset[int]
    """Ids that end an assistant turn."""

    def render(self, user: str, *, system: str | None = None) -> tuple[int, ...]:
        """Ids of a conversation up to the opened assistant turn, by the model's chat template."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of bare text, no special tokens added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        ...

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """Each id's bytes (empty for special tokens); joined, they are the text's UTF-8."""
        ...

    def generate(self, requests: Iterable[GenRequest | None]) -> Iterator[Generated | None]:
        """Continuations in any order, as they finish. Consumes `requests` lazily."""
        ...

    def score(self, requests: Iterable[ScoreRequest | None]) -> Iterator[Scored | None]:
        """Scores in any order, as they finish. Consumes `requests` lazily."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@runtime_checkable
class Served(Protocol):
    """What an engine over servers can tell besides: facts of the run, also after `close`."""

    def servers(self) -> Sequence[ServerFacts]:
        """How each server has fared since the engine was opened."""
        ...
