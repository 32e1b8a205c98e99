"""Train: one student per arm and seed, in chained stages (docs/method.md §4).

In: a plan of explicit batches, the examples it names and the untrained student. Out: one
`TrainResult` per stage, once that stage is whole on disk; the student lies in the last stage's
folder with its tokenizer. Stages of a plan that were finished before are not trained again, and
one that was cut off goes on from its last checkpoint, to the bit as if nothing had happened. Plans
and examples are chosen elsewhere; nothing here is dropped, truncated or reordered.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from heal.config import Train
from heal.errors import UserError
from heal.keys import content_key, seed_for
from heal.records import Example, StagePlan, TrainResult
from heal.store import sync_files
from heal.students.allocator import keeps_memory
from heal.students.checkpoints import Checkpoint, Checkpoints, Note
from heal.students.launch import ADAPTER, Job, layout
from heal.students.launch import run as run_launched
from heal.students.rendering import Rendered, Renderer, read_tokenizer
from heal.students.reporting import logs_in, require_packages
from heal.wording import plural

__all__ = ["Opener", "Progress", "has_weights", "read_model", "train_arm"]

log = logging.getLogger("heal.students")

DONE, PART = "done.json", ".part"
ENDS = 10
"""First and last loss are means over this many steps at either end (fewer in a short stage)."""

_LEARNING = {"learning_rate", "warmup", "min_lr", "weight_decay", "lora_rank"}
"""The settings that change what is learnt; the plan has the others in it."""
_ALSO_LEARNING = frozenset(
    {"lora_alpha", "lora_targets", "lora_dropout", "dora", "precision", "loss", "anchor"}
)
"""Those that count only where they are not left at their defaults."""
_EDGE_BYTES = 1 << 20

Progress = Callable[[int, int, float], None]
"""Told (step, total steps, loss); steps are counted over all stages of the arm."""
Report = Callable[[int, float], None]


def read_model(folder: Path) -> Any:
    """The causal language model of a transformers folder, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )


@dataclass(frozen=True)
class Opener:
    """How the untrained student is opened; trained stages are always transformers folders."""

    model: Callable[[Path], Any] = read_model
    """Gives float32 weights."""
    tokenizer: Callable[[Path], Any] = read_tokenizer


@dataclass(frozen=True)
class _Stage:
    """One stage to train: where from, where to, and what."""

    plan: StagePlan
    key: str
    rendered: dict[str, Rendered]
    opener: Opener
    source: Path
    untouched: Path
    """The student before any stage."""
    home: Path
    unseen: tuple[Rendered, ...] = ()
    """Its loss is measured when the stage is trained."""


