"""Reaching the servers of an engine for the first time: are they there, and what do they serve?

In: the settings and, perhaps, the served name. Out: endpoints, and the name and context they agree
on. A server that is not there is checked again later; none at all, or two models, is an error.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from heal.config import HttpEngine as Settings
from heal.engines.base import Sampling
from heal.engines.http.client import Client
from heal.engines.http.dialects.base import SampleRequest, ServerInfo
from heal.engines.http.endpoint import Endpoint, State
from heal.engines.http.failures import RequestError
from heal.errors import CapabilityError, NoServerError, UserError
from heal.redaction import holds_secret
from heal.wording import plural


@dataclass(frozen=True)
class Connected:
    """Servers that hold one model."""

    client: Client
    endpoints: tuple[Endpoint, ...]
    model: str
    context: int
    probe: tuple[int, ...]
    """Ids of a few words."""


async def connect(served: str | None, settings: Settings, probe: tuple[int, ...]) -> Connected:
    """Check the health of every server. `probe`: ids of a few words.

    Raises: NoServerError, UserError (two models, no context), CapabilityError (no token ids).
    """
    client = Client(settings.api_key.get_secret_value() if settings.api_key else None)
    endpoints = tuple(Endpoint(e, client, settings.in_flight) for e in settings.endpoints)
    try:
        reports = await asyncio.gather(*(_first_check(endpoint) for endpoint in endpoints))
        reached = {e: info for e, info in zip(endpoints, reports, strict=True) if info}
        if not reached:
            raise NoServerError(
                "no server answers: " + "; ".join(f"{e.url}: {e.cause}" for e in endpoints),
                hint="start it, or mend engine.http.endpoints",
            )
        model = _name(reached, served)
        for endpoint in endpoints:
            endpoint.model = endpoint.model or model
        context = _context(reached, settings)
        await asyncio.gather(*(_try_openai(e, probe) for e in reached))
    except BaseException:
        await client.aclose()
        raise
    return Connected(client, endpoints, model, context, probe)


async def _first_check(endpoint: Endpoint) -> ServerInfo | None:
    """Mark a server live, or paused if it is not there."""
    try:
        info = await endpoint.check_health()
        if any(map(holds_secret, info.models)):
            # its name would be written into the run folder
            raise RequestError("it names a model by the key it was sent")
    except RequestError as error:
        endpoint.cause, endpoint.unhealthy_since = error.cause, time.monotonic()
        # Only trying tells what such a server can do, and this one was not there.
        endpoint.scores = endpoint.scores and endpoint.settings.dialect != "openai"
        return None
    endpoint.state, endpoint.last_answer = State.LIVE, time.monotonic()
    return info


def _name(reached: dict[Endpoint, ServerInfo], served: str | None) -> str:
    """The one model, also noted at each server under the name it has there."""
    for endpoint, info in reached.items():
        names = list(info.models)
        if served is not None and served not in names:
            raise UserError(
                f"{endpoint.url} serves {', '.join(names) or 'nothing'}, not {served}",
                hint=f"--set teacher.served={names[0]}" if names else "does it load a model?",
            )
        if served is None and len(names) != 1:
            raise UserError(
                f"{endpoint.url} serves {', '.join(names) or 'nothing'}: which one?",
                hint="--set teacher.served=NAME",
            )
        endpoint.model = served or names[0]
    # llama.cpp names a file, which other kinds of servers do not.
    others = [e for e in reached if e.settings.dialect != "llamacpp"] or list(reached)
    names = sorted({e.model for e in others})
    if len(names) > 1:
        raise UserError(
            f"the servers hold different models: {', '.join(names)}",
            hint="start them with the same --served-model-name, if it is the same model",
        )
    return names[0]


def _context(reached: dict[Endpoint, ServerInfo], settings: Settings) -> int:
    told = [(info.models.get(e.model), e.url) for e, info in reached.items()]
    known = [(length, url) for length, url in told if length is not None]
    smallest, url = min(known, default=(None, ""))
    if settings.context is None and smallest is None:
        raise UserError(
            "the servers do not say how long their context is",
            hint="--set engine.http.context=TOKENS",
        )
    if settings.context is not None and smallest is not None and settings.context > smallest:
        raise UserError(
            f"engine.http.context={settings.context} exceeds the {plural(smallest, 'token')} "
            f"of {url}",
            hint=f"--set engine.http.context={smallest}",
        )
    context = settings.context or smallest
    assert context is not None
    return context


async def _try_openai(endpoint: Endpoint, probe: Sequence[int]) -> None:
    """Find out what an unknown kind of server can do. Raises: CapabilityError without token ids."""
    if endpoint.settings.dialect != "openai":
        return
    dialect, ids = endpoint.dialect, tuple(probe)
    try:
        ask = SampleRequest(ids, Sampling(max_new_tokens=1), ())
        dialect.written(await endpoint.post(dialect.write(endpoint.model, ask), 120.0))
    except RequestError as error:
        raise CapabilityError(
            f"{endpoint.url}: {error.cause}",
            hint="HEAL works on token ids: use a server that returns them, vLLM for instance",
        ) from None
    try:
        request = dialect.score(endpoint.model, ids, 1, 1)
        dialect.scored(await endpoint.post(request, 120.0), ids, 1, 1)
    except RequestError as error:
        endpoint.scores, endpoint.cause = False, error.cause
