"""What training would be, before it begins: steps, tokens, time, memory, and the first example.

In: a recipe, and whatever its run folder holds by now. Out: lines for a person, or a refusal of
what cannot fit. Opens no weights: a student's config.json and tokenizer are read, where they are
there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal.before.estimate import clock
from heal.before.machine import GB, Machine
from heal.config import Config, Train
from heal.data.problems import read_problems
from heal.engines import read_tokenizer, resolve_model
from heal.errors import UserError
from heal.method.curriculum import REHEARSAL, STAGES, stage_steps
from heal.prompts import fill
from heal.records import Example, Problem, Split, TrainResult
from heal.store import DATABASE, Store
from heal.students import arms
from heal.students.launch import sharded
from heal.students.memory import (
    RESERVED,
    Memory,
    Shape,
    helping,
    memory_of,
    shape_of,
    tokens_at_once,
)
from heal.students.rendering import Refusal, Rendered, Renderer
from heal.students.rendering import read_tokenizer as read_plain_tokenizer
from heal.students.sets import StoredExamples, beside, lengths, set_sizes
from heal.wording import plural

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
LINES = 24
"""Of the example that are shown."""
WIDTH = 58
"""Characters of a line of it."""


@dataclass(frozen=True)
class Stage:
    """One stage of one student."""

    name: str
    steps: int
    tokens: int
    """Presented, prompts too."""


@dataclass(frozen=True)
class Foresight:
    """A plan as far as it is known."""

    stages: tuple[Stage, ...]
    measured: bool
    """From the sets in the run folder; else an upper bound from the recipe."""
    students: int
    """Arms times training seeds."""
    tokens_s: float | None
    """As earlier training in this run folder went; None: there was none."""
    example: Example
    stand_in: bool
    """The example's answer is the gold answer, for no trace is there yet."""
    attempts: int = 0
    """Each student makes for its rehearsal."""


def foresee(config: Config) -> Foresight:
    """The plan from the run folder's sets, else its bound. Raises: UserError for bad problems."""
    problems = read_problems(config.problems, Path.cwd()).problems
    if (Path(config.run) / DATABASE).is_file():
        with Store.open(Path(config.run), write=False) as store:
            if found := _from_run(store, config, {p.id: p for p in problems}):
                return found
    asked = [p for p in problems if p.split is Split.TRAIN]
    traces = round(config.pace.epochs * config.pace.cap_d1 * len(asked))
    steps = stage_steps(max(1, traces), config.train.batch_size, config.pace)
    each = config.train.batch_size * config.train.max_length
    shown = [Stage(name, n, n * each) for name, n in zip(STAGES, steps, strict=False)]
    first = (asked or problems)[0]
    user = fill(config.prompts.solve, problem=first.problem)
    example = Example(
        "-", first.id, "D1", user, f"\\boxed{{{first.answer}}}", config.prompts.system
    )
    attempts = _attempts(config, problems)
    return Foresight(tuple(shown), False, _students(config), None, example, True, attempts)


def _from_run(store: Store, config: Config, problems: dict[str, Any]) -> Foresight | None:
    offer = arms.offered(store, config)
    plans, _ = arms.plan(config, offer)
    if not plans or offer.budget is None:
        return None
    arm = next((name for name, _ in plans if name == config.main_arm), next(iter(plans))[0])
    plan = next(own for (name, _), own in plans.items() if name == arm)
    sizes = lengths(set_sizes(store, arm), beside(store, arm))
    shown = [
        Stage(STAGES[p.index - 1], len(p.batches), sum(sizes[t] for b in p.batches for t in b))
        for p in plan
    ]
    each = offer.budget.batch_tokens  # what the student will write is not known yet
    shown += [Stage(STAGES[REHEARSAL], n, n * each) for n in offer.steps(config.pace)[REHEARSAL:]]
    earlier = [result for _, result in store.read("train", TrainResult) if result.tokens]
    seconds = sum(result.seconds for result in earlier)
    speed = sum(result.tokens for result in earlier) / seconds if seconds else None
    first = next(trace for p in plan for batch in p.batches for trace in batch)
    example = StoredExamples(store, config, problems)[first]
    attempts = _attempts(config, problems.values())
    return Foresight(tuple(shown), True, len(plans), speed, example, False, attempts)


