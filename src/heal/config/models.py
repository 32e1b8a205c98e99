"""Models, and the servers that HEAL starts for them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from heal.config.section import Section


class Serve(Section):
    """Servers that HEAL starts, and ends when their work is done."""

    command: str
    """Started once per replica, without a shell; `{model}`, `{host}` (this machine alone) and
    `{port}` are filled in: `vllm serve {model} --host {host} --port {port}`. It is somebody's
    program, so it needs --allow-code."""
    model: str | None = None
    """What stands for `{model}`; None takes the model beside it."""
    dialect: Literal["vllm", "sglang", "llamacpp", "openai"] = "vllm"
    """How the servers are spoken to, as in `engine.http.endpoints`."""
    replicas: int = Field(1, ge=1)
    devices: int = Field(0, ge=0)
    """GPUs of each replica, taken in turn from the visible ones; 0 leaves them as they are."""
    env: dict[str, str] = Field({})
    """Environment of the command, beside our own."""
    startup_s: float = Field(1800.0, gt=0)
    """A server that is not healthy after so long stops the run."""
    restarts: int = Field(2, ge=0)
    """How often a server that ended by itself is started again."""


class ModelRef(Section):
    """A model and the engine that opens it."""

    engine: Literal["local", "scripted", "http", "ray"] = "local"
    model: str
    """A folder, a `.gguf` file, or `pkg://package/path` for a model that ships in a package.
    For `scripted`: the JSON file of replies. For `http`: the served model's tokenizer, a folder
    (weights are not needed) or the served `.gguf` file."""
    served: str | None = None
    """For `http`, in Ray actors too: the name under which the servers know the model; None asks
    them."""
    serve: Serve | None = None
    """Start servers for it; then `engine` is `http`. None takes those that run already
    (`engine.http.endpoints`)."""

    @model_validator(mode="before")
    @classmethod
    def _served_means_http(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("serve") and "engine" not in given:
            return {**given, "engine": "http"}
        return given

    @model_validator(mode="after")
    def _served_is_for_servers(self) -> "ModelRef":
        if self.served is not None and self.engine not in ("http", "ray"):
            raise ValueError(f"'served' names a model on a server; engine is '{self.engine}'")
        if self.serve is not None and self.engine != "http":
            raise ValueError(f"'serve' starts servers; engine is '{self.engine}', not 'http'")
        return self


class Student(Section):
    """The model to train: TRL trains it, and the local engine examines it, or servers do."""

    model: str
    serve: Serve | None = None
    """Start servers for each student that is examined; None examines with the local engine."""
