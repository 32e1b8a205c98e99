"""A light self-check of a build: does each model do what the dials promise?

In: a folder with `teacher/` and `student/`. Out: plain figures, each with its n: pass rates by
family, hint quality, fudged share among right hinted traces, the unhinted teacher's probability of
naming each rare or latent rule, and how well mean NLL and largest step perplexity (both under the
unhinted teacher) tell fudged traces from valid ones.
Draws fresh problems of one split at the temperature of the recipe (0.7), and never looks at how
any part of HEAL fares.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal.config import LocalEngine as Settings
from heal.engines.base import GenRequest, Sampling, ScoreRequest, answers
from heal.engines.local.engine import LocalEngine, open_local
from heal.lab import dialogue, traces
from heal.lab.lesson import END
from heal.lab.truth import Truth, judge, split_steps
from heal.lab.world import Problem, World
from heal.lab.worlds import WORLDS

SAMPLING = Sampling(temperature=0.7, top_p=1.0, max_new_tokens=320)


@dataclass(frozen=True)
class Talker:
    """A model asked in whole batches."""

    engine: LocalEngine

    def replies(self, users: Sequence[str], kept: Sequence[str] | None = None) -> list[str]:
        """One reply per user turn, continuing what is kept of the assistant turn."""
        kept = kept or [""] * len(users)
        prompts = [
            (*self.engine.render(user), *self.engine.encode(prefix))
            for user, prefix in zip(users, kept, strict=True)
        ]
        asked = (GenRequest(str(i), p, (i,), SAMPLING) for i, p in enumerate(prompts))
        got = {int(out.request): out for out in answers(self.engine.generate(asked))}
        return [self.engine.decode(got[i].ids.tolist()) for i in range(len(users))]

    def step_nlls(self, cases: Sequence[tuple[str, str]]) -> list[list[list[float]]]:
        """For each (problem, trace): token NLLs in nats, by step, under the unhinted prompt."""
        steps = [self._steps(trace) for _, trace in cases]
        asked = (
            ScoreRequest(str(i), self.engine.render(problem), sum(steps[i], ()))
            for i, (problem, _) in enumerate(cases)
        )
        got = {int(out.request): -out.logprob for out in answers(self.engine.score(asked))}
        return [_cut(got[i].tolist(), list(map(len, steps[i]))) for i in range(len(cases))]

    def _steps(self, trace: str) -> list[tuple[int, ...]]:
        steps = split_steps(trace)
        texts = [step + dialogue.STEP_BREAK for step in steps[:-1]] + [steps[-1] + END]
        return [self.engine.encode(text) for text in texts]


def measure(
    folder: Path | str, world: str = "rows", n: int = 100, split: str = "pool", seed: int = 0
) -> dict[str, Any]:
    """All figures of one build: n problems per family, one trace each."""
    rng, home = random.Random(seed), WORLDS[world]
    teacher, student = (load(Path(folder) / name) for name in ("teacher", "student"))
    problems = [home.draw(f, rng, split) for f in home.all_families for _ in range(n)]
    alone = _traces(teacher, problems, None)
    with_answer = _traces(teacher, problems, [dialogue.answer_hint(p.gold) for p in problems])
    hard = [i for i, p in enumerate(problems) if home.kind_of(p.rule.family) != "common"]
    guided = _guided(teacher, home, [(problems[i], alone[i]) for i in hard], rng)
    return {
        "world": world,
        "n_per_family": n,
        "split": split,
        "unaided": _by_family(home, problems, alone),
        "names_true_rule_p": _naming(teacher, home, [problems[i] for i in hard], rng),
        "answer_hint": _by_family(home, problems, with_answer),
        "guided": guided.pop("by_family"),
        "hint_writer": guided.pop("hint_writer"),
        "detectors_answer_hint": _detectors(teacher, [(problems[i], with_answer[i]) for i in hard]),
        "detectors_guided": _detectors(teacher, guided.pop("traces")),
        "student": _student_figures(student, home, problems),
    }


def load(folder: Path | str) -> Talker:
    """Open a checkpoint folder offline."""
    return Talker(open_local(str(folder), Settings(rows=128)))


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
    talker: Talker,
    world: World,
    failed: Sequence[tuple[Problem, tuple[str, Truth]]],
    rng: random.Random,
) -> dict[str, Any]:
    """Failures cut before or at their rule step, hinted by the model itself, then continued."""
    cases = [(p, split_steps(text)) for p, (text, truth) in failed if not truth.correct]
    failures = [truth for _, (_, truth) in failed if not truth.correct]
    cuts = [rng.randint(1, t.rule_step or 4) for t in failures]
    kept = [traces.join(steps[:cut]) for (_, steps), cut in zip(cases, cuts, strict=True)]
    asks = [
        dialogue.write_hint(p.text, p.gold, keep, steps[cut])
        for (p, steps), keep, cut in zip(cases, kept, cuts, strict=True)
    ]
    hints = talker.replies(asks)
    problems = [p for p, _ in cases]
    users = [dialogue.solve(p.text, h) for p, h in zip(problems, hints, strict=True)]
    texts = [k + t for k, t in zip(kept, talker.replies(users, kept), strict=True)]
    judged = _judged(problems, texts)
    right = [world.hints_right(p, hint) for p, hint in zip(problems, hints, strict=True)]
    return {
        "by_family": _by_family(world, problems, judged),
        "hint_writer": {
            family: _share([r for r, p in zip(right, problems, strict=True) if _is(p, family)])
            for family in world.families["rare"] + world.families["latent"]
        },
        "traces": list(zip(problems, judged, strict=True)),
    }


def _is(problem: Problem, family: str) -> bool:
    return problem.rule.family == family


def _by_family(
    world: World, problems: Sequence[Problem], judged: Sequence[tuple[str, Truth]]
) -> dict[str, dict[str, float]]:
    out = {}
    for family in world.all_families:
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
    right = [(problem.text, text, truth) for problem, (text, truth) in judged if truth.correct]
    scored = talker.step_nlls([(problem, text) for problem, text, _ in right])
    scores: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for (_, _, truth), steps in zip(right, scored, strict=True):
        tokens = [nll for step in steps for nll in step]
        worst = max(math.exp(sum(step) / len(step)) for step in steps)
        scores[truth.fudged].append((sum(tokens) / len(tokens), worst, len(tokens)))
    columns = {
        name: auroc([s[i] for s in scores[True]], [s[i] for s in scores[False]])
        for i, name in enumerate(("mean_nll", "max_ppl", "length"))
    }
    return {"n_fudged": len(scores[True]), "n_valid": len(scores[False]), **_rounded(columns)}


def _naming(
    talker: Talker, world: World, problems: Sequence[Problem], rng: random.Random
) -> dict[str, dict[str, float]]:
    """Mean probability, unhinted, that the choice an honest trace hangs on is made rightly."""
    honest = [world.choice(problem, rng) for problem in problems]
    cases = [(p.text, traces.join(w)) for p, (w, _) in zip(problems, honest, strict=True)]
    scored = talker.step_nlls(cases)
    chances: dict[str, list[float]] = {p.rule.family: [] for p in problems}
    for problem, (_, lead), steps in zip(problems, honest, scored, strict=True):
        after_lead = steps[-2][len(talker.engine.encode(lead)) :]
        chances[problem.rule.family].append(math.exp(-sum(after_lead)))
    return {family: {"n": len(p), "mean_p": _mean(p)} for family, p in chances.items()}


def _cut(values: Sequence[float], lengths: Sequence[int]) -> list[list[float]]:
    """Consecutive pieces of the given lengths."""
    out, at = [], 0
    for length in lengths:
        out.append(list(values[at : at + length]))
        at += length
    return out


def _student_figures(student: Talker, world: World, problems: Sequence[Problem]) -> dict[str, Any]:
    drills = [dialogue.drill(p.text, world.idea(p)) for p in problems]
    return {
        "unaided": _by_family(world, problems, _traces(student, problems, None)),
        "drilled": _by_family(world, problems, _judged(problems, student.replies(drills))),
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
    for family in WORLDS[figures["world"]].all_families:
        cells = [_cell(part.get(family)) for part in parts.values()]
        lines.append(f"{family:<9}" + "  ".join(f"{cell:>22}" for cell in cells))
    lines.append("cells: pass/valid (fudged of right) n")
    lines.append(f"hint writer: {figures['hint_writer']}")
    lines.append(f"names the true rule, p: {figures['names_true_rule_p']}")
    lines += [f"{k}: {figures[k]}" for k in ("detectors_answer_hint", "detectors_guided")]
    return "\n".join(lines)


def _cell(row: dict[str, float] | None) -> str:
    if row is None:
        return "-"
    return f"{row['pass']:.3f}/{row['valid']:.3f} ({row['fudged_of_right']:.2f}) {row['n']}"
