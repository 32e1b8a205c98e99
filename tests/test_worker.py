"""Worker processes: killed when slow, replaced when dead, gone when closed."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from heal.errors import HealError, UserError
from heal.records import Verdict
from heal.verifiers.worker import Job, Reply, WorkerPool

JUDGES = """
import os, subprocess, sys, time
from pathlib import Path
from heal.errors import UserError

def open_judge(folder="."):
    folder = Path(folder)
    def judge(candidate, reference):
        if candidate == "hang":
            time.sleep(60)
        if candidate == "spin":
            while True: pass
        if candidate == "die":
            with open(folder / "deaths", "a") as log: log.write("x")
            os._exit(7)
        if candidate == "die once" and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(7)
        if candidate == "leave":
            sys.exit(0)
        if candidate == "raise":
            raise ValueError("no")
        if candidate == "print":
            print("to the protocol?", flush=True); os.write(1, b"raw")
        if candidate == "read":
            assert sys.stdin.read() == ""
        if candidate == "nest":
            child = subprocess.Popen(["sleep", "60"])
            (folder / "child").write_text(str(child.pid))
            time.sleep(60)
        if candidate == "pid":
            return "correct", str(os.getpid())
        return ("correct" if candidate == reference else "wrong"), None
    return judge

def refuse(*args):
    raise UserError("not today", hint="come back tomorrow")

def fail(*args):
    raise RuntimeError("cannot open")

def vanish(*args):
    os._exit(3)
