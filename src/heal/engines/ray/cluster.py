"""Reaching a Ray cluster quietly: ours on this machine, or one that others started.

A `local` cluster ends with the last engine on it. Nothing is reported to anybody: usage statistics
are off for clusters started here.
"""

import logging
import math
import os
import signal
import sys
import threading
import warnings
from typing import Any

from heal.config import RayEngine as Settings
from heal.errors import EngineError, UserError

INSTALL = 'pip install "ray[data]"'

_ours: list[Settings] = []
"""Engines that are open on a cluster this process started."""


def require_ray() -> Any:
    """The library. Raises: UserError naming the command that installs it."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"engine: ray needs Ray Data: {error}", hint=INSTALL) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # its settings complain of their own defaults when they are first made
        warnings.simplefilter("ignore", DeprecationWarning)
        ray.data.DataContext.get_current()
    return ray


def connect(settings: Settings) -> bool:
    """Join or start the cluster; whether it is ours to end. Raises: UserError, EngineError."""
    ray = require_ray()
    if ray.is_initialized():
        return _joined(ray, settings, ours=bool(_ours))
    # Ray reads these once, when it starts: no statistics, no bars of its own, no warning that
    # actors without GPUs will one day see them all.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    try:
        if settings.address == "local":
            _start(ray, settings, quiet)
        else:
            ray.init(address=settings.address, **_for_others(quiet))
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise EngineError(
            f"engine.ray.address={settings.address}: {first}",
            hint="start one with `ray start --head`, or --set engine.ray.address=local",
        ) from None
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler aborts with a stack trace; Python's is put back
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    return _joined(ray, settings, ours=settings.address == "local")


def disconnect(settings: Settings, ours: bool) -> None:
    """End our cluster once its last engine is closed; leave anybody else's as it is."""
    ray = sys.modules.get("ray")
    if not ours or ray is None:
        return
    _ours.remove(settings)
    if not _ours and ray.is_initialized():
        ray.shutdown()


def _for_others(quiet: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in quiet.items() if key != "include_dashboard"}


def _start(ray: Any, settings: Settings, quiet: dict[str, Any]) -> None:
    store = settings.object_store_mb
    ray.init(
        address="local",
        # what an actor may use is the system's business; Ray only counts them
        num_cpus=max(1, math.ceil(settings.actors * settings.cpus)),
        object_store_memory=None if store is None else store << 20,
        **quiet,
    )


def _joined(ray: Any, settings: Settings, ours: bool) -> bool:
    """Say at once what Ray would wait for without end. A cluster may still grow, ours does not."""
    if ours:
        _ours.append(settings)
    there = _ours if ours else [settings]
    wanted = {
        "CPU": sum(s.actors * s.cpus for s in there),
        "GPU": sum(s.actors * s.gpus for s in there),
    }
    have = ray.cluster_resources()
    short = [f"{n:g} {k}s of {have.get(k, 0):g}" for k, n in wanted.items() if have.get(k, 0) < n]
    if not short:
        return ours
    words = f"the Ray actors ask for more than the cluster has: {', '.join(short)}"
    if ours:
        disconnect(settings, ours)
        raise UserError(words, hint="--set engine.ray.actors=… (or .cpus, .gpus)")
    logging.getLogger("heal.engines.ray").warning("%s; the rest wait for it to grow", words)
    return ours
