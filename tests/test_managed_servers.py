"""Servers that HEAL starts: ready before they are used, gone on every way out, closed to others."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tiny_models import make_tokenizer

from heal.children import supervisor
from heal.cli import main
from heal.config import HttpEngine, ModelRef, Serve
from heal.engines.http import managed
from heal.engines.http.managed import command_of, open_managed
from heal.errors import UserError

PROGRAM = Path(__file__).parent / "own_server.py"


def serve(pids: Path, mode: str = "serves", **changes: object) -> Serve:
    command = f"{sys.executable} {PROGRAM} {{port}} {pids} {mode} --host {{host}}"
    return Serve.model_validate({"command": command, "startup_s": 20.0, **changes})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """Where servers write their process ids; whatever a failed test leaves is killed."""
    file = tmp_path / "pids"
    yield file
    for pid in processes(file):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def processes(pids: Path) -> list[int]:
    return [int(pid) for pid in pids.read_text().split()] if pids.exists() else []


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def soon(condition: object, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def start(told: Serve, log: Path) -> managed.Server:
    ref = ModelRef(model=str(log.parent), serve=told.model_copy(update={"model": "m"}))
    assert ref.serve is not None
    return managed._start(ref, ref.serve, log, None)


def is_up(server: managed.Server) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_stopped_server_takes_all_it_started_along(tmp_path: Path, pids: Path) -> None:
    server = start(serve(pids), tmp_path / "log")
    assert soon(lambda: is_up(server))
    started = processes(pids)
    assert len(started) == 2
    managed.stop_all([server])
    assert not [pid for pid in started if is_alive(pid)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_parent_leaves_no_server(tmp_path: Path, pids: Path, number: int) -> None:
    """The parent is a process of its own, killed while its server serves."""
    code = (
        "import signal, sys, time; from pathlib import Path; from heal.config import Serve;"
        # a shell that starts tests in the background has them ignore Ctrl-C
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from tests.test_managed_servers import serve, start;"
        "s = start(serve(Path(sys.argv[1])), Path(sys.argv[2])); "
        "time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(pids), str(tmp_path / "log")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert soon(lambda: len(processes(pids)) == 2)
    started = processes(pids)
    parent.send_signal(number)
    parent.wait(60)
    assert soon(lambda: not [pid for pid in started if is_alive(pid)])


def test_a_killed_supervisor_leaves_no_server(tmp_path: Path, pids: Path) -> None:
    server = start(serve(pids), tmp_path / "log")
    assert soon(lambda: is_up(server))
    server.child.supervisor.kill()
    assert soon(lambda: not is_alive(processes(pids)[0]))
    managed.stop_all([server])


def test_a_server_that_ends_is_started_again_so_often(tmp_path: Path, pids: Path) -> None:
    server = start(serve(pids, "dies", restarts=2), tmp_path / "log")
    assert soon(lambda: is_up(server) or server.child.supervisor.poll() is not None, 40)
    assert soon(lambda: (is_up(server), server.child.supervisor.poll() is not None)[1], 40)
    managed.stop_all([server])
    assert server.child.supervisor.returncode == supervisor.GAVE_UP
    log = server.child.log.read_text()
    assert log.count("supervisor: ended with code 7") == 3
    assert "started again (2 of 2)" in log
    assert not [pid for pid in processes(pids) if is_alive(pid)]


def test_a_server_that_will_not_come_up_shows_the_end_of_its_log(
    tmp_path: Path, pids: Path, tokenizer: Path
) -> None:
    ref = ModelRef(model=str(tokenizer), serve=serve(pids, "refuses", restarts=0, model="m"))
    with pytest.raises(UserError, match=r"ended before it was ready[\s\S]*CUDA out of memory"):
        open_managed(ref, HttpEngine(), "teacher", tmp_path)
    assert (tmp_path / "teacher-0.log").is_file()


def test_a_server_that_never_listens_is_given_up(
    tmp_path: Path, pids: Path, tokenizer: Path
) -> None:
    told = serve(pids, "never", startup_s=1.0, model="m")
    with pytest.raises(UserError, match="not healthy after 1 s"):
        open_managed(ModelRef(model=str(tokenizer), serve=told), HttpEngine(), "teacher", tmp_path)
    assert not [pid for pid in processes(pids) if is_alive(pid)]


def test_a_command_that_is_no_program_says_so(tmp_path: Path, tokenizer: Path) -> None:
    told = Serve(command="no-such-program --port {port} --host {host}", model="m")
    with pytest.raises(UserError, match="no-such-program: No such file"):
        open_managed(ModelRef(model=str(tokenizer), serve=told), HttpEngine(), "teacher", tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("vllm serve {model} --host {host}", "no {port}"),
        ("vllm serve {model} --port {port}", "no {host}"),
    ],
)
def test_a_command_open_to_the_network_is_refused(command: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        command_of(Serve(command=command), "m", 1)


def test_a_command_is_words_and_never_a_shells() -> None:
    told = Serve(command="run '{model}' --listen {host}:{port} ; rm -rf $HOME")
    words = command_of(told, "a model; echo", 8001)
    assert words[:4] == ["run", "a model; echo", "--listen", "127.0.0.1:8001"]
    assert words[4:] == [";", "rm", "-rf", "$HOME"]


@pytest.mark.parametrize(
    ("visible", "replicas", "devices", "seen"),
    [
        (None, 2, 0, [None, None]),
        (None, 2, 2, ["0,1", "2,3"]),
        ("4,5,7", 3, 1, ["4", "5", "7"]),
    ],
)
def test_replicas_share_out_the_visible_devices(
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    replicas: int,
    devices: int,
    seen: list[str | None],
) -> None:
    monkeypatch.delenv(managed.DEVICES, raising=False)
    if visible:
        monkeypatch.setenv(managed.DEVICES, visible)
    told = Serve(command="x", replicas=replicas, devices=devices)
    assert managed._devices(told) == seen


def test_too_few_devices_are_missed_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(managed.DEVICES, "0")
    with pytest.raises(UserError, match="2 × 1 devices"):
        managed._devices(Serve(command="x", replicas=2, devices=1))


def test_a_recipe_starts_no_program_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"problem": "1+1", "answer": "2"}) + "\n")
    command = f"touch {tmp_path / 'ran'} {{host}} {{port}}"
    (tmp_path / "r.yaml").write_text(
        f"run: {tmp_path / 'run'}\nproblems: {{path: {tmp_path / 'p.jsonl'}}}\n"
        f"teacher: {{model: {tmp_path}, serve: {{command: '{command}'}}}}\nstudent: null\n"
    )
    for verb in ("run", "check"):
        monkeypatch.setattr("sys.argv", ["heal", verb, "-c", str(tmp_path / "r.yaml")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert "teacher.serve.command: starts a program" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
