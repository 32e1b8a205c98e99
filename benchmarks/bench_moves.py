"""Cuts, repairs and PURE's readings in the lab's world of moves, one attempt each: cheap and wide.

    python -m benchmarks.bench_moves --problems 200 --json moves.json

One unaided trace of each latent problem; every failed one is scored once, cut in every way, and
gone on with once per cut under a hint the teacher wrote, and once under the bare answer. `heal lab
yields` does that by whole runs, with strata, gates and several candidates. Intervals resample
problems.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

import heal.lab
from heal.config import Pure
from heal.engines.base import Scored, ScoreRequest, answers
from heal.lab import dialogue, traces
from heal.lab.measure import Talker, load
from heal.lab.truth import split_steps
from heal.lab.world import Problem, Truth
from heal.lab.worlds import world_named
from heal.method.answers import states_answer
from heal.method.claims import find_claim_break, worst_result
from heal.method.entropy import step_values
from heal.method.gear import find_breakpoint
from heal.method.intervals import auroc, percentiles, wilson
from heal.method.pure import drop_scores, step_surprisal
from heal.records import Breakpoint, PureScore, Selection, StepEntropy
from heal.stages.score import step_log_ppl

WORLD = "moves"
TEACHER = Path(heal.lab.__file__).parent / "assets" / WORLD / "teacher"
SCORED_COST = 0.5
READINGS = (
    Selection.SURPRISAL,
    Selection.WORST_RESULT,
    Selection.MEAN_NLL,
    Selection.MAX_PPL,
    Selection.LENGTH,
    Selection.RANDOM,
    Selection.RELIANCE,
    Selection.JOINT,
)
ENTROPIES = {
    "difference": Breakpoint.DIFFERENCE,
    "zscore": Breakpoint.ZSCORE,
    "cusum": Breakpoint.CUSUM,
}


@dataclass(frozen=True)
class Failed:
    """A failed trace with its scores and cuts; steps from 1, the first one dropped."""

    problem: Problem
    steps: list[str]
    first_bad: int
    tokens: int
    cuts: dict[str, int]


@dataclass(frozen=True)
class Tried:
    """One continuation of a kept prefix."""

    problem: Problem
    steps: list[str]
    kept: int
    hint: str
    tokens: int
    """Of the hint and of what is new."""
    truth: Truth


def main() -> None:
    """Run it and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.problems, given.seed)
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(n: int, seed: int) -> dict[str, Any]:
    """All figures, as plain data."""
    world, rng, teacher = world_named(WORLD), random.Random(seed), load(TEACHER)
    latent = world.families["latent"]
    problems = [world.draw(latent[i % len(latent)], rng, "heldout") for i in range(n)]
    failed = _failed(teacher, problems, rng)
    guided = _continued(teacher, failed, _written_hints)
    bare = _continued(teacher, failed, _bare_answers)
    kinds = {"guided": guided, "answer": bare}
    return {
        "problems": n,
        "failed": len(failed),
        "first_bad": _places(failed),
        "cuts": {way: _cut_figures(failed, way) for way in failed[0].cuts},
        "yields": {kind: _yields(failed, tried) for kind, tried in kinds.items()},
        "readings": {
            kind: _readings(teacher, list(tried.values())) for kind, tried in kinds.items()
        },
    }


# ── failed traces and cuts ──────────────────────────────────────────────────────────────────────


def _failed(teacher: Talker, problems: Sequence[Problem], rng: random.Random) -> list[Failed]:
    texts = teacher.replies([dialogue.solve(p.text) for p in problems])
    wrong = []
    for problem, text in zip(problems, texts, strict=True):
        truth = world_named(WORLD).judge(problem, text)
        if truth.answer is not None and not truth.correct and truth.first_bad is not None:
            wrong.append((problem, split_steps(text), truth.first_bad))
    scored = _scores(teacher, [(dialogue.solve(p.text), steps) for p, steps, _ in wrong])
    found = []
    for (problem, steps, bad), (score, ends, pieces) in zip(wrong, scored, strict=True):
        cuts = _cuts(score, ends, pieces, rng.randrange(1 << 30))
        cuts["the truth"] = bad + 1
        found.append(Failed(problem, steps, bad + 1, ends[-1], cuts))
    return found


