"""Adapters of one exported stage, merged into the weights the next one starts from."""

import shlex

from heal.config import Train

FILE = "merge.py"
SCRIPT = '''\
"""python merge.py ADAPTER OUT: the base with a LoRA adapter merged into it."""

import sys

from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

adapter, out = sys.argv[1:]
adapted = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype="auto")
adapted.merge_and_unload().save_pretrained(out)
AutoTokenizer.from_pretrained(adapter).save_pretrained(out)
'''


def files(train: Train) -> dict[str, str]:
    """What an export needs beside its stages: nothing where all weights are trained."""
    return {} if train.lora_rank is None else {FILE: SCRIPT}


def weights(out: str, train: Train) -> str:
    """Where a stage's whole weights lie, which was told to write into `out`."""
    return out if train.lora_rank is None else f"{out}-merged"


def command(out: str, train: Train) -> str:
    """The line of a shell script that puts them there; '' where they are there already."""
    if train.lora_rank is None:
        return ""
    return f"python {FILE} {shlex.quote(out)} {shlex.quote(weights(out, train))}\n"