def train_arm(
    arm: str,
    seed: int,
    plans: Sequence[StagePlan],
    examples: Mapping[str, Example],
    student: Path,
    settings: Train,
    folder: Path,
    on_progress: Progress | None = None,
    *,
    run_folder: Path | None = None,
    refused_long: int = 0,
    opener: Opener | None = None,
    on_note: Note = log.warning,
    validation: Sequence[Example] = (),
    weights_needed: bool = False,
) -> Iterator[TrainResult]:
    """Train one arm's stages into `folder`/stage1, stage2, …, each from the one before.

    The optimizer starts anew in each; the peak learning rate is that of the settings times the
    plan's `lr_scale`. Nothing random depends on the arm. When all stages are done, only the last
    keeps its weights. A result's `folder` is relative to `run_folder` (None: to `folder`),
    `tokens` counts prompts too, `refused_long` is passed on. `opener` None reads a transformers
    folder. `validation` is never trained on: each stage ends with its loss on what the student can
    be taught of it. `on_note` is told of checkpoints that cannot be used. `weights_needed`: stages
    that were finished before are trained again where the last one's weights are gone. Raises:
    UserError when a plan names an example that is missing or must be refused.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    opener, on_note = opener or Opener(), _once(on_note)
    require_packages(settings.report_to)
    tokenizer = opener.tokenizer(student)
    rendered = _render(plans, examples, tokenizer, settings.max_length)
    unseen = _unseen(validation, tokenizer, settings.max_length, on_note)
    keys = _stage_keys(arm, seed, plans, rendered, student, settings)
    homes = [folder / f"stage{plan.index}" for plan in plans]
    finished = _finished(homes, keys, weights_needed)
    total, before = sum(len(plan.batches) for plan in plans), 0
    for i, plan in enumerate(plans):
        if i >= finished:
            first = i == 0
            source = student if first else homes[i - 1]
            own = opener if first else Opener()
            stage = _Stage(plan, keys[i], rendered, own, source, student, homes[i], unseen)
            report = _reporter(on_progress, before, total)
            place = str(homes[i].relative_to(run_folder or folder))
            _train_stage(stage, arm, seed, settings, place, refused_long, report, on_note)
        _checkpoints(homes[i], keys[i], settings).drop()
        before += len(plan.batches)
        yield _read_done(homes[i])
    for home in homes[:-1]:
        _drop_weights(home)


def _once(note: Note) -> Note:
    """What every stage would say is said by the first."""
    said: set[str] = set()

    def tell(text: str) -> None:
        if text not in said:
            said.add(text)
            note(text)

    return tell


def _render(
    plans: Sequence[StagePlan], examples: Mapping[str, Example], tokenizer: Any, max_length: int
) -> dict[str, Rendered]:
    renderer = Renderer(tokenizer, max_length)
    rendered = {}
    for key in dict.fromkeys(key for plan in plans for batch in plan.batches for key in batch):
        if key not in examples:
            raise UserError(f"the plan names trace {key}, which is no example")
        found = renderer.render(examples[key])
        if not isinstance(found, Rendered):
            raise UserError(
                f"the plan names trace {key}, which the student must refuse: {found.value}",
                hint="leave out what the student refuses before scheduling",
            )
        rendered[key] = found
    return rendered


def _unseen(
    examples: Sequence[Example], tokenizer: Any, max_length: int, note: Note
) -> tuple[Rendered, ...]:
    """Those the student can be taught; how many cannot is told."""
    if not examples:
        return ()
    renderer = Renderer(tokenizer, max_length)
    found = [renderer.render(example) for example in examples]
    usable = tuple(row for row in found if isinstance(row, Rendered))
    if len(usable) < len(found):
        left = plural(len(found) - len(usable), "validation trace")
        note(f"{left} of {len(found):,} left out: the student must refuse them")
    return usable


def _stage_keys(
    arm: str,
    seed: int,
    plans: Sequence[StagePlan],
    rendered: Mapping[str, Rendered],
    student: Path,
    settings: Train,
) -> list[str]:
    """Each stage's content key; it covers the stages before it."""
    more = settings.model_dump(include={*_ALSO_LEARNING}, exclude_defaults=True)
    learning = settings.model_dump(include=_LEARNING) | more
    key = content_key("train", arm, seed, learning, _fingerprint(student))
    keys = []
    for plan in plans:
        shown = sorted({trace for batch in plan.batches for trace in batch})
        key = content_key(key, plan, [_digest(rendered[trace]) for trace in shown])
        keys.append(key)
    return keys


def _digest(rendered: Rendered) -> str:
    ids = np.array([rendered.prompt_tokens, *rendered.ids], "<i4")
    return hashlib.sha256(ids.tobytes()).hexdigest()


