"""Examine any model on any problems: attempts, verdicts and figures in a folder of their own.

In: a config whose `teacher` is the model examined. Out: an `Examined`; the folder keeps every
attempt, so the same exam again asks for nothing, and one that was interrupted goes on. Figures
may be set against the attempts of other folders, run folders included, on the problems they share.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heal.config import Config
from heal.engines import model_files
from heal.engines.base import Engine, Sampling
from heal.errors import UserError
from heal.execute import versions
from heal.figures import as_json
from heal.functions import edition as function_edition
from heal.keys import content_key
from heal.method.summary import EvalSummary, summarise
from heal.records import EvalTrace, Problem
from heal.run import Noting
from heal.runner import Limits, Runner, lanes
from heal.session import Observer, Session
from heal.store import AttemptRow, ProblemRow, Store
from heal.students.exam import STAGE, Exam, conclude, owes
from heal.verifiers import edition

FIGURES = "eval.json"
DETAILS = "details.parquet"


@dataclass(frozen=True)
class Examined:
    """What an exam came to."""

    name: str
    folder: Path
    problems: tuple[Problem, ...]
    rows: str
    """How many of how many problem rows are used, and what became of the others."""
    not_shared: int
    """Problems left out of a comparison: the others have no attempt at them."""
    summary: EvalSummary | None
    """None: no attempt could be made."""


@dataclass(frozen=True)
class Rival:
    """Stored attempts to compare with."""

    folder: Path
    rows: tuple[AttemptRow, ...]
    strata: dict[str, str]
    """Problem → stratum, where the folder's teacher was asked."""


def examine(config: Config, observer: Observer, name: str, against: Sequence[Path]) -> Examined:
    """Make the attempts that are owed, and sum up. Raises: HealError."""
    rivals = [_rival(folder) for folder in against]
    with Store.open(Path(config.run)) as store:
        session = Session(config, store, Noting(observer, store))
        try:
            found = session.problem_set
            _claim(store, session.config, name)
            rows = _attempts(session, name)
        finally:
            session.close()
        summary, not_shared = _summed_up(config, rows, rivals, found.problems)
        problems = found.problems
        examined = Examined(name, store.folder, problems, found.summary, not_shared, summary)
        store.write_text(FIGURES, _as_json(examined, config))
        _write_details(store, examined, rows)
    return examined


def _claim(store: Store, config: Config, name: str) -> None:
    """Raises: UserError for a folder of another exam."""
    # More samples are more of the same exam, and how a model is reached decides no answer.
    given = config.model_dump(mode="json", exclude={"run", "engine", "limits", "evaluate"})
    assert config.teacher is not None, "an exam's recipe names what is examined"
    own = {"name": name, "files": model_files(config.teacher.model), "settings": given}
    before = store.meta("exam")
    if before is not None and before != own:
        changed = sorted(k for k in own if own[k] != before.get(k))
        raise UserError(
            f"{config.run}: holds another exam ({', '.join(changed)} differ)",
            hint="choose another folder with --out FOLDER",
        )
    store.set_meta("exam", own)
    store.set_meta("config", config.model_dump(mode="json"))
    store.set_meta("versions", versions())
    store.set_meta("date", datetime.now(UTC).isoformat(timespec="seconds"))


def _attempts(session: Session, name: str) -> list[AttemptRow]:
    store, config, problems = session.store, session.config, session.problem_set.problems
    store.set_problems(problems)
    exam = _exam(config, name, lambda: session.teacher)
    stamp = content_key(asdict(exam), config.engine.local.numerics, problems)
    if store.meta("complete") == stamp:
        return list(store.rows(AttemptRow))
    store.set_meta("complete", None)
    rows: list[AttemptRow] = []
    session.observer.begin("evaluate", len(problems) * exam.samples, "attempts")

    def done(found: Any) -> None:
        rows.extend(conclude(found, exam))
        session.observer.advance(exam.samples)

    streams = lanes(lambda: session.teacher, lambda: session.teacher, lambda: session.verifier)
    runner = Runner(store, session.observer, streams, Limits(config.limits.failed_share))
    runner.run(problems, lambda found: owes(found, exam, lambda: session.teacher), done)
    store.forget(AttemptRow)
    store.insert(rows)
    store.set_meta("complete", stamp)
    return rows


