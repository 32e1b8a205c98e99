"""The names of every outcome and every choice."""

from enum import StrEnum


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
    """What the teacher writes, shown the answer and the failed step."""
    PARTIAL = "partial"
    SIBLING = "sibling"
    PLAN = "plan"
    """The steps still needed, as the teacher lists them without having seen the answer."""
    DIAGNOSIS = "diagnosis"
    """What is wrong with the failed step, as the teacher says, shown the answer."""
    CHECKER = "checker"
    """The false step that `steps.checker` names, and what is so instead."""


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
    JOINT = "joint"
    """By the more suspicious of `surprisal` and `reliance`, as ranks in the set judged together."""
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
    CONCLUDES = "concludes"
    """It ends on a final answer of its own, right or wrong."""
    FALSE = "false"
    """`steps.checker` finds a wrong step in it."""
    NAMES_NOTHING = "names_nothing"
    """Encouragement alone: no idea, no quantity, no operation."""


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
    ALTERNATE = "alternate"
    """Not in the set, but shown in turn with what is, as `pace.fresh_text` asks."""
    MARKED = "marked"
    """A reader marked it bad, and `pace.respect_marks` is on."""


class Choice(StrEnum):
    """Which of a problem's accepted traces a set takes, where there are more than its cap."""

    DIVERSE = "diverse"
    """Next is the one least like any kept before."""
    RANDOM = "random"
    RANK_SURPRISAL = "rank_surprisal"
    """The lowest ratio of mean token rank to mean surprisal under the untouched student."""
    LOGPROB = "logprob"
    """The likeliest under the untouched student, per token."""
    MIDDLE = "middle"
    """The highest p(1 − p), p the untouched student's mean probability of a token."""


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
