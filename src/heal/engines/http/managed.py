"""Servers of our own: started for an engine, watched while they load, ended with it.

In: what a recipe says under `serve`. Out: an `HttpEngine` over the servers, which ends them when it
is closed. They end on every way out of this process, a kill included
(`heal.children`). Servers listen on loopback only, unless their command says otherwise.
"""

import os
import shlex
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heal.children import LOOPBACK, Child, free_port, start
from heal.config import HttpEndpoint, ModelRef, Serve
from heal.config import HttpEngine as Settings
from heal.engines import model_files
from heal.engines.http.engine import HttpEngine, open_http
from heal.engines.local.loading import locate
from heal.errors import UserError
from heal.redaction import redact

DEVICES = "CUDA_VISIBLE_DEVICES"
POLL_S = 0.5


@dataclass(frozen=True)
class Server:
    """One server: where it is, and its process."""

    url: str
    child: Child


def open_managed(ref: ModelRef, settings: Settings, name: str, logs: Path | None) -> HttpEngine:
    """Start the servers of a model, wait until all are healthy, and open an engine over them.

    Logs go to `logs`/NAME-0.log, … (None: to a temporary folder). Raises: UserError for a command
    that cannot be, a server that ends or does not come up, devices that are not there.
    """
    serve = ref.serve
    assert serve is not None
    place = logs or Path(tempfile.mkdtemp(prefix="heal-servers-"))
    place.mkdir(parents=True, exist_ok=True)
    servers: list[Server] = []
    try:
        for replica, devices in enumerate(_devices(serve)):
            servers.append(_start(ref, serve, place / f"{name}-{replica}.log", devices))
        _wait_for(servers, serve)
        endpoints = tuple(HttpEndpoint(url=s.url, dialect=serve.dialect) for s in servers)
        own = settings.model_copy(update={"endpoints": endpoints})
        # The served name may be a path of this machine; stored traces must not hang on it.
        known = ref.served or serve.model or model_files(ref.model)
        engine = open_http(ref.model, ref.served, own, known_as=known)
    except BaseException:
        stop_all(servers)
        raise
    engine.when_closed(lambda: stop_all(servers))
    return engine


def stop_all(servers: Sequence[Server]) -> None:
    """End them side by side; returns when they and all they started are gone."""
    for server in servers:
        server.child.end()
    for server in servers:
        server.child.wait()


def command_of(serve: Serve, model: str, port: int) -> list[str]:
    """The command, filled in. Raises: UserError for one without a port, or open to the network."""
    words = shlex.split(serve.command)
    if not any("{port}" in word for word in words):
        raise UserError(
            f"serve.command has no {{port}}: {serve.command}",
            hint="say where the server shall listen: … --host {host} --port {port}",
        )
    if not any("{host}" in word or word.startswith("--host") for word in words):
        raise UserError(
            f"serve.command has no {{host}}: {serve.command}; some servers then let everybody in",
            hint="add --host {host}, which is this machine alone, or the address you want",
        )
    filled = {"{model}": model, "{port}": str(port), "{host}": LOOPBACK}
    for mark, value in filled.items():
        words = [word.replace(mark, value) for word in words]
    return words


def _start(ref: ModelRef, serve: Serve, log: Path, devices: str | None) -> Server:
    model = serve.model or str(locate(ref.model).path)
    port = free_port()
    command = command_of(serve, model, port)
    log.write_text(f"$ {redact(shlex.join(command))}\n", "utf-8")
    env = dict(serve.env) | ({DEVICES: devices} if devices is not None else {})
    return Server(f"http://{LOOPBACK}:{port}", start(command, env, log, serve.restarts))


def _wait_for(servers: Sequence[Server], serve: Serve) -> None:
    deadline = time.monotonic() + serve.startup_s
    waiting = list(servers)
    while waiting:
        for server in waiting:
            if server.child.ended():
                raise UserError(
                    f"the server ended before it was ready; {server.child.log} ends:\n"
                    f"{server.child.tail()}",
                    hint="mend serve.command, then run the same command again",
                )
        waiting = [server for server in waiting if not _is_healthy(server, serve)]
        if waiting and time.monotonic() > deadline:
            raise UserError(
                f"{waiting[0].url}: not healthy after {serve.startup_s:.0f} s; "
                f"{waiting[0].child.log} ends with\n{waiting[0].child.tail()}",
                hint="give it longer with serve.startup_s, or look into the log",
            )
        if waiting:
            time.sleep(POLL_S)


def _is_healthy(server: Server, serve: Serve) -> bool:
    path = "/v1/models" if serve.dialect == "openai" else "/health"
    try:
        with urllib.request.urlopen(server.url + path, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _devices(serve: Serve) -> list[str | None]:
    """What each replica sees; None leaves it as it is. Raises: UserError for too few."""
    if not serve.devices:
        return [None] * serve.replicas
    wanted, given = serve.devices * serve.replicas, os.environ.get(DEVICES)
    there = given.split(",") if given else [str(n) for n in range(wanted)]
    if len(there) < wanted:
        raise UserError(
            f"serve wants {serve.replicas} × {serve.devices} devices; {DEVICES} has {len(there)}",
            hint="--set teacher.serve.replicas=1",
        )
    size = serve.devices
    return [",".join(there[n * size : (n + 1) * size]) for n in range(serve.replicas)]
