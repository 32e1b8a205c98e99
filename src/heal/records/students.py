"""What PACE chooses, what a student is shown, and how it fares."""

from dataclasses import dataclass

from heal.records.outcomes import Drop, Finish


@dataclass(frozen=True)
class Selected:
    """PACE's decision on one candidate trace."""

    trace: str
    problem_id: str
    pool: str
    """`D1`, `D2` or `D3`."""
    drop: Drop
    score: float | None = None
    """PURE's S = max ℓ_k over the steps that count; None for D1."""


@dataclass(frozen=True)
class Example:
    """What the student is shown: the problem without any hint, and a whole trace."""

    trace: str
    problem_id: str
    pool: str
    user: str
    """The user turn, as the solve prompt renders it."""
    assistant: str
    system: str | None = None


@dataclass(frozen=True)
class OwnAnswer:
    """A correct answer of a student, which it is shown again against forgetting."""

    key: str
    """Of the attempt."""
    problem_id: str
    text: str
    tokens: int
    """Written."""
    student_tokens: int
    """Of the example, prompt and end included."""


@dataclass(frozen=True)
class StudentScore:
    """What the untouched student makes of one accepted text, teacher-forced behind its prompt."""

    key: str
    problem_id: str
    tokens: int
    """Of the trace as the student reads it, without the end of its turn."""
    mean_logprob: float | None
    """nats per token, ≤ 0; None where scoring failed."""
    mean_rank: float | None
    """Of ranks clipped at 100; None where the engine tells none."""
    scored_tokens: int
    """Prompt included."""
    error: str | None = None


@dataclass(frozen=True)
class StagePlan:
    """One training stage as explicit presentations: what is shown, in which order and batch."""

    index: int
    """1 foundation, 2 bridge, 3 frontier, 4 rehearsal."""
    batches: tuple[tuple[str, ...], ...]
    """Trace keys of each optimizer step."""
    lr_scale: float


@dataclass(frozen=True)
class TrainResult:
    """One stage of one arm's training."""

    key: str
    arm: str
    seed: int
    stage: int
    folder: str
    """Relative to the run folder."""
    steps: int
    tokens: int
    presentations: int
    distinct: int
    refused_long: int
    loss_first: float
    loss_last: float
    learning_rate: float
    seconds: float
    validation_loss: float | None = None
    """Per taught token of traces it was not trained on; None: it was not asked for."""
    validation_traces: int = 0


@dataclass(frozen=True)
class StageExam:
    """What a student made of the watched problems when one of its stages was done."""

    key: str
    arm: str
    seed: int
    stage: int
    shares: dict[str, float]
    """Problem → share of its attempts that are correct."""


@dataclass(frozen=True)
class EvalTrace:
    """One held-out attempt of one arm; the text is kept so that anyone can look."""

    key: str
    problem_id: str
    arm: str
    seed: int
    """Training seed (0 for an arm that is not trained)."""
    seed_index: int
    finish: Finish
    tokens: int
    text: str
    error: str | None = None
    """Why the engine failed; such an attempt says nothing about the student."""
