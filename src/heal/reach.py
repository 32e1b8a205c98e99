"""Which stage a changed setting reaches first, and which settings make a run another run.

In: two configs as trees. Out: what differs, by dotted name, and what it redoes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

IDENTITY = (
    "problems.path",
    "problems.hub",
    "problems.gym.task",
    "problems.source",
    "problems.traces.path",
    "teacher.model",
)
"""Settings that make a run another run; a folder is not shared between two values of them."""

REACH: tuple[tuple[str, str | None], ...] = (
    ("problems.verifier", "verify"),
    ("problems.verify_timeout_s", "verify"),
    ("problems.verify_workers", None),
    ("problems", "sample"),
    ("seed", "sample"),
    ("seeds", "train"),
    ("teacher.serve", None),
    ("scorer.serve", None),
    ("student.serve", "evaluate"),
    ("teacher", "sample"),
    ("sampling", "sample"),
    ("prompts.solve_hinted", "repair"),
    ("prompts.answer_hint", "guide"),
    ("prompts.write_hint", "guide"),
    ("prompts.write_plan", "guide"),
    ("prompts.write_diagnosis", "guide"),
    ("prompts.checker_hint", "guide"),
    ("prompts.probe", "score"),
    ("prompts.probe_close", "score"),
    ("prompts.think_close", "locate"),
    ("prompts", "sample"),
    ("scorer", "locate"),
    ("gear.hinted_samples", "repair"),
    ("gear.candidates", "repair"),
    ("gear.target", "repair"),
    ("gear.early_answer_share", "repair"),
    ("gear.copied_ngram", "repair"),
    ("gear.hint_talk", "repair"),
    ("gear.hint", "guide"),
    ("gear.hint_probe", "probe"),
    ("gear.hint_redraws", "guide"),
    ("gear.hint_gate", "guide"),
    ("gear.hint_max_tokens", "guide"),
    ("gear.hint_temperature", "guide"),
    ("gear", "locate"),
    ("steps.gate", "repair"),
    ("steps", "locate"),
    ("pure.selection", "score"),
    ("pure.commit_below", "score"),
    ("pure.commit_steps", "score"),
    ("pure.calibration_traces", "calibrate"),
    ("pure.line", "calibrate"),
    ("pure.spare_checked", "score"),
    ("pure.measure_uncertainty", "score"),
    ("pure.measure_reliance", "score"),
    ("pure.measure_calibrated", "score"),
    ("pure", "select"),
    ("pace.closing", "train"),
    ("pace.own_replay", "train"),
    ("pace.own_d1", "train"),
    ("pace.rehearsal", "train"),
    ("pace.replay_easy", "train"),
    ("pace.frontier_from", "train"),
    ("pace", "select"),
    ("student", "select"),
    ("train.max_length", "select"),
    ("arms", "locate"),
    ("train", "train"),
    ("evaluate.teacher_n", "sample"),
    ("evaluate.scored_token_cost", "match"),
    ("evaluate", "evaluate"),
    ("engine.local.weights", "sample"),
    ("engine.local.dtype", "sample"),
    *((name, None) for name in ("run", "preset", "limits", "engine")),
)
"""First stage each setting reaches, the most specific first; None: it changes how work is done, not
what it is."""

ONLY_MORE_OR_FEWER = frozenset(
    {"sampling.n", "gear.candidates", "gear.paths", "gear.hinted_samples", "gear.target"}
)
"""Settings that say how many to draw: what is drawn already serves any value of them."""

BY_EFFECT = frozenset(
    {"arms", "pure.selection", "pure.measure_uncertainty", "pure.measure_reliance"}
    | {"pure.measure_calibrated"}
)
"""Settings that reach a single problem only through the breakpoints and measurements they ask for,
which are named instead: most other values of them leave every problem settled."""


def what_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each setting that differs, with the first stage it reaches."""
    old, new = flatten(before), flatten(now)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            stage = first_stage(key)
            reach = f"redoes what it reaches from '{stage}' on" if stage else "redoes nothing"
            yield f"changed: {key} {old.get(key)} → {new.get(key)}; {reach}"


def first_stage(key: str) -> str | None:
    """The first stage a setting reaches; None when it changes no result."""
    return next(stage for prefix, stage in REACH if _under(key, prefix))


def _under(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(prefix + ".")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
