"""Guide: what the teacher is told before it tries again (docs/method.md §2, hint kinds).

One hint per cut path. Some kinds the teacher writes itself; every kind but `answer` passes the leak
gate, is redrawn where it is written and refused, and falls back to the bare answer in the end,
which the record says. A think-model writes its hint with its thinking closed
beforehand: a few words are asked for, and what it thinks would be shown in their place.
"""

from collections.abc import Iterator
from dataclasses import replace

from heal.engines.base import Generated, GenRequest, Sampling
from heal.keys import content_key, seed_for
from heal.method.gates import hint_flaw, leaks
from heal.prompts import Prompts, fill
from heal.records import Finish, Hint, HintDraw, HintFlaw, HintKind, Outcome, Problem
from heal.stages.found import Found, Lane, Request, Setup, TextModel
from heal.stages.locate import Path, paths
from heal.stages.steps import step_text, word_of
from heal.store.columns import HintRow

GATE_RULES = 2
"""Edition of what `gear.hint_gate` refuses: hints kept under another are judged again."""
SOLUTION_SHARE = 0.25
"""The `partial` hint shows this first share of a reference solution's words."""
WRITTEN = {
    HintKind.GUIDED: "write_hint",
    HintKind.PLAN: "write_plan",
    HintKind.DIAGNOSIS: "write_diagnosis",
}
"""Kinds that the teacher writes, and the prompt that asks for each."""
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
                yield _request(found, setup, path)


def hint_of(found: Found, setup: Setup, path: Path) -> Hint | None:
    """The hint of a path; None if a draw of it is owed."""
    key = hint_key(found, setup, path)
    known = found.get("hint", key, Hint)
    if known is not None:
        return known
    make = _written if setup.hint in WRITTEN else _given
    made = make(found, setup, path, key)
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


def hint_row(hint: Hint, tag: str) -> HintRow:
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
    drawn, gear = _draw_key(found, setup, path), setup.config.gear
    if not gear.hint_gate or setup.hint not in WRITTEN:
        return drawn
    # What another gate has let pass may be refused by this one, and drawn already.
    return content_key(drawn, GATE_RULES, setup.checker.edition if setup.checker else None)


def _draw_key(found: Found, setup: Setup, path: Path) -> str:
    """Names what the teacher is asked for one path, whatever becomes of it."""

    def make() -> str:
        gear, prompts = setup.config.gear, setup.prompts
        sources = [path.problem.solution, path.sibling.key if path.sibling else None]
        if setup.hint is HintKind.CHECKER:
            sources.append(_checkers_words(found, setup, path))
        return content_key(
            "hint",
            path.problem.id,
            path.cut.key,
            (setup.hint, gear.hint_redraws, gear.hint_max_tokens, gear.hint_temperature),
            (_hint_prompt(path, setup), _answer_text(path.problem, prompts)),
            sources,
            setup.teacher.model_id,
            setup.config.seed,
        )

    return found.once(("hint key", path.cut.key), make)


def known_to(found: Found, setup: Setup, path: Path, kind: HintKind) -> str | None:
    """The text of a kind that needs no teacher, for one path; None where there is nothing to say.

    Of `answer` it is None as well: that is what all others fall back to.
    """
    if kind is HintKind.PARTIAL and path.problem.solution:
        return first_words(path.problem.solution, SOLUTION_SHARE)
    if kind is HintKind.SIBLING and path.sibling:
        return first_words(path.sibling.text, SOLUTION_SHARE)
    return _checkers_words(found, setup, path) if kind is HintKind.CHECKER else None


def _checkers_words(found: Found, setup: Setup, path: Path) -> str | None:
    """What the step checker finds wrong in a failed trace, and what is so instead."""
    word = word_of(found, setup, path.trace)
    if word is None or word.step is None:
        return None
    said = word.detail or step_text(path.trace, path.cut.step_ends, word.step, setup.teacher)
    truth = f"In truth {word.truth}." if word.truth else ""
    return fill(setup.prompts.checker_hint, said=said, truth=truth).strip()


def _given(found: Found, setup: Setup, path: Path, key: str) -> Hint:
    """A hint that needs no teacher."""
    kind = setup.hint
    text = known_to(found, setup, path, kind)
    if text and not leaks(text, path.problem.answer):
        return Hint(key, path.problem.id, kind, text, path.cut.key, asked=kind)
    refused = Hint(key, path.problem.id, kind, "", path.cut.key, kind, int(bool(text)))
    return _fall_back(refused, path, setup.prompts)


def _written(found: Found, setup: Setup, path: Path, key: str) -> Hint | None:
    """What the draws so far come to: the first that passes, or after the last the answer."""
    hint = Hint(key, path.problem.id, setup.hint, "", path.cut.key, setup.hint)
    drawn = _draw_key(found, setup, path)
    for attempt in range(1 + setup.config.gear.hint_redraws):
        said = found.get("hint_draw", f"{drawn}-{attempt}", HintDraw)
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
    problem = path.problem

    def is_false() -> bool:
        checker, steps = setup.checker, said.text.split("\n\n")
        word = checker(problem.problem, problem.answer, steps) if checker else None
        return word is not None and word.outcome is Outcome.WRONG_STEP

    return hint_flaw(said.text, problem.answer, known, said.cut_off, strict, is_false)


def _refused(hint: Hint, flaw: HintFlaw) -> Hint:
    flaws = {**hint.flaws, str(flaw): hint.flaws.get(str(flaw), 0) + 1}
    return replace(hint, leaks=hint.leaks + 1, flaws=flaws)


def _request(found: Found, setup: Setup, path: Path) -> Request:
    """The first draw that is not there."""
    gear, prompts = setup.config.gear, setup.prompts
    key, attempt = _draw_key(found, setup, path), 0
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

    ask = GenRequest(name, _hint_prompt(path, setup), (seed,), sampling)
    return Request(Lane.WRITE, "hint_draw", (name,), ask, read)


def _hint_prompt(path: Path, setup: Setup) -> tuple[int, ...]:
    prompts, teacher = setup.prompts, setup.teacher
    kept = path.trace.ids[: path.cut.prefix_tokens].tolist()
    user = fill(
        getattr(prompts, WRITTEN.get(setup.hint, "write_hint")),
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
