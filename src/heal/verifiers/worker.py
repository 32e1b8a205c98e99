"""Processes that judge answers and may be killed at any moment.

In: (ticket, candidate, reference). Out: a `Reply` for each, in any order. A process that exceeds
the time limit is killed and replaced; so is one that crashes. Processes are started by executing
a fresh interpreter, never by forking (the caller may hold torch's threads) and never by importing
the caller's main module (which may be a REPL); they talk JSON lines over pipes.

A judge is made by an opener, `module:function`, called in the process with the pool's arguments:
`opener(*args) -> (candidate | None, reference) -> (verdict, detail)`. One pool, one caller's
thread. Needs POSIX pipes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from heal.errors import HealError, UserError
from heal.records import Verdict

Judge = Callable[[str | None, str], tuple[str, str | None]]

_BATCH = 32
_START_LIMIT_S = 120.0
_STARTS_IN_VAIN = 3
_CRASHES_ALLOWED = 2
_LAST_BREATH_S = 1.0
_PARENT_CHECK_S = 2.0
_LONGEST_DETAIL = 1000
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from heal.verifiers.worker import serve; serve(sys.argv[2], json.loads(sys.argv[3]))"
)


@dataclass(frozen=True)
class Job:
    """One thing to judge. A candidate of None asks whether the reference itself is usable."""

    ticket: str
    candidate: str | None
    reference: str


@dataclass(frozen=True)
class Reply:
    """What a judge said, or why it could not."""

    ticket: str
    verdict: Verdict
    detail: str | None = None


class WorkerPool:
    """Up to `n` processes, started when there is work. Close it, or use it in a `with` block."""

    def __init__(self, n: int, timeout_s: float, opener: str, args: Sequence[Any] = ()) -> None:
        self._n = n
        self._timeout_s = timeout_s
        self._command = [sys.executable, "-c", _BOOT, json.dumps(sys.path), opener]
        self._command.append(json.dumps(list(args)))
        self._queue: deque[Job] = deque()
        self._crashes: dict[str, int] = {}
        self._workers: list[_Worker] = []
        self._starts_in_vain = 0
        # a pool that is dropped, or outlived by its interpreter, leaves no process behind
        self._finalizer = weakref.finalize(self, _kill_all, self._workers)

    def __enter__(self) -> WorkerPool:
        """The pool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """Jobs submitted and not yet replied to."""
        return len(self._queue) + sum(len(worker.batch) for worker in self._workers)

    def submit(self, job: Job) -> None:
        """Queue a job; `poll` sends it."""
        self._queue.append(job)

    def poll(self, wait: bool = True) -> list[Reply]:
        """Replies so far; with `wait`, blocks for at least one unless nothing is pending.

        Raises: UserError if the opener refuses; HealError if processes do not start.
        """
        if not self._finalizer.alive:
            raise HealError("the verifier is closed")
        replies: list[Reply] = []
        while True:
            self._dispatch()
            replies += self._receive(block=wait and not replies and self.pending > 0)
            # what is readable is read before anyone is judged too slow: the caller may have been
            # away for longer than the time limit
            replies += self._end_overdue()
            self._dispatch()
            if replies or not wait or not self.pending:
                return replies

    def close(self) -> None:
        """Kill the processes and reap them. Pending jobs are dropped; calling again is harmless."""
        self._queue.clear()
        self._finalizer()

    def _dispatch(self) -> None:
        while len(self._workers) < self._n and self._needs_another():
            self._workers.append(_Worker(self._command))
        for worker in self._workers:
            if worker.is_free and self._queue:
                worker.send(self._next_batch())

    def _needs_another(self) -> bool:
        free = sum(worker.is_free or not worker.ready for worker in self._workers)
        return len(self._queue) > free * _BATCH

    def _next_batch(self) -> list[Job]:
        if self._queue[0].ticket in self._crashes:
            return [self._queue.popleft()]  # a suspect takes no other job down with it
        share = -(-len(self._queue) // self._n)
        batch: list[Job] = []
        while self._queue and len(batch) < min(share, _BATCH):
            if self._queue[0].ticket in self._crashes:
                break
            batch.append(self._queue.popleft())
        return batch

    def _receive(self, block: bool) -> list[Reply]:
        replies: list[Reply] = []
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.outlet, selectors.EVENT_READ, worker)
            readable = selector.select(self._patience_s() if block else 0) if self._workers else []
        for key, _ in readable:
            worker = key.data
            lines, ended = worker.receive()
            for line in lines:
                replies += self._take(worker, line)
            if ended:
                replies += self._bury(worker)
        return replies

    def _take(self, worker: _Worker, line: dict[str, Any]) -> list[Reply]:
        if "refused" in line:
            self.close()
            raise UserError(line["refused"], hint=line["hint"])
        if "ready" in line:
            worker.ready = True
            self._starts_in_vain = 0
            return []
        job = worker.batch.popleft()
        self._crashes.pop(job.ticket, None)
        return [Reply(job.ticket, Verdict(line["verdict"]), line["detail"])]

    def _bury(self, worker: _Worker) -> list[Reply]:
        """Replace a process that ended by itself; the job it was at may be tried once more."""
        code = self._remove(worker, grace_s=_LAST_BREATH_S)
        if not worker.ready:
            self._count_vain_start(f"exit code {code}")
        if not worker.batch:
            return []
        job = worker.batch[0]
        self._crashes[job.ticket] = self._crashes.get(job.ticket, 0) + 1
        if self._crashes[job.ticket] < _CRASHES_ALLOWED:
            self._queue.extendleft(reversed(worker.batch))
            return []
        del self._crashes[job.ticket]
        self._requeue_rest(worker)
        return [Reply(job.ticket, Verdict.UNVERIFIABLE, f"the checker crashed (exit code {code})")]

    def _end_overdue(self) -> list[Reply]:
        now = time.monotonic()
        replies: list[Reply] = []
        for worker in list(self._workers):
            if now < worker.deadline(self._timeout_s):
                continue
            self._remove(worker)
            if not worker.ready:
                self._count_vain_start(f"not ready within {_START_LIMIT_S:g} s")
                continue
            job = worker.batch[0]
            self._requeue_rest(worker)
            detail = f"the checker took longer than {self._timeout_s:g} s"
            replies.append(Reply(job.ticket, Verdict.UNVERIFIABLE, detail))
        return replies

    def _requeue_rest(self, worker: _Worker) -> None:
        worker.batch.popleft()
        self._queue.extendleft(reversed(worker.batch))

    def _remove(self, worker: _Worker, grace_s: float = 0.0) -> int:
        self._workers.remove(worker)
        return worker.kill(grace_s)

    def _count_vain_start(self, reason: str) -> None:
        self._starts_in_vain += 1
        if self._starts_in_vain >= _STARTS_IN_VAIN:
            self.close()
            raise HealError(f"the verifier's process does not start: {reason}")

    def _patience_s(self) -> float:
        deadlines = [worker.deadline(self._timeout_s) for worker in self._workers]
        return max(0.0, min(deadlines) - time.monotonic() + 0.001)


