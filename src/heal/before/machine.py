"""What this machine and a model's files are like, found without opening a model.

In: nothing, or a model's name. Out: cores, memory, GPUs; a model's weight, context and template.
Imports no library of models, so it answers at once.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal.before.gguf_header import read_settings
from heal.bounded import read_json_object
from heal.engines import resolve_model
from heal.errors import UserError

GB = 1e9
_ASK_S = 10.0
THINKING = "<think>"
_TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")


@dataclass(frozen=True)
class Machine:
    """Cores this process may use, memory in GB, and the memory of each GPU in GB."""

    cores: int
    memory_gb: float
    gpus: tuple[float, ...]

    @property
    def words(self) -> str:
        """`2 cores, 16 GB, no GPU`."""
        gpus = " + ".join(f"{gb:.0f}" for gb in self.gpus)
        return f"cores: {self.cores}, memory: {self.memory_gb:.0f} GB, " + (
            f"GPUs: {gpus} GB" if self.gpus else "no GPU"
        )


@dataclass(frozen=True)
class ModelFacts:
    """What a model's files say of it; None: they do not say."""

    gb: float
    """Size of its weights; 0 where only a tokenizer is there."""
    context: int | None
    thinks: bool
    """Its chat template knows <think>."""


def look() -> Machine:
    """This machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    return Machine(len(os.sched_getaffinity(0)), memory, _gpus())


def model_facts(model: str) -> ModelFacts:
    """A model's files. Raises: UserError if there are none."""
    folder = Path(model).expanduser()
    if not (folder / "tokenizer.json").is_file() or any(folder.glob("*.safetensors")):
        folder = resolve_model(model)
    if folder.is_file():
        return _gguf_facts(folder)
    weights = [f for kind in ("*.safetensors", "pytorch_model*.bin") for f in folder.glob(kind)]
    config = read_json_object(folder / "config.json") if _has(folder, "config.json") else {}
    return ModelFacts(
        sum(f.stat().st_size for f in weights) / GB, _context(config), THINKING in _told(folder)
    )


def _gguf_facts(file: Path) -> ModelFacts:
    found = read_settings(file)
    context = found.get(f"{found.get('general.architecture')}.context_length")
    return ModelFacts(
        file.stat().st_size / GB,
        context if isinstance(context, int) and context > 0 else None,
        THINKING in str(found.get("tokenizer.chat_template", "")),
    )


def facts_or_none(model: str) -> ModelFacts | None:
    """A model's files; None if they are not on this machine."""
    try:
        return model_facts(model)
    except UserError:
        return None


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _context(config: dict[str, Any]) -> int | None:
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    found = [
        part.get(name) for part in parts for name in ("max_position_embeddings", "n_positions")
    ]
    return next((n for n in found if isinstance(n, int) and n > 0), None)


def _told(folder: Path) -> str:
    files = [folder / name for name in _TEMPLATES if _has(folder, name)]
    return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def _gpus() -> tuple[float, ...]:
    """Memory of each GPU that this process may use, as the driver's own tool tells it."""
    tool, seen = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if tool is None or seen == "":
        return ()
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    sizes = tuple(float(line) * 2**20 / GB for line in told.stdout.split() if line.isdigit())
    chosen = [int(n) for n in (seen or "").split(",") if n.strip().isdigit()]
    return tuple(sizes[n] for n in chosen if n < len(sizes)) if chosen else sizes