def _cuts(score: Scored, ends: Sequence[int], pieces: Sequence[bytes], dice: int) -> dict[str, int]:
    low, high = (
        step_values(e, ends, StepEntropy.MEAN) for e in (score.entropy_lo, score.entropy_hi)
    )

    def cut(kind: Breakpoint, window: float) -> int:
        return find_breakpoint(low, high, ends, kind=kind, window=window, seed=dice).step

    found = {name: cut(kind, 1 / 3) for name, kind in ENTROPIES.items()}
    found |= {f"{name}, whole trace": cut(kind, 1.0) for name, kind in ENTROPIES.items()}
    claim = find_claim_break(score.logprob, score.entropy_lo, score.entropy_hi, ends, pieces)
    found |= {"claims": claim.step, "random": cut(Breakpoint.RANDOM, 1 / 3)}
    found |= {"random, whole trace": cut(Breakpoint.RANDOM, 1.0)}
    return found | {"fixed_third": cut(Breakpoint.FIXED_THIRD, 1 / 3), "restart": 1}


def _scores(
    teacher: Talker, cases: Sequence[tuple[str, list[str]]]
) -> list[tuple[Scored, list[int], list[bytes]]]:
    """Scores of traces under a user turn, where their steps end, and their tokens' bytes."""
    engine = teacher.engine
    steps = [[engine.encode(step + dialogue.STEP_BREAK) for step in own] for _, own in cases]
    asked = (
        ScoreRequest(str(i), engine.render(user), sum(steps[i], ()))
        for i, (user, _) in enumerate(cases)
    )
    got = {int(out.request): out for out in answers(engine.score(asked))}
    return [
        (got[i], list(accumulate(map(len, own))), engine.token_bytes(list(sum(own, ()))))
        for i, own in enumerate(steps)
    ]


# ── repairs ─────────────────────────────────────────────────────────────────────────────────────

Key = tuple[int, int]
"""A failed trace, and the step it is cut at: ways that cut alike share what comes of it."""
Hints = Callable[[Talker, Sequence[Failed], Sequence[Key]], list[str]]


def _written_hints(teacher: Talker, failed: Sequence[Failed], keys: Sequence[Key]) -> list[str]:
    asks = []
    for trace, step in keys:
        own = failed[trace]
        prefix = traces.join(own.steps[: step - 1])
        asks.append(
            dialogue.write_hint(own.problem.text, own.problem.gold, prefix, own.steps[step - 1])
        )
    return teacher.replies(asks)


def _bare_answers(teacher: Talker, failed: Sequence[Failed], keys: Sequence[Key]) -> list[str]:
    return [dialogue.answer_hint(failed[trace].problem.gold) for trace, _ in keys]


def _continued(teacher: Talker, failed: Sequence[Failed], hints_of: Hints) -> dict[Key, Tried]:
    keys = sorted({(i, step) for i, own in enumerate(failed) for step in own.cuts.values()})
    hints = hints_of(teacher, failed, keys)
    users = [
        dialogue.solve(failed[i].problem.text, hint)
        for (i, _), hint in zip(keys, hints, strict=True)
    ]
    kept = [traces.join(failed[i].steps[: step - 1]) for i, step in keys]
    texts = teacher.replies(users, kept)
    written = hints_of is _written_hints
    found = {}
    for key, hint, prefix, text in zip(keys, hints, kept, texts, strict=True):
        problem, whole = failed[key[0]].problem, prefix + text
        tokens = len(teacher.engine.encode(text)) + written * len(teacher.engine.encode(hint))
        truth = world_named(WORLD).judge(problem, whole)
        found[key] = Tried(problem, split_steps(whole), key[1] - 1, hint, tokens, truth)
    return found


def _yields(failed: Sequence[Failed], tried: Mapping[Key, Tried]) -> dict[str, Any]:
    random_cut = _gains(failed, tried, "random")
    found = {}
    for way in failed[0].cuts:
        own = [tried[i, each.cuts[way]] for i, each in enumerate(failed)]
        right = [each for each in own if each.truth.correct]
        gains = _gains(failed, tried, way)
        found[way] = {
            "right": asdict(wilson(len(right), len(own))),
            "valid": asdict(wilson(sum(each.truth.valid for each in own), len(own))),
            "fudged_of_right": asdict(wilson(sum(e.truth.fudged for e in right), len(right)))
            if right
            else None,
            "valid_per_1000": _ratio(gains),
            "minus_random": None if way == "random" else _ratio(gains, random_cut),
        }
    return found


