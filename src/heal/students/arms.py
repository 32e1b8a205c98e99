"""Every arm's students: their schedules, their training, and what each is examined on.

Plans come from the columns of `select` (`sets.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heal.config import Config, ModelRef, Pace
from heal.engines import model_files, open_engine, read_tokenizer, read_weights, resolve_model
from heal.engines.base import Engine, Sampling
from heal.functions import edition as function_edition
from heal.keys import seed_for
from heal.method.arms import Arm, trained
from heal.method.curriculum import (
    NOTHING,
    Beside,
    Lengths,
    budget_tokens,
    rehearse,
    schedule,
    stage_steps,
)
from heal.records import Drop, Example, Problem, Split, StagePlan, Trace, TrainResult, Verdict
from heal.stages.candidates import example
from heal.store import Store
from heal.students.checkpoints import Note
from heal.students.exam import Exam
from heal.students.sets import Sizes, StoredExamples, beside, in_own_words, lengths, set_sizes
from heal.students.train import Opener, Progress, has_weights, train_arm
from heal.verifiers import edition

SERVED = "-served"
"""Marks attempts a server wrote: its numerics are not ours."""
Plans = Mapping[tuple[str, int], tuple[StagePlan, ...]]
"""By arm and training seed."""


@dataclass(frozen=True)
class Budget:
    """What every arm is trained for, alike: optimizer steps come from nothing else."""

    tokens: int
    batch_tokens: int


@dataclass(frozen=True)
class Student:
    """One student to examine."""

    arm: str
    seed: int
    name: str
    """Of its weights."""
    model: str
    """Where they are."""


@dataclass(frozen=True)
class Offer:
    """What each arm may show its students, and for how long."""

    sizes: Mapping[str, Sizes]
    beside: Mapping[str, Beside]
    budget: Budget | None
    """None: there is nothing to train on."""

    def steps(self, pace: Pace) -> tuple[int, ...]:
        """Of each stage of each student."""
        return (
            stage_steps(self.budget.tokens, self.budget.batch_tokens, pace) if self.budget else ()
        )


def offered(store: Store, config: Config) -> Offer:
    """All that arms may show but what their students will write."""
    sizes = {name: set_sizes(store, name) for name in trained(config)}
    more = {name: beside(store, name) for name in trained(config)}
    shown = [n for name in sizes for n in lengths(sizes[name], more[name]).values()]
    longest = max(shown, default=0)
    main = sizes[config.main_arm] if config.main_arm else {}
    budget = matched_budget(main, config.pace, config.train.batch_size, longest)
    if config.pace.own_d1:  # the budget is that of the teacher's D1 all the same
        sizes = {name: in_own_words(store, name, own) for name, own in sizes.items()}
    return Offer(sizes, more, budget)


def plan(config: Config, offer: Offer) -> tuple[Plans, list[str]]:
    """Every arm's first three stages for each training seed; the arms that have nothing to show."""
    plans, empty = dict[tuple[str, int], tuple[StagePlan, ...]](), list[str]()
    for name, arm in trained(config).items():
        sizes, more = offer.sizes[name], offer.beside[name]
        if offer.budget is None or not any(sizes.values()):
            empty.append(name)
            continue
        for seed in config.seeds:
            dice = seed_for(config.seed, "plan", seed)
            plans[name, seed] = arm_plan(arm, sizes, offer.budget, config.pace, dice, more)
    return plans, empty


def rehearsal_plan(
    config: Config, offer: Offer, arm: str, seed: int, rehearsed: Lengths
) -> StagePlan:
    """A student's fourth stage, of its own answers: trace → tokens, none longer than a batch."""
    assert offer.budget is not None, "nobody is rehearsed where nobody is trained"
    return rehearse(
        offer.sizes[arm],
        rehearsed,
        config.pace,
        batch_tokens=offer.budget.batch_tokens,
        budget=offer.budget.tokens,
        seed=seed_for(config.seed, "rehearsal", seed),
        beside=offer.beside[arm],
    )


def matched_budget(sizes: Sizes, pace: Pace, batch_size: int, longest: int = 0) -> Budget | None:
    """From one arm's sets: epochs of its D1, batches of its mean trace.

    A batch holds at least the `longest` trace that any arm may show, or some steps would stay
    empty. None when there is nothing to train on. Without a D1 all there is stands in for it.
    """
    every = [n for traces in sizes.values() for n in traces.values()]
    if not every:
        return None
    basis = sum(sizes.get("D1", {}).values()) or sum(every)
    batch = max(round(batch_size * sum(every) / len(every)), longest)
    return Budget(budget_tokens(basis, pace), batch)


def arm_plan(
    arm: Arm, sizes: Sizes, budget: Budget, pace: Pace, seed: int, more: Beside = NOTHING
) -> tuple[StagePlan, ...]:
    """An arm's first three stages. A training seed is this seed: all arms take the same.

    It decides which traces are shown more often, and in what order; the optimizer has no dice.
    """
    return schedule(
        sizes,
        pace,
        batch_tokens=budget.batch_tokens,
        budget=budget.tokens,
        seed=seed,
        order=arm.order,
        beside=more,
    )


