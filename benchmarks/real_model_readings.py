"""What a real teacher's likelihoods say about its own traces, read once and kept.

In: run folders of `heal score` and the teacher that wrote them. Out: a folder of `Reading`s: each
failed unaided trace, and each right hinted or repaired one, with its token log-probs under the bare
problem, under the gold answer and (failed ones) under the answer the trace itself gave, and with
the answers' own log-probs after every step. Resumable. The tables are made from it without a model:
`benchmarks.real_breakpoints`, `benchmarks.real_pure`.

    python -m benchmarks.real_model_readings --teacher MODEL --out FOLDER RUN [RUN …]
"""

import argparse
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from benchmarks.real_model_checkers import first_wrong

import heal
from heal.config import Config, LocalEngine
from heal.engines.base import Engine, Probe, ScoreRequest
from heal.engines.local.engine import open_local
from heal.keys import content_key
from heal.prompts import fill
from heal.records import (
    Check,
    Finish,
    FloatArray,
    Origin,
    Outcome,
    Problem,
    Trace,
    Verdict,
)
from heal.stages.score import probe_ids
from heal.stages.steps import step_text, trace_steps
from heal.steps import first_wrong_step
from heal.steps.arithmetic import RULES
from heal.store import Store

STAGE = "reading"
CONTEXTS = ("bare", "gold", "own")