def _gains(failed: Sequence[Failed], tried: Mapping[Key, Tried], way: str) -> np.ndarray:
    """Valid ones and tokens of each problem, float64[2, problems]."""
    reads = way.split(",")[0] in {*ENTROPIES, "claims"}
    rows = []
    for i, own in enumerate(failed):
        one = tried[i, own.cuts[way]]
        rows.append((float(one.truth.valid), one.tokens + reads * SCORED_COST * own.tokens))
    return np.array(rows).T


def _ratio(own: np.ndarray, other: np.ndarray | None = None) -> dict[str, Any]:
    """Valid ones per 1,000 tokens, or the difference in that; problems are resampled."""
    n = own.shape[1]
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 4_000)
    counts = np.vstack([np.ones(n, np.int64), drawn])
    values = [
        1_000 * (counts @ pair[0]) / (counts @ pair[1]) for pair in (own, other) if pair is not None
    ]
    figure = values[0] if other is None else values[0] - values[1]
    return asdict(percentiles(float(figure[0]), figure[1:], n))


# ── where traces break, and PURE's readings ─────────────────────────────────────────────────────


def _places(failed: Sequence[Failed]) -> dict[str, Any]:
    shares = np.array([(own.first_bad - 1) / len(own.steps) for own in failed])
    thirds = [float((np.floor(3 * shares) == third).mean()) for third in range(3)]
    return {"median": float(np.median(shares)), "thirds": thirds}


def _cut_figures(failed: Sequence[Failed], way: str) -> dict[str, Any]:
    off = np.array([own.cuts[way] - own.first_bad for own in failed])
    kept = [min(own.cuts[way], own.first_bad) - 1 for own in failed if own.first_bad > 1]
    good = [own.first_bad - 1 for own in failed if own.first_bad > 1]
    return {
        "hit": asdict(wilson(int((off == 0).sum()), len(off))),
        "late": asdict(wilson(int((off > 0).sum()), len(off))),
        "good_part_kept": sum(kept) / sum(good),
    }


def _readings(teacher: Talker, tried: Sequence[Tried]) -> dict[str, Any]:
    """AUROC of a high reading meaning fudged: of whole traces, and of repairs of a kept prefix."""
    right = [each for each in tried if each.truth.correct]
    plain = _scores(teacher, [(dialogue.solve(t.problem.text), t.steps) for t in right])
    hinted = _scores(teacher, [(dialogue.solve(t.problem.text, t.hint), t.steps) for t in right])
    profiles = [
        _profile(str(i), each, own, under[0])
        for i, (each, own, under) in enumerate(zip(right, plain, hinted, strict=True))
    ]
    found = {}
    for name, whole in (("whole", True), ("repairs", False)):
        chosen = [i for i, each in enumerate(right) if (each.kept == 0) == whole]
        found[name] = {str(kind): _separation(kind, right, profiles, chosen) for kind in READINGS}
    return found


def _separation(
    kind: Selection, right: Sequence[Tried], profiles: Sequence[PureScore], chosen: Sequence[int]
) -> dict[str, Any] | None:
    scores: dict[bool, list[float]] = {True: [], False: []}
    suspicion = drop_scores([profiles[i] for i in chosen], kind, Pure(), seed=0)
    for i in chosen:
        scores[right[i].truth.fudged].append(suspicion[profiles[i].trace])
    if not scores[True] or not scores[False]:
        return None
    fudged, valid = np.array(scores[True]), np.array(scores[False])
    area = asdict(auroc(fudged, valid, resamples=2_000, seed=0))
    return {"auroc": area, "fudged": len(fudged), "valid": len(valid)}


def _profile(
    key: str, tried: Tried, plain: tuple[Scored, list[int], list[bytes]], hinted: Scored
) -> PureScore:
    (scored, ends, pieces), answer = plain, tried.problem.gold
    first, new = tried.kept + 1, ends[tried.kept - 1] if tried.kept else 0
    return PureScore(
        key=key,
        problem_id=tried.problem.text,
        trace=key,
        log_ppl=step_log_ppl(scored.logprob, ends),
        uncertainty=np.full(len(ends) + 1, np.nan, np.float32),
        step_tokens=np.diff([0, *ends]).tolist(),
        first_step=first,
        scorable=[not states_answer(step, answer) for step in tried.steps],
        answer_surprisal=step_surprisal(pieces, scored.logprob, ends, answer),
        scored_tokens=scored.tokens,
        probe_tokens=0,
        worst_result=worst_result(scored.logprob, ends, pieces, first),
        hinted_log_ppl=float(-hinted.logprob[new:].mean()),
    )


if __name__ == "__main__":
    main()
