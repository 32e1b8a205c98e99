"""Programs run on tests, each test in a process of its own that is killed when its time is up.

In: a program, a test, limits. Out: what was printed or returned, or why it failed. The process
leads its own group, starts in an empty temporary folder with a bare environment, and is limited in
CPU and wall time, memory, size of files and open files; `confined`, which runs in it, says what
else is refused. Hash order is fixed, so that a program does the same twice. This is no security
boundary: run strangers' programs in a container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import IO, Any

from heal.verifiers import confined
from heal.verifiers.cases import Asserts, Call, Stdin, Suite, Test

_LONGEST_WORDS = 200
_READ_BYTES = 1 << 16
_TAIL_BYTES = 4096
_ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    # a thread's stack and a library's buffers count as memory
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Ending(StrEnum):
    """How a run ended."""

    DONE = "done"
    FAILED = "failed"
    """By its own fault, its own time limit included."""
    NO_TIME = "no_time"
    """The caller's time was up before the program's own."""
    NO_SETUP = "no_setup"
    """The tests' own code failed before the program began."""


@dataclass(frozen=True)
class Ran:
    """What a program came to on one test."""

    ending: Ending
    words: str = ""
    """Why it did not end well."""
    printed: str = ""
    value: Any = None


@dataclass(frozen=True)
class Doors:
    """What a tested program is kept from on this machine."""

    network: bool
    processes: bool
    writes: bool
    """Outside its own folder."""


def run(program: str, test: Test, suite: Suite, left_s: float) -> Ran:
    """One program on one test, within the suite's limits and `left_s` seconds of wall time."""
    fed = test.fed if isinstance(test, Stdin) else ""
    job = {"program": program, "setup": suite.setup, "time_s": suite.time_s} | _asked(test)
    # what waits instead of working gets twice as long: the machine may be busy
    return _ended(job | {"memory_mb": suite.memory_mb}, fed, 2 * suite.time_s, left_s)


@cache
def doors() -> Doors:
    """What is shut here, found out by trying."""
    job = {"kind": "doors", "time_s": 5, "memory_mb": 1024}
    ran = _ended(job, "", 30, 30, field="doors")
    found = ran.value if isinstance(ran.value, dict) else {}
    return Doors(*(bool(found.get(name)) for name in ("network", "processes", "writes")))


def _asked(test: Test) -> dict[str, Any]:
    if isinstance(test, Stdin):
        return {"kind": "stdin"}
    if isinstance(test, Call):
        return {"kind": "call", "entry": test.entry, "args": test.args, "kwargs": test.kwargs}
    assert isinstance(test, Asserts)
    return {"kind": "assert", "entry": test.entry, "code": test.code}


def _ended(
    job: dict[str, Any], fed: str, limit_s: float, left_s: float, field: str = "value"
) -> Ran:
    nonce = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        job_file, stdin, stdout, stderr = (
            stack.enter_context(tempfile.TemporaryFile()) for _ in range(4)
        )
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        _write(job_file, json.dumps(job | {"nonce": nonce}).encode())
        _write(stdin, fed.encode("utf-8", "replace"))
        outlet, inlet = os.pipe()
        stack.callback(os.close, outlet)
        command = [sys.executable, "-P", "-s", "-B", str(Path(confined.__file__))]
        try:
            process = subprocess.Popen(
                [*command, str(job_file.fileno()), str(inlet)],
                stdin=stdin, stdout=stdout, stderr=stderr, cwd=folder,
                env=_ENVIRONMENT | {"HOME": folder, "TMPDIR": folder},
                pass_fds=(job_file.fileno(), inlet), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(inlet)
        told, in_time = _followed(process, outlet, min(limit_s, left_s))
        said = _said(told, nonce)
        if "setup" in said:
            return Ran(Ending.NO_SETUP, _short(str(said["setup"])))
        # a script may leave by sys.exit(); a function that ends the process has passed nothing
        if process.returncode == 0 and (said or job["kind"] == "stdin"):
            return Ran(Ending.DONE, "", _read(stdout, confined.OUTPUT_BYTES), said.get(field))
        if not in_time and left_s < limit_s:
            return Ran(Ending.NO_TIME)
        words = f"took longer than {limit_s:g} s" if not in_time else ""
        return Ran(Ending.FAILED, words or _fault(process.returncode, stderr, job["time_s"]))


def _followed(process: subprocess.Popen[bytes], outlet: int, limit_s: float) -> tuple[bytes, bool]:
    """What the process reports until it ends or is killed, and whether it ended in time."""
    ends, told, in_time = time.monotonic() + limit_s, bytearray(), True
    try:
        while len(told) < confined.OUTPUT_BYTES:
            readable, _, _ = select.select([outlet], [], [], max(0.0, ends - time.monotonic()))
            chunk = os.read(outlet, _READ_BYTES) if readable else b""
            told += chunk
            if not chunk:
                break
        if len(told) < confined.OUTPUT_BYTES:  # else it would wait for a reader
            process.wait(max(0.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        in_time = False
    finally:
        # whatever it has started goes with it
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return bytes(told), in_time


def _said(told: bytes, nonce: str) -> dict[str, Any]:
    """The report; nothing where the process ended before it was written, or wrote its own."""
    try:
        said = json.loads(told)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) and said.get("nonce") == nonce else {}


def _fault(code: int, stderr: IO[bytes], time_s: float) -> str:
    if code == -signal.SIGXCPU:
        return f"took more than {time_s:g} s of CPU"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = _read(stderr, _TAIL_BYTES, rewind=False).strip().splitlines()
    if code and lines:
        return _short(lines[-1])
    return f"exit code {code}" if code else "ended before its test did"


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    file.seek(0)


def _read(file: IO[bytes], most: int, rewind: bool = True) -> str:
    if rewind:
        file.seek(0)
    return file.read(most).decode("utf-8", "replace")


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST_WORDS else f"{words[: _LONGEST_WORDS - 1]}…"
