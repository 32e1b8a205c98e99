"""Long-running programs that HEAL starts and that never outlive it: servers, training processes.

Each runs under a supervisor (`supervisor.py`) that ends it, and all it started, when this process
closes the supervisor's input, ends, or is killed.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heal.children import supervisor
from heal.redaction import redact

__all__ = ["LOOPBACK", "Child", "free_port", "start"]

LOOPBACK = "127.0.0.1"
TAIL_LINES = 15


@dataclass(frozen=True)
class Child:
    """A program and the process that looks after it."""

    log: Path
    supervisor: "subprocess.Popen[bytes]"

    def ended(self) -> bool:
        """Whether it ended by itself, for good."""
        return self.supervisor.poll() is not None

    def end(self) -> None:
        """Tell it to end, with all it started; `wait` returns when they are gone."""
        assert self.supervisor.stdin is not None
        self.supervisor.stdin.close()

    def wait(self) -> None:
        """Until it is gone."""
        self.supervisor.wait()

    def tail(self) -> str:
        """The end of its log, as an error quotes it; '' without one."""
        text = self.log.read_text("utf-8", errors="replace") if self.log.is_file() else ""
        return redact("\n".join(f"  | {line}" for line in text.splitlines()[-TAIL_LINES:]))


def start(command: Sequence[str], env: Mapping[str, str], log: Path, restarts: int = 0) -> Child:
    """Start a program, without a shell. `env` is added to ours; its output is added to `log`.

    If it ends by itself it is started again, `restarts` times at most.
    """
    process = subprocess.Popen(
        [sys.executable, supervisor.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is ours to handle, not a child's in mid-work
    )
    assert process.stdin is not None
    told = {"command": list(command), "env": dict(env), "log": str(log), "restarts": restarts}
    process.stdin.write(json.dumps(told).encode() + b"\n")
    process.stdin.flush()
    return Child(log, process)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
