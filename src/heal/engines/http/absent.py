"""Servers that are away, in a run that may owe them nothing.

A run whose traces are all stored goes on to train and examine students without its teacher: the
GPUs that held it may hold the student now. In: what was noted when the servers were last reached,
and the tokenizer. Out: an engine with the same name, which raises once it is asked for a token.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from heal.config import ModelRef
from heal.engines.base import Capabilities, Generated, GenRequest, Scored, ScoreRequest
from heal.engines.http.tokenizer import ServedTokenizer, open_tokenizer
from heal.engines.text import Speaker
from heal.errors import NoServerError


class AbsentEngine(Speaker):
    """Everything about a served model but the model."""

    def __init__(
        self,
        tokenizer: ServedTokenizer,
        model_id: str,
        capabilities: Capabilities,
        error: NoServerError,
    ) -> None:
        self.tokens, self.end_ids = tokenizer.tokens, tokenizer.tokens.end_ids
        self.model_id, self.capabilities = model_id, capabilities
        self._error = error

    def generate(self, requests: Iterable[GenRequest | None]) -> Iterator[Generated | None]:
        """Nothing for nothing. Raises: NoServerError."""
        yield from self._none_for(requests)

    def score(self, requests: Iterable[ScoreRequest | None]) -> Iterator[Scored | None]:
        """Nothing for nothing. Raises: NoServerError."""
        yield from self._none_for(requests)

    def close(self) -> None:
        """There is nothing to free."""

    def _none_for(self, requests: Iterable[Any]) -> Iterator[Any]:
        for request in requests:
            if request is not None:
                raise self._error
            yield None


def open_absent(
    ref: ModelRef, known: Mapping[str, Any] | None, error: NoServerError
) -> AbsentEngine:
    """The engine that was noted. Raises: `error`, if that was another model or none."""
    tokenizer = open_tokenizer(ref.model)
    name, _, _ = (known or {}).get("model_id", "").rpartition(f"-{tokenizer.fingerprint}")
    if not known or not name or ref.served not in (None, name):
        raise error
    return AbsentEngine(tokenizer, known["model_id"], Capabilities(**known["capabilities"]), error)
