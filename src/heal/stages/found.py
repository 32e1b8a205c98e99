"""What a stage is given: one problem with what the run folder holds of it, and how the run is set.

A stage is two pure functions of these. `owes(found, setup)` names the requests still to be answered
before it is done with the problem; nothing means done. `conclude(found, setup)` says what is worked
out without a model. No disk, no clock, no engine: a decision depends on stored records and the
run's seed alone, so a restarted run decides alike.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast

from heal.config import Config
from heal.engines.base import GenRequest, Sampling, ScoreRequest
from heal.method.arms import (
    breakpoints,
    spares_checked,
    wants_reliance,
    wants_scores,
    wants_uncertainty,
    wants_worst_result,
)
from heal.method.thinking import opened_by
from heal.prompts import Prompts
from heal.records import Breakpoint, Finish, HintKind, Problem
from heal.steps import StepChecker, open_checker

Record = TypeVar("Record")
Value = TypeVar("Value")
Read = Callable[[str, str, type[Any]], Any]
"""(stage, key, class) → the stored record, or None."""


class TextModel(Protocol):
    """The half of an engine that a stage may use: ids to text and back, and the model's name."""

    model_id: str

    def render(self, user: str, *, system: str | None = None) -> tuple[int, ...]:
        """Ids of a conversation up to the opened assistant turn."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of bare text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        ...

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """Each id's bytes."""
        ...


def opened_thinking(model: TextModel, prompts: Prompts) -> str:
    """What a model's prompts open of its thinking, from the tag on; empty if nothing."""
    return opened_by(end_of_prompt(model, prompts))


def end_of_prompt(model: TextModel, prompts: Prompts) -> str:
    """What a model's chat template writes behind any user turn, special tokens left out."""
    words = "HEAL-USER-WORDS"
    ids = model.render(words, system=prompts.system)
    text = b"".join(model.token_bytes(ids)).decode(errors="replace")
    return text.rpartition(words)[2]


class Models(Protocol):
    """Whoever opens teacher and scorer when they are first asked for, and knows the verifier."""

    @property
    def judge(self) -> str:
        """Names the verifier as it is now: its rules, or its source if it is the user's."""
        ...

    @property
    def imports(self) -> str | None:
        """Names what was imported (`Imported.key`); None: nothing was."""
        ...

    @property
    def teacher(self) -> TextModel:
        """Writes."""
        ...

    @property
    def scorer(self) -> TextModel:
        """Gives the unhinted log-probs."""
        ...