def _attempts(config: Config, problems: Iterable[Problem]) -> int:
    asked = sum(problem.split is Split.TRAIN for problem in problems)
    return asked * config.evaluate.samples if config.pace.rehearsal else 0


def _students(config: Config) -> int:
    return len([arm for arm in config.arms if arm != "base"]) * len(config.seeds)


def lines_of(config: Config, machine: Machine, seen: Foresight) -> Iterator[str]:
    """All of it, and last the memory. Raises: UserError when that does not fit."""
    assert config.student is not None
    yield from _plan_lines(seen)
    yield from _time_lines(seen)
    if seen.attempts:
        yield f"Before its rehearsal each student makes {plural(seen.attempts, 'attempt')} at the"
        yield "training problems; the time of these is not in it."
    if config.train.anchor is not None:
        yield "train.anchor: each token also goes through the untouched student, which is"
        yield "about a third more time than without; earlier training may have had none."
    yield ""
    yield from _example_lines(config, seen)
    yield ""
    shape = shape_of(config_of(config.student.model))
    needed = memory_of(shape, config.train, shards=_shards(config.train), cpu=not machine.gpus)
    yield from memory_lines(config, shape, needed, machine)
    _require_room(config, shape, needed, machine)


def config_of(model: str) -> Path:
    """A folder with a config.json, with or without weights, or a `.gguf` file."""
    folder = Path(model).expanduser()
    return folder if (folder / "config.json").is_file() else resolve_model(model)


def _plan_lines(seen: Foresight) -> Iterator[str]:
    said = "as the sets in the run folder are" if seen.measured else "at most; no set is chosen yet"
    yield f"Plan of each student, {said} ({plural(seen.students, 'student')}):"
    yield f"  {'':<12} {'steps':>10} {'tokens':>16}"
    total = Stage("in all", sum(s.steps for s in seen.stages), sum(s.tokens for s in seen.stages))
    for stage in (*seen.stages, total):
        yield f"  {stage.name:<12} {stage.steps:>10,} {stage.tokens:>16,}"


def _time_lines(seen: Foresight) -> Iterator[str]:
    tokens = sum(stage.tokens for stage in seen.stages)
    if seen.tokens_s is None:
        yield "Time is unknown: nothing was trained in this run folder yet."
        return
    each = clock(tokens / seen.tokens_s)
    every = clock(seen.students * tokens / seen.tokens_s)
    yield f"{each} h:mm for each student, {every} for all, at {seen.tokens_s:,.0f} tokens/s, as"
    yield "training went in this run folder before."


