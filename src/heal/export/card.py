"""The card of an exported data set: what it is, how it was made, what became of it, its limits.

In: a run's view, settings and counts. Out: Markdown with the metadata `datasets` reads. Every
figure is the run's own; where a licence is not known, the card says who knows it.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from heal.method.pace import POOLS
from heal.report import numbers, sentences, words
from heal.report.view import RunView
from heal.wording import plural

_ABOUT = {
    "D1": "correct traces the teacher wrote unaided",
    "D2": "whole correct traces written with the answer in view, past the gates and PURE",
    "D3": "failed traces cut where they broke and continued under a hint, past the gates and PURE",
}


def card(view: RunView, config: Mapping[str, Any], arm: str, rows: Mapping[str, int]) -> str:
    """README.md of the folder. rows: set → rows exported."""
    meta = {
        "tags": ["reasoning", "distillation", "heal"],
        "task_categories": ["text-generation"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": name, "path": f"{name}.parquet"} for name in POOLS if rows.get(name)
                ],
            }
        ],
    }
    verifier = config.get("problems", {}).get("verifier", "?")
    selection = config.get("pure", {}).get("selection", "?")
    parts = [
        f"---\n{yaml.safe_dump(meta, sort_keys=False)}---\n",
        f"# {_title(view)}",
        f"Made by HEAL ({sentences.PROVENANCE}), arm `{arm}`, on"
        f" {view.date[:10] or 'an unknown day'}.",
        "## What is in it",
        "| split | rows | what |\n|---|---|---|\n"
        + "\n".join(f"| `{p}` | {rows.get(p, 0):,} | {_ABOUT[p]} |" for p in POOLS),
        "One row per trace: `messages` (the user turn holds no hint), `answer`, and where it came"
        " from: `problem_id`, `trace`, `stage`, `origin`, `parent`, `cut_step`, `hint_kind`,"
        " `pure_score`, `family`, `stratum`.",
        "## Yield",
        "\n".join(f"- {line}" for line in _yield(view)),
        "## How it was made",
        f"- {_origin(view, config)}.\n"
        f"- Verified by `{verifier}`; PURE by `{selection}`; run seed {view.seed}.\n"
        f"- Problems: `{words.problems_name(config)}`, held-out ones left out.\n"
        "- Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(view.versions.items())) + ".",
        "## How to train on it",
        "Three runs, each from the weights of the one before, loss on the assistant's turn only:"
        " `D1`; then `D1` and `D2`, 70 % of it new; then all three, 70 % of it `D3`."
        " `heal export trl RUN` (or `llamafactory`, `swift`, `axolotl`) writes the rows in that"
        " order and the commands.",
        "## Limits",
        "- A verdict is on the final answer. A trace may reach a right answer by a wrong step; PURE"
        " drops what looks like it and does not prove the rest.\n"
        "- Traces are one model's words and share its errors and its licence's terms.\n"
        "- Licences: that of the problems is their source's, that of the traces follows from the"
        " teacher's terms. HEAL does not know either; fill them in before you publish.",
    ]
    return "\n\n".join(parts) + "\n"


def _title(view: RunView) -> str:
    if not view.teacher:
        return "Imported reasoning traces, verified by HEAL"
    return f"Reasoning traces of {_name(view.teacher)}, repaired by HEAL"


def _origin(view: RunView, config: Mapping[str, Any]) -> str:
    """Who wrote the traces, as far as the run's settings tell."""
    sampling = dict(config.get("sampling", {}))
    traces = (config.get("problems") or {}).get("traces")
    if not traces:
        return f"Teacher: `{view.teacher}`; {_sampled(sampling)}"
    imported = f"Unaided traces were imported from `{traces['path']}`; HEAL does not know how they"
    imported += " were sampled"
    if not view.teacher:
        return f"{imported}. There is no teacher"
    if not traces["top_up"]:
        del sampling["n"]
    more = "Teacher, which repaired them" + (" and drew more" if traces["top_up"] else "")
    return f"{imported}. {more}: `{view.teacher}`; {_sampled(sampling)}"


def _sampled(sampling: Mapping[str, Any]) -> str:
    """How the teacher was asked, as far as the run's settings tell."""
    parts = []
    if n := sampling.get("n"):
        parts.append(f"{plural(n, 'trace')} per problem")
    if (temperature := sampling.get("temperature")) is not None:
        parts.append(f"temperature {temperature}")
    if most := sampling.get("max_new_tokens"):
        parts.append(f"at most {plural(most, 'token')}")
    return ", ".join(parts) or "how it was sampled is not known"


def _yield(view: RunView) -> list[str]:
    before, after = numbers.ceiling_before(view), numbers.ceiling_after(view)
    lines = list(sentences.teacher_sentences(view))
    if view.extreme.problems:
        lines.append(f"Extreme problems with a correct unaided trace: {words.share_text(before)}.")
        lines.append(f"Extreme problems with a trace in this data: {words.share_text(after)}.")
    return lines


def _name(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2] or model
