"""What GEAR and PURE find: scores, cuts, hints, profiles."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from heal.records.outcomes import AuditOutcome, AuditSide, Fallback, Gate, HintKind

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class TokenScores:
    """Teacher-forced values of one trace in the unhinted context, by token, in nats."""

    key: str
    problem_id: str
    trace: str
    logprob: FloatArray
    """float32[T]"""
    entropy_lo: FloatArray
    """float32[T]: lower bound of the entropy before each token; equals `entropy_hi` if exact."""
    entropy_hi: FloatArray
    scored_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Cut:
    """Where a failed trace broke. Steps are numbered from 1, as in docs/method.md §2."""

    key: str
    problem_id: str
    trace: str
    step: int
    """b: the first step dropped; the kept prefix is s_1 … s_{b−1} (less under `back_up`)."""
    prefix_tokens: int
    step_ends: list[int]
    """Token index one past each step's end."""
    entropy_lo: FloatArray
    """float32[K], nats: lower bound of each step entropy; equals `entropy_hi` when exact. NaN where
    nothing was scored."""
    entropy_hi: FloatArray
    surge: FloatArray
    """float32[K], the breakpoint statistic by step; NaN outside the window. Of `claims`: how likely
    each step is to be the break."""
    margin: float = 0.0
    """Winner's statistic minus the runner-up's; negative bounds make it `undecided`."""
    fallback: Fallback | None = None
    undecided: bool = False


@dataclass(frozen=True)
class Hint:
    """What the teacher is told before it repairs a path, or answers anew."""

    key: str
    problem_id: str
    kind: HintKind
    text: str
    cut: str | None = None
    asked: HintKind = HintKind.ANSWER
    """The kind asked for; differs from `kind` when the leak gate made it fall back."""
    leaks: int = 0
    """Draws refused, whatever for: `flaws` says it."""
    new_tokens: int = 0
    """Tokens sampled for it, refused draws included."""
    cut_off: bool = False
    """It ends where `gear.hint_max_tokens` ended it."""
    error: str | None = None
    flaws: dict[str, int] = field(default_factory=dict)
    """Refused draws by `HintFlaw`."""


@dataclass(frozen=True)
class HintDraw:
    """What the teacher said once when it was asked for a hint."""

    key: str
    problem_id: str
    text: str
    new_tokens: int
    cut_off: bool
    error: str | None = None


@dataclass(frozen=True)
class PureScore:
    """A trace's perplexity-uncertainty profile under the unhinted teacher (docs/method.md §3)."""

    key: str
    problem_id: str
    trace: str
    log_ppl: FloatArray
    """float32[K], nats: ln PPL_k = mean −ln p over step k's tokens."""
    uncertainty: FloatArray
    """float32[K+1], nats per answer token: U_0 … U_K; NaN before the first new step."""
    step_tokens: list[int]
    first_step: int
    """b: the first step that was not kept from the parent (1 for a whole trace)."""
    scorable: list[bool]
    """[K]: False for steps that state the answer, which are not scored."""
    answer_surprisal: FloatArray | None = None
    """float32[K], nats: the largest −ln p of a mention of the answer, or of a number of it, in each
    step; NaN where a step mentions none."""
    hinted_log_ppl: float | None = None
    """Mean −ln p of the new steps' tokens with the hint in view; None: not measured."""
    scored_tokens: int = 0
    """Tokens that went through the model, for the hinted pass too where there was one."""
    probe_tokens: int = 0
    error: str | None = None
    worst_result: float | None = None
    """The largest −ln p of a token of a claimed number in the new steps, nats; NaN where they claim
    none; None: not measured."""

    @property
    def has_uncertainty(self) -> bool:
        """Whether U was asked for at all."""
        return bool(np.isfinite(self.uncertainty).any())


@dataclass(frozen=True)
class HintedScore:
    """One trace scored with its hint in view: what the `reliance` control asks for."""

    key: str
    problem_id: str
    trace: str
    log_ppl: float | None
    """Mean −ln p of the tokens of the new steps, nats; None where scoring failed."""
    scored_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class SampledAnswer:
    """One short answer, sampled after one step of one trace."""

    key: str
    problem_id: str
    answer: str | None
    """Normalised; None where it had not ended when it was cut off."""
    new_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class SampledUncertainty:
    """How much short answers differ after each step of one trace: U without a known answer."""

    key: str
    problem_id: str
    trace: str
    entropy: FloatArray
    """float32[K+1], nats: of the answers sampled after each step; NaN before the first new one."""
    new_tokens: int = 0
    unclosed: int = 0
    """Answers that had not ended when they were cut off."""
    error: str | None = None


@dataclass(frozen=True)
class AuditItem:
    """One continuation of the answer-swap audit."""

    key: str
    """The trace's."""
    problem_id: str
    side: AuditSide
    answer: str
    """What was hinted."""
    outcome: AuditOutcome
    gate: Gate | None = None
    """What refused a `GATED` one."""
