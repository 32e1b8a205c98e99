"""Probe, before a run, whether the engines can do what its recipe needs.

In: a config. Out: the first prompt as the model will read it, and one finding per question and
target: each server by itself, and each engine opened here. Nothing is stored and no run folder is
touched. `meeting` looks at teacher and student first; `estimate` says what the run would cost.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from heal.before.estimate import Assumed, costs
from heal.before.estimate import lines_of as cost_lines
from heal.before.findings import Finding, Outcome, Target
from heal.before.probe import TRACE_TOKENS, Probe
from heal.config import Config, Engines, ModelRef
from heal.data.problems import read_problems
from heal.engines import open_engine
from heal.errors import HealError


def targets(config: Config) -> Iterator[tuple[str, ModelRef, Engines, bool]]:
    """(name, model, settings, whether it scores) of each server, and of each engine opened here."""
    for role, ref in (("teacher", config.teacher), ("scorer", config.scorer)):
        if ref is None:
            continue
        scores = role == "scorer" or config.scorer is None
        if ref.engine != "http" or not config.engine.http.endpoints:
            yield f"{role}: {ref.model}", ref, config.engine, scores
            continue
        for endpoint in config.engine.http.endpoints:
            http = config.engine.http.model_copy(update={"endpoints": (endpoint,)})
            alone = config.engine.model_copy(update={"http": http})
            yield f"{role}: {endpoint.url} ({endpoint.dialect})", ref, alone, scores


def check(config: Config) -> Iterator[Target]:
    """Probe every engine, one by one. Raises: UserError if the problems cannot be read."""
    problems = read_problems(config.problems, Path.cwd()).problems
    for name, ref, engines, scores in targets(config):
        target = Target(name)
        try:
            engine = open_engine(ref, engines)
        except HealError as error:
            target.findings.append(
                Finding("reached", Outcome.FAILED, str(error), error.hint or "is it running?")
            )
            yield target
            continue
        try:
            Probe(config, engine, problems, target).run(scores)
        finally:
            engine.close()
        yield target


def estimate(
    config: Config,
    found: Sequence[Target],
    trace_tokens: float | None = None,
    extreme: float = 0.1,
    hard: float = 0.3,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Iterator[str]:
    """The run's price, line by line; nothing when no teacher could be timed.

    trace_tokens None takes the mean of the traces the check drew, else half of the most allowed.
    """
    timed = [p for p in found if p.speed is not None and p.name.startswith("teacher")]
    if not timed:
        return
    speeds = [p.speed for p in timed if p.speed is not None]
    measured = [s.mean_tokens for s in speeds if s.mean_tokens is not None]
    half = config.sampling.max_new_tokens / 2
    length = trace_tokens or (sum(measured) / len(measured) if measured else half)
    if trace_tokens is None and not measured:
        yield f"Traces are longer than {TRACE_TOKENS} tokens; --trace-tokens tells how long."
    assumed = Assumed(length, timed[0].prompt_tokens, extreme, hard)
    problems = read_problems(config.problems, Path.cwd()).problems
    speed = sum(s.tokens_s for s in speeds)
    yield from cost_lines(costs(config, problems, assumed), assumed, speed, price_in, price_out)
