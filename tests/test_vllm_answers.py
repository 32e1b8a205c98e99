"""vLLM's own answers, recorded, played back to our engine: what we send and read has not drifted.

`cases/vllm-0.32.json` holds pages as our dialects wrote them and what vLLM 0.32 answered over the
tiny model. A page that is not among them is answered with an error, so a changed request fails here
as a changed reading does. `HEAL_VLLM_RECORD=1 make test-vllm` records them again.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_models import TEMPLATE, make_tokenizer

from heal.config import HttpEndpoint, HttpEngine
from heal.engines.base import GenRequest, Probe, Sampling, ScoreRequest
from heal.engines.http.dialects import DIALECTS
from heal.engines.http.dialects.base import Dialect, SampleRequest
from heal.engines.http.engine import HttpEngine as Engine
from heal.engines.http.engine import open_http
from heal.records import Finish

RECORDED = Path(__file__).parent / "cases" / "vllm-0.32.json"
PROMPT, END, CONTEXT = (2, 90, 70, 75, 1, 3), 0, 256
TARGET, PROBE = (80, 81, 90), (70, 75, 66)
GREEDY = Sampling(temperature=0.0, max_new_tokens=6)
DRAWN = Sampling(temperature=0.7, top_p=0.9, top_k=20, min_p=0.01, max_new_tokens=6)


def pages() -> dict[str, tuple[str, dict[str, Any] | None]]:
    """What is asked, by name: a path and a body; None for a GET."""
    vllm, openai = DIALECTS["vllm"](), DIALECTS["openai"]()
    ids = (*PROMPT, *TARGET)

    def write(dialect: Dialect, *arguments: Any) -> tuple[str, dict[str, Any]]:
        page = dialect.write("tiny", SampleRequest(*arguments))
        return page.path, page.body

    def score(dialect: Dialect, *arguments: Any) -> tuple[str, dict[str, Any]]:
        page = dialect.score("tiny", *arguments)
        return page.path, page.body

    return {
        "health": ("/health", None),
        "models": ("/v1/models", None),
        "greedy": write(vllm, PROMPT, GREEDY, (END,), 1, 7),
        "drawn": write(vllm, PROMPT, DRAWN, (END,), 1, 7),
        "three at once": write(vllm, PROMPT, DRAWN, (END,), 3),
        "stopped": write(vllm, PROMPT, GREEDY, (END, *stopping()), 1, 7),
        "scored": score(vllm, ids, len(PROMPT), 4),
        "probed": score(vllm, (*ids[:-1], *PROBE), len(ids), 0),
        "empty": write(vllm, (), GREEDY, (END,), 1, 7),
        "too long": write(vllm, PROMPT * 50, GREEDY, (END,), 1, 7),
        "too many log-probs": score(vllm, ids, len(PROMPT), 400),
        "plain": write(openai, PROMPT, GREEDY, (END,), 1),
        "echoed": score(openai, ids, len(PROMPT), 4),
    }


def stopping() -> tuple[int, ...]:
    """The third token of the greedy answer, as an end of a turn that is not the model's own."""
    known = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.is_file() else {}
    if "greedy" not in known:  # while it is being recorded
        return ()
    return (known["greedy"]["answer"]["choices"][0]["token_ids"][2],)


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return tree


def raw(recorded: dict[str, dict[str, Any]], name: str) -> bytes:
    return json.dumps(recorded[name]["answer"]).encode()


@pytest.mark.parametrize("name", pages())
def test_we_still_ask_what_was_answered(recorded: dict[str, dict[str, Any]], name: str) -> None:
    path, body = pages()[name]
    assert (recorded[name]["path"], recorded[name]["body"]) == (path, body)


def test_its_samples_are_ids_with_a_reason(recorded: dict[str, dict[str, Any]]) -> None:
    vllm = DIALECTS["vllm"]()
    (greedy,) = vllm.written(raw(recorded, "greedy"))
    assert (len(greedy.ids), greedy.reason, greedy.stop_id) == (6, "length", None)
    three = vllm.written(raw(recorded, "three at once"))
    assert [sample.index for sample in three] == [0, 1, 2]
    (plain,) = DIALECTS["openai"]().written(raw(recorded, "plain"))
    assert plain.ids == greedy.ids


