"""The `vllm` dialect against vLLM's own server: the contract, a whole run, real kills.

`make test-vllm` installs that server in an environment of its own, starts it here over small
models and runs this file. Without it nothing here runs; what it answered once is replayed in
`test_vllm_answers.py`.
"""

import inspect
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests.test_engine_contract as contract
import tests.test_vllm_answers as answers
from benchmarks.vllm_server import VllmServer, served_folder
from tests.test_engine_http import CASES, CONTRACT
from tests.tiny_models import make_checkpoint

from heal.before.check import check
from heal.before.findings import Outcome
from heal.config import HttpEndpoint, HttpEngine
from heal.config import LocalEngine as LocalSettings
from heal.engines.base import Generated, GenRequest, Sampling, ScoreRequest
from heal.engines.http.dialects.base import HttpRequest
from heal.engines.http.endpoint import Endpoint
from heal.engines.http.engine import HttpEngine as Engine
from heal.engines.http.engine import open_http
from heal.engines.local import loading
from heal.engines.local.engine import open_local
from heal.errors import EngineError
from heal.execute import overview
from heal.recipe import parse
from heal.store import Store

if "HEAL_VLLM_PYTHON" not in os.environ:
    pytest.skip("needs vLLM's own server: make test-vllm", allow_module_level=True)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]

EXACT = {"tiny": 305}
"""Log-probs asked for where all of the vocabulary is few enough; 20 elsewhere."""


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], VllmServer]]:
    """Servers by model, each started once."""
    started: dict[str, VllmServer] = {}

    def start(model: str) -> VllmServer:
        if model not in started:
            if model == "tiny":
                folder = tmp_path_factory.mktemp("served") / model
                make_checkpoint(folder, head_dim=32)
            else:
                folder = served_folder(model)
            # Compiling takes two minutes and gains these small models little.
            server = VllmServer(
                folder, options=("--enforce-eager",), log=folder.with_suffix(".log")
            )
            server.start()
            started[model] = server
        return started[model]

    yield start
    for server in started.values():
        server.kill()


def engine_at(server: VllmServer, **settings: Any) -> Engine:
    settings = {"in_flight": contract.ROWS, **settings}
    places = (HttpEndpoint(url=server.url),)
    return open_http(str(server.folder), None, HttpEngine(endpoints=places, **settings))


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def subject(
    request: pytest.FixtureRequest, serve: Callable[[str], VllmServer]
) -> Iterator[contract.Subject]:
    server = serve(request.param)
    module = loading.load_module(loading.locate(str(server.folder)), "float32", "cpu")
    engine = engine_at(server, top_logprobs=EXACT.get(request.param, 20))
    yield contract.Subject(engine, module, tolerance=1e-3)
    engine.close()


@pytest.fixture(scope="module")
def tiny(serve: Callable[[str], VllmServer]) -> VllmServer:
    return serve("tiny")


# ── the contract ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_engine_contract(name: str, case: dict[str, Any], subject: contract.Subject) -> None:
    check = CONTRACT[name]
    takes_engine = "engine" in inspect.signature(check).parameters
    check(**case, **({"engine": subject.engine} if takes_engine else {"subject": subject}))


@pytest.mark.parametrize("filters", contract.FILTERS, ids=str)
def test_first_tokens_follow_the_filtered_softmax(
    tiny: VllmServer, filters: dict[str, Any]
) -> None:
    engine = engine_at(tiny, samples_per_request=50)
    module = loading.load_module(loading.locate(str(tiny.folder)), "float32", "cpu")
    contract.assert_drawn_from_the_filtered_softmax(contract.Subject(engine, module), filters)
    engine.close()


