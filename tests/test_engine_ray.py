"""The Ray engine on a real cluster of two actors: the inner engine's results, whatever is lost."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tests.test_engine_contract as contract
import torch
from tests.http_server import Model, Server
from tests.tiny_models import make_checkpoint

from heal.config import Engines, HttpEndpoint, HttpEngine, LocalEngine, ModelRef, RayEngine
from heal.engines import open_engine
from heal.engines.base import (
    Engine,
    Generated,
    GenRequest,
    Probe,
    Sampling,
    Scored,
    ScoreRequest,
)
from heal.engines.ray.batches import BatchQueue
from heal.engines.ray.engine import RayEngine as Opened
from heal.errors import CapabilityError, UserError
from heal.records import Finish

LOCAL = LocalEngine(rows=8, threads=1, score_tokens=512)
TWO = RayEngine(actors=2, cpus=1, batch_size=2, in_flight=2, object_store_mb=80)
SCRIPT = [{"match": "", "replies": ["A reply.\n\nAnother step.", "else"], "entropies": 0.5}]
LONG = 200
"""Tokens of a trace that is still being written when its actor is killed."""


def open_ray(model: Path, settings: RayEngine, local: LocalEngine = LOCAL) -> Opened:
    engine = open_engine(
        ModelRef(engine="ray", model=str(model)), Engines(ray=settings, local=local)
    )
    assert isinstance(engine, Opened)
    return engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"), max_position_embeddings=512)


@pytest.fixture(scope="module")
def local(checkpoint: Path) -> Iterator[Engine]:
    threads = torch.get_num_threads()
    yield open_engine(ModelRef(model=str(checkpoint)), Engines(local=LOCAL))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ray_engine(checkpoint: Path) -> Iterator[Opened]:
    pytest.importorskip("ray")
    engine = open_ray(checkpoint, TWO)
    yield engine
    engine.close()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.json"
    path.write_text(json.dumps(SCRIPT))
    return path


def wanted(engine: Engine, count: int, n: int = 3, tokens: int = 12) -> list[GenRequest]:
    sampling = Sampling(temperature=0.9, max_new_tokens=tokens)
    return [
        GenRequest(f"r{i}", engine.render(f"three times {i}"), tuple(range(i, i + n)), sampling)
        for i in range(count)
    ]


def texts(engine: Engine, count: int) -> list[ScoreRequest]:
    probe = engine.encode("answer: 12")
    return [
        ScoreRequest(
            f"s{i}",
            engine.render("three times four?"),
            engine.encode("so twelve is the answer " * (i % 3 + 1)),
            (Probe(2, probe, 1), Probe(0, probe, 0)),
        )
        for i in range(count)
    ]


def traces(found: list[Generated]) -> dict[tuple[str, int], tuple[list[int], Finish, str | None]]:
    assert len({(g.request, g.index) for g in found}) == len(found), "delivered twice"
    return {(g.request, g.index): (g.ids.tolist(), g.finish, g.error) for g in found}


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_without_ray_the_error_names_the_command(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="needs Ray Data") as caught:
        open_ray(script, RayEngine(inner="scripted"))
    assert caught.value.hint == 'pip install "ray[data]"'


def test_batches_that_reach_the_queue_out_of_order_are_all_handed_out() -> None:
    async def handed_out() -> list[int | None]:
        waiting = BatchQueue()
        found = []
        for number in (1, 0, 3, 4, 2):
            await waiting.put(number, b"work")
            found.append(waiting.last)
        return [*found, await waiting.issued(-1), await waiting.issued(3)]

    assert asyncio.run(handed_out()) == [-1, 1, 1, 1, 4, 4, 4]


@pytest.mark.slow
def test_it_is_what_its_actors_hold(ray_engine: Opened, local: Engine) -> None:
    assert ray_engine.model_id == local.model_id
    assert ray_engine.capabilities == local.capabilities
    assert ray_engine.end_ids == local.end_ids
    text = "é 🙂 three"
    assert ray_engine.render(text) == local.render(text)
    assert ray_engine.encode(text) == local.encode(text)
    assert ray_engine.decode(local.encode(text)) == text
    assert ray_engine.token_bytes(local.encode(text)) == local.token_bytes(local.encode(text))
    assert eventually(lambda: len(ray_engine.members()) == 2)


@pytest.mark.slow
def test_every_seed_writes_what_it_writes_in_the_local_engine(
    ray_engine: Opened, local: Engine
) -> None:
    asked = wanted(local, 12)
    assert traces(list(ray_engine.generate(asked))) == traces(list(local.generate(asked)))


@pytest.mark.slow
def test_scores_equal_the_local_engines(ray_engine: Opened, local: Engine) -> None:
    asked = texts(local, 9)
    expected = {s.request: s for s in local.score(asked)}
    found: list[Scored] = list(ray_engine.score(asked))
    assert sorted(s.request for s in found) == sorted(expected)
    for scored in found:
        own = expected[scored.request]
        assert scored.error is None
        np.testing.assert_allclose(scored.logprob, own.logprob, atol=1e-5)
        np.testing.assert_allclose(scored.entropy_lo, own.entropy_lo, atol=1e-5)
        for one, other in zip(scored.probe_logprob, own.probe_logprob, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lane", contract.LANES)
@pytest.mark.parametrize("check", contract.NOTHING_FOR_NOW, ids=lambda check: check.__name__[5:])
def test_a_source_may_have_nothing_for_the_moment(
    check: Callable[[Engine, str], None], lane: str, ray_engine: Opened
) -> None:
    check(ray_engine, lane)


def test_a_bad_request_is_an_error_result_beside_good_ones(
    ray_engine: Opened, local: Engine
) -> None:
    empty = GenRequest("empty", (), (1, 2), Sampling(max_new_tokens=4))
    none = GenRequest("none", local.render("x"), (), Sampling(max_new_tokens=4))
    found = traces(list(ray_engine.generate([empty, none, *wanted(local, 1)])))
    assert [found["empty", i][1:] for i in range(2)] == [(Finish.ERROR, "the prompt is empty")] * 2
    assert found["r0", 0][2] is None
    assert len(found) == 5


@pytest.mark.slow
def test_requests_are_pulled_only_as_there_is_room(ray_engine: Opened, local: Engine) -> None:
    pulled = 0

    def endless() -> Iterator[GenRequest]:
        nonlocal pulled
        for pulled in itertools.count(1):
            (one,) = wanted(local, 1, n=1, tokens=3)
            yield GenRequest(f"e{pulled}", one.prompt_ids, one.seeds, one.sampling)

    found = list(itertools.islice(ray_engine.generate(endless()), 40))
    assert len({g.request for g in found}) == 40
    # two actors, two batches of two requests each, and as many more once one comes back
    assert pulled <= 40 + 2 * 2 * 2 + 2


@pytest.mark.slow
def test_an_abandoned_call_leaves_nothing_behind(ray_engine: Opened, local: Engine) -> None:
    asked = wanted(local, 4)
    running = ray_engine.generate(wanted(local, 40, tokens=LONG))
    next(running)
    running.close()  # type: ignore[attr-defined]
    started = time.monotonic()
    assert traces(list(ray_engine.generate(asked))) == traces(list(local.generate(asked)))
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_the_work_of_a_killed_actor_is_redone_and_delivered_once(
    ray_engine: Opened, local: Engine
) -> None:
    asked = wanted(local, 24, n=8, tokens=LONG)
    expected = traces(list(local.generate(asked)))
    before = ray_engine.members()
    found: list[Generated] = []
    for generated in ray_engine.generate(asked):
        found.append(generated)
        if len(found) == 20:
            os.kill(before[-1].pid, signal.SIGKILL)
    assert ray_engine.counts()[1] > 0, "it was killed with nothing to do"
    assert traces(found) == expected  # 0 lost, 0 delivered twice
    assert eventually(lambda: len(ray_engine.members()) > len(before)), "nobody took its place"
    assert traces(list(ray_engine.generate(wanted(local, 4)))) == traces(
        list(local.generate(wanted(local, 4)))
    )


@pytest.mark.slow
def test_a_batch_that_takes_its_actor_down_too_often_has_failed(
    ray_engine: Opened, checkpoint: Path, local: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TWO.model_copy(update={"actors": 1, "cpus": 0, "tries": 1})
    engine = open_ray(checkpoint, settings)
    (asked,) = wanted(local, 1, n=400, tokens=LONG)
    running = engine.generate([asked])
    victim = engine.members()[0].pid

    def kill_at_work() -> None:
        if eventually(lambda: engine.counts()[0] == 1):
            os.kill(victim, signal.SIGKILL)

    threading.Thread(target=kill_at_work, daemon=True).start()
    found = list(running)
    engine.close()
    assert len(found) == 400
    assert {g.error for g in found} == {"the actor that worked on it was lost 1 times"}
    assert "1 lost actors were started again; 1 batches were started again" in caplog.text


@pytest.mark.slow
def test_a_scripted_engine_inside_writes_and_scores(ray_engine: Opened, script: Path) -> None:
    settings = TWO.model_copy(update={"inner": "scripted", "cpus": 0})
    engine, alone = (
        open_ray(script, settings),
        open_engine(ModelRef(engine="scripted", model=str(script)), Engines()),
    )
    asked = wanted(alone, 6)
    assert engine.model_id == alone.model_id
    assert traces(list(engine.generate(asked))) == traces(list(alone.generate(asked)))
    (scored,) = engine.score(texts(alone, 1))
    assert scored.entropy_lo.tolist() == [0.5] * len(scored.entropy_lo)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        list(engine.generate(asked))


@pytest.mark.slow
def test_a_pool_that_idles_is_not_taken_to_hang(
    ray_engine: Opened, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    monkeypatch.setattr(context, "execution_no_progress_timeout_s", 2)
    settings = TWO.model_copy(update={"inner": "scripted", "cpus": 0, "actors": 1})
    engine = open_ray(script, settings)
    time.sleep(8)
    assert len(traces(list(engine.generate(wanted(engine, 2))))) == 6
    engine.close()


@pytest.mark.slow
def test_an_http_engine_inside_writes_and_scores_as_it_does_alone(
    ray_engine: Opened, checkpoint: Path
) -> None:
    server = Server(Model(checkpoint))
    http = HttpEngine(endpoints=(HttpEndpoint(url=server.url),))
    settings = TWO.model_copy(update={"inner": "http", "cpus": 0})
    model = str(checkpoint)
    alone = open_engine(ModelRef(engine="http", model=model), Engines(http=http))
    engine = open_engine(ModelRef(engine="ray", model=model), Engines(ray=settings, http=http))
    try:
        assert engine.capabilities == alone.capabilities
        assert engine.model_id == alone.model_id
        asked = wanted(alone, 6)
        assert traces(list(engine.generate(asked))) == traces(list(alone.generate(asked)))
        for scored, own in zip(
            sorted(engine.score(texts(alone, 4)), key=lambda s: s.request),
            sorted(alone.score(texts(alone, 4)), key=lambda s: s.request),
            strict=True,
        ):
            assert scored.error is None
            np.testing.assert_allclose(scored.logprob, own.logprob, atol=1e-5)
    finally:
        engine.close()
        alone.close()
        server.kill()


@pytest.mark.slow
def test_an_actor_that_holds_another_model_is_refused(ray_engine: Opened, script: Path) -> None:
    settings = TWO.model_copy(update={"inner": "scripted", "cpus": 0, "actors": 1})
    engine = open_ray(script, settings)
    script.write_text(json.dumps([{"match": "", "replies": ["other words"]}]))
    os.kill(engine.members()[0].pid, signal.SIGKILL)
    assert eventually(lambda: len(engine.members()) == 2)
    with pytest.raises(CapabilityError, match="do not hold the same model"):
        list(engine.generate(wanted(engine, 3)))
    engine.close()


@pytest.mark.slow
def test_more_actors_than_the_cluster_can_hold_are_refused_at_once(
    ray_engine: Opened, script: Path
) -> None:
    with pytest.raises(UserError, match="4 CPUs of 2"):  # the other engine's two, and two more
        open_ray(script, TWO.model_copy(update={"inner": "scripted"}))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to open it on")
def test_a_model_that_cannot_be_opened_in_an_actor_says_why(
    ray_engine: Opened, checkpoint: Path
) -> None:
    settings = TWO.model_copy(update={"actors": 1, "cpus": 0})
    with pytest.raises(UserError, match=r"engine\.local\.device=cuda"):
        open_ray(checkpoint, settings, LOCAL.model_copy(update={"device": "cuda"}))


ALONE = """
import json, sys, time
from heal.config import Engines, ModelRef, RayEngine
from heal.engines import open_engine
settings = RayEngine(inner="scripted", object_store_mb=80)
engine = open_engine(ModelRef(engine="ray", model=sys.argv[1]), Engines(ray=settings))
while len(engine.members()) < 2:
    time.sleep(0.1)
print(json.dumps([m.pid for m in engine.members()]), flush=True)
if sys.argv[2] == "die":
    time.sleep(600)
engine.close()
import ray
assert not ray.is_initialized()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "die"])
def test_no_process_outlives_the_run(script: Path, end: str) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-c", ALONE, str(script), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        line = driver.stdout.readline()
        pids = json.loads(line)
        assert len(pids) == 2
        if end == "die":
            driver.kill()
        _, errors = driver.communicate(timeout=120)
    assert driver.returncode == (0 if end == "close" else -signal.SIGKILL), errors.decode()
    assert eventually(lambda: not any(alive(pid) for pid in pids), 30)
