"""The card of a trained student: what it was made from and how, and what it can do.

In: a run's view and settings, and the stages of one student. Out: Markdown with the metadata the
Hub reads. Every figure is the run's own and has its n; what is not known is said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from heal.method.curriculum import STAGES
from heal.method.summary import ALL
from heal.records import TrainResult
from heal.report import numbers, sentences, words
from heal.report.view import RunView
from heal.wording import plural


def student_card(view: RunView, config: Mapping[str, Any], stages: Sequence[TrainResult]) -> str:
    """README.md of the folder of a student; `stages` are its own, in order."""
    arm, seed = stages[-1].arm, stages[-1].seed
    base = str((config.get("student") or {}).get("model", "?")).rstrip("/").rpartition("/")[2]
    meta = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reasoning", "distillation", "heal"],
    }
    parts = [
        f"---\n{yaml.safe_dump(meta, sort_keys=False)}---\n",
        f"# {base}, trained by HEAL (arm `{arm}`, seed {seed})",
        f"Made by HEAL ({sentences.PROVENANCE}) on {view.date[:10] or 'an unknown day'} from"
        f" `{base}`, with "
        + (f"traces of the teacher `{view.teacher}`." if view.teacher else "imported traces."),
        "## Data",
        "\n".join(_data(view, config)),
        "## Training",
        _stages(stages),
        "## Held-out problems",
        _figures(view, arm),
        "## Settings and versions",
        f"- Run seed {view.seed}, training seed {seed}.\n"
        + "\n".join(f"- `train.{k}`: `{v}`" for k, v in sorted(config.get("train", {}).items()))
        + "\n- "
        + ", ".join(f"{name} {version}" for name, version in sorted(view.versions.items()))
        + ".",
        "## Limits",
        "- It learnt one teacher's words, errors included. A right answer may stand behind a wrong"
        " step.\n"
        "- Licences: those of the base model, the problems and the teacher's terms. HEAL does not"
        " know them; fill them in before you publish.",
    ]
    return "\n\n".join(parts) + "\n"


def _data(view: RunView, config: Mapping[str, Any]) -> list[str]:
    verifier = config.get("problems", {}).get("verifier", "?")
    lines = [f"- Problems: `{words.problems_name(config)}`, verified by `{verifier}`."]
    lines += [f"- {line}" for line in sentences.teacher_sentences(view)]
    if view.extreme.problems:
        before, after = numbers.ceiling_before(view), numbers.ceiling_after(view)
        lines.append(
            f"- Extreme problems with a correct unaided trace: {words.share_text(before)}; with a"
            f" trace in the sets of `{view.main_arm}`: {words.share_text(after)}."
        )
    return lines


def _stages(stages: Sequence[TrainResult]) -> str:
    rows = [
        "| stage | steps | tokens | traces | peak learning rate | loss, first → last | unseen |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in stages:
        unseen = "not measured"
        if s.validation_loss is not None:
            unseen = f"{s.validation_loss:.4f} (n = {s.validation_traces:,})"
        rows.append(
            f"| {STAGES[s.stage - 1]} | {s.steps:,} | {s.tokens:,} | {s.distinct:,}"
            f" | {s.learning_rate:g} | {s.loss_first:.4f} → {s.loss_last:.4f} | {unseen} |"
        )
    left = stages[-1].refused_long
    refused = f"\n\n{plural(left, 'trace')} left out as too long." if left else ""
    return "\n".join(rows) + refused


def _figures(view: RunView, arm: str) -> str:
    summary = view.evaluation
    ours = [s for s in (summary.arms if summary else ()) if s.arm in ("base", arm)]
    if summary is None or not ours:
        return "Not evaluated."
    seeds = plural(summary.seeds, "training seed")
    head = (
        "| problems of the teacher | n | who | avg | pass | truncated |\n|---|---|---|---|---|---|"
    )
    rows = [
        f"| {'all' if s.stratum == ALL else s.stratum} | {s.avg.n_problems:,} | {s.arm}"
        f" | {words.whole_text(s.avg)} | {words.whole_text(s.pass_k)}"
        f" | {words.whole_text(s.truncated)} |"
        for s in ours
    ]
    said = (
        f"In per cent [95 % interval over problems], {plural(summary.k, 'attempt')} each, over"
        f" {seeds} of the arm together:"
    )
    return f"{said}\n\n{head}\n" + "\n".join(rows)