class _Worker:
    """One process: what it was given, and when it last gave a sign of life."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # its own session: Ctrl-C reaches only the parent, and killing the group also ends
            # whatever a user's checker has started
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._inlet = self._process.stdin
        self.outlet = self._process.stdout
        os.set_blocking(self.outlet.fileno(), False)
        self._partial = b""
        self.batch: deque[Job] = deque()
        self.ready = False
        self._since = time.monotonic()

    @property
    def is_free(self) -> bool:
        """Whether it waits for work; one that is still starting takes none, so no write blocks."""
        return self.ready and not self.batch

    def deadline(self, timeout_s: float) -> float:
        """When it has been silent for too long, on the monotonic clock; idle ones never are."""
        if not self.ready:
            return self._since + _START_LIMIT_S
        return self._since + timeout_s if self.batch else float("inf")

    def send(self, jobs: list[Job]) -> None:
        self.batch.extend(jobs)
        self._since = time.monotonic()
        line = json.dumps([[job.candidate, job.reference] for job in jobs]).encode() + b"\n"
        # a process that has just died is noticed by its closed outlet
        with contextlib.suppress(BrokenPipeError):
            self._inlet.write(line)
            self._inlet.flush()

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Whole lines that can be read now, and whether the process has closed its end."""
        ended = False
        chunks = [self._partial]
        while True:
            try:
                chunk = os.read(self.outlet.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                ended = True
                break
            chunks.append(chunk)
        *lines, self._partial = b"".join(chunks).split(b"\n")
        if lines:
            self._since = time.monotonic()
        return [json.loads(line) for line in lines], ended

    def kill(self, grace_s: float = 0.0) -> int:
        """End the process and its children, reap it, and return its exit code.

        `grace_s`: how long one that is ending by itself has, so that its own code is reported.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._inlet.close()
        self.outlet.close()
        return code


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()


def serve(opener: str, args: list[Any]) -> None:
    """The process's side: open the judge, then answer batch after batch until the pipe closes."""
    inlet, outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    # what a checker prints must not reach the protocol
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def say(**line: Any) -> None:
        outlet.write(json.dumps(line).encode() + b"\n")

    try:
        judge = _open(opener, args)
    except UserError as error:
        say(refused=str(error), hint=error.hint)
        return
    except Exception as error:
        say(refused=f"the verifier cannot start: {_describe(error)}", hint=None)
        return
    say(ready=True)
    for line in inlet:
        for candidate, reference in json.loads(line):
            verdict, detail = _judge(judge, candidate, reference)
            # an exception may quote a whole trace
            say(verdict=verdict, detail=detail and detail[:_LONGEST_DETAIL])


def _open(opener: str, args: list[Any]) -> Judge:
    module, _, name = opener.partition(":")
    judge: Judge = getattr(importlib.import_module(module), name)(*args)
    return judge


def _judge(judge: Judge, candidate: str | None, reference: str) -> tuple[str, str | None]:
    try:
        return judge(candidate, reference)
    except Exception as error:
        return Verdict.UNVERIFIABLE, _describe(error)


def _describe(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f" ({last.tb_frame.f_code.co_filename}:{last.tb_lineno})" if last else ""
    return f"{type(error).__name__}: {error}{where}"


def _end_with_parent(parent: int) -> None:
    # a parent that is killed closes the pipe, which a judge deep in a computation never reads
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)