"""


@pytest.fixture
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "judges_for_tests.py").write_text(JUDGES)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def pool_of(n: int, folder: Path, timeout_s: float = 20, name: str = "open_judge") -> WorkerPool:
    return WorkerPool(n, timeout_s, f"judges_for_tests:{name}", [str(folder)])


def judge_all(pool: WorkerPool, candidates: Iterable[str]) -> dict[str, Reply]:
    for i, candidate in enumerate(candidates):
        pool.submit(Job(f"{i}", candidate, "gold"))
    replies: list[Reply] = []
    while pool.pending:
        replies += pool.poll()
    found = {reply.ticket: reply for reply in replies}
    assert len(found) == len(replies), "a job was replied to twice"
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a zombie still answers to signal 0
    return (
        b") Z " not in Path(f"/proc/{pid}/stat").read_bytes() if sys.platform == "linux" else True
    )


def wait_until_dead(pid: int, within_s: float = 10) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("n", [1, 2])
def test_every_job_is_replied_to_once(judges: Path, n: int) -> None:
    with pool_of(n, judges) as pool:
        found = judge_all(pool, ["gold", "lead"] * 100)
    assert [found[str(i)].verdict for i in range(200)] == [Verdict.CORRECT, Verdict.WRONG] * 100


@pytest.mark.parametrize("poison", ["hang", "spin"])
def test_a_slow_job_is_unverifiable_and_its_batch_goes_on(judges: Path, poison: str) -> None:
    candidates = ["gold"] * 10
    candidates[4] = poison
    with pool_of(1, judges, timeout_s=1.5) as pool:
        found = judge_all(pool, candidates)
    assert found["4"] == Reply("4", Verdict.UNVERIFIABLE, "the checker took longer than 1.5 s")
    assert all(found[str(i)].verdict is Verdict.CORRECT for i in range(10) if i != 4)


def test_a_crashing_job_is_tried_twice_and_takes_no_other_down(judges: Path) -> None:
    candidates = ["gold"] * 10
    candidates[4] = "die"
    with pool_of(1, judges) as pool:
        found = judge_all(pool, candidates)
    assert found["4"] == Reply("4", Verdict.UNVERIFIABLE, "the checker crashed (exit code 7)")
    assert (judges / "deaths").read_text() == "xx"
    assert all(found[str(i)].verdict is Verdict.CORRECT for i in range(10) if i != 4)


def test_a_job_that_crashes_once_is_judged_on_its_second_try(judges: Path) -> None:
    with pool_of(1, judges) as pool:
        found = judge_all(pool, ["die once"])
    assert found["0"].verdict is Verdict.WRONG


def test_a_checker_that_exits_is_a_crash(judges: Path) -> None:
    with pool_of(1, judges) as pool:
        found = judge_all(pool, ["leave"])
    assert found["0"].detail == "the checker crashed (exit code 0)"


def test_an_exception_is_unverifiable_and_costs_no_process(judges: Path) -> None:
    with pool_of(1, judges) as pool:
        before = judge_all(pool, ["pid"])["0"].detail
        raised = judge_all(pool, ["raise"])["0"]
        after = judge_all(pool, ["pid"])["0"].detail
    assert raised.verdict is Verdict.UNVERIFIABLE
    assert raised.detail is not None and raised.detail.startswith("ValueError: no (")
    assert before == after


@pytest.mark.parametrize("candidate", ["print", "read"])
def test_a_checker_cannot_disturb_the_protocol(judges: Path, candidate: str) -> None:
    with pool_of(1, judges) as pool:
        found = judge_all(pool, [candidate, "gold"])
    assert [found["0"].verdict, found["1"].verdict] == [Verdict.WRONG, Verdict.CORRECT]


def test_a_caller_away_for_longer_than_the_limit_finds_its_replies(judges: Path) -> None:
    with pool_of(1, judges, timeout_s=2.0) as pool:
        judge_all(pool, ["gold"])
        pool.submit(Job("late", "gold", "gold"))
        replies = pool.poll(wait=False)  # hands the job over; a quick judge may answer at once
        time.sleep(2.5)
        assert [*replies, *pool.poll()] == [Reply("late", Verdict.CORRECT)]


def test_close_ends_the_processes_and_what_they_started(judges: Path) -> None:
    pool = pool_of(1, judges)
    pid = int(judge_all(pool, ["pid"])["0"].detail or 0)
    pool.submit(Job("nested", "nest", "gold"))
    pool.poll(wait=False)
    while not (judges / "child").exists() or not (judges / "child").read_text():
        time.sleep(0.05)
    pool.close()
    assert not is_alive(pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # reaped: no zombie is left to wait for
    assert wait_until_dead(int((judges / "child").read_text()))


def test_a_pool_that_is_forgotten_leaves_no_process(judges: Path) -> None:
    pool = pool_of(1, judges)
    pid = int(judge_all(pool, ["pid"])["0"].detail or 0)
    del pool
    gc.collect()
    assert not is_alive(pid)


def test_processes_do_not_outlive_a_killed_parent(judges: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from heal.verifiers.worker import *\n"
        "pool = WorkerPool(1, 60, 'judges_for_tests:open_judge')\n"
        "pool.submit(Job('a', 'pid', '')); print(pool.poll()[0].detail, flush=True)\n"
        "pool.submit(Job('b', 'spin', '')); pool.poll(wait=False); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(judges)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.kill()
    assert wait_until_dead(pid)


def test_it_works_from_an_interpreter_that_reads_standard_input(judges: Path) -> None:
    code = (
        "from heal.verifiers.worker import *\n"
        f"import sys; sys.path.insert(0, {str(judges)!r})\n"
        "pool = WorkerPool(1, 20, 'judges_for_tests:open_judge')\n"
        "pool.submit(Job('a', 'gold', 'gold')); print(pool.poll()[0].verdict)\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("correct\n", "")


def test_an_opener_that_refuses_is_the_users_error(judges: Path) -> None:
    pool = pool_of(1, judges, name="refuse")
    pool.submit(Job("a", "gold", "gold"))
    with pytest.raises(UserError, match=r"^not today$") as caught:
        pool.poll()
    assert caught.value.hint == "come back tomorrow"
    with pytest.raises(HealError, match=r"^the verifier is closed$"):
        pool.poll()


def test_an_opener_that_fails_is_told_with_its_line(judges: Path) -> None:
    pool = pool_of(1, judges, name="fail")
    pool.submit(Job("a", "gold", "gold"))
    with pytest.raises(UserError, match=r"^the verifier cannot start: RuntimeError: cannot open"):
        pool.poll()


def test_processes_that_never_start_are_given_up(judges: Path) -> None:
    pool = pool_of(1, judges, name="vanish")
    pool.submit(Job("a", "gold", "gold"))
    with pytest.raises(HealError, match=r"^the verifier's process does not start: exit code 3$"):
        pool.poll()


def test_polling_with_nothing_pending_returns_at_once(judges: Path) -> None:
    with pool_of(1, judges) as pool:
        assert pool.poll() == []