class Trainer:
    """Trains students, arm by arm and seed by seed."""

    def __init__(
        self,
        store: Store,
        config: Config,
        problems: Mapping[str, Problem],
        on_progress: Progress,
        on_note: Note,
    ) -> None:
        self._store, self._config, self._problems = store, config, problems
        self._on_progress, self._on_note = on_progress, on_note
        self._validation = [*unseen_examples(store, config, problems)]
        wanted = config.train.validation
        if len(self._validation) < wanted:
            on_note(
                f"train.validation: {len(self._validation):,} of {wanted:,}; the teacher solved no"
                " more of the held-out problems"
            )
        too_long = 'SELECT arm, COUNT(*) FROM selected WHERE "drop"=? GROUP BY arm'
        self._too_long: dict[str, int] = dict(store.query(too_long, (Drop.TOO_LONG,)))

    def train(self, arm: str, seed: int, plans: Sequence[StagePlan]) -> Iterator[TrainResult]:
        """One student's stages; those that were finished before are not trained again."""
        return self._train(arm, seed, plans, self._on_progress)

    def bring_back(self, arm: str, seed: int, plans: Sequence[StagePlan]) -> None:
        """See that the last of these stages has its weights; its steps count for no progress."""
        for _ in self._train(arm, seed, plans, None, weights_needed=True):
            pass

    def _train(
        self,
        arm: str,
        seed: int,
        plans: Sequence[StagePlan],
        on_progress: Progress | None,
        weights_needed: bool = False,
    ) -> Iterator[TrainResult]:
        assert self._config.student is not None
        return train_arm(
            arm,
            seed,
            plans,
            StoredExamples(self._store, self._config, self._problems),
            resolve_model(self._config.student.model),
            self._config.train,
            self._store.folder / folder_of(arm, seed),
            on_progress,
            run_folder=self._store.folder,
            refused_long=self._too_long.get(arm, 0),
            opener=Opener(read_weights, read_tokenizer),
            on_note=self._on_note,
            validation=self._validation,
            weights_needed=weights_needed,
        )


def unseen_examples(
    store: Store, config: Config, problems: Mapping[str, Problem]
) -> Iterator[Example]:
    """Correct teacher traces of held-out problems, one of each before a second of any."""
    rows = store.query(
        "SELECT t.key, t.problem FROM traces t JOIN problems p ON p.problem = t.problem"
        " WHERE t.stage = 'sample' AND t.verdict = ? AND p.split = ?"
        " ORDER BY t.seed_index, p.place LIMIT ?",
        (Verdict.CORRECT, Split.HELD_OUT, config.train.validation),
    )
    for key, problem in rows:
        found = store.get("sample", key, problem, Trace)
        assert found is not None, "columns name only what is stored"
        yield example(found, problems[problem], config.prompts)


def folder_of(arm: str, seed: int) -> str:
    """Where an arm's students live, relative to the run folder."""
    return f"students/{arm}-seed{seed}"


def to_examine(
    config: Config, home: Path, plans: Plans, names: Mapping[tuple[str, int], str]
) -> list[Student]:
    """Every student of a run; `names` of the trained ones' weights by arm and seed."""
    found = []
    if config.student is not None and "base" in config.arms:
        found.append(untouched(config))
    for (arm, seed), name in names.items():
        folder = home / folder_of(arm, seed) / f"stage{len(plans[arm, seed])}"
        found.append(Student(arm, seed, name, str(folder)))
    return found


def untouched(config: Config) -> Student:
    """The student before any training."""
    assert config.student is not None
    model = config.student.model
    return Student("base", 0, model_files(model), model)


def watched(config: Config, home: Path, result: TrainResult) -> Student | None:
    """The student a stage has just made; None where its weights are gone, as it was made before."""
    return made_by(home, result) if has_weights(home / result.folder) else None


def made_by(home: Path, result: TrainResult) -> Student:
    """The student a stage made, whether or not its weights are still there."""
    return Student(result.arm, result.seed, result.key, str(home / result.folder))


def weights_of(config: Config, student: Student) -> str:
    """Names a student's weights and who runs them."""
    return student.name + (SERVED if _is_served(config) else config.engine.local.numerics)


def exam_of(config: Config, student: Student) -> Exam:
    """What one student is asked."""
    room = config.evaluate.max_new_tokens or config.sampling.max_new_tokens
    c = config.evaluate
    return Exam(
        student.arm,
        student.seed,
        weights_of(config, student),
        c.samples,
        Sampling(c.temperature, c.top_p, max_new_tokens=room),
        config.prompts,
        function_edition(config.problems.verifier),
        config.seed,
        edition(config.problems.verifier),
        config.problems.verify_timeout_s,
    )


def open_student(config: Config, student: Student, logs: Path) -> Engine:
    """The student behind the local engine, or behind servers that are started for it."""
    serve = config.student.serve if config.student else None
    ref = ModelRef(model=student.model, engine="http" if serve else "local", serve=serve)
    return open_engine(ref, config.engine, f"{student.arm}-seed{student.seed}", logs)


def _is_served(config: Config) -> bool:
    return config.student is not None and config.student.serve is not None