def test_scores_are_those_of_the_local_engine(serve: Callable[[str], VllmServer]) -> None:
    """Traces that the server wrote, SmolLM2 in float32; entropies of the local engine are exact."""
    server = serve("smollm2")
    there = engine_at(server)
    here = open_local(str(server.folder), LocalSettings(rows=8, threads=1))
    prompt = there.render("Tom has 3 boxes of 12 eggs and breaks 5. How many are whole?")
    sampling = Sampling(temperature=1.0, max_new_tokens=24)
    written = list(there.generate([GenRequest("w", prompt, (1, 2, 3), sampling)]))
    asked = [ScoreRequest(str(g.index), prompt, tuple(g.ids.tolist())) for g in written]
    theirs = {s.request: s for s in there.score(asked)}
    ours = {s.request: s for s in here.score(asked)}
    for name, mine in ours.items():
        np.testing.assert_allclose(theirs[name].logprob, mine.logprob, atol=1e-3)
        assert (theirs[name].entropy_lo <= mine.entropy_lo + 1e-3).all()
        assert (theirs[name].entropy_hi >= mine.entropy_hi - 1e-3).all()
    there.close()
    here.close()


def test_the_check_finds_nothing_missing(tiny: VllmServer, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"problem": "What is 2 + 2?", "answer": "4"}\n')
    (found,) = check(
        parse(
            {
                "run": str(tmp_path / "run"),
                "problems": {"path": str(tmp_path / "p.jsonl"), "held_out": 0},
                "teacher": {"engine": "http", "model": str(tiny.folder)},
                "prompts": {"solve": "{problem}"},
                "sampling": {"max_new_tokens": 32},
                "engine": {"http": {"endpoints": [{"url": tiny.url}]}},
            }
        )
    )
    assert {f.outcome for f in found.findings} == {Outcome.OK}, found.findings
    assert len(found.findings) == 8


# ── kills ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[tuple[int, ...], int]]:
    """How often each request, by prompt and seed, was answered."""
    real, count = Endpoint.post, Counter[tuple[tuple[int, ...], int]]()

    async def post(self: Endpoint, request: HttpRequest, timeout_s: float) -> bytes:
        body = await real(self, request, timeout_s)
        count[tuple(request.body["prompt"]), request.body["seed"]] += 1
        return body

    monkeypatch.setattr(Endpoint, "post", post)
    return count


def requests(engine: Engine, problems: int, n: int, tokens: int) -> list[GenRequest]:
    sampling = Sampling(temperature=1.0, max_new_tokens=tokens)
    seeds = tuple(range(n))
    return [
        GenRequest(str(i), engine.render(f"three times {i}"), seeds, sampling)
        for i in range(problems)
    ]


def test_three_real_kills_lose_nothing_and_pay_for_no_answer_twice(
    tiny: VllmServer, answered: Counter[Any]
) -> None:
    engine = engine_at(tiny, in_flight=32)
    asked = requests(engine, problems=60, n=10, tokens=120)
    kill_at, back_s = [100, 250, 400], list[float]()
    found: list[Generated] = []
    restart: threading.Thread | None = None
    for generated in engine.generate(asked):
        found.append(generated)
        if kill_at and len(found) >= kill_at[0]:
            del kill_at[0]
            if restart is not None:
                restart.join()
            tiny.kill()
            restart = threading.Thread(target=lambda: back_s.append(tiny.start()))
            restart.start()
    assert restart is not None
    restart.join()
    assert len(back_s) == 3
    keys = Counter((g.request, g.index) for g in found)
    assert len(keys) == 600
    assert set(keys.values()) == {1}
    assert not [g.error for g in found if g.error]
    assert len(answered) == 600
    assert set(answered.values()) == {1}
    summary = engine.summary() or ""
    # Each kill pauses it; one that is slow to come back may be paused again by its trial request.
    pauses = re.search(rf"(\d+) × paused \({re.escape(tiny.url)}\)", summary)
    assert pauses is not None
    assert int(pauses[1]) >= 3
    print(f"restarts took {[f'{s:.0f} s' for s in back_s]}; {summary}")
    engine.close()


