"""docs/method.md's constants: the `paper` preset and the field defaults must not drift."""

import pytest

from heal import prompts
from heal.config import Config
from heal.method import ceiling, entropy, gear, intervals, pace, pure
from heal.recipe import parse
from heal.records import Breakpoint, HintKind, Selection, StepEntropy

CONSTANTS = {
    # §1
    "sampling.n": 30,
    "sampling.temperature": 0.6,
    "sampling.top_p": 0.95,
    # §2
    "gear.breakpoint": Breakpoint.DIFFERENCE,
    "gear.step_entropy": StepEntropy.MEAN,
    "gear.back_up": 1,
    "gear.window": 1 / 3,
    "gear.min_step_tokens": 8,
    "gear.max_step_tokens": 512,
    "gear.paths": 10,
    "gear.candidates": 20,
    "gear.target": 8,
    "gear.hint": HintKind.GUIDED,
    "gear.hint_redraws": 3,
    "gear.early_answer_share": 0.3,
    "gear.copied_ngram": 13,
    # §3
    "pure.selection": Selection.FRACTION,
    "pure.drop": 0.2,
    "pure.epsilon": 0.01,
    "pure.u_floor": 0.1,
    "pure.commit_below": 0.1,
    "pure.commit_steps": 2,
    "pure.min_candidates": 5,
    # §4
    "pace.cap_d1": 4,
    "pace.cap_d1_hard": 8,
    "pace.cap_d2": 4,
    "pace.cap_d3": 4,
    "pace.per_parent": 2,
    "pace.near_duplicate": 0.8,
    "pace.replay": 0.3,
    "pace.stage_share": (0.5, 0.25, 0.25),
    "pace.stage_lr": (1.0, 0.7, 0.5),
    "pace.epochs": 5.0,
    "pace.max_shows": 8,
    "pace.rehearsal": 0.0,
    "train.learning_rate": 1e-5,
    "train.batch_size": 8,
    "train.warmup": 0.03,
    "train.min_lr": 0.1,
    # §6
    "evaluate.temperature": 0.6,
    "evaluate.top_p": 0.95,
    "evaluate.teacher_n": 30,
    "evaluate.bootstrap": 10_000,
}


def setting(config: Config, dotted: str):
    value = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("dotted", CONSTANTS)
def test_the_paper_preset_has_methods_constants(dotted):
    raw = {
        "run": "r",
        "preset": "paper",
        "problems": {"path": "p.jsonl"},
        "teacher": {"model": "m"},
    }
    assert setting(parse(raw), dotted) == CONSTANTS[dotted]


@pytest.mark.parametrize(
    "dotted", [d for d in CONSTANTS if d.split(".")[0] in ("sampling", "gear", "pure", "pace")]
)
def test_field_defaults_are_methods_constants(dotted):
    section, name = dotted.split(".")
    assert (
        Config.model_fields[section].default.__class__.model_fields[name].default
        == CONSTANTS[dotted]
    )


def test_constants_outside_the_config_are_methods_too():
    assert (ceiling.HARD_BELOW, ceiling.EXTREME_SHARE, ceiling.JUDGED_SHARE) == (0.5, 1 / 30, 1 / 3)
    assert (gear.THIRD, gear.ZSCORE_SOFTENER, gear.CUSUM_SLACK) == (1 / 3, 0.1, 0.5)
    assert 1 / entropy.TOP_SHARE == 0.2
    assert (pure.BINS, pure.NEAR_COMMITMENT, pure.HONEST_LOST) == (5, 2, 0.05)
    assert pace.SHINGLE_WORDS == 5
    assert intervals.CONFIDENCE == 0.95
    assert prompts.PROBE.endswith(r"\boxed{") and prompts.PROBE_CLOSE == "}"
