"""Configurations that train the three stages elsewhere, each from the weights of the one before.

In: a curriculum and the run's training settings. Out: files by name. Rows are in the order they are
to be shown, so shuffling is off everywhere and one epoch is the whole stage. What these trainers
cannot do as HEAL does (batches sized in tokens) is said in their first lines.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from heal.config import Train
from heal.export import merging
from heal.export.curriculum import Curriculum, Stage

BASE = "path/to/student"
HEAD = (
    "# One of three stages; run them in order. Rows are in their order of presentation: do not\n"
    "# shuffle, and one epoch is the whole stage. HEAL sizes batches in tokens; {rows} rows to a\n"
    "# step is the mean of its plan ({steps} steps).\n"
)


def stage_file(stage: Stage, number: int) -> str:
    """Where a stage's rows lie."""
    return f"stage{number}_{stage.name}.jsonl"


def llamafactory(plan: Curriculum, train: Train, student: str | None) -> dict[str, str]:
    """`dataset_info.json` and three YAML files for `llamafactory-cli train`."""
    info, files = {}, dict[str, str]()
    for number, stage in enumerate(plan.stages, 1):
        info[f"heal_{stage.name}"] = {
            "file_name": stage_file(stage, number),
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
        settings = {
            "model_name_or_path": _source(plan, number, train, student),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora" if train.lora_rank else "full",
            **({"lora_rank": train.lora_rank, "lora_target": "all"} if train.lora_rank else {}),
            "dataset_dir": ".",
            "dataset": f"heal_{stage.name}",
            "template": "qwen",
            "cutoff_len": train.max_length,
            "disable_shuffling": True,
            "output_dir": _out(stage),
            "overwrite_output_dir": True,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": stage.rows_per_step,
            "num_train_epochs": 1.0,
            "learning_rate": stage.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": train.warmup,
            "weight_decay": train.weight_decay,
            "bf16": True,
            "save_only_model": True,
            "report_to": "none",
        }
        note = "# Set `template` to your student's, or its chat format is not the one it knows.\n"
        files[f"stage{number}_{stage.name}.yaml"] = (
            _head(stage) + _after(stage, train) + note + _yaml(settings)
        )
    files["dataset_info.json"] = json.dumps(info, indent=2) + "\n"
    return files | merging.files(train)


def axolotl(plan: Curriculum, train: Train, student: str | None) -> dict[str, str]:
    """Three YAML files for `axolotl train`."""
    files = {}
    for number, stage in enumerate(plan.stages, 1):
        settings = {
            "base_model": _source(plan, number, train, student),
            "datasets": [
                {
                    "path": stage_file(stage, number),
                    "ds_type": "json",
                    "type": "chat_template",
                    "field_messages": "messages",
                    "message_property_mappings": {"role": "role", "content": "content"},
                    "roles_to_train": ["assistant"],
                    "train_on_eos": "turn",
                }
            ],
            "shuffle_merged_datasets": False,
            "curriculum_sampling": True,
            "sample_packing": False,
            "sequence_len": train.max_length,
            "output_dir": _out(stage),
            "micro_batch_size": 1,
            "gradient_accumulation_steps": stage.rows_per_step,
            "num_epochs": 1,
            "optimizer": "adamw_torch",
            "learning_rate": stage.learning_rate,
            "lr_scheduler": "cosine",
            "warmup_ratio": train.warmup,
            "weight_decay": train.weight_decay,
            "bf16": "auto",
            **({"adapter": "lora", "lora_r": train.lora_rank, "lora_alpha": 2 * train.lora_rank,
                "lora_target_linear": True} if train.lora_rank else {}),
        }  # fmt: skip
        files[f"stage{number}_{stage.name}.yaml"] = (
            _head(stage) + _after(stage, train) + _yaml(settings)
        )
    return files | merging.files(train)


def swift(plan: Curriculum, train: Train, student: str | None) -> dict[str, str]:
    """A shell script of three `swift sft` commands."""
    commands = [
        _command(
            "swift sft",
            model=_source(plan, number, train, student),
            dataset=stage_file(stage, number),
            split_dataset_ratio=0,
            dataset_shuffle="false",
            train_dataloader_shuffle="false",
            tuner_type="lora" if train.lora_rank else "full",
            max_length=train.max_length,
            truncation_strategy="delete",
            output_dir=_out(stage),
            add_version="false",
            num_train_epochs=1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=stage.rows_per_step,
            learning_rate=stage.learning_rate,
            warmup_ratio=train.warmup,
            weight_decay=train.weight_decay,
            save_only_model="true",
        )
        + merging.command(_out(stage), train)
        for number, stage in enumerate(plan.stages, 1)
    ]
    return {"train.sh": _script(plan, commands)} | merging.files(train)


def trl(plan: Curriculum, train: Train, student: str | None) -> dict[str, str]:
    """Three YAML files for `trl sft --config`, and a script that runs them."""
    files, commands = {}, []
    for number, stage in enumerate(plan.stages, 1):
        settings = {
            "model_name_or_path": _source(plan, number, train, student),
            "dtype": "auto",
            "datasets": [{"path": "json", "data_files": stage_file(stage, number)}],
            # prompt and completion: the loss is on the completion alone
            "shuffle_dataset": False,
            "train_sampling_strategy": "sequential",
            "max_length": train.max_length,
            "output_dir": _out(stage),
            "num_train_epochs": 1.0,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": stage.rows_per_step,
            "learning_rate": stage.learning_rate,
            "lr_scheduler_type": "cosine_warmup_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": train.min_lr},
            "warmup_steps": train.warmup,
            "weight_decay": train.weight_decay,
            "save_only_model": True,
            "report_to": "none",
            **({"use_peft": True, "lora_r": train.lora_rank, "lora_alpha": 2 * train.lora_rank,
                "lora_target_modules": "all-linear"} if train.lora_rank else {}),
        }  # fmt: skip
        name = f"stage{number}_{stage.name}.yaml"
        files[name] = _head(stage) + _yaml(settings)
        commands.append(f"trl sft --config {name}\n{merging.command(_out(stage), train)}")
    return files | {"train.sh": _script(plan, commands)} | merging.files(train)


def _source(plan: Curriculum, number: int, train: Train, student: str | None) -> str:
    """The weights a stage starts from; a folder by its whole path, for these files move."""
    if number > 1:
        return merging.weights(_out(plan.stages[number - 2]), train)
    if student is None:
        return BASE
    return str(Path(student).resolve()) if Path(student).exists() else student


def _out(stage: Stage) -> str:
    return f"out/{stage.name}"


def _after(stage: Stage, train: Train) -> str:
    """What a file that is run by hand says of the next stage's weights."""
    merge = merging.command(_out(stage), train)
    return f"# Afterwards: {merge}" if merge else ""


def _head(stage: Stage) -> str:
    return HEAD.format(rows=stage.rows_per_step, steps=stage.steps)


def _yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False)


def _command(program: str, **options: Any) -> str:
    lines = [program, *(f"--{name} {shlex.quote(str(value))}" for name, value in options.items())]
    return " \\\n  ".join(lines) + "\n"


def _script(plan: Curriculum, commands: list[str]) -> str:
    parts = [_head(stage) + command for stage, command in zip(plan.stages, commands, strict=True)]
    return '#!/usr/bin/env bash\nset -euo pipefail\ncd "$(dirname "$0")"\n\n' + "\n".join(parts)