def test_a_server_whose_engine_died_is_paused_and_named_when_it_stays_away(
    tiny: VllmServer,
) -> None:
    """The route lives on for a moment and answers 500; then it is gone, too."""
    engine = engine_at(tiny, give_up_s=6.0)
    running = engine.generate(requests(engine, problems=20, n=10, tokens=120))
    for _ in range(10):
        assert next(running).error is None
    tiny.kill_engine()
    died = time.monotonic()
    with pytest.raises(EngineError, match=rf"give_up_s = 6: {tiny.url}: ") as caught:
        list(running)
    assert 6.0 <= time.monotonic() - died < 60.0
    assert caught.value.hint
    print(f"{caught.value} ({time.monotonic() - died:.1f} s); {engine.summary()}")
    engine.close()
    tiny.kill()
    tiny.start()


def test_a_whole_run_outlives_three_real_kills_of_its_teacher(tmp_path: Path) -> None:
    """`recipes/vllm.yaml`, a little smaller; killed again whenever it has answered a while."""
    server = VllmServer(
        served_folder("lab"), options=("--enforce-eager",), log=tmp_path / "server.log"
    )
    took = [server.start()]
    changed = {
        "run": tmp_path / "run",
        "engine.http.endpoints": f'[{{url: "{server.url}"}}]',
        "problems.args": "{n: 10, seed: 1, world: rows}",
        "sampling.n": 8,
        "gear.paths": 1,
    }
    told = [word for name, value in changed.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "heal", "run", "-c", "recipes/vllm.yaml", *told]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(3):
            while server.counted("request_success_total") < 40 and run.poll() is None:
                time.sleep(0.2)
            assert run.poll() is None, "it ended before it could be disturbed"
            server.kill()
            took.append(server.start())
        said, _ = run.communicate(timeout=900)
    finally:
        run.kill()
        server.kill()
    print(f"restarts took {[f'{s:.0f} s' for s in took[1:]]}\n{said}")
    assert run.returncode == 0
    with Store.open(tmp_path / "run", write=False) as store:
        facts = list(overview(store))
    print("\n".join(facts))
    assert "in flight at a crash, so paid for again at most: 0" in facts
    assert (tmp_path / "run" / "report.html").is_file()


# ── its answers, recorded ───────────────────────────────────────────────────────────────────────

VOLATILE = {"created", "root", "permission", "system_fingerprint"}


def steady(tree: Any) -> Any:
    """An answer without what differs from one call to the next."""
    if isinstance(tree, dict):
        told = {k: v for k, v in tree.items() if k not in VOLATILE}
        return {k: steady(v) for k, v in told.items() if not str(v).startswith("cmpl-")}
    return [steady(v) for v in tree] if isinstance(tree, list) else tree


def asked_now(server: VllmServer, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(server.url + path, data, headers), timeout=120
        ) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_it_answers_as_it_was_recorded(tiny: VllmServer) -> None:
    """Shapes, reasons and ids; log-probs up to rounding. HEAL_VLLM_RECORD=1 writes them anew."""
    record = "HEAL_VLLM_RECORD" in os.environ
    found: dict[str, Any] = {}
    for name in answers.pages():
        path, body = answers.pages()[name]  # anew: one request depends on an answer before it
        status, answer = asked_now(tiny, path, body)
        found[name] = {"path": path, "body": body, "status": status, "answer": steady(answer)}
        if record:
            lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
            answers.RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    known = json.loads(answers.RECORDED.read_text(encoding="utf-8"))
    assert found.keys() == known.keys()
    for name, case in found.items():
        one, other = dict(case), dict(known[name])
        if name in {"three at once", "scored", "probed", "echoed"}:  # without a seed it draws anew
            for side in (one, other):
                answer = side.pop("answer")
                side["choices"] = [(c.keys(), c["prompt_logprobs"]) for c in answer["choices"]]
        assert_alike(one, other, name)


def assert_alike(one: Any, other: Any, where: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_alike(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_alike(a, b, f"{where}[{place}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-3), where
    else:
        assert one == other, where
