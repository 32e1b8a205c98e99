"""A second round's traces: the student is sampled, and the file and the recipe are written.

In: a `Plan`. Out: a trace file with a row per problem, the recipe, and what came of it in counts.
Training problems have the student's traces; held-out ones the teacher's of the run before, so that
they keep their strata. Attempts are stored in the run's folder under content keys, beside those of
its exams: a killed command goes on, and a finished one asks no model. The recipe is written last.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from heal.data.problems import read_problems
from heal.engines.base import Sampling
from heal.errors import UserError
from heal.method.ceiling import ceiling
from heal.method.thinking import OPEN
from heal.records import EvalTrace, Finish, Problem, Split, Stratum, Trace, Verdict
from heal.rounds.plan import Plan
from heal.run import Noting, Run
from heal.session import Observer, Session
from heal.stages import sample
from heal.store import AttemptRow, ProblemRow, Store, TraceRow, written_whole
from heal.students import arms as students
from heal.students.exam import STAGE, Exam
from heal.students.rendering import open_renderer

STUDENT, TEACHER = "student", "teacher"
"""Who wrote a row's traces."""


@dataclass(frozen=True)
class Round:
    """What a student made of the training problems."""

    student: str
    recipe: str
    traces: str
    run: str
    """The second run's folder."""
    problems: int
    """Training problems it was asked."""
    verdicts: Mapping[str, int]
    """Of its traces."""
    tokens: int
    """It wrote."""
    failed: int
    """Attempts lost to the engine; they are in no file."""
    strata: Mapping[str, int]
    """Training problems by how often the student solves them."""
    repairable: int
    """Extreme ones with a wrong trace: what the teacher repairs."""
    wrong: int
    """Wrong traces of these."""
    held_out: int
    held_out_traces: int
    """The teacher's."""
    moved: int
    """Held-out problems in another stratum than before: not all their traces can be imported."""


class _Said(NamedTuple):
    """One trace, as the file keeps it."""

    text: str
    finish: Finish
    verdict: Verdict


_Listed = Iterable[tuple[Problem, list[_Said]]]
_Verdicts = dict[str, list[Verdict]]
"""By problem."""


def make_round(plan: Plan, observer: Observer) -> Round:
    """Sample what the student owes, then write its traces and the recipe. Raises: HealError."""
    _require_writable(plan)
    with Store.open(plan.folder) as store:
        problems = [problem for _, problem in store.live("problem", Problem)]
        if plan.has_source:
            _require_same(plan, problems)
        rows = _attempts(plan, store, observer, problems)
        with written_whole(plan.traces) as file:
            own = _write(file, STUDENT, _students(store, plan, problems, rows))
            theirs = _write(file, TEACHER, _teachers(store, problems))
        made = _summed_up(plan, store, rows, own, theirs)
    if not plan.has_source:
        _require_same(plan, problems)
    with written_whole(plan.recipe) as file:
        file.write(plan.text.encode())
    return made


def exam_of(plan: Plan) -> Exam:
    """The student is asked as the teacher was: by `sampling` and its n, not by `evaluate`."""
    c, how = plan.config, plan.config.sampling
    sampling = Sampling(how.temperature, how.top_p, how.top_k, how.min_p, how.max_new_tokens)
    return replace(students.exam_of(c, plan.student), samples=how.n, sampling=sampling)


def _attempts(
    plan: Plan, store: Store, observer: Observer, problems: Iterable[Problem]
) -> list[AttemptRow]:
    training = [problem for problem in problems if problem.split is Split.TRAIN]
    session = Session(plan.config, store, Noting(observer, store))
    exam = exam_of(plan)
    observer.begin("sample", len(training) * exam.samples, "traces")
    try:
        return Run(session).attempts(plan.student, training, observer.advance, exam)
    finally:
        session.close()


def _students(
    store: Store, plan: Plan, problems: Iterable[Problem], rows: Iterable[AttemptRow]
) -> _Listed:
    """The student's traces of each training problem, in the order they were asked for."""
    opened = _opened(plan)
    by_problem: dict[str, list[AttemptRow]] = {}
    for row in rows:
        if row.error is None:
            by_problem.setdefault(row.problem, []).append(row)
    for problem in problems:
        if problem.split is not Split.TRAIN:
            continue
        said = []
        for row in sorted(by_problem.get(problem.id, ()), key=lambda row: row.seed_index):
            trace = store.get(STAGE, row.key, problem.id, EvalTrace)
            assert trace is not None, "a verified attempt is stored"
            text = trace.text if trace.text.startswith(OPEN) else opened + trace.text
            said.append(_Said(text, trace.finish, Verdict(row.verdict)))
        yield problem, said


