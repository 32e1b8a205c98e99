"""llama.cpp's own server in a process that can be killed: `python llama_process.py GGUF PORT`.

The wheel `xllamacpp` holds the server; four slots of 256 tokens, one thread.
"""

import subprocess
import sys
import threading
from typing import Any

SLOTS = 4


def params(model: str, port: int = 0) -> Any:
    import xllamacpp

    found = xllamacpp.CommonParams()
    found.model.path, found.warmup = model, False
    found.n_ctx, found.n_parallel = SLOTS * 256, SLOTS
    found.cpuparams.n_threads, found.verbosity = 1, 0
    if port:
        found.port = port
    return found


class LlamaProcess:
    """Started at once; `kill` is a SIGKILL, and the next one may have the same port."""

    def __init__(self, model: str, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, __file__, model, str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    import xllamacpp

    server = xllamacpp.Server(params(sys.argv[1], int(sys.argv[2])))
    threading.Event().wait()
