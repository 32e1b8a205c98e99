"""Ways to reach a model: the embedded engine, servers, a Ray cluster."""

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import Field, SecretStr, field_validator, model_validator

from heal.config.section import Section
from heal.redaction import MASK


class LocalEngine(Section):
    """The embedded engine: our decode loop over transformers weights."""

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """bfloat16 and float16 are slow on CPUs without AMX or AVX512-BF16."""
    weights: Literal["as_given", "int8"] = "as_given"
    """int8 rounds weights and inputs to 8 bits: faster, but a log-prob is off by 0.14 nats on
    average (docs/engines.md), too much for PURE; and another model to everything stored. CPU and
    float32 only."""
    products: Literal["auto", "mkl", "onednn"] = "auto"
    """Which library multiplies matrices on a CPU; auto times both when the model is opened.
    Values differ in their last bits, so fix it where two runs must agree to the last tie."""
    rows: int = Field(64, ge=1)
    """Traces decoded at once, across problems; fewer where `memory_gb` does not hold them."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory for the keys and values of those traces, if each used its whole budget, in GiB. A
    quarter of it again may hold prompts for later requests. None takes half of what is free."""
    context: int | None = Field(None, ge=16)
    """Longest prompt plus continuation; None takes the model's own limit."""
    score_tokens: int = Field(8192, ge=64)
    """Tokens per scoring batch."""
    threads: int | None = Field(None, ge=1)
    """PyTorch threads; None leaves PyTorch's own choice."""
    loop_ngram: int | None = Field(None, ge=4)
    """Stop a trace that repeats its last n tokens `loop_repeats` times; None never stops one."""
    loop_repeats: int = Field(4, ge=2)

    @property
    def numerics(self) -> str:
        """Tells a rounded model from the same weights in float32, which are ''."""
        kind = "int8" if self.weights == "int8" else self.dtype
        return "" if kind == "float32" else f"-{kind}"


class HttpEndpoint(Section):
    """One server that holds the model."""

    url: str
    """Its address, `http://host:8000`."""
    dialect: Literal["vllm", "sglang", "llamacpp", "openai"] = "vllm"
    """How it is spoken to. `openai` is the plain completions page of any other server; it must
    return token ids."""
    weight: float = Field(1.0, gt=0)
    """Its share of the work beside the others, and of `in_flight`."""
    login: SecretStr | None = None
    """`user:password`, sent as basic authorization in place of `api_key`; `${NAME}` takes it from
    the environment. What stands before the @ of a `url` is moved here, and shown as `***@`. None
    sends none."""

    @model_validator(mode="before")
    @classmethod
    def _login_leaves_the_url(cls, given: Any) -> Any:
        url = given.get("url") if isinstance(given, Mapping) else None
        if not isinstance(url, str) or "@" not in url:
            return given
        scheme, mark, rest = url.partition("://")
        login, _, host = rest.rpartition("@")
        if not mark or login == MASK:
            return given
        if given.get("login") is not None:
            raise ValueError("a login stands in the url and beside it; give one")
        return {**given, "url": f"{scheme}://{MASK}@{host}", "login": unquote(login)}

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        # the url itself is not quoted: a mistaken one may hold a password
        if not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#@]*)?", url.replace(f"{MASK}@", "", 1)):
            raise ValueError("no plain address; write http://host:port")
        return url.rstrip("/").removesuffix("/v1")

    @property
    def address(self) -> str:
        """Where requests go: the url without its mask."""
        return self.url.replace(f"{MASK}@", "", 1)


class HttpEngine(Section):
    """Servers reached over HTTP, all holding the same model."""

    endpoints: tuple[HttpEndpoint, ...] = ()
    """A list; every server takes part by its weight."""
    api_key: SecretStr | None = None
    """Sent as a bearer token, `${NAME}` takes it from the environment; None sends none."""
    in_flight: int = Field(128, ge=1)
    """Requests under way at once per server of weight 1; fewer while a server says it is busy."""
    samples_per_request: int = Field(1, ge=1)
    """1 asks for each trace by itself, with its own seed. More ask for so many in one request,
    which is cheaper, but without seeds: drawing again gives other traces."""
    top_logprobs: int = Field(20, ge=1)
    """Log-probs per scored token; more give narrower bounds of the entropy. vLLM and others refuse
    more than 20 unless started with a higher `--max-logprobs`."""
    context: int | None = Field(None, ge=16)
    """Longest prompt plus continuation; None asks the servers."""
    tries: int = Field(4, ge=1)
    """How often a request that failed on its way is made in all; being told to wait is not
    counted, nor is a server that is down."""
    timeout_s: float = Field(120.0, gt=0)
    """A request is given up after so long, plus its tokens at `slowest_tokens_s`."""
    slowest_tokens_s: float = Field(1.0, gt=0)
    """Tokens per second of a single trace below which a server is taken to hang."""
    give_up_s: float = Field(600.0, gt=0)
    """The run stops once no server has answered for so long."""

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        plain = key.get_secret_value() if key is not None else ""
        if plain and not re.fullmatch(r"[!-~]+", plain):
            raise ValueError("holds what no header may: a space, a line break, or beyond ASCII")
        return key


class RayEngine(Section):
    """Actors on a Ray cluster, each holding the model by another engine."""

    inner: Literal["local", "http", "scripted"] = "local"
    """The engine inside each actor; its own settings hold there."""
    actors: int = Field(2, ge=1)
    """How many actors; with `inner: local` each holds the whole model."""
    cpus: float = Field(1.0, ge=0)
    """CPUs Ray reserves for each actor, and threads it gives to each unless the inner engine's own
    settings say otherwise."""
    gpus: float = Field(0.0, ge=0)
    """GPUs Ray reserves for each actor, the only ones it sees; a local engine inside needs
    `engine.local.device=cuda` to use one."""
    address: str = "local"
    """`local` starts a cluster on this machine and ends it with the run. `auto` joins the one that
    `ray start` made here; `host:port` names its head."""
    batch_size: int = Field(4, ge=1)
    """Requests that travel together, all their samples with them. This much is redone at a time
    when an actor is lost, and this much arrives at once."""
    in_flight: int = Field(8, ge=1)
    """Batches each actor is given at once, so that its model never waits for the driver."""
    tries: int = Field(4, ge=1)
    """How often a batch is tried in all if its actor is lost each time; then it has failed."""
    object_store_mb: int | None = Field(256, ge=80)
    """Shared memory of a `local` cluster, in MB; None leaves it to Ray: 30 % of all memory."""


class Engines(Section):
    """Settings by engine kind."""

    local: LocalEngine = LocalEngine()
    http: HttpEngine = HttpEngine()
    ray: RayEngine = RayEngine()
