"""A light self-check of a build: does each model do what the dials promise?

In: a folder with `teacher/` and `student/`. Out: plain figures, each with its n: pass rates by
family, hint quality, fudged share among right hinted traces, and how well mean NLL and largest step
perplexity (both under the unhinted teacher) tell fudged traces from valid ones.
Draws fresh problems of one split at T = 1. It never looks at how any part of HEAL fares.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.lab import dialogue, traces
from heal.lab.tokenizer import ASSISTANT, END, USER
from heal.lab.truth import Truth, judge, split_steps
from heal.lab.world import COMMON, FAMILIES, IDEAS, LATENT, RARE, Problem, draw

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BATCH = 256
MAX_NEW_TOKENS = 320


@dataclass(frozen=True)
class Talker:
    """A model with its tokenizer, asked in whole batches."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast

    def replies(self, users: Sequence[str], kept: Sequence[str] | None = None) -> list[str]:
        """One T = 1 reply per user turn, continuing what is kept of the assistant turn."""
        kept = kept or [""] * len(users)
        prompts = [prompt(u) + k for u, k in zip(users, kept, strict=True)]
        out: list[str] = []
        for start in range(0, len(prompts), BATCH):
            out += self._replies(prompts[start : start + BATCH])
        return out

    def _replies(self, prompts: Sequence[str]) -> list[str]:
        import torch

        encoded = self.tokenizer(
            list(prompts), return_tensors="pt", padding=True, padding_side="left",
            add_special_tokens=False, return_token_type_ids=False,
        )  # fmt: skip
        with torch.inference_mode():
            ids = self.model.generate(
                **encoded, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=MAX_NEW_TOKENS,
            )  # fmt: skip
        new = ids[:, encoded["input_ids"].shape[1] :]
        return list(self.tokenizer.batch_decode(new, skip_special_tokens=True))

    def step_nlls(self, problem: str, trace: str) -> list[list[float]]:
        """Token NLLs (nats) of each step of the trace under the unhinted prompt."""
        import torch

        steps = split_steps(trace)
        pieces = [prompt(problem), *traces.join(steps[:-1]).split(dialogue.STEP_BREAK)[:-1]]
        texts = [pieces[0], *(p + dialogue.STEP_BREAK for p in pieces[1:]), steps[-1] + END]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        flat = torch.tensor([[i for piece in ids for i in piece]])
        with torch.inference_mode():
            logs = self.model(flat).logits[0].log_softmax(-1)
        nll = -logs[:-1].gather(1, flat[0, 1:, None])[:, 0]
        out, at = [], len(ids[0]) - 1
        for piece in ids[1:]:
            out.append(nll[at : at + len(piece)].tolist())
            at += len(piece)
        return out


def measure(folder: Path | str, n: int = 150, split: str = "pool", seed: int = 0) -> dict[str, Any]:
    """All figures of one build: n problems per family, one trace each."""
    import torch

    torch.manual_seed(seed)
    rng = random.Random(seed)
    teacher, student = (load(Path(folder) / name) for name in ("teacher", "student"))
    problems = [draw(family, rng, split) for family in FAMILIES for _ in range(n)]
    alone = _traces(teacher, problems, None)
    with_answer = _traces(teacher, problems, [dialogue.answer_hint(p.answer) for p in problems])
    hinted = [i for i, p in enumerate(problems) if p.rule.family in RARE + LATENT]
    guided = _guided(teacher, [(problems[i], alone[i]) for i in hinted], rng)
    learner = _student_figures(student, problems)
    return {
        "n_per_family": n,
        "split": split,
        "unaided": _by_family(problems, alone),
        "answer_hint": _by_family(problems, with_answer),
        "guided": guided.pop("by_family"),
        "hint_writer": guided.pop("hint_writer"),
        "detectors_answer_hint": _detectors(
            teacher, [(problems[i], with_answer[i]) for i in hinted]
        ),
        "detectors_guided": _detectors(teacher, guided.pop("traces")),
        "student": learner,
    }


def load(folder: Path | str) -> Talker:
    """Open a checkpoint folder offline, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Talker(model, AutoTokenizer.from_pretrained(folder))


def prompt(user: str) -> str:
    """The rendered prompt that opens the assistant turn."""
    return f"{USER}{user}{END}{ASSISTANT}"


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Probability that a positive scores above a negative; ties count half."""
    if not positive or not negative:
        return math.nan
    wins = sum((p > q) + 0.5 * (p == q) for p in positive for q in negative)
    return wins / (len(positive) * len(negative))


def _traces(
    talker: Talker, problems: Sequence[Problem], hints: Sequence[str] | None
) -> list[tuple[str, Truth]]:
    asked: Sequence[str | None] = hints or [None] * len(problems)
    users = [dialogue.solve(p.text, h) for p, h in zip(problems, asked, strict=True)]
    return _judged(problems, talker.replies(users))


