"""Keeps one server running for as long as the process that asked for it lives.

`python supervisor.py`, told on its first line of input what to run, as JSON: `command`, `env`,
`log`, `restarts`. The server gets a session of its own. When the input ends (the asking process
closed it, ended or was killed) the server and all its descendants are ended, and only then does
this process end. A server that ends by itself is started again, `restarts` times at most; then exit
code 3. Stands alone: it imports nothing of HEAL.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

GAVE_UP = 3
POLL_S = 0.2
GRACE_S = 10.0
"""After so long a server that was asked to end is killed."""
_DIE_WITH_PARENT, _SUBREAPER = 1, 36
"""Of prctl: the signal at a parent's end; orphaned descendants become this process's children."""


def main() -> int:
    """Serve until told to stop; the exit code."""
    told: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    parent = os.getppid()
    _prctl(_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.close(0))
    with Path(told["log"]).open("ab") as log:
        return _serve(told, log, parent)


def _serve(told: dict[str, Any], log: IO[bytes], parent: int) -> int:
    for start in range(told["restarts"] + 1):
        if start:
            _note(log, f"started again ({start} of {told['restarts']})")
        try:
            server = subprocess.Popen(
                told["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **told["env"]},
                start_new_session=True,
                # the one way this process cannot see coming is its own SIGKILL
                preexec_fn=lambda: _prctl(_DIE_WITH_PARENT, signal.SIGKILL),
            )
        except OSError as error:
            _note(log, f"{told['command'][0]}: {error.strerror}")
            return GAVE_UP
        while server.poll() is None:
            if _told_to_stop(parent):
                _end(server)
                return 0
        _end(server)  # what it started may outlive it
        _note(log, f"ended with code {server.returncode}")
    return GAVE_UP


def _told_to_stop(parent: int) -> bool:
    """Waits a moment for the input to end; a parent that is gone will not close it."""
    if os.getppid() != parent:
        return True
    try:
        ready, _, _ = select.select([0], [], [], POLL_S)
        return bool(ready) and not os.read(0, 1)
    except OSError:  # closed by a signal's handler
        return True


def _end(server: "subprocess.Popen[bytes]") -> None:
    """Ask the server's group to end, then make it, then end what left the group."""
    _signal(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S / 4)
    _signal(server.pid, signal.SIGKILL)
    server.wait()
    while left := _children():
        for child in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _children() -> list[int]:
    """This process's children, adopted ones included; none known where there is no /proc."""
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii")
    except OSError:
        return []
    return [int(pid) for pid in text.split()]


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the group must do
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _note(log: IO[bytes], text: str) -> None:
    log.write(f"supervisor: {text}\n".encode())
    log.flush()


if __name__ == "__main__":
    sys.exit(main())
