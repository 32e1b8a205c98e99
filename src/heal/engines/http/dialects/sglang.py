"""SGLang's own `/generate`, as its 0.5 documents it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from heal.engines.base import Sampling
from heal.engines.http.dialects.base import (
    HttpRequest,
    Models,
    Sample,
    SampleRequest,
    ServerInfo,
    Values,
    arranged,
    read_all,
    read_as,
)
from heal.engines.http.failures import BadAnswerError


class _Finish(msgspec.Struct):
    type: str
    matched: int | str | list[int] | None = None
    message: str | None = None


_Triple = tuple[float | None, int, str | None]


class _Meta(msgspec.Struct):
    finish_reason: _Finish | None = None
    input_token_logprobs: list[_Triple] | None = None
    input_top_logprobs: list[list[_Triple] | None] | None = None


class _Written(msgspec.Struct):
    output_ids: list[int] = []
    text: str | None = None
    meta_info: _Meta = msgspec.field(default_factory=_Meta)


class Sglang:
    """SGLang's own `/generate`. Its prefix cache serves scoring too, up to where scoring starts.

    Written from its documentation and source; it has no build for CPUs, so no test here ran on it.
    """

    name = "sglang"
    scores = True
    ranks = False
    seeds = False  # honoured only under --enable-deterministic-inference
    filters = True
    health: tuple[str, ...] = ("/health", "/v1/models")

    def write(self, model: str, request: SampleRequest) -> HttpRequest:
        """One prompt per request: SGLang warms n > 1 up prompt by prompt."""
        return HttpRequest(
            "/generate",
            {"input_ids": list(request.prompt), "sampling_params": self._sampling(request)},
        )

    def _sampling(self, request: SampleRequest) -> dict[str, Any]:
        s = request.sampling
        settings = {
            "n": request.n,
            "max_new_tokens": s.max_new_tokens,
            "min_new_tokens": 0,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "top_k": s.top_k or -1,
            "min_p": s.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": False,
            "stop_token_ids": list(request.stop_ids),
            "skip_special_tokens": False,
            "no_stop_trim": True,
        }
        return settings if request.seed is None else {**settings, "sampling_seed": request.seed}

    def written(self, body: bytes) -> list[Sample]:
        """One object, or a list of them for n > 1."""
        answers = read_all(body, _Written)
        return [_sglang_sample(index, answer) for index, answer in enumerate(answers)]

    def score(self, model: str, ids: Sequence[int], start: int, k: int) -> HttpRequest:
        """From the token before the first one asked for: its own log-prob comes back as null."""
        request = SampleRequest(tuple(ids), Sampling(max_new_tokens=0), ())
        return HttpRequest(
            "/generate",
            {
                **self.write(model, request).body,
                "return_logprob": True,
                "logprob_start_len": start - 1,
                "top_logprobs_num": k,
            },
        )

    def scored(self, body: bytes, ids: Sequence[int], start: int, k: int) -> Values:
        """The last entries are the tokens asked for; their ids are checked, so no offset slips."""
        meta = read_as(body, _Written).meta_info
        target = ids[start:]
        found = (meta.input_token_logprobs or [])[-len(target) :]
        tops = (meta.input_top_logprobs or [])[-len(target) :] if k else []
        top = [[t[0] for t in row or [] if t[0] is not None] for row in tops]
        return arranged(target, [t[1] for t in found], [t[0] for t in found], top, k)

    def info(self, body: bytes) -> ServerInfo:
        """As vLLM's."""
        return ServerInfo({m.id: m.max_model_len for m in read_as(body, Models).data})


def _sglang_sample(index: int, answer: _Written) -> Sample:
    finish = answer.meta_info.finish_reason
    if finish is None or finish.type not in {"stop", "length"}:
        said = f": {finish.message}" if finish and finish.message else ""
        raise BadAnswerError(f"the server aborted it{said}")
    stop_id = finish.matched if isinstance(finish.matched, int) else None
    return Sample(index, answer.output_ids, finish.type, stop_id, answer.text)
