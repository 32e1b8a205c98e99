"""Guide: what the teacher is told before it tries again (METHOD §2, hint kinds).

In: cut paths. Out: one hint per path. A `guided` hint is written by the teacher itself, shown the
answer; every kind but `answer` passes the leak gate, is redrawn when it leaks, and falls back to
the bare answer in the end, which the record says. A think-model writes its hint with its thinking
closed beforehand: a few words are asked for, and what it thinks would be shown in their place.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from heal.config import Gear
from heal.engines.base import Engine, GenRequest, Sampling
from heal.keys import content_key, seed_for
from heal.method.gates import leaks
from heal.prompts import Prompts, fill
from heal.records import Cut, Finish, Hint, HintKind, Problem, Trace
from heal.stages.draw import Claim
from heal.stages.steps import step_text

SOLUTION_SHARE = 0.25
"""The `partial` hint shows this first share of a reference solution's words (METHOD §2)."""
_OPENED_WITHIN = 32
"""Tokens at a prompt's end among which a chat template may have opened the thinking."""


@dataclass(frozen=True)
class Path:
    """A failed trace, its cut, and what a hint for it may draw on."""

    problem: Problem
    trace: Trace
    cut: Cut
    sibling: Trace | None = None
    """The one correct unaided trace, when there is exactly one."""


def answer_hint(problem: Problem, prompts: Prompts, cut: str | None = None) -> Hint:
    """The bare answer as a hint; costs nothing."""
    text = _answer_text(problem, prompts)
    key = content_key("hint", HintKind.ANSWER, problem.id, cut, text)
    return Hint(key, problem.id, HintKind.ANSWER, text, cut)


def hint_key(path: Path, prompts: Prompts, engine: Engine, gear: Gear, run_seed: int) -> str:
    """Names the hint of one path under the present settings, and all it may be made of."""
    settings = (gear.hint, gear.hint_redraws, gear.hint_max_tokens, gear.hint_temperature)
    words = (_hint_prompt(path, prompts, engine), _answer_text(path.problem, prompts))
    sources = (path.problem.solution, path.sibling.key if path.sibling else None)
    return content_key(
        "hint", path.problem.id, path.cut.key, settings, words, sources, engine.model_id, run_seed
    )


def guide(
    paths: Mapping[str, Path],
    prompts: Prompts,
    engine: Engine,
    gear: Gear,
    run_seed: int,
    done: Collection[str],
    claim: Claim,
) -> Iterator[Hint]:
    """Hints still owed of the paths given by `hint_key`."""
    owed = {key: path for key, path in paths.items() if key not in done}
    if gear.hint is HintKind.GUIDED:
        yield from _write_hints(owed, prompts, engine, gear, run_seed, claim)
        return
    for key, path in owed.items():
        yield _given_hint(key, path, prompts, gear)


def _given_hint(key: str, path: Path, prompts: Prompts, gear: Gear) -> Hint:
    """A hint that needs no teacher: the answer, part of a solution, or a sibling's approach."""
    text = None
    if gear.hint is HintKind.PARTIAL and path.problem.solution:
        text = first_words(path.problem.solution, SOLUTION_SHARE)
    if gear.hint is HintKind.SIBLING and path.sibling:
        text = first_words(path.sibling.text, SOLUTION_SHARE)
    if text and not leaks(text, path.problem.answer):
        return Hint(key, path.problem.id, gear.hint, text, path.cut.key, asked=gear.hint)
    refused = Hint(key, path.problem.id, gear.hint, "", path.cut.key, gear.hint, int(bool(text)))
    return _fall_back(refused, path, prompts)


def _write_hints(
    owed: Mapping[str, Path],
    prompts: Prompts,
    engine: Engine,
    gear: Gear,
    run_seed: int,
    claim: Claim,
) -> Iterator[Hint]:
    """Rounds of drawing: what leaks goes into the next round, what still leaks falls back."""
    sampling = Sampling(temperature=gear.hint_temperature, max_new_tokens=gear.hint_max_tokens)
    waiting = {
        key: Hint(key, path.problem.id, HintKind.GUIDED, "", path.cut.key, HintKind.GUIDED)
        for key, path in owed.items()
    }
    for attempt in range(1 + gear.hint_redraws):
        requests = _hint_requests(
            waiting, owed, prompts, engine, sampling, run_seed, attempt, claim
        )
        for generated in engine.generate(requests):
            path = owed[generated.request]
            drawn = replace(
                waiting[generated.request],
                text=_spoken(engine.decode(generated.ids.tolist()), prompts),
                new_tokens=waiting[generated.request].new_tokens + len(generated.ids),
                cut_off=generated.finish is Finish.LENGTH,
                error=generated.error,
            )
            if generated.error is None and not _refused(drawn.text, path.problem.answer):
                del waiting[generated.request]
                yield drawn
            else:
                refused = generated.error is None
                waiting[generated.request] = replace(drawn, leaks=drawn.leaks + refused)
    for key, hint in waiting.items():
        yield _fall_back(hint, owed[key], prompts)


def _hint_requests(
    waiting: Mapping[str, Hint],
    owed: Mapping[str, Path],
    prompts: Prompts,
    engine: Engine,
    sampling: Sampling,
    run_seed: int,
    attempt: int,
    claim: Claim,
) -> Iterator[GenRequest]:
    # A list: answers arrive, and leave `waiting`, while requests are still being made.
    for key in list(waiting):
        ids = _hint_prompt(owed[key], prompts, engine)
        claim([key])
        yield GenRequest(key, ids, (seed_for(run_seed, key, attempt),), sampling)


def _hint_prompt(path: Path, prompts: Prompts, engine: Engine) -> tuple[int, ...]:
    kept = path.trace.ids[: path.cut.prefix_tokens].tolist()
    user = fill(
        prompts.write_hint,
        problem=path.problem.problem,
        answer=path.problem.answer,
        prefix=engine.decode(kept).strip(),
        failed_step=step_text(path.trace, path.cut.step_ends, path.cut.step, engine),
    )
    return _past_thinking(engine.render(user, system=prompts.system), prompts, engine)


def _past_thinking(ids: tuple[int, ...], prompts: Prompts, engine: Engine) -> tuple[int, ...]:
    """The prompt of a think-model with nothing left to think."""
    if not prompts.think_close:
        return ids
    close = prompts.think_close.strip()
    opener = close.replace("/", "", 1)
    end = b"".join(engine.token_bytes(list(ids[-_OPENED_WITHIN:]))).rstrip()
    opening = "" if end.endswith(opener.encode()) else f"{opener}\n"
    return (*ids, *engine.encode(f"{opening}\n{close}\n\n"))


def _spoken(text: str, prompts: Prompts) -> str:
    """What a model said, without what it thought all the same."""
    close = (prompts.think_close or "").strip()
    return (text.rpartition(close)[2] if close else text).strip()


def _refused(text: str, answer: str) -> bool:
    return not text or leaks(text, answer)


def _fall_back(hint: Hint, path: Path, prompts: Prompts) -> Hint:
    text = _answer_text(path.problem, prompts)
    return replace(hint, kind=HintKind.ANSWER, text=text, cut_off=False)


def _answer_text(problem: Problem, prompts: Prompts) -> str:
    return fill(prompts.answer_hint, answer=problem.answer)


def first_words(text: str, share: float) -> str:
    """The first share of a text, by words, whole lines kept as they are."""
    words = text.split(" ")
    return " ".join(words[: max(1, round(len(words) * share))]).strip()
