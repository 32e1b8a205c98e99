"""Training speed: HEAL's trainer against plain TRL, on the same batches in one interleaved run.

Every side trains the same weights on the same rows in the same order with the same optimizer, in
float32, in turn, so that a busy machine slows all of them. `trl` is `SFTTrainer` as it comes, but
for gradient checkpointing, which is on in `trl-defaults` alone: its default costs time to save
memory. Figures are tokens of the rows per second, padding not counted; ratios are medians of paired
ratios. Losses are compared step by step, and a difference above `--tolerance` fails.

    python benchmarks/bench_train.py [--model MODEL] [--repeats N] [--lora RANK] [--json FILE]
"""

import argparse
import copy
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from engine.measure import clock, machine, median, paired
from engine.subjects import SMOLLM2
from heal.config import Train
from heal.engines import read_tokenizer, read_weights, resolve_model
from heal.students.allocator import keeps_memory
from heal.students.checkpoints import Checkpoints
from heal.students.launch import Job
from heal.students.rendering import Rendered
from heal.students.train import quiet, unmark_gguf
from heal.students.trainer import adapters, fit

PEAK = 1e-5
ON_LOSS = Callable[[int, float], None]


@dataclass(frozen=True)
class Subject:
    """What every side trains."""

    model: Any
    tokenizer: Any
    source: Path
    rows: Sequence[Rendered]
    batch_size: int
    settings: Train

    @property
    def batches(self) -> list[list[int]]:
        places = range(0, len(self.rows), self.batch_size)
        return [[*range(i, i + self.batch_size)] for i in places]


def made_rows(count: int, seed: int, vocabulary: int) -> list[Rendered]:
    """Random tokens in the lengths of real traces.

    Prompts of 80 to 160 tokens; answers log-normal about 200 tokens with a deviation of 0.35, as
    394 right traces of a 0.5B teacher had them (real_yield.json; their median was 203).
    """
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        prompt = int(rng.integers(80, 161))
        answer = int(np.clip(rng.lognormal(np.log(200), 0.35), 40, 600))
        ids = rng.integers(100, vocabulary, prompt + answer)
        rows.append(Rendered(tuple(ids.tolist()), prompt))
    return rows


def heal(subject: Subject, model: Any, folder: Path, on_loss: ON_LOSS) -> None:
    """HEAL's own."""
    job = Job(
        subject.source,
        folder / "out",
        subject.rows,
        subject.batches,
        PEAK,
        0,
        subject.settings,
        Checkpoints(folder / "checkpoints", "bench", None),
    )
    with keeps_memory():
        fit(model, subject.tokenizer, job, on_loss, print)


class Told(TrainerCallback):
    """Tells each step's loss when the step ends."""

    def __init__(self, on_loss: ON_LOSS) -> None:
        self.on_loss = on_loss

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.on_loss(state.global_step, logs["loss"])


def trl(subject: Subject, model: Any, folder: Path, on_loss: ON_LOSS, **changes: Any) -> None:
    """`SFTTrainer` over the same rows, in order."""
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=len(subject.batches),
        per_device_train_batch_size=subject.batch_size,
        train_sampling_strategy="sequential",
        learning_rate=PEAK,
        lr_scheduler_type="cosine_warmup_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": subject.settings.min_lr},
        warmup_steps=subject.settings.warmup,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **changes,
    )
    columns = {
        "input_ids": [list(row.ids) for row in subject.rows],
        "labels": [row.labels for row in subject.rows],
    }
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=subject.tokenizer,
        callbacks=[Told(on_loss)],
        peft_config=adapters(subject.settings),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


# a bool for gradient_checkpointing counts as the deprecated spelling
OFF = {"gradient_checkpointing": None, "activation_checkpointing": False}
SIDES: dict[str, Callable[..., None]] = {
    "heal": heal,
    "trl": lambda *given: trl(*given, **OFF),
    "trl-defaults": trl,
}


def timed(side: str, subject: Subject) -> tuple[list[float], list[float]]:
    """Seconds of each step but the first, which allocates; and every step's loss."""
    losses, ends = list[float](), list[float]()

    def on_loss(step: int, loss: float) -> None:
        losses.append(loss)
        ends.append(clock())

    model = copy.deepcopy(subject.model)
    with tempfile.TemporaryDirectory() as folder, quiet():
        SIDES[side](subject, model, Path(folder), on_loss)
    return [b - a for a, b in itertools.pairwise(ends)], losses


