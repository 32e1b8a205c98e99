"""How much time of this process some work takes."""

import gc
import time
from collections.abc import Callable
from typing import Any


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Seconds of CPU time, without rounds of the garbage collector.

    Those cost what the whole test session has left on the heap: a second, in the midst of it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        start = time.process_time()
        work()
        return time.process_time() - start
    finally:
        if was_on:
            gc.enable()
