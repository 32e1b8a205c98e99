"""Training on several processes of one machine, which HEAL starts and ends.

In: one stage's work. Out: the same files that training in this process leaves. The work goes to a
folder, `accelerate launch` starts N workers on it (`heal.students.worker`), and their losses come
back through a file. Whatever way this process ends, the workers end with it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heal.children import Child, free_port, start
from heal.config import Launch, Train
from heal.errors import UserError
from heal.students.checkpoints import Checkpoint, Checkpoints, Note
from heal.students.rendering import Rendered
from heal.wording import plural

__all__ = ["SHIPPED", "Job", "config_file", "layout", "run", "sharded"]

HERE = Path(__file__).parent / "accelerate"
SHIPPED = ("ddp", "fsdp2", "zero3")
ADAPTER = "adapter"
"""A stage's own adapters, where there are any, before they were merged."""
SHARDING = {"FSDP", "DEEPSPEED"}
WORK, TEXTS, LOSSES, NOTES, FINISHED, REFUSED = (
    "job.json", "rendered.npz", "losses.jsonl", "notes.jsonl", "finished", "refused.json",
)  # fmt: skip
POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """One stage's training, as files can say it."""

    source: Path
    out: Path
    """Where the weights go, or the adapters into its `adapter`."""
    rendered: Sequence[Rendered]
    batches: Sequence[list[int]]
    learning_rate: float
    seed: int
    settings: Train
    checkpoints: Checkpoints
    start: Checkpoint | None = None
    untouched: Path | None = None
    """The student before any stage, which `train.anchor` needs."""

    @property
    def adapter(self) -> Path:
        """Where adapters go, by themselves."""
        return self.out / ADAPTER

    def write(self, folder: Path) -> None:
        """Put it into a folder for the workers."""
        folder.mkdir(parents=True)
        ends = np.cumsum([len(r.ids) for r in self.rendered])
        ids = np.concatenate([np.asarray(r.ids, np.int32) for r in self.rendered])
        prompts = np.asarray([r.prompt_tokens for r in self.rendered], np.int32)
        np.savez(folder / TEXTS, ids=ids, ends=ends, prompts=prompts)
        own, start = self.checkpoints, self.start
        told = {
            "source": str(self.source),
            "out": str(self.out),
            "batches": [list(batch) for batch in self.batches],
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "settings": self.settings.model_dump(mode="json"),
            "checkpoints": [str(own.folder), own.key, own.every, own.layout, own.before_s],
            "start": start and [str(start.folder), start.losses, start.seconds],
            "untouched": self.untouched and str(self.untouched),
        }
        (folder / WORK).write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """What `write` wrote."""
        told = json.loads((folder / WORK).read_text(encoding="utf-8"))
        with np.load(folder / TEXTS) as found:
            parts = np.split(found["ids"], found["ends"][:-1])
            prompts = found["prompts"].tolist()
        rendered = [Rendered(tuple(ids.tolist()), n) for ids, n in zip(parts, prompts, strict=True)]
        place, *rest = told["checkpoints"]
        start = told["start"]
        return cls(
            Path(told["source"]),
            Path(told["out"]),
            rendered,
            told["batches"],
            told["learning_rate"],
            told["seed"],
            Train.model_validate(told["settings"]),
            Checkpoints(Path(place), *rest),
            start and Checkpoint(Path(start[0]), *start[1:]),
            told["untouched"] and Path(told["untouched"]),
        )


def config_file(launch: Launch) -> Path:
    """Accelerate's own configuration that a launch names. Raises: UserError."""
    if launch.config in SHIPPED:
        return HERE / f"{launch.config}.yaml"
    path = Path(launch.config).expanduser().absolute()
    if not path.is_file():
        raise UserError(
            f"train.launch.config: {launch.config}: no such file, and none of {', '.join(SHIPPED)}",
            hint=f"accelerate config --config_file {launch.config} writes one",
        )
    return path


def sharded(launch: Launch) -> bool:
    """Whether each process holds a part of the student only. Raises: UserError."""
    from accelerate.commands.config.config_args import load_config_from_file

    file = config_file(launch)
    try:
        kind = load_config_from_file(str(file)).distributed_type
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file}: accelerate does not take it: {error}",
            hint=f"accelerate config --config_file {file} writes one",
        ) from None
    return str(getattr(kind, "value", kind)) in SHARDING


def layout(launch: Launch | None) -> str:
    """Which processes share the work, in words: a checkpoint of others is not theirs."""
    return (
        "one process"
        if launch is None
        else f"{plural(launch.processes, 'process', 'processes')} ({launch.config})"
    )


def run(
    job: Job, launch: Launch, folder: Path, on_loss: Callable[[int, float], None], note: Note
) -> list[float]:
    """Train a job in `folder`, which is made for it; the losses of all steps.

    What the workers have to say besides is told to `note` when they are done.

    Raises: UserError when the workers refuse, or end before they are done.
    """
    require_devices(launch)
    job.write(folder)
    told = folder.parent / f"{folder.name}.log"
    losses = list(job.start.losses) if job.start else []
    with _workers(launch, folder, told, job.settings.threads) as workers, _follow(folder) as fresh:
        over = False
        while not over:
            over = workers.ended()
            for loss in fresh():
                losses.append(loss)
                on_loss(len(losses), loss)
            if not over:
                time.sleep(POLL_S)
    if (folder / REFUSED).is_file():
        raise UserError(**json.loads((folder / REFUSED).read_text(encoding="utf-8")))
    if not (folder / FINISHED).is_file():
        raise UserError(
            f"the training processes ended before they were done; {told} ends:\n{workers.tail()}",
            hint="the same command goes on from the last checkpoint",
        )
    told.unlink()
    if (folder / NOTES).is_file():
        for line in (folder / NOTES).read_text(encoding="utf-8").splitlines():
            note(json.loads(line))
    return losses


def require_devices(launch: Launch) -> None:
    """Whether there is a device for each process. Raises: UserError."""
    import torch

    found = torch.cuda.device_count()
    if found and launch.processes > found:
        raise UserError(
            f"train.launch.processes is {launch.processes}, and there are {found} GPUs",
            hint=f"--set train.launch.processes={found}",
        )
    if not found and sharded(launch):
        # accelerate would train a whole copy in each process, and say nothing
        raise UserError(
            f"train.launch.config {launch.config} shares a student out among GPUs; none is here",
            hint="--set train.launch.config=ddp",
        )


def command(launch: Launch, folder: Path) -> list[str]:
    """What is started."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(config_file(launch))),
        *("--num_processes", str(launch.processes), "--num_machines", "1"),
        *("--main_process_port", str(free_port())),
        *("-m", "heal.students.worker", str(folder)),
    ]


@contextmanager
def _workers(launch: Launch, folder: Path, told: Path, threads: int | None) -> Iterator[Child]:
    """The processes, which end with this block in any case."""
    told.unlink(missing_ok=True)
    env = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    env |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HF_HUB_OFFLINE": "1"}
    workers = start(command(launch, folder), env, told)
    try:
        yield workers
    finally:
        workers.end()
        workers.wait()


@contextmanager
def _follow(folder: Path) -> Iterator[Callable[[], Iterator[float]]]:
    """Losses as they are written; a line that is not whole yet waits."""
    (folder / LOSSES).touch()
    with (folder / LOSSES).open(encoding="utf-8") as file:
        left = [""]

        def fresh() -> Iterator[float]:
            *whole, left[0] = (left[0] + file.read()).split("\n")
            yield from (json.loads(line) for line in whole)

        yield fresh
