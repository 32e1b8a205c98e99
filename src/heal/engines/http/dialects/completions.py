"""`/v1/completions`: vLLM's, with its own fields, and that of any other server.

Fields and traps are those of vLLM 0.10 to 0.32.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from heal.engines.base import Sampling
from heal.engines.http.dialects.base import (
    HttpRequest,
    Models,
    Sample,
    SampleRequest,
    ServerInfo,
    Values,
    arranged,
    read_as,
)
from heal.engines.http.failures import BadAnswerError


class _Entry(msgspec.Struct):
    logprob: float
    rank: int | None = None


class _Logprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: _Logprobs | None = None
    prompt_logprobs: list[dict[int, _Entry] | None] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def _completion_body(model: str, request: SampleRequest) -> dict[str, Any]:
    """What every completions route knows."""
    s = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(request.prompt),
        "max_tokens": s.max_new_tokens,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "n": request.n,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stream": False,
    }
    return body if request.seed is None else {**body, "seed": request.seed}


class Vllm:
    """vLLM's `/v1/completions`: ids in, ids out, prompt log-probs keyed by id."""

    name = "vllm"
    scores = True
    ranks = True
    seeds = True
    filters = True
    health: tuple[str, ...] = ("/health", "/v1/models")

    def write(self, model: str, request: SampleRequest) -> HttpRequest:
        """`generation_config.json` of the model would else set top_k and repetition_penalty."""
        body = _completion_body(model, request) | {
            "top_k": request.sampling.top_k,
            "min_p": request.sampling.min_p,
            "repetition_penalty": 1.0,
            "min_tokens": 0,
            "ignore_eos": False,
            "stop_token_ids": list(request.stop_ids),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "return_token_ids": True,
        }
        return HttpRequest("/v1/completions", body)

    def written(self, body: bytes) -> list[Sample]:
        """`token_ids` of each choice; the id that stopped it is among them."""
        return [_sample(choice) for choice in read_as(body, _Completion).choices]

    def score(self, model: str, ids: Sequence[int], start: int, k: int) -> HttpRequest:
        """One token must be drawn; n and stream stay off, which vLLM does not combine with it."""
        request = SampleRequest(tuple(ids), Sampling(max_new_tokens=1), ())
        body = self.write(model, request).body
        # Values come keyed by id; the prompt's ids a second time would only be more to send.
        return HttpRequest(
            "/v1/completions", body | {"prompt_logprobs": k, "return_token_ids": False}
        )

    def scored(self, body: bytes, ids: Sequence[int], start: int, k: int) -> Values:
        """`prompt_logprobs` holds the k likeliest and the token itself, by id."""
        choices = read_as(body, _Completion).choices
        found = choices[0].prompt_logprobs if choices else None
        if found is None or len(found) != len(ids):
            raise BadAnswerError("prompt log-probs are missing or of another length")
        rows, target = found[start:], ids[start:]
        known = [p if p and i in p else None for i, p in zip(target, rows, strict=True)]
        seen = [i if p else -1 for i, p in zip(target, known, strict=True)]
        logprobs = [p[i].logprob if p else None for i, p in zip(target, known, strict=True)]
        top = [[e.logprob for e in p.values()] if p else [] for p in rows] if k else []
        values = arranged(target, seen, logprobs, top, k)
        ranks = [p[i].rank if p else None for i, p in zip(target, known, strict=True)]
        told = None if None in ranks else np.array(ranks, np.int32)
        return replace(values, rank=told)

    def info(self, body: bytes) -> ServerInfo:
        """Served names and their `max_model_len`."""
        return ServerInfo({m.id: m.max_model_len for m in read_as(body, Models).data})


class OpenAi(Vllm):
    """Any other `/v1/completions`; it must return token ids, which is tried when it is opened."""

    name = "openai"
    ranks = False
    seeds = False
    filters = False
    health: tuple[str, ...] = ("/v1/models",)

    def write(self, model: str, request: SampleRequest) -> HttpRequest:
        """Fields of the published route, and the two ways in which servers return ids."""
        extra = {"return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": 0}
        return HttpRequest("/v1/completions", _completion_body(model, request) | extra)

    def score(self, model: str, ids: Sequence[int], start: int, k: int) -> HttpRequest:
        """The prompt echoed with its log-probs."""
        plain = self.write(model, SampleRequest(tuple(ids), Sampling(max_new_tokens=1), ()))
        return HttpRequest(plain.path, plain.body | {"echo": True, "logprobs": k})

    def scored(self, body: bytes, ids: Sequence[int], start: int, k: int) -> Values:
        """Tokens as `token_id:N`: words would collide, and could not be checked."""
        choices = read_as(body, _Completion).choices
        found = choices[0].logprobs if choices else None
        if found is None or len(found.tokens) < len(ids):
            raise BadAnswerError("the prompt was not echoed with its log-probs")
        seen = _named_ids(found.tokens[start : len(ids)])
        top = [list((p or {}).values()) for p in (found.top_logprobs or [])[start : len(ids)]]
        return arranged(ids[start:], seen, found.token_logprobs[start : len(ids)], top, k)


def _sample(choice: _Choice) -> Sample:
    ids = choice.token_ids
    if ids is None and choice.logprobs is not None:
        ids = _named_ids(choice.logprobs.tokens)
    if ids is None:
        raise BadAnswerError("an answer without token ids (needs return_token_ids)")
    stop_id = choice.stop_reason if isinstance(choice.stop_reason, int) else None
    return Sample(choice.index, ids, choice.finish_reason or "none", stop_id, choice.text)


def _named_ids(tokens: Sequence[str]) -> list[int]:
    """`token_id:42` → 42."""
    try:
        return [int(token.removeprefix("token_id:")) for token in tokens]
    except ValueError:
        raise BadAnswerError("tokens as words, not as ids") from None
