"""The kinds of servers, by the name a config gives them."""

from collections.abc import Mapping

from heal.engines.http.dialects.base import Dialect
from heal.engines.http.dialects.completions import OpenAi, Vllm
from heal.engines.http.dialects.llamacpp import LlamaCpp
from heal.engines.http.dialects.sglang import Sglang

DIALECTS: Mapping[str, type[Dialect]] = {
    kind.name: kind for kind in (Vllm, Sglang, LlamaCpp, OpenAi)
}
