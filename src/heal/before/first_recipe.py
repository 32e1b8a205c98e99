"""A first recipe: YAML with its reasons beside it, for one's own problems, models and machine.

In: what the user named and what was found of it. Out: text that `heal.recipe` reads. Every choice
that was made for the user stands in it with its reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from heal.before.machine import Machine, ModelFacts, facts_or_none

THINKING_TOKENS, TRACE_TOKENS, LEAST_TOKENS = 8192, 2048, 16
FEW, MANY = 8, 30
"""Traces per problem: to try on a CPU, and as the method asks."""
SMALL_GB = 3.0
"""Teachers with lighter weights seldom write a hint that helps."""
TRAINING = 8.0
"""Memory that training all weights takes, in sizes of 16-bit weights."""
HINT_TOKENS = 160
CHARACTERS = 2.0
"""Of a token, at least, in prose and formulas; for room left to prompts only."""
HELD_OUT = 0.2


@dataclass(frozen=True)
class Wanted:
    """What a recipe is to be written for."""

    problems: str
    teacher: str
    """A model's name, or the address of a server."""
    tokenizer: str | None
    """Of a served teacher."""
    student: str | None
    traces: int
    run: str
    fields: Mapping[str, str] = field(default_factory=dict)
    """Columns that have not the usual names."""

    @property
    def served(self) -> bool:
        """Whether the teacher is behind an address."""
        return self.teacher.startswith(("http://", "https://"))

    @property
    def model(self) -> str:
        """What `teacher.model` names."""
        return (self.tokenizer or "") if self.served else self.teacher


def usual_traces(machine: Machine, served: bool) -> int:
    """Traces per problem to propose."""
    return MANY if served or machine.gpus else FEW


def recipe_text(wanted: Wanted, machine: Machine, longest: int, summary: str) -> str:
    """The recipe. `longest`: characters of the longest problem; `summary`: how the file is read."""
    facts = facts_or_none(wanted.model)
    tokens = _tokens(facts, longest)
    sections = [
        _head(wanted, machine, summary),
        _teacher(wanted, facts),
        _student(wanted),
        _sampling(wanted, facts, tokens),
        _gear(wanted, facts),
        _train(wanted, machine, tokens, longest),
        _engine(wanted, machine),
    ]
    return "\n".join(section for section in sections if section)


def _head(wanted: Wanted, machine: Machine, summary: str) -> str:
    source, held_out = wanted.problems, HELD_OUT if wanted.student else 0.0
    kind, name = ("hub", source[4:]) if source.startswith("hub:") else ("path", source)
    columns = ", ".join(f"{key}: {_text(value)}" for key, value in wanted.fields.items())
    fields = f"\n  fields: {{{columns}}}    # your column names" if columns else ""
    kept = "kept aside for the student's exam" if wanted.student else "nothing to evaluate yet"
    return f"""# Written by heal init. Every setting: heal config
# Machine: {machine.words}
run: {_text(wanted.run)}    # everything is kept in this folder; the same command resumes

problems:
  # {summary}
  {kind}: {_text(name)}{fields}
  verifier: auto      # math, choice, code, … by the data; see it with: heal problems FILE
  held_out: {held_out}       # {kept}
  # limit: 20         # the first problems only, to try
"""


def _teacher(wanted: Wanted, facts: ModelFacts | None) -> str:
    if wanted.served:
        about = "its tokenizer renders the prompts; the weights are the server's"
        return f"teacher:\n  engine: http\n  model: {_text(wanted.model)}    # {about}\n"
    about = f"{facts.gb:.1f} GB of weights" if facts else "not on this machine yet"
    return f"teacher: {{model: {_text(wanted.model)}}}    # {about}\n"


def _student(wanted: Wanted) -> str:
    if wanted.student is None:
        return "student: null    # data only; give {model: FOLDER} to train and evaluate one\n"
    return (
        f"student: {{model: {_text(wanted.student)}}}\n\n"
        "# rft_more is the fair baseline: rejection sampling for as many tokens as HEAL spends.\n"
        "arms: [base, rft, rft_more, heal]\n"
    )


def _sampling(wanted: Wanted, facts: ModelFacts | None, tokens: int) -> str:
    thinks = facts is not None and facts.thinks
    tag = 'prompts: {think_close: "</think>"}    # only what stands before it is cut into steps\n\n'
    context = f"; the model reads {facts.context:,}" if facts and facts.context else ""
    return f"""{tag if thinks else ""}sampling:
  n: {wanted.traces}               # traces per problem; {MANY} by default, small n says little
  max_new_tokens: {tokens}    # a trace that reaches this is `truncated`, not wrong{context}
"""


def _gear(wanted: Wanted, facts: ModelFacts | None) -> str:
    if wanted.served or facts is None or facts.gb >= SMALL_GB:
        return ""
    return "gear: {hint: answer}    # a teacher this small seldom writes a hint that helps\n"


def _train(wanted: Wanted, machine: Machine, tokens: int, longest: int) -> str:
    if wanted.student is None:
        return ""
    room = tokens * 4 // 3 + _prompt(longest) + 64
    facts, memory = facts_or_none(wanted.student), max(machine.gpus, default=machine.memory_gb)
    needed = TRAINING * facts.gb if facts else 0.0
    adapters = ""
    if needed > memory:
        why = f"all weights would take about {needed:.0f} GB; needs: pip install peft"
        adapters = f"  lora_rank: 32       # {why}\n"
    return f"""train:
  max_length: {room}    # a kept third of a trace and a whole new one; what is longer is left out
{adapters}
evaluate: {{samples: 8}}    # attempts per held-out problem and arm
"""


def _engine(wanted: Wanted, machine: Machine) -> str:
    lines = []
    if wanted.served:
        address = _text(wanted.teacher.rstrip("/").removesuffix("/v1"))
        lines += [
            "  http:",
            f"    endpoints: [{{url: {address}, dialect: vllm}}]    # list more replicas here",
            "    in_flight: 64    # as many as the server holds at once: docs/scaling.md",
        ]
    if machine.gpus and not (wanted.served and wanted.student is None):
        several = "; one is used: export CUDA_VISIBLE_DEVICES=0" if len(machine.gpus) > 1 else ""
        lines += ["  local:", f"    device: cuda{several and '    # several GPUs' + several}"]
        lines += ["    dtype: bfloat16"]
    return "\n".join(["engine:", *lines, ""]) if lines else ""


def _tokens(facts: ModelFacts | None, longest: int) -> int:
    """Tokens a trace may take: a repair reads a prompt, a hint and a kept third before it."""
    wanted = THINKING_TOKENS if facts is not None and facts.thinks else TRACE_TOKENS
    if facts is None or facts.context is None:
        return wanted
    room = (facts.context - _prompt(longest) - HINT_TOKENS) * 3 // 4
    return max(LEAST_TOKENS, min(wanted, room))


def _prompt(longest: int) -> int:
    return int(longest / CHARACTERS) + 64


def _text(value: str) -> str:
    """A string as YAML reads it, quoted only where it must be."""
    plain = all(c.isalnum() or c in "/._-" for c in value) and any(c.isalpha() for c in value)
    words = ("true", "false", "null", "yes", "no", "on", "off")
    return (
        value if plain and value[0].isalpha() and value.lower() not in words else json.dumps(value)
    )


def default_run(problems: str) -> str:
    """The run folder proposed for a problem file."""
    return f"runs/{Path(problems.removeprefix('hub:')).stem or 'own'}"
