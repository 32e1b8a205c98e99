"""Ways to reach a model, and the one door to them."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heal.config import Engines, ModelRef
from heal.engines.base import Engine
from heal.errors import NoServerError


def open_engine(
    ref: ModelRef, engines: Engines, name: str = "model", logs: Path | None = None
) -> Engine:
    """Open the model a config names; servers started for it log to `logs`/NAME-0.log, ….

    Raises: UserError, CapabilityError.
    """
    if ref.engine == "scripted":
        from heal.engines.scripted import open_scripted

        return open_scripted(ref.model)
    if ref.serve is not None:
        from heal.engines.http.managed import open_managed

        return open_managed(ref, engines.http, name, logs)
    if ref.engine == "http":
        from heal.engines.http.engine import open_http

        return open_http(ref.model, ref.served, engines.http)
    if ref.engine == "ray":
        from heal.engines.ray.engine import open_ray

        return open_ray(ref, engines)
    from heal.engines.local.engine import open_local

    return open_local(ref.model, engines.local)


def open_absent(ref: ModelRef, known: Mapping[str, Any] | None, error: NoServerError) -> Engine:
    """A served model without its servers, as it was `noted`. Raises: `error`, if not this one."""
    from heal.engines.http.absent import open_absent as opened

    return opened(ref, known, error)


def noted(engine: Engine) -> dict[str, Any]:
    """What `open_absent` needs to know of an engine, as JSON."""
    return {"model_id": engine.model_id, "capabilities": asdict(engine.capabilities)}


def resolve_model(model: str) -> Path:
    """The folder (or `.gguf` file) behind a model's name. Raises: UserError."""
    from heal.engines.local.loading import locate

    return locate(model).path


def model_files(model: str) -> str:
    """A fingerprint of what a model's name stands for, script files included; opens no model."""
    from heal.engines.http.tokenizer import tokenizer_only
    from heal.engines.local.loading import fingerprint, locate

    script = Path(model)
    if script.is_file() and script.suffix == ".json":
        return f"script-{hashlib.sha256(script.read_bytes()).hexdigest()[:16]}"
    tokenizer = tokenizer_only(model)
    return tokenizer or fingerprint(locate(model))


def read_weights(path: Path) -> Any:
    """The transformers module in a folder or `.gguf` file, in float32, to be trained."""
    from heal.engines.local.loading import load_module, locate

    return load_module(locate(str(path)), "float32", "cpu")


def read_tokenizer(path: Path) -> Any:
    """The tokenizer of a folder or `.gguf` file, as the local engine uses it."""
    from heal.engines.local.loading import load_tokenizer, locate

    return load_tokenizer(locate(str(path)))
