"""Problems, the traces of them, and what was judged of each."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from heal.records.outcomes import Finish, Origin, Outcome, Split, Stratum, Verdict

IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Problem:
    """A question with a known answer. `id` is a hash of its text, so order never matters."""

    id: str
    problem: str
    answer: str
    split: Split = Split.TRAIN
    solution: str | None = None
    """A reference solution, when the source has one (the `partial` hint reads it)."""
    meta: dict[str, str] = field(default_factory=dict)
    """Source fields carried along; `family` groups problems in the bootstrap."""
    verifier_data: str | None = None
    """JSON a verifier needs beyond the answer (a reasoning-gym entry, say)."""


@dataclass(frozen=True)
class Trace:
    """One chain of reasoning: kept prefix (if any) and what the teacher wrote after it."""

    key: str
    problem_id: str
    origin: Origin
    seed_index: int
    ids: IntArray
    """int32[T], kept prefix included, end-of-sequence included when it was sampled."""
    text: str
    """The decoded ids in canonical form: thinking between `<think>`, which the prompt may have
    written already, and `</think>`, whatever tokens the model has for it; no special tokens."""
    finish: Finish
    prompt_tokens: int
    prefix_tokens: int = 0
    """How many of `ids` were kept from the parent trace."""
    parent: str | None = None
    """Key of the failed trace this one repairs."""
    cut: str | None = None
    hint: str | None = None
    error: str | None = None

    @property
    def new_tokens(self) -> int:
        """Tokens the teacher sampled for this trace."""
        return len(self.ids) - self.prefix_tokens


@dataclass(frozen=True)
class Imported:
    """A problem's imported traces, in the order of their file; the traces are stored as sampled."""

    key: str
    """Names the import: the file's content, its settings, and the tokenizer."""
    problem_id: str
    traces: list[str]
    """Keys."""
    places: list[str]
    """`file:line` of each."""
    said: list[bool | None]
    """The file's own verdict on each; None: it has none."""


@dataclass(frozen=True)
class Check:
    """A verifier's word on one trace."""

    trace: str
    verdict: Verdict
    answer: str | None = None
    """The answer read from the trace, as text."""
    detail: str | None = None


@dataclass(frozen=True)
class StepWord:
    """A step checker's word on one trace."""

    outcome: Outcome
    step: int | None = None
    """The first wrong step, from 1."""
    checked: int | None = None
    """Equations whose truth is known, up to the false one; None: the checker does not count."""
    detail: str | None = None
    """The false equation, or why nothing can be told."""
    truth: str | None = None
    """What is so instead of the false equation, `4 × 387 is 1548`; None: the checker says none."""


@dataclass(frozen=True)
class StepWords:
    """A step checker's word on every complete trace of one training problem."""

    KEY: ClassVar[str] = "words"
    """The same for every checker: a problem has one checker's words."""
    key: str
    problem_id: str
    checker: str
    """Its edition."""
    words: dict[str, StepWord]
    """By trace."""


@dataclass(frozen=True)
class Ceiling:
    """How the unaided teacher fares on one problem (docs/method.md §1)."""

    problem_id: str
    n: int
    correct: int
    truncated: int
    unverifiable: int
    stratum: Stratum
    rho: float | None
    """correct / (n − truncated − unverifiable); None when nothing could be judged."""
