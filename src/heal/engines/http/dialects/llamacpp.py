"""llama.cpp's own `/completion`: ids in, ids out, and no log-probs of a prompt."""

from collections.abc import Sequence
from pathlib import PurePath

import msgspec

from heal.engines.http.dialects.base import (
    HttpRequest,
    Sample,
    SampleRequest,
    ServerInfo,
    Values,
    read_all,
    read_as,
)


class _LlamaWritten(msgspec.Struct):
    tokens: list[int]
    stop_type: str
    index: int = 0
    content: str | None = None


class _LlamaDefaults(msgspec.Struct):
    n_ctx: int


class _LlamaProps(msgspec.Struct):
    default_generation_settings: _LlamaDefaults
    model_alias: str = ""
    model_path: str = ""


class LlamaCpp:
    """llama.cpp's own `/completion`. It gives no log-probs of a prompt, so it cannot score."""

    name = "llamacpp"
    scores = False
    ranks = False
    seeds = True
    filters = True
    health: tuple[str, ...] = ("/health", "/props")

    def write(self, model: str, request: SampleRequest) -> HttpRequest:
        """Temperature first, as everywhere else; its own order filters before it."""
        s = request.sampling
        body = {
            "prompt": list(request.prompt),
            "n_predict": s.max_new_tokens,
            "n": request.n,
            "samplers": ["temperature", "top_k", "top_p", "min_p"],
            "temperature": s.temperature,
            "top_k": s.top_k,
            "top_p": s.top_p,
            "min_p": s.min_p,
            "min_keep": 0,
            "dynatemp_range": 0.0,
            "mirostat": 0,
            "repeat_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": False,
            "cache_prompt": True,
            "return_tokens": True,
            "stream": False,
        }
        # 2^32 − 1 asks for a random one
        seed = {} if request.seed is None else {"seed": request.seed % (2**32 - 1)}
        return HttpRequest("/completion", body | seed)

    def written(self, body: bytes) -> list[Sample]:
        """One object, or a list of them for n > 1; the end is among the tokens."""
        answers = read_all(body, _LlamaWritten)
        reasons = {"eos": "stop", "limit": "length"}
        return [
            Sample(a.index, a.tokens, reasons.get(a.stop_type, a.stop_type), None, a.content)
            for a in answers
        ]

    def score(self, model: str, ids: Sequence[int], start: int, k: int) -> HttpRequest:
        """Never asked: `scores` is False."""
        raise NotImplementedError

    def scored(self, body: bytes, ids: Sequence[int], start: int, k: int) -> Values:
        """Never asked: `scores` is False."""
        raise NotImplementedError

    def info(self, body: bytes) -> ServerInfo:
        """The context of one slot; the name without its path, which differs between machines."""
        props = read_as(body, _LlamaProps)
        name = PurePath(props.model_alias or props.model_path).name
        return ServerInfo({name: props.default_generation_settings.n_ctx})