def _exam(config: Config, name: str, model: Callable[[], Engine]) -> Exam:
    c, teacher = config.evaluate, config.teacher
    assert teacher is not None, "an exam's recipe names what is examined"
    room = c.max_new_tokens or config.sampling.max_new_tokens
    own = model_files(teacher.model)
    if teacher.engine in ("http", "ray"):
        # Servers that hold one model need not be told which; then they are asked.
        own = f"{own}/{teacher.served or model().model_id}"
    else:
        own += config.engine.local.numerics
    return Exam(
        name,
        0,
        own,
        c.samples,
        Sampling(c.temperature, c.top_p, max_new_tokens=room),
        config.prompts,
        function_edition(config.problems.verifier),
        config.seed,
        edition(config.problems.verifier),
        config.problems.verify_timeout_s,
    )


def _rival(folder: Path) -> Rival:
    with Store.open(folder, write=False) as store:
        rows = tuple(store.rows(AttemptRow))
        strata = {r.problem: str(r.stratum) for r in store.rows(ProblemRow) if r.n}
    if not rows and not strata:
        raise UserError(
            f"{folder}: holds neither a student's attempts nor a teacher's",
            hint="give the folder of a heal run with a student, or of a heal eval",
        )
    return Rival(folder, rows, strata)


def _summed_up(
    config: Config, own: list[AttemptRow], rivals: Sequence[Rival], problems: Sequence[Problem]
) -> tuple[EvalSummary | None, int]:
    """Figures on the problems all have attempts at, and what that leaves out."""
    families = {p.id: str(p.meta.get("family", "")) for p in problems}
    strata: dict[str, str] = {}
    for rival in reversed(rivals):
        strata |= rival.strata
    others = [row for rival in rivals for row in _renamed(rival, own[0].arm if own else "")]
    shared = {row.problem for row in own} & {row.problem for row in others} if others else None
    kept = [row for row in (*others, *own) if shared is None or row.problem in shared]
    order = list(dict.fromkeys(row.arm for row in (*others, *own)))
    summary = summarise(
        kept, strata, families, resamples=config.evaluate.bootstrap, seed=config.seed, arms=order
    )
    return summary, len({row.problem for row in own} - shared) if shared is not None else 0


def _renamed(rival: Rival, own: str) -> Iterator[AttemptRow]:
    """Its attempts, by the folder's name where two would bear one."""
    for row in rival.rows:
        yield row._replace(arm=f"{row.arm} ({rival.folder.name})") if row.arm == own else row


def _as_json(examined: Examined, config: Config) -> str:
    figures = {
        "name": examined.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "problems": len(examined.problems),
        "rows": examined.rows,
        "not_shared": examined.not_shared,
        "settings": config.model_dump(mode="json"),
        "versions": versions(),
        "summary": asdict(examined.summary) if examined.summary else None,
    }
    return as_json(figures)


def _write_details(store: Store, examined: Examined, rows: Sequence[AttemptRow]) -> None:
    """One row per problem: `doc`, `model_response`, `metric`, as in lighteval's details."""
    import pyarrow as pa
    from pyarrow import parquet

    by_problem: dict[str, list[AttemptRow]] = {}
    for row in rows:
        by_problem.setdefault(row.problem, []).append(row)
    listed = [
        _detail(store, p, by_problem[p.id], examined.name)
        for p in examined.problems
        if p.id in by_problem
    ]
    if listed:
        part = store.folder / f"{DETAILS}.part"
        parquet.write_table(pa.Table.from_pylist(listed), part)
        part.replace(store.folder / DETAILS)


def _detail(
    store: Store, problem: Problem, rows: Sequence[AttemptRow], task: str
) -> dict[str, Any]:
    made = [store.get(STAGE, row.key, problem.id, EvalTrace) for row in rows]
    right = sum(row.verdict == "correct" for row in rows)
    return {
        "doc": {
            "id": problem.id,
            "task_name": task,
            "query": problem.problem,
            "choices": [problem.answer],
            "gold_index": [0],
            "num_samples": len(rows),
            "specific": {
                "verdicts": [str(row.verdict) for row in rows],
                "answers": [row.answer for row in rows],
            },
        },
        "model_response": {
            "input": problem.problem,
            "text": [trace.text if trace else "" for trace in made],
            "truncated_tokens_count": 0,
        },
        "metric": {f"avg@{len(rows)}": right / len(rows)},
    }
