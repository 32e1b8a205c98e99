"""Questions `heal check` puts to a server that the engine itself never asks.

In: an open `HttpEngine` and token ids. Out: a server's own text beside our reading of the same
ids, and log-probs at a temperature other than 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from heal.engines.base import Sampling
from heal.engines.http.dialects.base import Dialect, HttpRequest, SampleRequest, Values
from heal.engines.http.engine import HttpEngine
from heal.engines.http.pool import Call
from heal.records import FloatArray

_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Reading:
    """The same greedy tokens read by the server and by our tokenizer."""

    server: str | None
    """None where the server sends no text."""
    ours: str
    ours_plain: str
    """Without special tokens, as some servers read."""

    @property
    def agrees(self) -> bool:
        """Whether both say the same; a character cut off at the end does not count."""
        found = (self.server or "").rstrip("\ufffd")
        return any(found == text.rstrip("\ufffd") for text in (self.ours, self.ours_plain))


def read_by_both(engine: HttpEngine, prompt: Sequence[int], tokens: int) -> Reading:
    """Let the server write greedily, and read it twice. Raises: RequestError."""
    sampling = Sampling(temperature=0, max_new_tokens=tokens)
    greedy = SampleRequest(tuple(prompt), sampling, tuple(sorted(engine.end_ids)))
    sample = engine.ask(
        Call(lambda d, m: d.write(m, greedy), lambda d, body: d.written(body)[0], _TIMEOUT_S)
    )
    ours = engine.tokens.tokenizer.decode(
        sample.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return Reading(sample.text, ours, engine.decode(sample.ids))


def logprobs_at(
    engine: HttpEngine, ids: Sequence[int], start: int, temperature: float
) -> FloatArray:
    """Log-probs of `ids[start:]` asked for at a temperature. Raises: RequestError."""

    def request(dialect: Dialect, model: str) -> HttpRequest:
        asked = dialect.score(model, ids, start, 1)
        body: dict[str, Any] = dict(asked.body)
        inner = "sampling_params" in body
        body |= (
            {"sampling_params": body["sampling_params"] | {"temperature": temperature}}
            if inner
            else {"temperature": temperature}
        )
        return replace(asked, body=body)

    def read(dialect: Dialect, body: bytes) -> Values:
        return dialect.scored(body, ids, start, 1)

    return engine.ask(Call(request, read, _TIMEOUT_S, score=True)).logprob