@dataclass(frozen=True)
class Reading:
    """One trace with everything the tables need; arrays are float32[T], nats."""

    key: str
    run: str
    problem_id: str
    problem: str
    answer: str
    family: str
    trace: str
    origin: Origin
    verdict: Verdict
    own_answer: str | None
    gate: str | None
    prefix_tokens: int
    step_ends: list[int]
    steps: list[str]
    pieces: list[str]
    """Each token's text; half a character shows as a replacement sign."""
    bare: FloatArray
    bare_entropy: FloatArray
    gold: FloatArray
    """Log-probs with the gold answer as a hint in the prompt."""
    gold_entropy: FloatArray
    own: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Log-probs with the trace's own wrong answer as a hint."""
    gold_after: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32[K + 1], nats per token: log-prob of the gold answer before step 1 and after each."""
    own_after: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    scored_tokens: int = 0


@dataclass(frozen=True)
class Item:
    """A trace that is to be read."""

    run: str
    problem: Problem
    trace: Trace
    check: Check
    gate: str | None
    config: Config

    @property
    def is_failed(self) -> bool:
        return self.trace.origin is Origin.UNAIDED

    def key(self, model_id: str) -> str:
        """Names the reading."""
        return content_key("real reading", self.trace.key, self.check.answer, model_id)


def items(folder: Path) -> Iterator[Item]:
    """The traces of a run worth reading, whether the run is finished or not.

    Failed: complete, wrong, unaided. Assisted: hinted or repaired, right, whatever the gates said.
    """
    with Store.open(folder, write=False) as store:
        config = Config.model_validate(yaml.safe_load((folder / "config.yaml").read_text("utf-8")))
        problems = dict(store.read("problem", Problem))
        checks = {check.trace: check for _, check in store.read("check", Check)}
        gates = dict(store.query("SELECT key, gate FROM traces WHERE gate IS NOT NULL"))
        stages = ("sample", "hinted", "repair")
        traces = [trace for stage in stages for _, trace in store.read(stage, Trace)]
    for trace in traces:
        check = checks.get(trace.key)
        wanted = Verdict.WRONG if trace.origin is Origin.UNAIDED else Verdict.CORRECT
        if check is None or check.verdict is not wanted or trace.finish is not Finish.STOP:
            continue
        gate = gates.get(trace.key)
        yield Item(folder.name, problems[trace.problem_id], trace, check, gate, config)


def requests(item: Item, engine: Engine, key: str, ends: Sequence[int]) -> list[ScoreRequest]:
    """The bare context with its probes, and the hinted ones."""
    prompts, problem, ids = item.config.prompts, item.problem, tuple(item.trace.ids.tolist())

    def hinted(answer: str) -> tuple[int, ...]:
        hint = fill(prompts.answer_hint, answer=answer)
        user = fill(prompts.solve_hinted, problem=problem.problem, hint=hint)
        return engine.render(user, system=prompts.system)

    own = item.check.answer if item.is_failed else None
    probes: list[Probe] = []
    for answer in (problem.answer, own):
        if answer is not None:
            probe, start = probe_ids(answer, prompts, engine)
            probes += [Probe(at, probe, start) for at in (0, *ends)]
    bare = engine.render(fill(prompts.solve, problem=problem.problem), system=prompts.system)
    asked = [
        ScoreRequest(f"{key} bare", bare, ids, tuple(probes)),
        ScoreRequest(f"{key} gold", hinted(problem.answer), ids),
    ]
    return [*asked, ScoreRequest(f"{key} own", hinted(own), ids)] if own is not None else asked


def read(chosen: Iterable[Item], engine: Engine, store: Store) -> int:
    """Score what is owed and store it; returns how many were read now."""
    done, count = dict(store.read(STAGE, Reading)), 0
    for item in chosen:
        key = item.key(engine.model_id)
        if key in done:
            if done[key].gate != item.gate:  # the run had not come to its gates
                store.put(STAGE, key, item.problem.id, replace(done[key], gate=item.gate))
            continue
        gear, prompts = item.config.gear, item.config.prompts
        ends = trace_steps(item.trace, engine, gear, prompts)
        scored = {s.request: s for s in engine.score(requests(item, engine, key, ends))}
        bare, gold = scored[f"{key} bare"], scored[f"{key} gold"]
        own = scored.get(f"{key} own")
        if any(s.error for s in scored.values()):
            print(f"{item.trace.key}: {next(s.error for s in scored.values() if s.error)}")
            continue
        means = [float(v.mean()) for v in bare.probe_logprob]
        at = len(ends) + 1
        pieces = engine.token_bytes(item.trace.ids.tolist())
        reading = Reading(
            key=key,
            run=item.run,
            problem_id=item.problem.id,
            problem=item.problem.problem,
            answer=item.problem.answer,
            family=item.problem.meta.get("family", ""),
            trace=item.trace.key,
            origin=item.trace.origin,
            verdict=item.check.verdict,
            own_answer=item.check.answer,
            gate=item.gate,
            prefix_tokens=item.trace.prefix_tokens,
            step_ends=ends,
            steps=[step_text(item.trace, ends, k, engine) for k in range(1, len(ends) + 1)],
            pieces=[p.decode("utf-8", "replace") for p in pieces],
            bare=bare.logprob,
            bare_entropy=bare.entropy_lo,
            gold=gold.logprob,
            gold_entropy=gold.entropy_lo,
            own=own.logprob if own else np.zeros(0, np.float32),
            gold_after=np.array(means[:at], np.float32),
            own_after=np.array(means[at:], np.float32),
            scored_tokens=sum(s.tokens for s in scored.values()),
        )
        store.put(STAGE, key, item.problem.id, reading)
        count += 1
        if count % 10 == 0:
            print(f"{count} read", flush=True)
    return count


def wanted(item: Item, engine: Engine) -> bool:
    """Failed traces with a step known to be wrong; assisted ones with a checkable equation."""
    ends = trace_steps(item.trace, engine, item.config.gear, item.config.prompts)
    steps = [step_text(item.trace, ends, k, engine) for k in range(1, len(ends) + 1)]
    if item.is_failed:
        return bool(first_wrong(item.problem.problem, item.problem.answer, steps))
    return first_wrong_step(steps, item.problem.problem).outcome is not Outcome.CANNOT_TELL


def spread(found: Sequence[Item], failed: int, assisted: int) -> list[Item]:
    """At most so many of each problem and origin, in the order of their keys: no problem rules."""
    counts: dict[tuple[str, Origin], int] = {}
    kept = []
    for item in sorted(found, key=lambda i: i.trace.key):
        group = (item.problem.id, item.trace.origin)
        counts[group] = counts.get(group, 0) + 1
        if counts[group] <= (failed if item.is_failed else assisted):
            kept.append(item)
    return kept


def about(folder: Path, words: str) -> dict[str, str | int]:
    """What figures made from these readings rest on, to stand beside them."""
    with Store.open(folder, write=False) as store:
        model = str(store.meta("model"))
    return {
        "about": words,
        "model": model,
        "heal": heal.__version__,
        "arithmetic_rules": RULES,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def write_figures(path: Path, found: Mapping[str, Any]) -> None:
    """Figures as small JSON: a share is [share, low, high, n], a mean [mean, half width, n]."""
    text = json.dumps(_short(found), indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_INNERMOST.sub(_on_one_line, text) + "\n", "utf-8")


_INNERMOST = re.compile(r"[\[{][^\[\]{}]*[\]}]")


def _on_one_line(match: re.Match[str]) -> str:
    return " ".join(match[0].split()).replace("[ ", "[").replace(" ]", "]")


def _short(found: Any) -> Any:
    if not isinstance(found, Mapping):
        return found
    keys = set(found)
    for short in (("share", "low", "high", "n"), ("mean", "half", "n"), ("mean", "low", "high")):
        if keys == set(short):
            return [round(found[k], 3) if isinstance(found[k], float) else found[k] for k in short]
    return {k: _short(v) for k, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--failed", type=int, default=4, help="of each problem")
    parser.add_argument("--assisted", type=int, default=8, help="of each problem and origin")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    engine = open_local(args.teacher, LocalEngine(threads=args.threads))
    found = [item for folder in args.runs for item in items(folder)]
    chosen = spread([item for item in found if wanted(item, engine)], args.failed, args.assisted)
    failed = sum(item.is_failed for item in chosen)
    print(f"{len(chosen)} of {len(found)}: {failed} failed, {len(chosen) - failed} assisted")
    with Store.open(args.out) as store:
        store.set_meta("model", engine.model_id)
        print(f"{read(chosen, engine, store)} read now, {store.counts().get(STAGE, 0)} in all")


if __name__ == "__main__":
    main()
