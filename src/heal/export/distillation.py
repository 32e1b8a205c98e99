"""Configurations of TRL's distillation trainers: a teacher's distribution in place of its traces.

In: a run's settings. Out: files by name. On-policy, the student writes and the teacher says what it
would have written; in self-distillation the student that sees the hint teaches the one that does
not. Neither is HEAL's method: they are what its problems and hints can be compared with.
"""

import math
from pathlib import Path
from typing import Any

import yaml

from heal.config import Config, Train

PROMPTS, PRIVILEGED = "prompts.jsonl", "privileged.jsonl"
ON_POLICY, SELF, SCRIPT = "distillation.yaml", "sdft.yaml", "sdft.py"
BASE, TEACHER = "path/to/student", "path/to/teacher"
SDFT = '''\
"""Self-distillation with TRL, which has no command for it: python sdft.py"""

from datasets import load_dataset
from trl import ModelConfig, TrlParser, get_peft_config
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

parser = TrlParser((SDFTConfig, ModelConfig))
settings, model = parser.parse_args_and_config(["--config", "sdft.yaml"])
trainer = SDFTTrainer(
    model=model.model_name_or_path,
    args=settings,
    train_dataset=load_dataset("json", data_files="privileged.jsonl")["train"],
    peft_config=get_peft_config(model),
)
trainer.train()
trainer.save_model(settings.output_dir)
'''


def on_policy(config: Config) -> dict[str, str]:
    """For `trl distillation --config`: reverse KL to the teacher on the student's own traces.

    At temperature 1, at which TRL measures the divergence too.
    """
    student = config.student.model if config.student else None
    teacher = config.teacher.model if config.teacher else None
    settings = {
        **_common(config, student, "out/distillation"),
        "teacher_model_name_or_path": _folder(teacher, TEACHER),
        "datasets": [{"path": "json", "data_files": PROMPTS}],
        "beta": 1.0,
        "temperature": 1.0,
    }
    head = "# TRL opens transformers folders alone: set what stands at path/to.\n"
    return {ON_POLICY: head + yaml.safe_dump(settings, sort_keys=False)}


def self_distillation(config: Config) -> dict[str, str]:
    """For TRL's experimental SDFT: the teacher is the untrained student that sees the hint."""
    student = config.student.model if config.student else None
    settings = {
        **_common(config, student, "out/self-distillation"),
        "num_generations": 1,
        "teacher_model_kind": "base",
        "teacher_prompt_template": _hinted(config),
    }
    return {SELF: yaml.safe_dump(settings, sort_keys=False), SCRIPT: SDFT}


def _hinted(config: Config) -> str:
    """How a prompt that asks already takes the hint: as the run's own hinted prompt ends."""
    _, found, tail = config.prompts.solve_hinted.partition("{hint}")
    before = config.prompts.solve_hinted[: -len(found + tail)] if found else ""
    said = before.rpartition("\n\n")[2] if "\n\n" in before else "Hint: "
    return f"{{prompt}}\n\n{said}{{privileged_context}}{tail}"


def _common(config: Config, student: str | None, out: str) -> dict[str, Any]:
    train = config.train
    return {
        "model_name_or_path": _folder(student, BASE),
        "output_dir": out,
        "num_train_epochs": float(math.ceil(config.pace.epochs)),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": train.batch_size,
        "max_completion_length": config.sampling.max_new_tokens,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": train.min_lr},
        "warmup_steps": train.warmup,
        "weight_decay": train.weight_decay,
        "gradient_checkpointing": None,  # a bool counts as the deprecated spelling
        "activation_checkpointing": True,
        "logging_steps": 1,
        "report_to": "none",
        **_adapters(train),
    }


def _folder(model: str | None, else_: str) -> str:
    """A transformers folder by its whole path, for these files move; other names as they are."""
    if model is None or model.startswith("pkg://") or model.endswith(".gguf"):
        return else_
    return str(Path(model).resolve()) if Path(model).exists() else model


def _adapters(train: Train) -> dict[str, Any]:
    if train.lora_rank is None:
        return {}
    alpha = train.lora_alpha or 2 * train.lora_rank
    return {"use_peft": True, "lora_r": train.lora_rank, "lora_alpha": alpha,
            "lora_target_modules": "all-linear"}  # fmt: skip