def _judged(problems: Sequence[Problem], texts: Sequence[str]) -> list[tuple[str, Truth]]:
    return [(t, judge(p.text, t)) for p, t in zip(problems, texts, strict=True)]


def _guided(
    talker: Talker, failed: Sequence[tuple[Problem, tuple[str, Truth]]], rng: random.Random
) -> dict[str, Any]:
    """Failures cut before or at their rule step, hinted by the model itself, then continued."""
    cases = [(p, split_steps(text)) for p, (text, truth) in failed if not truth.correct]
    cuts = [rng.randint(1, 4) for _ in cases]
    kept = [traces.join(steps[:cut]) for (_, steps), cut in zip(cases, cuts, strict=True)]
    asks = [
        dialogue.write_hint(p.text, p.answer, keep, steps[cut])
        for (p, steps), keep, cut in zip(cases, kept, cuts, strict=True)
    ]
    hints = talker.replies(asks)
    problems = [p for p, _ in cases]
    users = [dialogue.solve(p.text, h) for p, h in zip(problems, hints, strict=True)]
    texts = [k + t for k, t in zip(kept, talker.replies(users, kept), strict=True)]
    judged = _judged(problems, texts)
    right = [IDEAS[p.rule.family] in hint for p, hint in zip(problems, hints, strict=True)]
    return {
        "by_family": _by_family(problems, judged),
        "hint_writer": {
            family: _share([r for r, p in zip(right, problems, strict=True) if _is(p, family)])
            for family in RARE + LATENT
        },
        "traces": list(zip(problems, judged, strict=True)),
    }


def _is(problem: Problem, family: str) -> bool:
    return problem.rule.family == family


def _by_family(
    problems: Sequence[Problem], judged: Sequence[tuple[str, Truth]]
) -> dict[str, dict[str, float]]:
    out = {}
    for family in FAMILIES:
        truths = [t for p, (_, t) in zip(problems, judged, strict=True) if _is(p, family)]
        if not truths:
            continue
        right = [t for t in truths if t.correct]
        out[family] = {
            "n": len(truths),
            "pass": _mean([t.correct for t in truths]),
            "names_it": _mean([t.family == family for t in truths]),
            "valid": _mean([t.valid for t in truths]),
            "fudged_of_right": _mean([t.fudged for t in right]),
        }
    return out


def _detectors(
    talker: Talker, judged: Sequence[tuple[Problem, tuple[str, Truth]]]
) -> dict[str, float]:
    """AUROC of a high score meaning fudged, over the right traces of rare and latent problems."""
    scores: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for problem, (text, truth) in judged:
        if not truth.correct:
            continue
        steps = talker.step_nlls(problem.text, text)
        tokens = [nll for step in steps for nll in step]
        worst = max(math.exp(_mean(step)) for step in steps)
        scores[truth.fudged].append((_mean(tokens), worst, len(tokens)))
    columns = {
        name: auroc([s[i] for s in scores[True]], [s[i] for s in scores[False]])
        for i, name in enumerate(("mean_nll", "max_ppl", "length"))
    }
    return {"n_fudged": len(scores[True]), "n_valid": len(scores[False]), **_rounded(columns)}


def _student_figures(student: Talker, problems: Sequence[Problem]) -> dict[str, Any]:
    drills = [dialogue.drill(p.text, IDEAS[p.rule.family]) for p in problems]
    return {
        "unaided": _by_family(problems, _traces(student, problems, None)),
        "drilled": _by_family(problems, _judged(problems, student.replies(drills))),
    }


def _share(flags: Sequence[bool]) -> dict[str, float]:
    return {"n": len(flags), "right": _mean(flags)}


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else math.nan


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


def table(figures: dict[str, Any]) -> str:
    """The measured figures as a text table."""
    student = figures["student"]
    parts = {
        "alone": figures["unaided"],
        "answer hint": figures["answer_hint"],
        "guided": figures["guided"],
        "student": student["unaided"],
        "drilled": student["drilled"],
    }
    lines = ["family   " + "  ".join(f"{name:>22}" for name in parts)]
    for family in FAMILIES:
        cells = [_cell(part.get(family)) for part in parts.values()]
        lines.append(f"{family:<9}" + "  ".join(f"{cell:>22}" for cell in cells))
    lines.append("cells: pass/valid (fudged of right) n; common: " + ", ".join(COMMON))
    lines.append(f"hint writer: {figures['hint_writer']}")
    lines += [f"{k}: {figures[k]}" for k in ("detectors_answer_hint", "detectors_guided")]
    return "\n".join(lines)


def _cell(row: dict[str, float] | None) -> str:
    if row is None:
        return "-"
    return f"{row['pass']:.3f}/{row['valid']:.3f} ({row['fudged_of_right']:.2f}) {row['n']}"
