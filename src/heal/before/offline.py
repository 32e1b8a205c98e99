"""What can be said of a recipe before any model is opened or any server asked.

In: a config. Out: findings as `heal check` prints them, from the problem file and the models' files
alone. What is not on this machine yet is a note with the command that brings it; what is wrong
fails.
"""

from collections.abc import Iterator
from pathlib import Path

from heal.before.estimate import Assumed, costs
from heal.before.findings import Finding, Outcome, Target
from heal.before.machine import ModelFacts, model_facts
from heal.config import Config
from heal.data.problems import ProblemSet, read_problems
from heal.errors import UserError
from heal.prompts import fill
from heal.wording import plural

CHARACTERS = 3.0
"""Of a token, about; only a tokenizer could tell."""
CHECKED = 1000
"""Golds that are verified against themselves."""


def check_offline(config: Config) -> Iterator[Target]:
    """The problems, then each model, as far as files tell. Raises: UserError for bad problems."""
    found = read_problems(config.problems, Path.cwd())
    yield _problems(config, found)
    longest = max(len(fill(config.prompts.solve, problem=p.problem)) for p in found.problems)
    models = {"teacher": config.teacher, "scorer": config.scorer, "student": config.student}
    for role, ref in models.items():
        if ref is None:
            continue
        scripted = getattr(ref, "engine", "local") == "scripted"
        yield _model(config, role, ref.model, int(longest / CHARACTERS), scripted)


def _problems(config: Config, found: ProblemSet) -> Target:
    from heal.verifiers import open_verifier

    target = Target("problems")
    target.findings.append(Finding("read", Outcome.OK, found.summary))
    settings = config.problems.model_copy(update={"verifier": found.verifier})
    verifier, checked = open_verifier(settings), found.problems[:CHECKED]
    try:
        doubtful = verifier.preflight(checked).doubtful
    finally:
        verifier.close()
    outcome = Outcome.NOTE if doubtful else Outcome.OK
    words = f"{found.verifier}; {doubtful:,} of {plural(len(checked), 'gold')} look doubtful"
    hint = "heal problems FILE names them" if doubtful else None
    target.findings.append(Finding("verifier", outcome, words, hint))
    return target


def _model(config: Config, role: str, model: str, prompt: int, scripted: bool) -> Target:
    target = Target(f"{role}: {model}")
    if scripted:
        there = Path(model).is_file()
        outcome, words = (Outcome.OK, "a script") if there else (Outcome.FAILED, "no such file")
        target.findings.append(Finding("files", outcome, words))
        return target
    try:
        facts = model_facts(model)
    except UserError as error:
        # A folder that is there and is no model is wrong; one that is not may still come.
        wrong = Path(model).expanduser().exists()
        outcome = Outcome.FAILED if wrong else Outcome.NOTE
        target.findings.append(Finding("files", outcome, str(error), error.hint))
        return target
    weights = f"{facts.gb:.2f} GB of weights" if facts.gb else "a tokenizer alone"
    target.findings.append(Finding("files", Outcome.OK, weights))
    target.findings += _fit(config, role, facts, prompt)
    return target


def _fit(config: Config, role: str, facts: ModelFacts, prompt: int) -> Iterator[Finding]:
    """Whether what the recipe asks for agrees with the model."""
    wanted = config.sampling.max_new_tokens
    if role == "student":
        needed = prompt + wanted * 4 // 3
        if needed > config.train.max_length:
            words = f"a repair may take about {plural(needed, 'token')}, and train.max_length is "
            words += f"{config.train.max_length:,}"
            yield Finding("room", Outcome.NOTE, words, f"--set train.max_length={needed}")
        return
    if facts.context is not None and prompt + wanted > facts.context:
        words = f"a prompt of about {prompt:,} and {wanted:,} more: more than {facts.context:,}"
        outcome = Outcome.FAILED if prompt >= facts.context else Outcome.NOTE
        yield Finding("context", outcome, words, "--set sampling.max_new_tokens=…")
    if facts.thinks and config.prompts.think_close is None:
        words = "the template knows <think>, but prompts.think_close is not set"
        hint = "if it is a think-model: --set prompts.think_close='</think>'"
        yield Finding("thinking", Outcome.NOTE, words, hint)


def tokens_at_most(config: Config, trace_tokens: float | None, a: tuple[float, float]) -> list[str]:
    """What the run writes and reads at most, in tokens; `a`: shares of extreme and hard ones."""
    if config.teacher is None:
        return ["No model is asked before a student is trained: traces are imported."]
    problems = read_problems(config.problems, Path.cwd()).problems
    prompt = max(len(fill(config.prompts.solve, problem=p.problem)) for p in problems)
    length = trace_tokens or config.sampling.max_new_tokens / 2
    assumed = Assumed(length, int(prompt / CHARACTERS), *a)
    found = costs(config, problems, assumed)
    written, read = sum(c.written for c in found), sum(c.read for c in found)
    return [
        f"At most {written:,.0f} tokens written and {read:,.0f} read, if traces take {length:,.0f}",
        "tokens; without --offline the model is timed, and hours are said too.",
    ]
