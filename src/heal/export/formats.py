"""The formats a run is exported in, and the one way to them.

In: a run folder and a format's name. Out: files in a folder of their own, and `export.json`, which
says what was written and what was left out. Rows are read from the store one at a time.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal.config import Config
from heal.errors import UserError
from heal.export import distillation, trainers
from heal.export.card import card
from heal.export.curriculum import Curriculum, curriculum
from heal.export.files import write_lines, write_parquet
from heal.export.plan import planned
from heal.export.rows import Row, Rows, arms_of, as_record
from heal.method.pace import POOLS
from heal.report.load import load_view
from heal.store import Store

SUMMARY = "export.json"
CONFIGURED = ("trl", "trl-plan", "llamafactory", "swift", "axolotl")
"""Formats that bring a configuration for training on these traces."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    files: Mapping[str, int | None]
    """File → rows; None for one that holds none."""
    refused: Mapping[str, int]
    """Rows left out, by reason."""
    next_step: str
    """What to do with it."""
    settings_left_out: tuple[str, ...] = ()
    """Settings of the run's training that the written configuration does not have, in words."""


@dataclass(frozen=True)
class _Job:
    """One export under way."""

    store: Store
    config: Config
    rows: Rows
    out: Path

    def lines(self, name: str, made: Iterable[dict[str, Any]]) -> dict[str, int | None]:
        """Write JSON lines."""
        return {name: write_lines(self.out / name, made)}

    def text(self, files: Mapping[str, str]) -> dict[str, int | None]:
        """Write files that hold no rows."""
        for name, text in files.items():
            (self.out / name).write_text(text, encoding="utf-8")
            if name.endswith(".sh"):
                (self.out / name).chmod(0o755)
        return dict.fromkeys(files)