def measured(subject: Subject, sides: Sequence[str], repeats: int) -> Iterator[dict[str, Any]]:
    """After each repeat: tokens per second by side and step, and how far losses are apart."""
    tokens = [sum(len(subject.rows[i].ids) for i in batch) for batch in subject.batches]
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    losses: dict[str, list[float]] = {}
    for _ in range(repeats):
        for side in sides:
            took, losses[side] = timed(side, subject)
            speeds[side] += [n / s for n, s in zip(tokens[1:], took, strict=True)]
            print(f"{side}: {speeds[side][-1]:.0f} tokens/s", file=sys.stderr, flush=True)
        yield compared(speeds, losses)


def compared(speeds: dict[str, list[float]], losses: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and the first side against each other."""
    first, *others = speeds
    apart = {
        side: max(abs(a / b - 1) for a, b in zip(losses[first], losses[side], strict=True))
        for side in others
    }
    return {
        "tokens_per_s": speeds,
        "medians": {side: median(values) for side, values in speeds.items()},
        "ratios": {side: paired(speeds[first], speeds[side]) for side in others},
        "losses": losses,
        "losses_apart": apart,
    }


def shape(subject: Subject) -> dict[str, Any]:
    """What is trained on, and what of it padding would add."""
    lengths = [len(row.ids) for row in subject.rows]
    widths = [max(lengths[i] for i in batch) * len(batch) for batch in subject.batches]
    taught = sum(len(row.ids) - row.prompt_tokens for row in subject.rows)
    return {
        "rows": len(lengths),
        "steps": len(subject.batches),
        "tokens": sum(lengths),
        "taught": taught,
        "padded": sum(widths),
        "padding_waste": 1 - sum(lengths) / sum(widths),
    }


def opened(arguments: argparse.Namespace) -> Subject:
    source = resolve_model(arguments.model)
    settings = Train(threads=arguments.threads, lora_rank=arguments.lora)
    with quiet():
        model, tokenizer = read_weights(source), read_tokenizer(source)
        unmark_gguf(model)
    rows = made_rows(arguments.steps * arguments.batch, arguments.seed, model.config.vocab_size)
    return Subject(model, tokenizer, source, rows, arguments.batch, settings)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--batch", type=int, default=8, help="rows to a step")
    parser.add_argument("--steps", type=int, default=3, help="of each repeat; one is not timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lora", type=int, default=None, help="the rank of adapters")
    parser.add_argument("--sides", default="heal,trl,trl-defaults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of losses, relative")
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args()


def main() -> int:
    arguments = parsed()
    clock.kind = arguments.clock
    torch.set_num_threads(arguments.threads)
    subject = opened(arguments)
    told: dict[str, Any] = {}
    for found in measured(subject, arguments.sides.split(","), arguments.repeats):
        about = {"model": arguments.model, "lora_rank": arguments.lora, "clock": arguments.clock}
        told = {**about, **shape(subject), **found, "machine": machine()}
        if arguments.json:
            arguments.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(table(told))
    apart = max(told["losses_apart"].values(), default=0.0)
    if apart > arguments.tolerance:
        print(f"losses are {apart:.1e} apart, over {arguments.tolerance:.0e}", file=sys.stderr)
        return 1
    return 0


def table(told: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| side | tokens/s, median | n | heal is | losses apart |", "|---|---|---|---|---|"]
    for side, value in told["medians"].items():
        ratio, apart = told["ratios"].get(side), told["losses_apart"].get(side)
        compared = "– | –" if ratio is None else f"{ratio:.2f} × | {apart:.1e}"
        n = len(told["tokens_per_s"][side])
        lines.append(f"| {side} | {value:.1f} | {n} | {compared} |")
    waste = f"{told['padding_waste']:.0%} of what is padded is padding"
    return "\n".join([*lines, "", f"{told['tokens']:,} tokens, {told['taught']:,} taught; {waste}"])


if __name__ == "__main__":
    sys.exit(main())