def test_the_id_that_stopped_it_is_among_its_ids(recorded: dict[str, dict[str, Any]]) -> None:
    (stopped,) = DIALECTS["vllm"]().written(raw(recorded, "stopped"))
    (stop,) = stopping()
    assert stopped.ids[-1] == stopped.stop_id == stop
    assert stopped.reason == "stop"


def test_both_ways_of_asking_score_alike(recorded: dict[str, dict[str, Any]]) -> None:
    ids, start = (*PROMPT, *TARGET), len(PROMPT)
    one = DIALECTS["vllm"]().scored(raw(recorded, "scored"), ids, start, 4)
    other = DIALECTS["openai"]().scored(raw(recorded, "echoed"), ids, start, 4)
    assert one.logprob.shape == (3,)
    assert one.top.shape == (3, 4)
    np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-5)
    np.testing.assert_allclose(one.top, other.top, atol=1e-5)
    assert (one.top[:, 0] >= one.logprob).all()
    assert one.rank is not None and other.rank is None
    assert one.rank.tolist() == RANKS


RANKS = [2, 260, 32]
"""How vLLM ranks the target's tokens."""


# ── the whole engine over the recorded answers ──────────────────────────────────────────────────


class Playback(BaseHTTPRequestHandler):
    """Answers a page that was recorded; 501 for any other."""

    protocol_version = "HTTP/1.1"
    cases: dict[str, dict[str, Any]]

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def answer(self, body: Any) -> None:
        found = (c for c in self.cases.values() if (c["path"], c["body"]) == (self.path, body))
        case = next(found, {"status": 501, "answer": {"detail": "nothing like it was recorded"}})
        content = json.dumps(case["answer"]).encode()
        self.send_response(case["status"])
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def engine(recorded: dict[str, dict[str, Any]], tmp_path: Path) -> Iterator[Engine]:
    handler = type("Recorded", (Playback,), {"cases": recorded})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tokenizer = make_tokenizer()
    assert tokenizer.chat_template == TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    place = HttpEndpoint(url=f"http://127.0.0.1:{server.server_address[1]}")
    settings = HttpEngine(endpoints=(place,), top_logprobs=4, tries=1)
    engine = open_http(str(tmp_path), None, settings)
    yield engine
    engine.close()
    server.shutdown()
    server.server_close()


def test_the_engine_opens_writes_and_scores(
    engine: Engine, recorded: dict[str, dict[str, Any]]
) -> None:
    assert engine.capabilities.context == CONTEXT
    asked = [GenRequest(str(s.temperature), PROMPT, (7,), s) for s in (GREEDY, DRAWN)]
    for g in engine.generate(asked):
        assert g.error is None
        case = "greedy" if g.request == "0.0" else "drawn"
        assert g.ids.tolist() == recorded[case]["answer"]["choices"][0]["token_ids"]
        assert g.finish is (Finish.STOP if END in g.ids else Finish.LENGTH)
    probe = Probe(len(TARGET) - 1, PROBE, 1)
    (scored,) = engine.score([ScoreRequest("s", PROMPT, TARGET, (probe,))])
    assert scored.error is None
    places = recorded["scored"]["answer"]["choices"][0]["prompt_logprobs"][len(PROMPT) :]
    told = [place[str(i)]["logprob"] for place, i in zip(places, TARGET, strict=True)]
    np.testing.assert_allclose(scored.logprob, told, rtol=1e-6)
    assert len(scored.probe_logprob[0]) == 2
    assert (scored.entropy_lo <= scored.entropy_hi).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "at least one prompt"),
        ("too long", "maximum context length is 256"),
        ("too many log-probs", "greater than max allowed"),
    ],
)
def test_it_refuses_in_words(recorded: dict[str, dict[str, Any]], name: str, words: str) -> None:
    assert recorded[name]["status"] == 400
    assert words in recorded[name]["answer"]["error"]["message"]
