"""What flows between the stages: plain frozen records and the names of every outcome.

No logic, no disk, no model. Token arrays are int32, per-token values float32; likelihoods and
entropies are natural logarithms (nats) at temperature 1 over the full vocabulary. A `key` is a
content hash: the same work always has the same key, wherever it stands in a file.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


class Split(StrEnum):
    """Which side of the problem-level split a problem fell on, decided before sampling."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class Verdict(StrEnum):
    """What the verifier found; `TRUNCATED` is not wrong and `UNVERIFIABLE` is not either."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    UNVERIFIABLE = "unverifiable"


class Finish(StrEnum):
    """Why the engine stopped writing."""

    STOP = "stop"
    LENGTH = "length"
    LOOP = "loop"
    CANCELLED = "cancelled"
    ERROR = "error"


class Stratum(StrEnum):
    """A problem's difficulty for the unaided teacher; strata are disjoint (docs/method.md §1)."""

    EASY = "easy"
    HARD = "hard"
    EXTREME = "extreme"
    TRUNCATED = "truncated"
    UNDETERMINED = "undetermined"


class Origin(StrEnum):
    """How a trace came to be."""

    UNAIDED = "unaided"
    HINTED = "hinted"
    REPAIRED = "repaired"


class HintKind(StrEnum):
    """What the teacher is told (docs/method.md §2)."""

    ANSWER = "answer"
    GUIDED = "guided"
    PARTIAL = "partial"
    SIBLING = "sibling"


class Breakpoint(StrEnum):
    """How the break is found; `random`, `fixed_third` and `restart` ignore the entropy."""

    DIFFERENCE = "difference"
    ZSCORE = "zscore"
    CUSUM = "cusum"
    RANDOM = "random"
    FIXED_THIRD = "fixed_third"
    RESTART = "restart"
    CLAIMS = "claims"
    """From what the numbers cost that the steps claim, anywhere in the trace."""
    CHECKER = "checker"
    """At the first step that `steps.checker` finds wrong; as `claims` does where it finds none."""


class StepEntropy(StrEnum):
    """How a step's token entropies become one number."""

    MEAN = "mean"
    TOP20 = "top20"


class Selection(StrEnum):
    """How PURE chooses; the last five are controls."""

    FRACTION = "fraction"
    CALIBRATED = "calibrated"
    SURPRISAL = "surprisal"
    WORST_RESULT = "worst_result"
    RANDOM = "random"
    RELIANCE = "reliance"
    LENGTH = "length"
    MEAN_NLL = "mean_nll"
    MAX_PPL = "max_ppl"


class Fallback(StrEnum):
    """Why a breakpoint is not the one its statistic chose."""

    EMPTY_WINDOW = "empty_window"
    NO_SURGE = "no_surge"
    SINGLE_STEP = "single_step"
    NO_CLAIM = "no_claim"
    """No step claims a number, which is all that `claims` reads."""
    NO_WORD = "no_word"
    """The step checker names no wrong step."""


class Gate(StrEnum):
    """The gates a hinted or repaired trace must pass before PURE; `PASSED` means all of them."""

    PASSED = "passed"
    INCORRECT = "incorrect"
    INCOMPLETE = "incomplete"
    SEVERAL_ANSWERS = "several_answers"
    HINT_TALK = "hint_talk"
    COPIED_HINT = "copied_hint"
    EARLY_ANSWER = "early_answer"
    WRONG_STEP = "wrong_step"
    """`steps.checker` found one."""


class HintFlaw(StrEnum):
    """Why a draw of a guided hint was refused."""

    LEAKS = "leaks"
    EMPTY = "empty"
    CUT_OFF = "cut_off"
    """It breaks off where `gear.hint_max_tokens` ends it."""
    RESTATES = "restates"
    """It says next to nothing that problem and kept steps do not say."""


class Outcome(StrEnum):
    """What a step checker found."""

    WRONG_STEP = "wrong_step"
    NONE_FOUND = "none_found"
    """Something was checked, and all of it holds; the trace may be wrong all the same."""
    CANNOT_TELL = "cannot_tell"
    """Nothing could be checked."""


class Drop(StrEnum):
    """Why a candidate is not in its PACE set; `KEPT` means it is."""

    KEPT = "kept"
    PURE = "pure"
    NEAR_DUPLICATE = "near_duplicate"
    PARENT_CAP = "parent_cap"
    PROBLEM_CAP = "problem_cap"
    TOO_LONG = "too_long"
    """For the student: longer than `train.max_length`."""
    LOSSY = "lossy"
    """The student's tokenizer does not give the text back, or reads its own signs in it."""
    THINKING = "thinking"
    """Its thinking is not one closed section, or the student's prompt has closed it already."""
    MARKED = "marked"
    """A reader marked it bad, and `pace.respect_marks` is on."""


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


@dataclass(frozen=True)
class StepWords:
    """A step checker's word on every complete trace of one training problem."""

    key: str
    """The same for every checker: a problem has one checker's words."""
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
    """float32[K], nats: lower bound of each step entropy; equals `entropy_hi` when exact."""
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
class ServerFacts:
    """What one server was asked in one process, and how it fared."""

    url: str
    asked: int
    """Requests sent: `answered`, `failures` by cause, and those abandoned when the run stopped."""
    answered: int
    failures: dict[str, int]
    """Tries that brought nothing, by cause: each was made again, or is one of `given_up`."""
    given_up: int
    """Requests that no further try mended."""
    pauses: int
    paused_s: float


class AuditSide(StrEnum):
    """Which answer an audit hinted."""

    SWAPPED = "swapped"
    GOLD = "gold"


class AuditOutcome(StrEnum):
    """What became of one continuation of the answer-swap audit."""

    SCORED = "scored"
    """It reached the hinted answer, passed the gates, and has a profile."""
    UNSCORED = "unscored"
    """It passed the gates, and scoring failed."""
    GATED = "gated"
    """It reached the hinted answer, and a gate refused it."""
    KEPT_TO_GOLD = "kept_to_gold"
    """Told a wrong answer, the teacher gave the right one."""
    OTHER_ANSWER = "other_answer"
    NO_ANSWER = "no_answer"
    """None stated, cut off, or not verifiable."""
    FAILED = "failed"
    """The engine failed."""


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
class StagePlan:
    """One training stage as explicit presentations: what is shown, in which order and batch."""

    index: int
    """1 foundation, 2 bridge, 3 frontier."""
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
