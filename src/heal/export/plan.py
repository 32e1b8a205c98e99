"""The run's own plan for plain TRL: HEAL's batches, tokenized for the student.

In: a run with a student and its plan. Out: for each stage a file whose rows are one optimizer step
each, a configuration for `trl sft`, and a script that runs all stages. Traces of a step stand end
to end; TRL's `padding_free` gives each positions of its own and transformers keeps their attention
apart, so that the losses are those of HEAL's own training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heal.config import Config, Train
from heal.errors import UserError
from heal.export import merging
from heal.keys import seed_for
from heal.method.curriculum import STAGES
from heal.records import Example, Problem, StagePlan
from heal.store import Store
from heal.students.rendering import Rendered, Renderer, open_renderer
from heal.students.sets import StoredExamples

__all__ = ["Planned", "planned"]


@dataclass(frozen=True)
class Planned:
    """One arm's plan under the first training seed, ready to be written."""

    plans: Sequence[StagePlan]
    examples: Mapping[str, Example]
    renderer: Renderer
    train: Train
    student: Path
    seed: int

    def rows(self, plan: StagePlan) -> Iterator[dict[str, Any]]:
        """A stage's optimizer steps: `input_ids`, `labels` and the traces' lengths."""
        for batch in plan.batches:
            shown = [self._rendered(trace) for trace in batch]
            yield {
                "input_ids": [i for one in shown for i in one.ids],
                "labels": [i for one in shown for i in one.labels],
                "seq_lengths": [len(one.ids) for one in shown],
            }

    def _rendered(self, trace: str) -> Rendered:
        found = self.renderer.render(self.examples[trace])
        if not isinstance(found, Rendered):
            raise UserError(f"the plan names trace {trace}, which the student refuses: {found}")
        return found

    def file(self, plan: StagePlan) -> str:
        """Where a stage's rows lie."""
        return f"stage{plan.index}_{_name(plan)}.steps.jsonl"

    def texts(self) -> dict[str, str]:
        """The configurations, and `train.sh`."""
        shown = [plan for plan in self.plans if plan.batches]
        files = {f"stage{p.index}_{_name(p)}.yaml": self._settings(p, shown) for p in shown}
        commands = [
            f"trl sft --config {name}\n{merging.command(_out(plan), self.train)}"
            for name, plan in zip(files, shown, strict=True)
        ]
        files |= merging.files(self.train)
        head = '#!/usr/bin/env bash\nset -euo pipefail\ncd "$(dirname "$0")"\n\n'
        return files | {"train.sh": head + "\n".join(commands)}

    def _settings(self, plan: StagePlan, shown: Sequence[StagePlan]) -> str:
        train, place = self.train, shown.index(plan)
        source = str(self.student) if place == 0 else merging.weights(_out(shown[place - 1]), train)
        settings = {
            "model_name_or_path": source,
            "dtype": "float32",
            "datasets": [{"path": "json", "data_files": self.file(plan)}],
            "shuffle_dataset": False,
            "train_sampling_strategy": "sequential",
            "padding_free": True,
            "max_length": None,
            "output_dir": _out(plan),
            "max_steps": len(plan.batches),
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "learning_rate": train.learning_rate * plan.lr_scale,
            "lr_scheduler_type": "cosine_warmup_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": train.min_lr},
            "warmup_steps": train.warmup,
            "weight_decay": train.weight_decay,
            "loss_type": train.loss,
            "seed": seed_for(self.seed, "train", plan.index),
            "bf16": train.precision == "bfloat16",
            "gradient_checkpointing": None,
            "activation_checkpointing": train.gradient_checkpointing,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            **_adapters(train),
        }
        return HEAD + yaml.safe_dump(settings, sort_keys=False)


HEAD = (
    "# Each row is one of HEAL's optimizer steps: one device, one row a step, in this order.\n"
    "# bf16 multiplies in bfloat16, as HEAL does where a GPU has it; losses then differ.\n"
)


def planned(store: Store, config: Config, arm: str) -> Planned:
    """The stored plan of an arm. Raises: UserError when there is none, or no folder to start in."""
    seed = config.seeds[0]
    found = [p for key, p in store.live("plan", StagePlan) if key.startswith(f"{arm}-seed{seed}-")]
    if config.student is None or not found:
        raise UserError(
            f"{store.folder}: arm {arm!r} has no plan, for no student was trained yet",
            hint=f"heal train -c {store.folder}/config.yaml, or heal export trl {store.folder}",
        )
    student = Path(config.student.model).expanduser().resolve()
    if not (student / "config.json").is_file():
        raise UserError(
            f"{config.student.model}: TRL starts from a transformers folder",
            hint=f"heal export trl {store.folder}, which names no weights",
        )
    problems = {problem.id: problem for _, problem in store.read("problem", Problem)}
    return Planned(
        sorted(found, key=lambda plan: plan.index),
        StoredExamples(store, config, problems),
        open_renderer(config.student.model, config.train.max_length),
        config.train,
        student,
        seed,
    )


def _name(plan: StagePlan) -> str:
    return STAGES[plan.index - 1]


def _out(plan: StagePlan) -> str:
    return f"out/{_name(plan)}"


def _adapters(train: Train) -> dict[str, Any]:
    if train.lora_rank is None:
        return {}
    targets = train.lora_targets
    return {
        "use_peft": True,
        "lora_r": train.lora_rank,
        "lora_alpha": train.lora_alpha or 2 * train.lora_rank,
        "lora_dropout": train.lora_dropout,
        "lora_target_modules": targets if isinstance(targets, str) else list(targets),
        "use_dora": train.dora,
    }
