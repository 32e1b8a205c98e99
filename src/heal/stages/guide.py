"""Guide: what the teacher is told before it tries again (docs/method.md §2, hint kinds).

One hint per cut path. A `guided` hint is written by the teacher itself, shown the answer; every
kind but `answer` passes the leak gate, is redrawn when it is refused, and falls back to the bare
answer in the end, which the record says. A think-model writes its hint with its thinking closed
beforehand: a few words are asked for, and what it thinks would be shown in their place.
"""

from collections.abc import Iterator
from dataclasses import replace

from heal.engines.base import Generated, GenRequest, Sampling
from heal.keys import content_key, seed_for
from heal.method.gates import hint_flaw, leaks
from heal.prompts import Prompts, fill
from heal.records import Breakpoint, Finish, Hint, HintDraw, HintFlaw, HintKind, Problem
from heal.stages.found import Found, Lane, Request, Setup, TextModel
from heal.stages.locate import Path, paths
from heal.stages.steps import step_text
from heal.store.columns import HintRow

SOLUTION_SHARE = 0.25
"""The `partial` hint shows this first share of a reference solution's words."""
_OPENED_WITHIN = 32
"""Tokens at a prompt's end among which a chat template may have opened the thinking."""


def owes(found: Found, setup: Setup) -> Iterator[Request]:
    """The next draw of every hint that is still to be written."""
    asked: set[str] = set()
    for kind in setup.breakpoints:
        for path in paths(found, setup, kind):
            key = hint_key(found, setup, path)
            if key not in asked and hint_of(found, setup, path) is None:
                asked.add(key)
                yield _request(found, setup, path, key)


def hint_of(found: Found, setup: Setup, path: Path) -> Hint | None:
    """The hint of a path; None if a draw of it is owed."""
    key, gear = hint_key(found, setup, path), setup.config.gear
    known = found.get("hint", key, Hint)
    if known is not None:
        return known
    made = _written(found, setup, path, key) if gear.hint is HintKind.GUIDED else None
    if gear.hint is not HintKind.GUIDED:
        made = _given(key, path, setup)
    if made is not None:
        found.add("hint", key, made)
    return made


def conclude(found: Found, setup: Setup) -> Iterator[HintRow | Hint]:
    """The hints of HEAL's own breakpoint and of its controls."""
    for kind in setup.breakpoints:
        for path in paths(found, setup, kind):
            hint = hint_of(found, setup, path)
            if hint is not None:
                yield hint_row(hint, kind)
                yield hint


def hint_row(hint: Hint, tag: Breakpoint | HintKind) -> HintRow:
    """What the columns say of a hint."""
    return HintRow(
        hint.problem_id,
        tag,
        hint.key,
        hint.cut,
        hint.kind,
        hint.asked,
        hint.leaks,
        hint.new_tokens,
        hint.cut_off,
        not hint.text,
        hint.error is not None,
    )


def answer_hint(problem: Problem, prompts: Prompts, cut: str | None = None) -> Hint:
    """The bare answer as a hint; costs nothing."""
    text = _answer_text(problem, prompts)
    key = content_key("hint", HintKind.ANSWER, problem.id, cut, text)
    return Hint(key, problem.id, HintKind.ANSWER, text, cut)


def hint_key(found: Found, setup: Setup, path: Path) -> str:
    """Names the hint of one path under the present settings, and all it may be made of."""
    return found.once(("hint key", path.cut.key), lambda: _hint_key(setup, path))


def _hint_key(setup: Setup, path: Path) -> str:
    gear, teacher, prompts = setup.config.gear, setup.teacher, setup.prompts
    settings = (gear.hint, gear.hint_redraws, gear.hint_max_tokens, gear.hint_temperature)
    # Hints kept under another gate may be none under this one.
    gated = (gear.hint_gate,) * gear.hint_gate
    words = (_hint_prompt(path, prompts, teacher), _answer_text(path.problem, prompts))
    sources = (path.problem.solution, path.sibling.key if path.sibling else None)
    return content_key(
        "hint",
        path.problem.id,
        path.cut.key,
        (*settings, *gated),
        words,
        sources,
        teacher.model_id,
        setup.config.seed,
    )


def _given(key: str, path: Path, setup: Setup) -> Hint:
    """A hint that needs no teacher: the answer, part of a solution, or a sibling's approach."""
    kind, text = setup.config.gear.hint, None
    if kind is HintKind.PARTIAL and path.problem.solution:
        text = first_words(path.problem.solution, SOLUTION_SHARE)
    if kind is HintKind.SIBLING and path.sibling:
        text = first_words(path.sibling.text, SOLUTION_SHARE)
    if text and not leaks(text, path.problem.answer):
        return Hint(key, path.problem.id, kind, text, path.cut.key, asked=kind)
    refused = Hint(key, path.problem.id, kind, "", path.cut.key, kind, int(bool(text)))
    return _fall_back(refused, path, setup.prompts)