class Setup:
    """How a run is set up, as its stages see it."""

    def __init__(self, config: Config, models: Models, probed: Collection[str] = ()) -> None:
        """probed: problems on which the kinds of hints are tried."""
        self.config = config
        self.probed = frozenset(probed)
        self._models = models
        self._judged_again: set[str] = set()
        self._variants: dict[Hashable, Setup] = {}

    def variant(self, name: Hashable, config: Callable[[], Config]) -> "Setup":
        """The same run under other settings, made once."""
        if name not in self._variants:
            self._variants[name] = Setup(config(), self._models)
        return self._variants[name]

    @property
    def hint(self) -> HintKind:
        """The kind of hint asked for; `auto` has been settled by then."""
        assert self.config.gear.hint != "auto", "no kind of hint was chosen"
        return self.config.gear.hint

    @cached_property
    def teacher(self) -> TextModel:
        """Opened when the first stage asks for it."""
        return self._models.teacher

    @cached_property
    def scorer(self) -> TextModel:
        """The teacher itself unless the config names another."""
        return self._models.scorer

    @cached_property
    def prompts(self) -> Prompts:
        """The run's templates."""
        return self.config.prompts

    @cached_property
    def opened(self) -> str:
        """What the teacher's prompts open of its thinking, which belongs to its traces."""
        return opened_thinking(self.teacher, self.prompts)

    @cached_property
    def judge(self) -> str:
        """Names the verifier as it is now."""
        return self._models.judge

    @cached_property
    def checker(self) -> StepChecker | None:
        """Whoever has a word on the steps of a trace; None: nobody."""
        return open_checker(self.config.steps.checker)

    @cached_property
    def imports(self) -> str | None:
        """Names what was imported; None: the teacher samples."""
        return self._models.imports if self.config.problems.traces is not None else None

    @cached_property
    def sampling(self) -> Sampling:
        """How the teacher writes, aided or not."""
        c = self.config.sampling
        return Sampling(c.temperature, c.top_p, c.top_k, c.min_p, c.max_new_tokens)

    @cached_property
    def breakpoints(self) -> tuple[Breakpoint, ...]:
        """HEAL's own, then those that its controls ask for."""
        return breakpoints(self.config)

    @cached_property
    def reads_scores(self) -> bool:
        """Whether failed traces are scored, for any of these to cut by."""
        return wants_scores(self.config)

    def judges_again(self, check: str) -> bool:
        """Whether a stored verdict that decided nothing counts as not there; true once for each.

        A checker that is too slow today is not waited for again in every pass of a run.
        """
        if not self.config.limits.retry_unverifiable or check in self._judged_again:
            return False
        self._judged_again.add(check)
        return True

    @cached_property
    def wants_uncertainty(self) -> bool:
        """Whether U is asked for after each step."""
        return wants_uncertainty(self.config)

    @cached_property
    def wants_reliance(self) -> bool:
        """Whether assisted traces are scored with their hint in view too."""
        return wants_reliance(self.config)

    @cached_property
    def spares_checked(self) -> bool:
        """Whether PURE leaves alone what the step checker vouches for."""
        return spares_checked(self.config)

    @cached_property
    def wants_worst_result(self) -> bool:
        """Whether a profile must hold the worst result."""
        return wants_worst_result(self.config)


class Found:
    """One problem, what is stored of it, and what has arrived since it was opened.

    What failed in an earlier process counts as not there: its cause may have been mended. What
    fails in this one stays, with its reason.
    """

    def __init__(self, problem: Problem, read: Read) -> None:
        self.problem = problem
        self._read = read
        self._records: dict[tuple[str, str], Any] = {}
        self._known: dict[Hashable, Any] = {}

    def get(self, stage: str, key: str, kind: type[Record]) -> Record | None:
        """A record; None if it is owed."""
        name = (stage, key)
        if name not in self._records:
            record = self._read(stage, key, kind)
            failed = getattr(record, "error", None) is not None
            self._records[name] = None if failed else record
        found: Record | None = self._records[name]
        return found

    def add(self, stage: str, key: str, record: object) -> None:
        """Take in what has arrived."""
        self._records[stage, key] = record

    def aside(self, name: Hashable) -> "Found":
        """The same problem and records, where what is worked out is kept apart under this name."""

        def make() -> Found:
            other = Found(self.problem, self._read)
            other._records = self._records
            return other

        return self.once(("aside", name), make)

    def once(self, name: Hashable, work: Callable[[], Value]) -> Value:
        """What `work` gives, worked out once; for what no later record changes."""
        if name not in self._known:
            self._known[name] = work()
        return cast(Value, self._known[name])


class Lane(StrEnum):
    """Who answers a request."""

    WRITE = "write"
    """The teacher (or the student that is examined) writes."""
    SCORE = "score"
    """The scorer gives log-probs."""
    VERIFY = "verify"
    """The verifier judges."""


@dataclass(frozen=True)
class Answerable:
    """A text to be judged."""

    text: str
    finish: Finish
    problem: Problem


@dataclass(frozen=True)
class Request:
    """Something a stage needs to know, and the records that will say it."""

    lane: Lane
    stage: str
    """Where the records are stored."""
    keys: tuple[str, ...]
    """Of the records; a `GenRequest` has one for each seed, in their order."""
    ask: GenRequest | ScoreRequest | Answerable
    read: Callable[[Any], Any]
    """From the i-th answer, which knows i, to its record."""
