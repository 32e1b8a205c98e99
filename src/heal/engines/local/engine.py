"""The local engine: ids in, ids and exact values out, from weights on this machine.

Llama-like decoders run on our own forward pass (`native`), anything else on transformers' own
(`standard`); both give the same values to 1e-4. Requests are checked one by one: a bad one is an
error result. A sliding attention window shorter than the context is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from heal.config import LocalEngine as Settings
from heal.engines.base import (
    Capabilities,
    Generated,
    GenRequest,
    Scored,
    ScoreRequest,
    failed_score,
)
from heal.engines.local import loading, memory
from heal.engines.local.decode import DecodeLoop, Policy
from heal.engines.local.model import Model
from heal.engines.local.scoring import score_batches
from heal.engines.local.tokens import Tokens
from heal.engines.text import Speaker
from heal.errors import CapabilityError, UserError
from heal.wording import plural

_PREFIX_SHARE = 4
"""Prompts kept for later requests may take one part in so many of the memory for rows."""


class LocalEngine(Speaker):
    """An `Engine` over a transformers model."""

    def __init__(self, model: Model, tokens: Tokens, model_id: str, settings: Settings) -> None:
        self.model: Model | None = model
        self.tokens = tokens
        self.model_id = model_id
        self.settings = settings
        self.end_ids = tokens.end_ids
        self.capabilities = Capabilities(
            score=True,
            entropy="exact",
            seeds=True,
            context=model.context,
            vocabulary=model.vocabulary,
            ranks=True,
        )

    def generate(self, requests: Iterable[GenRequest | None]) -> Iterator[Generated | None]:
        """Continuations as they end."""
        policy = Policy(
            rows=self.settings.rows,
            end_ids=self.end_ids,
            prefill_tokens=self.settings.score_tokens,
            kv_bytes=memory.kv_bytes(self.settings.memory_gb, self._open_model().device),
            loop_ngram=self.settings.loop_ngram,
            loop_repeats=self.settings.loop_repeats,
        )
        return DecodeLoop(self._open_model(), policy, requests, self._why_not_generate).run()

    def score(self, requests: Iterable[ScoreRequest | None]) -> Iterator[Scored | None]:
        """Scores, batch by batch."""
        return score_batches(
            self._open_model(), self._checked(requests), self.settings.score_tokens
        )

    def close(self) -> None:
        """Free the weights."""
        self.model = None

    def _open_model(self) -> Model:
        if self.model is None:
            raise RuntimeError("the engine is closed")
        return self.model

    def _checked(
        self, requests: Iterable[ScoreRequest | None]
    ) -> Iterator[ScoreRequest | Scored | None]:
        for request in requests:
            if request is None:
                yield None
                continue
            reason = self._why_not_score(request)
            yield request if reason is None else failed_score(request, reason)

    def _why_not_generate(self, request: GenRequest) -> str | None:
        s = request.sampling
        if not request.prompt_ids:
            return "the prompt is empty"
        if len(request.prompt_ids) >= self.capabilities.context:
            return (
                f"prompt of {plural(len(request.prompt_ids), 'token')} leaves no room in a "
                f"context of {self.capabilities.context:,}"
            )
        if s.temperature < 0 or not 0 < s.top_p <= 1 or s.top_k < 0 or not 0 <= s.min_p <= 1:
            return f"impossible sampling settings: {s}"
        if s.max_new_tokens < 1:
            return f"max_new_tokens is {s.max_new_tokens}"
        return self._foreign(request.prompt_ids)

    def _why_not_score(self, request: ScoreRequest) -> str | None:
        context, target = request.context_ids, request.target_ids
        if not context:
            return "the context is empty, so nothing predicts the first token"
        longest = len(context) + len(target)
        for probe in request.probes:
            if not 0 <= probe.at <= len(target) or not 0 <= probe.score_from <= len(probe.ids):
                return f"probe at {probe.at} (scored from {probe.score_from}) is out of range"
            longest = max(longest, len(context) + probe.at + len(probe.ids))
        if longest > self.capabilities.context:
            return f"{plural(longest, 'token')} exceed a context of {self.capabilities.context}"
        probes = [i for probe in request.probes for i in probe.ids]
        return self._foreign((*context, *target, *probes))

    def _foreign(self, ids: Sequence[int]) -> str | None:
        low, high = min(ids), max(ids)
        if low < 0 or high >= self.capabilities.vocabulary:
            wrong = low if low < 0 else high
            return f"id {wrong} is outside the vocabulary of {self.capabilities.vocabulary}"
        return None


def open_local(model: str, settings: Settings | None = None) -> LocalEngine:
    """Open a model. Raises: UserError (missing parts), CapabilityError (sliding window)."""
    settings = settings or Settings()
    source = loading.locate(model)
    _prepare_torch(settings)
    opener = _opener(source, settings)
    with loading.read_once():
        tokenizer = loading.load_tokenizer(source)
        module = opener()
    context = _context(module.config, settings, source)
    ends = _declared_ends(module, tokenizer)
    tokens = Tokens(tokenizer, str(source.path), ends)
    fast = _fastest(module, context, opener, settings)
    model_id = loading.fingerprint(source) + settings.numerics
    if settings.weights == "int8":
        _quantize(fast, source)
    else:
        _pack(fast, settings)
    return LocalEngine(fast, tokens, model_id, settings)


def _opener(source: loading.Source, settings: Settings) -> Callable[[], Any]:
    return lambda: loading.load_module(source, settings.dtype, settings.device)


def _pack(model: Model, settings: Settings) -> None:
    from heal.engines.local.matrices import can_pack
    from heal.engines.local.native import NativeModel

    if settings.products == "onednn" and not can_pack(settings.dtype, settings.device):
        raise UserError(
            "engine.local.products=onednn needs a PyTorch built with oneDNN, a CPU, and float32"
            " (or bfloat16 where the CPU multiplies it)",
            hint="--set engine.local.products=auto",
        )
    if isinstance(model, NativeModel) and can_pack(settings.dtype, settings.device):
        model.pack(settings.products, settings.rows)


def _quantize(model: Model, source: loading.Source) -> None:
    from heal.engines.local.matrices import int8_is_exact
    from heal.engines.local.native import NativeModel

    if not isinstance(model, NativeModel):
        raise CapabilityError(
            f"{source.path}: only Llama-like models can be rounded to int8",
            hint="--set engine.local.weights=as_given",
        )
    if not int8_is_exact():
        raise CapabilityError(
            "this processor's 8-bit products overflow", hint="--set engine.local.weights=as_given"
        )
    model.quantize()


def _prepare_torch(settings: Settings) -> None:
    import torch

    if settings.weights == "int8" and (settings.dtype, settings.device) != ("float32", "cpu"):
        raise UserError(
            f"engine.local.weights=int8 runs on device=cpu with dtype=float32, not on device="
            f"{settings.device} with dtype={settings.dtype}",
            hint="--set engine.local.weights=as_given",
        )
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        torch.zeros(1, device=settings.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"engine.local.device={settings.device}: {str(error).splitlines()[0]}",
            hint="--set engine.local.device=cpu",
        ) from None


def _context(config: Any, settings: Settings, source: loading.Source) -> int:
    longest: int | None = getattr(config, "max_position_embeddings", None)
    context = longest if settings.context is None else settings.context
    if context is None:
        raise UserError(
            f"{source.path}: the model declares no longest context",
            hint="--set engine.local.context=4096",
        )
    if longest is not None and context > longest:
        raise UserError(
            f"engine.local.context={context} exceeds the model's {longest} positions",
            hint=f"--set engine.local.context={longest}",
        )
    window = _window(config)
    if window is not None and window < context:
        raise CapabilityError(
            f"{source.path}: attends through a sliding window of {plural(window, 'token')}, which "
            f"the local engine does not model beyond it",
            hint=f"--set engine.local.context={window}",
        )
    return context


def _window(config: Any) -> int | None:
    """The attention window in force, if any."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not window or not getattr(config, "use_sliding_window", True):
        return None
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return int(window)


def _declared_ends(module: Any, tokenizer: Any) -> set[int]:
    holders = (module.generation_config, module.config, tokenizer)
    found = (loading.declared_ids(getattr(h, "eos_token_id", None)) for h in holders)
    return set[int]().union(*found)


def _fastest(module: Any, context: int, reopen: Callable[[], Any], settings: Settings) -> Model:
    """The native model where it gives the module's own values, else the standard one."""
    from heal.engines.local import body
    from heal.engines.local.native import NativeModel
    from heal.engines.local.standard import StandardModel

    if not body.supports(module.config):
        return StandardModel(module, context)
    ids = tuple(i % int(module.config.vocab_size) for i in (5, 17, 11, 23, 7, 3))
    expected = StandardModel(module, context).prefill([ids[:context]])[0].logits
    kept = memory.kv_bytes(settings.memory_gb, module.device) // _PREFIX_SHARE
    native = NativeModel(module, context, kept)  # empties the module
    found = native.prefill([ids[:context]])[0].logits
    tolerance = 1e-3 if module.dtype.itemsize == 4 else 0.5
    if float((expected - found).abs().max()) <= tolerance * (1 + float(expected.abs().max())):
        return native
    # A transformers that changed what this architecture computes.
    return StandardModel(reopen(), context)