def _opened(plan: Plan) -> str:
    """What the student's prompt opens of its thinking: it is in no attempt's text."""
    form = open_renderer(plan.student.model, plan.config.train.max_length).form
    return f"{OPEN}\n" if form.opened else ""


def _teachers(store: Store, problems: Iterable[Problem]) -> _Listed:
    """The teacher's unaided traces of each held-out problem."""
    for problem in problems:
        if problem.split is not Split.HELD_OUT:
            continue
        rows = store.rows(TraceRow, "problem=? AND stage=?", problem.id, sample.STAGE)
        said = []
        for row in sorted(rows, key=lambda row: row.seed_index):
            trace = store.get(sample.STAGE, row.key, problem.id, Trace)
            if trace is not None and row.verdict is not None and not row.failed:
                said.append(_Said(trace.text, trace.finish, Verdict(row.verdict)))
        yield problem, said


def _write(file: IO[bytes], who: str, listed: _Listed) -> _Verdicts:
    """A row for each problem, even one without traces; the verdicts by problem."""
    verdicts: _Verdicts = {}
    for problem, said in listed:
        file.write((json.dumps(_row(problem, who, said)) + "\n").encode())
        verdicts[problem.id] = [one.verdict for one in said]
    return verdicts


_TOLD = {Verdict.CORRECT: True, Verdict.WRONG: False, Verdict.NO_ANSWER: False}
"""What a file can say of a verdict; of the others it says nothing."""


def _row(problem: Problem, who: str, said: Iterable[_Said]) -> dict[str, Any]:
    carried = {
        "solution": problem.solution,
        "meta": problem.meta or None,
        "verifier_data": problem.verifier_data,
    }
    listed = list(said)
    return {
        "problem_id": problem.id,
        "problem": problem.problem,
        "answer": problem.answer,
        **{name: value for name, value in carried.items() if value is not None},
        "by": who,
        "generations": [one.text for one in listed],
        "finish_reasons": ["stop" if one.finish is Finish.STOP else "length" for one in listed],
        "correct": [_TOLD.get(one.verdict) for one in listed],
    }


def _summed_up(
    plan: Plan, store: Store, rows: Iterable[AttemptRow], own: _Verdicts, theirs: _Verdicts
) -> Round:
    before = {row.problem: row.stratum for row in store.rows(ProblemRow)}
    attempts = list(rows)
    strata = {key: _stratum(key, said) for key, said in own.items()}
    extreme = [key for key, stratum in strata.items() if stratum is Stratum.EXTREME]
    wrong = {key: own[key].count(Verdict.WRONG) for key in extreme}
    return Round(
        student=plan.student.model,
        recipe=str(plan.recipe),
        traces=str(plan.traces),
        run=plan.config.run,
        problems=len(own),
        verdicts=_counted(verdict for said in own.values() for verdict in said),
        tokens=sum(row.tokens for row in attempts),
        failed=sum(row.error is not None for row in attempts),
        strata=_counted(strata.values()),
        repairable=sum(n > 0 for n in wrong.values()),
        wrong=sum(wrong.values()),
        held_out=len(theirs),
        held_out_traces=sum(map(len, theirs.values())),
        moved=sum(before[key] != _stratum(key, said) for key, said in theirs.items()),
    )


def _counted(outcomes: Iterable[Verdict | Stratum]) -> dict[str, int]:
    return dict(Counter(map(str, outcomes)))


def _stratum(problem: str, said: list[Verdict]) -> Stratum:
    return ceiling(problem, said, len(said)).stratum


def _require_same(plan: Plan, problems: Iterable[Problem]) -> None:
    """Held-out problems of the first run must be held out of the second. Raises: UserError."""
    before = {problem.id: problem.split for problem in problems}
    found = read_problems(plan.config.problems, Path.cwd()).problems
    now = {problem.id: problem.split for problem in found}
    if before == now:
        return
    told = {
        "new": len(now.keys() - before.keys()),
        "gone": len(before.keys() - now.keys()),
        "on the other side of the split": sum(
            now[key] is not side for key, side in before.items() if key in now
        ),
    }
    counts = ", ".join(f"{n:,} {words}" for words, n in told.items() if n)
    raise UserError(
        f"{plan.folder}: its problems have changed since: {counts}; what was held out would not be",
        hint=f"undo that, or bring the run up to date: heal run {plan.folder}/config.yaml",
    )


def _require_writable(plan: Plan) -> None:
    """Before hours of sampling. Raises: UserError."""
    parent, hint = plan.recipe.parent, f"heal round {plan.folder} --out FILE.yaml"
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{parent}: {error.strerror}", hint=hint) from None
    if not os.access(parent, os.W_OK):
        raise UserError(f"{parent}: cannot be written to", hint=hint)
