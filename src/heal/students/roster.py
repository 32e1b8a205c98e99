"""Students: which ones a run trains, where they live, and what each is asked (METHOD §4, §6)."""

from collections.abc import Collection, Iterator

from heal.config import ModelRef
from heal.engines import model_files, open_engine
from heal.engines.base import Sampling
from heal.functions import edition
from heal.records import EvalTrace, Problem
from heal.run import Run
from heal.stages.draw import Claim
from heal.students.exam import Exam, eval_keys, evaluate


def to_train(run: Run) -> list[tuple[str, int]]:
    """Every (arm, training seed) that has a plan, a seed's arms one after the other."""
    return sorted(run.plans, key=lambda planned: run.session.config.seeds.index(planned[1]))


def student_folder(arm: str, seed: int) -> str:
    """Where an arm's students live, relative to the run folder."""
    return f"students/{arm}-seed{seed}"


def to_examine(run: Run) -> list[tuple[str, int, str, str]]:
    """(arm, training seed, name of the weights, folder) of every student."""
    c, home = run.session.config, run.session.store.folder
    found = []
    if c.student is not None and "base" in c.arms:
        found.append(("base", 0, model_files(c.student.model), c.student.model))
    for (arm, seed), model in run.models.items():
        folder = home / student_folder(arm, seed) / f"stage{len(run.plans[arm, seed])}"
        found.append((arm, seed, model, str(folder)))
    return found


def exam(run: Run, arm: str, seed: int, model: str) -> Exam:
    """What one student is asked."""
    c = run.session.config
    room = c.evaluate.max_new_tokens or c.sampling.max_new_tokens
    sampling = Sampling(c.evaluate.temperature, c.evaluate.top_p, max_new_tokens=room)
    examined, judge = model + c.engine.local.numerics, edition(c.problems.verifier)
    return Exam(arm, seed, examined, c.evaluate.samples, sampling, c.prompts, judge, c.seed)


def examine(run: Run, asked: Exam, folder: str, problems: list[Problem]) -> dict[str, EvalTrace]:
    """One student's attempts; its model is opened only when some are owed."""
    s = run.session

    def attempts(done: Collection[str], claim: Claim) -> Iterator[EvalTrace]:
        engine = open_engine(ModelRef(model=folder), s.config.engine)
        try:
            yield from evaluate(asked, problems, engine, s.verifier, done, claim)
        finally:
            engine.close()

    return s.collect("evaluate", EvalTrace, eval_keys(asked, problems), attempts)