def _written(found: Found, setup: Setup, path: Path, key: str) -> Hint | None:
    """What the draws so far come to: the first that passes, or after the last the answer."""
    hint = Hint(key, path.problem.id, HintKind.GUIDED, "", path.cut.key, HintKind.GUIDED)
    for attempt in range(1 + setup.config.gear.hint_redraws):
        said = found.get("hint_draw", f"{key}-{attempt}", HintDraw)
        if said is None:
            return None
        hint = replace(
            hint,
            text=said.text,
            new_tokens=hint.new_tokens + said.new_tokens,
            cut_off=said.cut_off,
            error=said.error,
        )
        flaw = _flaw(said, path, setup)
        if said.error is None and flaw is None:
            return hint
        hint = hint if flaw is None else _refused(hint, flaw)
    return _fall_back(hint, path, setup.prompts)


def _flaw(said: HintDraw, path: Path, setup: Setup) -> HintFlaw | None:
    if said.error is not None:
        return None
    kept = setup.teacher.decode(path.trace.ids[: path.cut.prefix_tokens].tolist())
    strict = setup.config.gear.hint_gate
    known = f"{path.problem.problem}\n{kept}" if strict else ""
    return hint_flaw(said.text, path.problem.answer, known, said.cut_off, strict)


def _refused(hint: Hint, flaw: HintFlaw) -> Hint:
    flaws = {**hint.flaws, str(flaw): hint.flaws.get(str(flaw), 0) + 1}
    return replace(hint, leaks=hint.leaks + 1, flaws=flaws)


def _request(found: Found, setup: Setup, path: Path, key: str) -> Request:
    """The first draw that is not there."""
    gear, prompts = setup.config.gear, setup.prompts
    attempt = 0
    while found.get("hint_draw", f"{key}-{attempt}", HintDraw) is not None:
        attempt += 1
    name, seed = f"{key}-{attempt}", seed_for(setup.config.seed, key, attempt)
    sampling = Sampling(temperature=gear.hint_temperature, max_new_tokens=gear.hint_max_tokens)

    def read(generated: Generated) -> HintDraw:
        return HintDraw(
            name,
            path.problem.id,
            _spoken(setup.teacher.decode(generated.ids.tolist()), prompts),
            len(generated.ids),
            generated.finish is Finish.LENGTH,
            generated.error,
        )

    ask = GenRequest(name, _hint_prompt(path, prompts, setup.teacher), (seed,), sampling)
    return Request(Lane.WRITE, "hint_draw", (name,), ask, read)


def _hint_prompt(path: Path, prompts: Prompts, teacher: TextModel) -> tuple[int, ...]:
    kept = path.trace.ids[: path.cut.prefix_tokens].tolist()
    user = fill(
        prompts.write_hint,
        problem=path.problem.problem,
        answer=path.problem.answer,
        prefix=teacher.decode(kept).strip(),
        failed_step=step_text(path.trace, path.cut.step_ends, path.cut.step, teacher),
    )
    return _past_thinking(teacher.render(user, system=prompts.system), prompts, teacher)


def _past_thinking(ids: tuple[int, ...], prompts: Prompts, teacher: TextModel) -> tuple[int, ...]:
    """The prompt of a think-model with nothing left to think."""
    if not prompts.think_close:
        return ids
    close = prompts.think_close.strip()
    opener = close.replace("/", "", 1)
    end = b"".join(teacher.token_bytes(list(ids[-_OPENED_WITHIN:]))).rstrip()
    opening = "" if end.endswith(opener.encode()) else f"{opener}\n"
    return (*ids, *teacher.encode(f"{opening}\n{close}\n\n"))


def _spoken(text: str, prompts: Prompts) -> str:
    """What a model said, without what it thought all the same."""
    close = (prompts.think_close or "").strip()
    return (text.rpartition(close)[2] if close else text).strip()


def _fall_back(hint: Hint, path: Path, prompts: Prompts) -> Hint:
    text = _answer_text(path.problem, prompts)
    return replace(hint, kind=HintKind.ANSWER, text=text, cut_off=False)


def _answer_text(problem: Problem, prompts: Prompts) -> str:
    return fill(prompts.answer_hint, answer=problem.answer)


def first_words(text: str, share: float) -> str:
    """The first share of a text, by words, whole lines kept as they are."""
    words = text.split(" ")
    return " ".join(words[: max(1, round(len(words) * share))]).strip()
