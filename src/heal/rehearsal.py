"""Training with its closing stage: a student's own answers after the frontier (`pace.rehearsal`).

The student that stage III has made is asked all training problems. What it gets right is shown to
it once more; where that is too little, the sets fill the rest. Its plan follows from stored
attempts alone, so a run that is cut off ends with the student of an undisturbed one. Where
attempts are still owed and stage III's weights are gone (`evaluate.samples` was raised), the first
stages are trained again.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from heal.engines.local.tokens import Tokens
from heal.keys import seed_for
from heal.records import Outcome, OwnAnswer, Problem, Split, StagePlan, TrainResult
from heal.run import Run
from heal.stages.found import Found
from heal.stages.steps import text_steps
from heal.students import arms as students
from heal.students import own
from heal.students.exam import lacks_attempts
from heal.students.rendering import Renderer, open_renderer, reader
from heal.students.sets import REHEARSED
from heal.students.train import has_weights
from heal.wording import plural


def train_each(run: Run, offer: students.Offer) -> Iterator[TrainResult]:
    """Train every arm under every seed, a seed's arms one after the other; stage by stage."""
    s, c = run.session, run.session.config
    s.store.set_live(REHEARSED, ())
    trainer = students.Trainer(s.store, c, s.problems, run.trained, s.observer.say)
    for arm, seed in sorted(run.plans, key=lambda planned: c.seeds.index(planned[1])):
        plans = run.plans[arm, seed]
        for result in trainer.train(arm, seed, plans):
            last = result
            yield result
        if not c.pace.rehearsal:
            _forget_rehearsal(run, arm, seed, len(plans))
            continue
        if _is_gone(run, last):
            s.observer.say(
                f"{arm} seed {seed}: trained again up to stage {last.stage}; it is to be asked more"
                " and its weights are gone"
            )
            trainer.bring_back(arm, seed, plans)
        fourth = _plan(run, offer, last)
        s.store.add_live("plan", [(f"{arm}-seed{seed}-{fourth.index}", "", fourth)])
        run.plans = {**run.plans, (arm, seed): (*plans, fourth)}
        for result in trainer.train(arm, seed, run.plans[arm, seed]):
            if result.stage > last.stage:
                yield result


def _forget_rehearsal(run: Run, arm: str, seed: int, stages: int) -> None:
    """A stage of earlier settings beside the student of these would be taken for it."""
    home = run.session.store.folder / students.folder_of(arm, seed)
    for folder in home.glob(f"stage{stages + 1}*"):  # begun ones and their checkpoints too
        shutil.rmtree(folder)


def _is_gone(run: Run, result: TrainResult) -> bool:
    """Whether a student is still to be asked something, and is not there."""
    s = run.session
    student = students.made_by(s.store.folder, result)
    if has_weights(s.store.folder / result.folder):
        return False
    exam = students.exam_of(s.config, student)

    def lacks(problem: Problem) -> bool:
        def stored(stage: str, key: str, kind: type[Any]) -> Any:
            return s.store.get(stage, key, problem.id, kind)

        return lacks_attempts(Found(problem, stored), exam)

    return any(map(lacks, run.problems(Split.TRAIN)))


def _plan(run: Run, offer: students.Offer, result: TrainResult) -> StagePlan:
    """Ask the student of stage III, keep what it may be shown, and plan its last stage."""
    s, c = run.session, run.session.config
    assert c.student is not None and offer.budget is not None
    problems = run.problems(Split.TRAIN)
    told = f"{result.arm} seed {result.seed}"
    attempts = plural(len(problems) * c.evaluate.samples, "attempt")
    s.observer.say(f"{told}: {attempts} at the training problems, to be rehearsed")
    student = students.made_by(s.store.folder, result)
    rows = run.ask_in_training(student, problems)
    renderer = open_renderer(c.student.model, c.train.max_length)
    see, faulty = reader(renderer), step_check(run, renderer)
    found = own.gather(s.store, c.prompts, s.problems, rows, see, REHEARSED, faulty)
    fitting = [a for a in found.answers if a.student_tokens <= offer.budget.batch_tokens]
    dice = seed_for(c.seed, REHEARSED, result.seed)
    kept = own.at_most(fitting, c.pace.cap_d1, dice)
    s.store.add_live(REHEARSED, ((a.key, a.problem_id, a) for a in kept))
    for text, count in _facts(found, len(fitting), kept).items():
        s.fact(text, count)
    if not kept:
        s.observer.say(f"{told}: nothing right to rehearse; the sets are shown alone")
    rehearsed = {a.key: a.student_tokens for a in kept}
    return students.rehearsal_plan(c, offer, result.arm, result.seed, rehearsed)


def step_check(run: Run, renderer: Renderer) -> Callable[[Problem, str], bool]:
    """Whether the step checker finds a wrong step in a text; as `steps.gate` asks of repairs."""
    c, checker = run.session.config, run.setup.checker
    if checker is None or not c.steps.gate:
        return lambda problem, text: False
    tokens = Tokens(renderer.tokenizer, "the student", ())

    def has_wrong_step(problem: Problem, text: str) -> bool:
        pieces = tokens.bytes_of(tokens.encode(text))
        word = checker(problem.problem, problem.answer, text_steps(pieces, c.gear, c.prompts))
        return word.outcome is Outcome.WRONG_STEP

    return has_wrong_step


def _facts(found: own.Own, fitting: int, kept: Iterable[OwnAnswer]) -> dict[str, int]:
    """What a reader should know of it, of all students together."""
    shown = len(list(kept))
    left = {
        f"the student cannot be taught them ({why.replace('_', ' ')})": count
        for why, count in sorted(found.refused.items())
    } | {
        "the problem has the same text": found.repeated,
        "a wrong step": found.faulty,
        "longer than a step's batch": len(found.answers) - fitting,
        "more of a problem than pace.cap_d1": fitting - shown,
    }
    return {
        "answers of trained students asked for their rehearsal": found.asked,
        "of these lost to the engine": found.failed,
        "of these rehearsed": shown,
        "student tokens written for rehearsal": found.tokens,
        **{f"correct answers not rehearsed: {why}": count for why, count in left.items()},
        "students without a correct answer to rehearse, shown the sets alone": int(not shown),
    }
