"""Teacher and student face to face: what the one writes, and what the other is taught of it.

In: a config. Out: each model's side, read from its tokenizer and chat template alone: how it sets
thinking apart, its prompt for the first problem, and the text that follows. No weights are opened.
A trace stands in for those that a run draws. What no row could be made of fails here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heal.before.findings import Finding, Outcome, Target
from heal.config import Config, ModelRef
from heal.data.problems import read_problems
from heal.engines.http.tokenizer import open_tokenizer
from heal.engines.local.delimiters import form_of
from heal.errors import HealError
from heal.method.thinking import TAGS, Thought, canonical, spelt
from heal.prompts import fill
from heal.records import Example
from heal.students.forms import Rule, StudentForm, student_form
from heal.students.rendering import Refusal, Rendered, Renderer, open_renderer
from heal.wording import plural

THINKING, ANSWER = "(its thinking)", "(its answer)"
"""What the trace says that stands in for those of a run."""
ANY_LENGTH = 1 << 30
LOSSY = "its tokenizer does not give its text back, or reads its own signs in plain words"


@dataclass(frozen=True)
class Side:
    """One model's side of the page; all of it text of its own."""

    name: str
    told: str
    """How it sets thinking apart, in words."""
    prompt: str
    """The first problem up to the opened assistant turn."""
    row: str
    """What follows: as the teacher writes it, or as the student is taught it."""
    bears_loss: bool = False
    """Whether `row` is what a student is trained on."""


@dataclass(frozen=True)
class Meeting:
    """Both sides, and the findings on the student; None where the recipe has none."""

    teacher: Side
    student: Side
    found: Target | None


@dataclass(frozen=True)
class _Teacher:
    side: Side
    thought: Thought
    """The trace that stands in for its own."""
    surely: bool
    """Whether it is known to think if `thought` does."""


def meet(config: Config) -> Meeting:
    """Read both tokenizers. Raises: UserError if the problems cannot be read."""
    problem = read_problems(config.problems, Path.cwd()).problems[0]
    user = fill(config.prompts.solve, problem=problem.problem)
    teacher = _teacher(config, config.teacher, user)
    if config.student is None:
        told = "rows are written in canonical form, for other trainers"
        row = canonical(teacher.thought)
        return Meeting(teacher.side, Side("student: none", told, user, row), None)
    target = Target(f"student: {config.student.model}")
    example = Example(
        "check", problem.id, "D1", user, canonical(teacher.thought), config.prompts.system
    )
    try:
        renderer = open_renderer(config.student.model, ANY_LENGTH)
        found = renderer.render(example)
        plain = renderer.render(replace(example, assistant=ANSWER))
    except HealError as error:
        target.findings.append(Finding("reached", Outcome.FAILED, str(error), error.hint))
        side = Side(target.name, "it cannot be taught; see below", "", "")
        return Meeting(teacher.side, side, target)
    ok = "its tokenizer and its chat template can be used"
    target.findings.append(Finding("reached", Outcome.OK, ok))
    finding, row = _taught(renderer, found, teacher)
    target.findings.append(finding)
    ids = plain.ids[: plain.prompt_tokens] if isinstance(plain, Rendered) else ()
    _ready(config, target, len(ids))
    told, prompt = renderer.form.describe(), _text(renderer.tokenizer, ids)
    side = Side(target.name, told, prompt, row, isinstance(found, Rendered))
    return Meeting(teacher.side, side, target)


def _teacher(config: Config, ref: ModelRef | None, user: str) -> _Teacher:
    if ref is None:
        thought = Thought(THINKING, ANSWER)
        told = "traces are imported, and hold <think> tags where they think"
        return _Teacher(Side("teacher: none", told, user, canonical(thought)), thought, False)
    name, closes = f"teacher: {ref.model}", config.prompts.think_close is not None
    if ref.engine == "scripted":
        thought = Thought(THINKING if closes else None, ANSWER)
        told = "a script: it has no chat template"
        return _Teacher(Side(name, told, user, canonical(thought)), thought, closes)
    try:
        tokens = open_tokenizer(ref.model).tokens
        prompt = _text(tokens.tokenizer, tokens.render(user, config.prompts.system))
    except HealError as error:
        thought = Thought(THINKING if closes else None, ANSWER)
        side = Side(name, f"not known yet: {error}", "", canonical(thought))
        return _Teacher(side, thought, closes)
    known = form_of(tokens.tokenizer)
    form = student_form(known, prompt, prompt)
    thinks = not form.closed and (form.form is not None or closes)
    thought = Thought(THINKING if thinks else None, ANSWER)
    side = Side(name, form.describe(), prompt, _written(form, thought))
    return _Teacher(side, thought, bool(form.opened) or closes)


def _written(form: StudentForm, thought: Thought) -> str:
    """A trace behind the teacher's prompt, in its own delimiters."""
    if thought.thinking is None:
        return form.bare + thought.answer
    return spelt(thought.thinking, thought.answer, form.form or TAGS).removeprefix(form.opened)


def _taught(
    renderer: Renderer, found: Rendered | Refusal, teacher: _Teacher
) -> tuple[Finding, str]:
    """What there is to say of a row, and its text behind the prompt."""
    rule = renderer.form.rule(teacher.thought.thinking is not None)
    if isinstance(found, Rendered):
        text = _text(renderer.tokenizer, found.ids[found.prompt_tokens :])
        return Finding("taught", Outcome.OK, rule.value), text
    hint = "choose another one: --set student.model=FOLDER"
    if rule is not Rule.REFUSED:
        return Finding("taught", Outcome.FAILED, LOSSY, hint), LOSSY
    hint = "one that leaves it open: --set student.model=FOLDER"
    words = "its prompt closes the thinking, and the teacher thinks: no row can be taught"
    if teacher.surely:
        return Finding("taught", Outcome.FAILED, words, hint), rule.value
    words = "its prompt closes the thinking: rows of a teacher that thinks are refused"
    return Finding("taught", Outcome.NOTE, words, hint), rule.value


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


def _ready(config: Config, target: Target, prompt: int) -> None:
    """Whether it has room for the rows, and one device to train on."""
    target.findings.append(_room(config, prompt))
    try:
        _require_devices(config)
    except HealError as error:
        target.findings.append(Finding("training", Outcome.FAILED, str(error), error.hint))


def _room(config: Config, prompt: int) -> Finding:
    """Whether `train.max_length` holds a repair: a prompt, a kept third, and a whole new trace."""
    limit, needed = config.train.max_length, prompt + config.sampling.max_new_tokens * 4 // 3
    if needed <= limit:
        return Finding("room", Outcome.OK, f"train.max_length, {limit:,}, holds any repair")
    words = f"a repair may take {plural(needed, 'token')}; more than {limit:,} are not trained on"
    return Finding("room", Outcome.NOTE, words, f"--set train.max_length={needed}")


def _require_devices(config: Config) -> None:
    """Whether training has the devices it asks for. Raises: UserError."""
    if config.train.launch is not None:
        from heal.students.launch import require_devices

        require_devices(config.train.launch)
        return
    from heal.students.trainer import require_one_device

    require_one_device()
