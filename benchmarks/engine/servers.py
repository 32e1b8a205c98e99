"""Rows against other engines: llama.cpp's server from the wheel `xllamacpp`, vLLM at a URL."""

import gc
from collections.abc import Callable

import httpx
import torch

from engine.measure import Row
from engine.subjects import Subjects
from engine.writing import served
from heal.engines.base import GenRequest
from heal.engines.local import loading

SLOTS = 32


def llamacpp(s: Subjects) -> Row:
    """llama.cpp on the file as it is: Q4_1 is a sixth of float32 in memory, and other values."""
    return _llamacpp(s, "llama.cpp Q4_1", str(loading.locate(s.name).path), f32_cache=False)


def llamacpp_f32(s: Subjects) -> Row:
    """llama.cpp on the same float32 weights, keys and values in float32 too."""
    return _llamacpp(s, "llama.cpp F32", s.f32_gguf, f32_cache=True)


def _llamacpp(s: Subjects, name: str, path: str, *, f32_cache: bool) -> Row:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel, params.n_ctx, params.warmup = SLOTS, SLOTS * 512, False
    params.cpuparams.n_threads = torch.get_num_threads()
    params.cpuparams_batch.n_threads = torch.get_num_threads()
    params.verbosity = 0
    if f32_cache:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, timeout=None) as client:
        row = served(s, name, _completion(client), SLOTS)
    del server
    gc.collect()
    return row


def _completion(client: httpx.Client) -> Callable[[GenRequest, int], int]:
    def post(request: GenRequest, seed: int) -> int:
        chosen = request.sampling
        answer = client.post(
            "/completion",
            json={
                "prompt": list(request.prompt_ids),
                "n_predict": chosen.max_new_tokens,
                "ignore_eos": True,
                "temperature": chosen.temperature,
                "top_p": chosen.top_p,
                "top_k": 0,
                "min_p": 0.0,
                "samplers": ["temperature", "top_p"],
                "seed": seed,
                "cache_prompt": True,
            },
        )
        answer.raise_for_status()
        return int(answer.json()["tokens_predicted"])

    return post


def vllm(s: Subjects, url: str, slots: int = 64) -> Row:
    """A vLLM server that holds the same weights."""
    with httpx.Client(base_url=url.rstrip("/").removesuffix("/v1"), timeout=None) as client:
        served_name = client.get("/v1/models").json()["data"][0]["id"]

        def post(request: GenRequest, seed: int) -> int:
            chosen = request.sampling
            answer = client.post(
                "/v1/completions",
                json={
                    "model": served_name,
                    "prompt": list(request.prompt_ids),
                    "max_tokens": chosen.max_new_tokens,
                    "min_tokens": chosen.max_new_tokens,
                    "ignore_eos": True,
                    "temperature": chosen.temperature,
                    "top_p": chosen.top_p,
                    "top_k": -1,
                    "min_p": 0.0,
                    "seed": seed,
                },
            )
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        return served(s, "vLLM", post, slots)