def _example_lines(config: Config, seen: Foresight) -> Iterator[str]:
    assert config.student is not None
    try:
        tokenizer = _tokenizer(config_of(config.student.model))
        renderer = Renderer(tokenizer, config.train.max_length)
        found = renderer.render(seen.example)
    except UserError as error:
        yield "The first example cannot be shown:"
        yield f"  {error}"
        return
    if isinstance(found, Refusal):
        yield f"The first example is one the student refuses: {found.value}"
        return
    taught = len(found.ids) - found.prompt_tokens
    read = plural(found.prompt_tokens, "token")
    yield f"The first example ({read} read, {taught:,} taught):"
    if seen.stand_in:
        yield "  no trace is there yet: the gold answer stands in its place"
    yield "  tokens  loss  text"
    rows = [*masked(found, tokenizer)]
    kept = [*rows[: LINES // 2], *rows[-(LINES - LINES // 2) :]] if len(rows) > LINES else rows
    for place, (count, bears, text) in enumerate(kept):
        if place == LINES // 2 and len(rows) > LINES:
            yield f"     ···        {plural(len(rows) - LINES, 'line')} between"
        yield f"  {count:>6}  {'yes' if bears else 'no':<4}  {_cut(text)}"


def _tokenizer(model: Path) -> Any:
    """A tokenizer, whether or not weights lie beside it. Raises: UserError where there is none."""
    if model.is_dir() and not any((model / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{model}: no tokenizer (tokenizer.json) is there yet")
    weightless = model.is_dir() and not any(model.glob("*.safetensors"))
    return read_plain_tokenizer(model) if weightless else read_tokenizer(model)


def masked(found: Rendered, tokenizer: Any) -> Iterator[tuple[int, bool, str]]:
    """An example line by line: its tokens, whether they bear loss, and their text."""
    for ids, bears in (
        (found.ids[: found.prompt_tokens], False),
        (found.ids[found.prompt_tokens :], True),
    ):
        line: list[int] = []
        for token in ids:
            line.append(token)
            if "\n" in tokenizer.decode([token]):
                yield len(line), bears, _text(tokenizer, line)
                line = []
        if line:
            yield len(line), bears, _text(tokenizer, line)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).replace("\n", "⏎")


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def memory_lines(config: Config, shape: Shape, needed: Memory, machine: Machine) -> Iterator[str]:
    """What one device needs, part by part, and what it has."""
    at_once = tokens_at_once(config.train, cpu=not machine.gpus)
    tokens = max(at_once, config.train.max_length)
    what = "all weights" if config.train.lora_rank is None else f"LoRA of {config.train.lora_rank}"
    yield f"Memory of each device, at most ({shape.parameters / 1e9:,.2f} G parameters, {what},"
    if _shards(config.train) > 1:
        held = "of weights, gradients and optimizer"
        yield f"each holds 1/{_shards(config.train)} {held},"
    yield f"{plural(tokens, 'token')} at once; docs/training.md has the formula):"
    for name, size in needed.parts().items():
        yield f"  {name:<12} {size / GB:>10,.2f} GB"
    yield f"  {'in all':<12} {needed.total / GB:>10,.2f} GB of {_device(machine)}"


def room_of(machine: Machine) -> float:
    """Bytes of the smallest device that training may fill."""
    return (1 - RESERVED) * GB * (min(machine.gpus) if machine.gpus else machine.memory_gb)


def _device(machine: Machine) -> str:
    if machine.gpus:
        return f"{min(machine.gpus):,.0f} GB on the smallest of {plural(len(machine.gpus), 'GPU')}"
    return f"{machine.memory_gb:,.0f} GB, the machine's own (no GPU)"


def _require_room(config: Config, shape: Shape, needed: Memory, machine: Machine) -> None:
    room, train = room_of(machine), config.train
    if needed.total <= room:
        return
    sets = [f"train.{name}={str(value).lower()}" for name, value in _helping(shape, train, machine)]
    raise UserError(
        f"training needs {needed.total / GB:,.1f} GB on a device and may fill {room / GB:,.1f} GB",
        hint=" ".join(f"--set {setting}" for setting in sets)
        or "no setting of train makes it fit: take a smaller student, or a larger device",
    )


def _helping(shape: Shape, train: Train, machine: Machine) -> list[tuple[str, Any]]:
    """Settings that make it fit. Sharing it out comes before training less than all weights."""
    room, gpus = room_of(machine), len(machine.gpus)
    alone = helping(shape, train, room, shards=_shards(train), cpu=not gpus)
    if gpus < 2 or _shards(train) > 1 or (alone and "lora_rank" not in alone):
        return [*alone.items()]
    launch = [("launch.processes", gpus), ("launch.config", "fsdp2")]
    if memory_of(shape, train, shards=gpus).total <= room:
        return launch
    more = helping(shape, train, room, shards=gpus)
    return [*launch, *more.items()] if more else [*alone.items()]


def _shards(train: Train) -> int:
    return train.launch.processes if train.launch and sharded(train.launch) else 1