def export(folder: Path, name: str, out: Path, arm: str | None = None) -> Exported:
    """Write a run in one format; arm None: the one its report shows. Raises: UserError."""
    if name not in FORMATS:
        raise UserError(f"no format {name!r}", hint=f"choose one of {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / SUMMARY).exists():
        raise UserError(f"{out}: holds something else", hint="choose another with --out FOLDER")
    with Store.open(folder, write=False) as store:
        config = _config(store)
        job = _Job(store, config, Rows(store, _arm(store, config, arm)), out)
        out.mkdir(parents=True, exist_ok=True)
        files, next_step = FORMATS[name](job)
        refused = dict(job.rows.refused)
        unsaid = tuple(_unsaid(name, config))
        told = {
            "format": name,
            "run": str(folder),
            "arm": job.rows.arm,
            "files": files,
            "left out": refused,
            "settings left out": unsaid,
            "settings": store.meta("config"),
            "versions": store.meta("versions"),
        }
    (out / SUMMARY).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return Exported(out, files, refused, next_step, unsaid)


def _unsaid(name: str, config: Config) -> Iterator[str]:
    """What a format's trainer is not told, and so does not do."""
    if name not in CONFIGURED:
        return
    train, rehearsal = config.train, config.pace.rehearsal
    if rehearsal and name != "trl-plan":
        yield f"pace.rehearsal={rehearsal:g}: what {name} writes ends before that stage"
    if train.anchor is not None:
        yield f"train.anchor={train.anchor:g}: what {name} writes trains without an anchor"
    if train.loss != "nll" and name != "trl-plan":
        yield f"train.loss={train.loss}: what {name} writes trains with plain cross-entropy"


def _config(store: Store) -> Config:
    """A run's settings but for its engines, whose secrets are stored nowhere."""
    tree = dict(store.meta("config") or {})
    tree.pop("engine", None)
    return Config.model_validate(tree)


def _arm(store: Store, config: Config, asked: str | None) -> str:
    there = arms_of(store)
    wanted = asked or config.main_arm or ""
    if wanted not in there:
        raise UserError(
            f"{store.folder}: nothing is selected for arm {wanted or '(none)'!r}",
            hint=f"--arm {there[0]}" if there else f"heal select -c {store.folder}/config.yaml",
        )
    return wanted


_Written = tuple[dict[str, int | None], str]


def _messages(row: Row) -> dict[str, Any]:
    return {"messages": [*row.prompt, *row.completion], **as_record(row.lineage)}


def _completion(row: Row) -> dict[str, Any]:
    return {"prompt": row.prompt, "completion": row.completion, **as_record(row.lineage)}


def _trl(job: _Job) -> _Written:
    """Chat messages, prompt and completion, and the three stages in order with their commands."""
    files = job.lines("messages.jsonl", map(_messages, job.rows))
    files |= job.lines(
        "prompt_completion.jsonl",
        map(_completion, job.rows),
    )
    return files | _staged(job, trainers.trl, _completion), f"bash {job.out}/train.sh"


def _trl_plan(job: _Job) -> _Written:
    """The plan's own batches, tokenized for the student, and their commands."""
    plan = planned(job.store, job.config, job.rows.arm)
    files: dict[str, int | None] = {}
    for stage in plan.plans:
        files |= job.lines(plan.file(stage), plan.rows(stage))
    return files | job.text(plan.texts()), f"bash {job.out}/train.sh"


def _llamafactory(job: _Job) -> _Written:
    """Three stages in order, `dataset_info.json`, three YAML files."""
    files = _staged(job, trainers.llamafactory)
    return files, f"cd {job.out} && llamafactory-cli train stage1_foundation.yaml"


def _swift(job: _Job) -> _Written:
    """Three stages in order and the commands."""
    return _staged(job, trainers.swift), f"bash {job.out}/train.sh"


def _axolotl(job: _Job) -> _Written:
    """Three stages in order and three YAML files."""
    files = _staged(job, trainers.axolotl)
    return files, f"cd {job.out} && axolotl train stage1_foundation.yaml"


def _sharegpt(job: _Job) -> _Written:
    """`conversations` of human and gpt."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}

    def made(row: Row) -> dict[str, Any]:
        turns = [*row.prompt, *row.completion]
        said = [{"from": names[t["role"]], "value": t["content"]} for t in turns]
        return {"conversations": said, **as_record(row.lineage)}

    return job.lines("conversations.jsonl", map(made, job.rows)), "train on conversations.jsonl"


def _verl(job: _Job) -> _Written:
    """Parquet with `messages`, and `prompt` and `response` as text (verl, NeMo-RL)."""

    def made(row: Row) -> dict[str, Any]:
        return {
            "messages": [*row.prompt, *row.completion],
            "prompt": row.user,
            "response": row.assistant,
            **as_record(row.lineage),
        }

    files: dict[str, int | None] = {
        "train.parquet": write_parquet(job.out / "train.parquet", map(made, job.rows))
    }
    return files, f"data.train_files={job.out}/train.parquet"


def _privileged(job: _Job) -> _Written:
    """Problem, hint and trace of what was written with help, for TRL's self-distillation."""

    def made() -> Iterator[dict[str, Any]]:
        for row in job.rows:
            if row.hint is not None:
                yield {
                    "prompt": row.prompt,
                    "privileged_context": row.hint,
                    "completion": row.completion,
                    **as_record(row.lineage),
                }

    files = job.lines(distillation.PRIVILEGED, made())
    files |= job.text(distillation.self_distillation(job.config))
    return files, f"cd {job.out} && python {distillation.SCRIPT}"


def _dpo(job: _Job) -> _Written:
    """The failed trace against its repair, for one prompt."""
    unpaired = Counter[str]()

    def made() -> Iterator[dict[str, Any]]:
        for row in job.rows:
            if row.parent is None:
                unpaired["not a repair: nothing to set against it"] += 1
                continue
            rejected = [{"role": "assistant", "content": row.parent.text}]
            yield {
                "prompt": row.prompt,
                "chosen": row.completion,
                "rejected": rejected,
                **as_record(row.lineage),
            }

    files = job.lines("pairs.jsonl", made())
    job.rows.refused.update(unpaired)
    return files, f"trl dpo --dataset_name json --dataset_data_files {job.out}/pairs.jsonl"


def _prompts(job: _Job) -> _Written:
    """Each problem once, with its answer: for RL, and for on-policy distillation with a file."""

    def made() -> Iterator[dict[str, Any]]:
        last = ""
        for row in job.rows:
            if row.lineage.problem_id != last:
                last = row.lineage.problem_id
                yield {"prompt": row.prompt, "answer": row.answer, "problem_id": last}

    files = job.lines(distillation.PROMPTS, made())
    files |= job.text(distillation.on_policy(job.config))
    return files, f"cd {job.out} && trl distillation --config {distillation.ON_POLICY}"


def _datasets(job: _Job) -> _Written:
    """A folder for `datasets.load_dataset`: a split per set, and a card."""
    files: dict[str, int | None] = {}
    for pool in POOLS:
        own = ({**_messages(r), "answer": r.answer} for r in job.rows if r.lineage.set == pool)
        if count := write_parquet(job.out / f"{pool}.parquet", own):
            files[f"{pool}.parquet"] = count
    view = load_view(job.store)
    counts = {pool: files.get(f"{pool}.parquet") or 0 for pool in POOLS}
    text = card(view, job.store.meta("config") or {}, job.rows.arm, counts)
    files |= job.text({"README.md": text})
    return files, f'datasets.load_dataset("{job.out}")'


def _staged(
    job: _Job,
    settings: Callable[[Curriculum, Any, str | None], dict[str, str]],
    made: Callable[[Row], dict[str, Any]] = _messages,
) -> dict[str, int | None]:
    """The stages' rows in the order they are shown, and a trainer's files."""
    tokens: dict[str, dict[str, int]] = {pool: {} for pool in POOLS}
    problem_of: dict[str, str] = {}
    for row in job.rows:
        tokens[row.lineage.set][row.lineage.trace] = row.tokens
        problem_of[row.lineage.trace] = row.lineage.problem_id
    refused = Counter(job.rows.refused)
    plan = curriculum(job.store, job.config, job.rows.arm, tokens)
    files: dict[str, int | None] = {}
    for number, stage in enumerate(plan.stages, 1):
        shown = (job.rows.one(problem_of[trace], trace) for trace in stage.shown)
        name = trainers.stage_file(stage, number)
        files |= job.lines(name, (made(row) for row in shown if row is not None))
    job.rows.refused = refused
    student = job.config.student.model if job.config.student else None
    return files | job.text(settings(plan, job.config.train, student))


FORMATS: Mapping[str, Callable[[_Job], _Written]] = {
    "trl": _trl,
    "trl-plan": _trl_plan,
    "llamafactory": _llamafactory,
    "swift": _swift,
    "axolotl": _axolotl,
    "sharegpt": _sharegpt,
    "verl": _verl,
    "datasets": _datasets,
    "privileged": _privileged,
    "dpo": _dpo,
    "prompts": _prompts,
}
