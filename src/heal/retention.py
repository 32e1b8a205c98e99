"""What students are asked beside their final exam, so that forgetting is seen and prevented.

Before training, the untouched student's own answers (`pace.own_replay`, `pace.own_d1`); after each
stage, a small exam (`train.watch`). The attempts are stored as those of any exam, but stand in no
column: what came of a small exam is a record of its own.
"""

from collections import Counter

from heal.keys import content_key
from heal.method.intervals import wilson
from heal.records import Problem, Split, StageExam, TrainResult, Verdict
from heal.run import Run
from heal.store import AttemptRow
from heal.students import arms as students
from heal.students import own
from heal.students.rendering import open_renderer, reader
from heal.students.sets import OWN
from heal.wording import plural

WATCHED = "watched"


def ask_own(run: Run) -> None:
    """Store the untouched student's own correct answers, where PACE's settings ask for any."""
    s, c = run.session, run.session.config
    if c.student is None or not c.pace.asks_student:
        s.store.set_live(OWN, ())
        return
    problems = own.to_ask(s.store, s.problems)
    s.observer.begin("own", len(problems) * c.evaluate.samples, "attempts")
    rows = run.attempts(students.untouched(c), problems, s.observer.advance)
    see = reader(open_renderer(c.student.model, c.train.max_length))
    found = own.gather(s.store, c.prompts, s.problems, rows, see)
    s.store.record(OWN, ((a.key, a.problem_id, a) for a in found.answers))
    if not found.answers:
        s.observer.say("the untouched student has no correct answer of its own to be shown again")
    for text, count in found.facts().items():
        s.fact(text, count)


def watch(run: Run, result: TrainResult) -> str | None:
    """Say how a stage went: its loss on unseen traces, and the small exam of `train.watch`.

    The key of that exam's record; None where there is none, as for a stage whose weights are gone.
    """
    s, told = run.session, f"{result.arm} seed {result.seed} stage {result.stage}"
    if result.validation_loss is not None:
        traces = plural(result.validation_traces, "held-out trace")
        s.observer.say(f"{told}: loss {result.validation_loss:.4f} on {traces}")
    few = run.problems(Split.HELD_OUT)[: s.config.train.watch]
    if not few:
        return None
    key = _key(run, result, few)
    student = students.watched(s.config, s.store.folder, result)
    if student is None:
        return key if s.store.get(WATCHED, key, "", StageExam) is not None else None
    rows = [row for row in run.attempts(student, few, lambda count: None) if row.error is None]
    if not rows:
        return None
    s.store.put(WATCHED, key, "", _exam(key, result, rows))
    hits = sum(row.verdict == Verdict.CORRECT for row in rows)
    # attempts at one problem are alike: the interval takes the problems as its n
    range_ = wilson(round(hits / len(rows) * len(few)), len(few))
    s.observer.say(
        f"{told}: {hits:,} of {plural(len(rows), 'attempt')} correct on"
        f" {plural(len(few), 'watched problem')} ({range_.low:.0%} to {range_.high:.0%})"
    )
    return key


def _key(run: Run, result: TrainResult, few: list[Problem]) -> str:
    config = run.session.config
    exam = students.exam_of(config, students.Student(result.arm, result.seed, result.key, ""))
    return content_key(WATCHED, exam.samples, exam.judge, [exam.key(problem) for problem in few])


def _exam(key: str, result: TrainResult, rows: list[AttemptRow]) -> StageExam:
    made = Counter(row.problem for row in rows)
    right = Counter(row.problem for row in rows if row.verdict == Verdict.CORRECT)
    shares = {problem: right[problem] / n for problem, n in made.items()}
    return StageExam(key, result.arm, result.seed, result.stage, shares)
