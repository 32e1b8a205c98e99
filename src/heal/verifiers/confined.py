"""What runs inside a tested program's process: limits first, then the program.

Started by path, with a bare environment in an empty folder; imports nothing of HEAL. The job comes
as JSON over one descriptor, what the program came to goes out over another. On Linux (x86-64,
aarch64) a seccomp filter refuses sockets, new processes and signals to others, and Landlock, where
the kernel has it, refuses to write outside the folder; neither needs a privilege. This keeps
accidents and careless programs in, and is no security boundary: files can be read, and a program
that means harm shares its interpreter with what reports on it.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import types
from typing import Any

OUTPUT_BYTES = 16 << 20
_FILES = 64

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 1, 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER_AT, _MACHINE_AT, _FIRST_AT = 0, 4, 16
_CLONE_THREAD = 0x10000
_X32 = 0x40000000
_CLONE3 = 435
_EVERYWHERE = (424, 425)  # pidfd_send_signal; io_uring, which opens sockets by itself
_MACHINES: dict[str, dict[str, Any]] = {
    "x86_64": {
        "audit": 0xC000003E,
        "clone": 56,
        # socket fork vfork ptrace, process_vm_*, tkill, rt_*sigqueueinfo
        "refused": (41, 57, 58, 101, 310, 311, 200, 129, 297),
        "to_itself": (62, 234),  # kill tgkill
    },
    "aarch64": {
        "audit": 0xC00000B7,
        "clone": 220,
        "refused": (198, 117, 270, 271, 130, 138, 240),
        "to_itself": (129, 131),
    },
}

_LANDLOCK = 444
"""landlock_create_ruleset; add_rule and restrict_self follow."""
_WRITE_FILE = 1 << 1
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Writing, removing and making; not reading."""
_MOVES, _CUTS = 1 << 13, 1 << 14
"""Known from the second and the third version on."""


def main() -> None:
    """Read the job, shut the doors, run it, report."""
    with os.fdopen(int(sys.argv[1]), "rb") as source:
        job = json.loads(source.read())
    report = int(sys.argv[2])
    try:
        _limit(job["time_s"], job["memory_mb"])
        doors = confine()
    except Exception as error:  # none of the program's doing
        say(report, job, setup=f"no limits: {type(error).__name__}: {error}")
        return
    if job["kind"] == "doors":
        say(report, job, doors=doors | _tried())
        return
    sys.argv[:] = ["program.py"]
    if job["kind"] == "stdin":
        _execute(job["program"], _module("__main__"))
        return
    names = _module("solution")
    try:
        _execute(job["setup"], names)
    except Exception as error:
        say(report, job, setup=f"{type(error).__name__}: {error}")
        return
    _execute(job["program"], names)
    value = None
    if job["kind"] == "call":
        value = _entry(job["entry"], names)(*job["args"], **job["kwargs"])
    else:
        _assert(job, names)
    say(report, job, value=value)


def say(report: int, job: dict[str, Any], **words: Any) -> None:
    """Report; the nonce tells these words from what the program writes by itself."""
    data = json.dumps({"nonce": job["nonce"], **words}, default=_plain).encode() + b"\n"
    while data:
        data = data[os.write(report, data) :]


def _plain(value: Any) -> Any:
    """numpy's arrays and numbers as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"returned a {type(value).__name__}, which no test can expect")


def _module(name: str) -> dict[str, Any]:
    """The names of a new module, which dataclasses and pickle look up by its name."""
    sys.modules[name] = types.ModuleType(name)
    return sys.modules[name].__dict__


def _execute(source: str, names: dict[str, Any]) -> None:
    exec(compile(source, "program.py", "exec"), names)


def _assert(job: dict[str, Any], names: dict[str, Any]) -> None:
    before = set(names)
    _execute(job["code"], names)
    if job["entry"] and "check" in names and "check" not in before:
        names["check"](_entry(job["entry"], names))
    for name in [name for name in names if name not in before and name.startswith("test")]:
        if callable(names[name]):
            names[name]()


def _entry(name: str, names: dict[str, Any]) -> Any:
    if name in names:
        return names[name]
    solution = names.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    raise NameError(f"the program defines no {name!r}")


def _limit(time_s: float, memory_mb: int) -> None:
    seconds = max(1, -int(-time_s // 1))
    # a process whose HEAL was killed ends by itself, sleeping or not
    signal.alarm(2 * seconds + 1)
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS knows no RLIMIT_AS
            _, hard = resource.getrlimit(kind)
            last = most + 1 if kind == resource.RLIMIT_CPU else most
            least = last if hard == resource.RLIM_INFINITY else min(last, hard)
            resource.setrlimit(kind, (min(most, least), least))


def confine() -> dict[str, bool]:
    """Shut what can be shut without a privilege; which doors are."""
    if sys.platform != "linux":
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        return {"writes": False}
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return {"writes": False}
    writes = _keep_writes_here(libc)
    _refuse_calls(libc)
    return {"writes": writes}


def _keep_writes_here(libc: ctypes.CDLL) -> bool:
    version = libc.syscall(_LANDLOCK, None, 0, 1)
    if version < 1:
        return False
    rights = _CHANGES | (_MOVES if version > 1 else 0) | (_CUTS if version > 2 else 0)
    ruleset = libc.syscall(_LANDLOCK, struct.pack("=Q", rights), 8, 0)
    for path, allowed in ((".", rights), (os.devnull, _WRITE_FILE)):
        place = os.open(path, os.O_PATH)
        libc.syscall(_LANDLOCK + 1, ruleset, 1, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    kept = libc.syscall(_LANDLOCK + 2, ruleset, 0) == 0
    os.close(ruleset)
    return bool(kept)


def _refuse_calls(libc: ctypes.CDLL) -> bool:
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    code = b"".join(struct.pack("=HBBI", *line) for line in _program(machine, os.getpid()))
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(text))
    return libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0) == 0


def _program(machine: dict[str, Any], own: int) -> list[tuple[int, int, int, int]]:
    """Instructions: (code, jump if so, jump if not, operand)."""
    refuse, allow = (_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)
    lines = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, machine["audit"]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        refuse,
        # glibc falls back to clone, whose flags can be read
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for number in (*machine["refused"], *_EVERYWHERE):
        lines += [(_EQUAL, 0, 1, number), refuse]
    # a thread is no process, and a signal to oneself hurts nobody
    first = (_LOAD, 0, 0, _FIRST_AT)
    lines += [
        (_EQUAL, 0, 4, machine["clone"]),
        first,
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        refuse,
        allow,
    ]
    for number in machine["to_itself"]:
        lines += [(_EQUAL, 0, 4, number), first, (_EQUAL, 1, 0, own), refuse, allow]
    return [*lines, allow]


def _tried() -> dict[str, bool]:
    """Whether sockets and processes are refused, by asking for them."""
    import socket

    network, processes = False, False
    try:
        socket.socket().close()
    except OSError:
        network = True
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        processes = True
    return {"network": network, "processes": processes}


if __name__ == "__main__":
    main()