def _fingerprint(model: Path) -> str:
    """Names and sizes of a model's files, and both ends of each: reading it all is too slow."""
    files = sorted(f for f in model.rglob("*") if f.is_file()) if model.is_dir() else [model]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_EDGE_BYTES))
            opened.seek(max(0, size - _EDGE_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()


def _finished(homes: Sequence[Path], keys: Sequence[str], weights_needed: bool) -> int:
    """How many leading stages need no training; where training goes on, weights must be there."""
    count = 0
    while count < len(homes) and _key_of(homes[count]) == keys[count]:
        count += 1
    if count == len(homes) and not weights_needed:
        return count
    while count and not has_weights(homes[count - 1]):
        count -= 1
    return count


def has_weights(home: Path) -> bool:
    """Whether a stage's folder still holds the student it made."""
    return any(home.glob("*.safetensors"))


def _key_of(home: Path) -> str | None:
    done = home / DONE
    return _read_done(home).key if done.is_file() else None


def _read_done(home: Path) -> TrainResult:
    return TrainResult(**json.loads((home / DONE).read_text(encoding="utf-8")))


def _drop_weights(home: Path) -> None:
    for entry in home.iterdir():
        if entry.name in (DONE, ADAPTER):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _checkpoints(home: Path, key: str, settings: Train) -> Checkpoints:
    folder = home.with_name(home.name + ".checkpoints")
    return Checkpoints(folder, key, settings.checkpoint_every, layout(settings.launch))


def _reporter(
    on_progress: Progress | None, before: int, total: int
) -> Callable[[int, float], None]:
    def report(step: int, loss: float) -> None:
        if on_progress is not None:
            on_progress(before + step, total, loss)

    return report


def _train_stage(
    stage: _Stage,
    arm: str,
    seed: int,
    settings: Train,
    place: str,
    refused_long: int,
    report: Report,
    note: Note,
) -> None:
    """Train one stage beside its home and move it there whole."""
    part = stage.home.with_name(stage.home.name + PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    checkpoints = _checkpoints(stage.home, stage.key, settings)
    start = checkpoints.newest(note)
    before_s = start.seconds if start else 0.0
    checkpoints = replace(checkpoints, before_s=before_s)
    started = time.monotonic()
    peak = settings.learning_rate * stage.plan.lr_scale
    with quiet(), threads(settings.threads), keeps_memory():
        losses, validated = _fit_and_save(
            stage, peak, seed, settings, part, (checkpoints, start), report, note
        )
    shown = [trace for batch in stage.plan.batches for trace in batch]
    result = TrainResult(
        key=stage.key,
        arm=arm,
        seed=seed,
        stage=stage.plan.index,
        folder=place,
        steps=len(stage.plan.batches),
        tokens=sum(len(stage.rendered[trace].ids) for trace in shown),
        presentations=len(shown),
        distinct=len(set(shown)),
        refused_long=refused_long,
        loss_first=_mean(losses[:ENDS]),
        loss_last=_mean(losses[-ENDS:]),
        learning_rate=peak,
        seconds=before_s + time.monotonic() - started,
        validation_loss=validated,
        validation_traces=len(stage.unseen),
    )
    (part / DONE).write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
    sync_files(part)  # or a power cut leaves a stage that is said to be done without its weights
    shutil.rmtree(stage.home, ignore_errors=True)
    part.rename(stage.home)


def _fit_and_save(
    stage: _Stage,
    peak: float,
    seed: int,
    settings: Train,
    part: Path,
    resuming: tuple[Checkpoints, Checkpoint | None],
    report: Report,
    note: Note,
) -> tuple[list[float], float | None]:
    """Losses by step, and that on unseen traces. A stage without batches passes its weights on."""
    from heal.students.trainer import mean_loss

    tokenizer = stage.opener.tokenizer(stage.source)
    end_id = Renderer(tokenizer, settings.max_length).end_id
    places = {trace: i for i, trace in enumerate(stage.rendered)}
    job = Job(
        stage.source,
        part,
        list(stage.rendered.values()),
        [[places[trace] for trace in batch] for batch in stage.plan.batches],
        peak,
        seed_for(seed, "train", stage.plan.index),
        settings,
        *resuming,
        untouched=stage.untouched,
    )
    with logs_in(stage.home.parent / "logs" / stage.home.name):
        model, losses = _trained(job, stage.opener, tokenizer, report, note)
    _stop_at(model, end_id)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    return losses, mean_loss(model, stage.unseen) if stage.unseen else None


def _trained(
    job: Job, opener: Opener, tokenizer: Any, report: Report, note: Note
) -> tuple[Any, list[float]]:
    """The model, in this process or by those that `train.launch` starts."""
    from heal.students.trainer import fit, merged

    launch = job.settings.launch
    if launch is not None and job.batches:
        folder = job.out.with_name(job.out.name.removesuffix(PART) + ".launch")
        shutil.rmtree(folder, ignore_errors=True)
        losses = run_launched(job, launch, folder, report, note)
        shutil.rmtree(folder)
        if job.settings.lora_rank is None:
            return read_model(job.out), losses
        return merged(opener.model(job.source), job.adapter), losses
    model = opener.model(job.source)
    unmark_gguf(model)
    return fit(model, tokenizer, job, report, note) if job.batches else (model, [])


def unmark_gguf(model: Any) -> None:
    """Weights read from a GGUF are float32 by now, but transformers would not train them."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and quantizer.quantization_config.quant_method == "gguf":
        quantizer.remove_quantization_config(model)


def _stop_at(model: Any, end_id: int) -> None:
    """Let generation end where the student was taught to end."""
    known = model.generation_config.eos_token_id
    ends = [known] if isinstance(known, int) else list(known or ())
    if end_id not in ends:
        model.generation_config.eos_token_id = [*ends, end_id]


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses) if losses else 0.0


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, no notes from transformers, nor peft's use of an old name; errors show."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
            # peft looks for one beside a .gguf to see whether words were added: none are
            warnings.filterwarnings("ignore", "Could not find a config file in", UserWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
