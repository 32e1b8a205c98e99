"""The method: sampling, GEAR, step checkers, PURE, PACE.

The constants of `docs/method-vs-paper.md` are the defaults here, and so of the preset `paper`.
"""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from heal.config.section import Rate, Section, Share
from heal.records import Breakpoint, Choice, HintKind, Selection, StepEntropy

SHARE_ERROR = 1e-3
"""Three thirds may be written 0.333."""


class SamplingSettings(Section):
    """How the teacher is sampled unaided."""

    n: int = Field(30, ge=1)
    """Traces per problem."""
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0 switches the filter off."""
    min_p: float = Field(0.0, ge=0, lt=1)
    max_new_tokens: int = Field(2048, ge=1)
    adaptive: bool = False
    """Stop sampling a training problem once its stratum is decided. Held-out problems always get
    their fixed number."""
    adaptive_error: float = Field(0.05, ge=0, lt=1)
    """Most probability that a stratum decided early differs from that of all n traces. 0 stops
    only where the traces left cannot change it."""


class Gear(Section):
    """GEAR, guided entropy-assisted repair."""

    breakpoint: Breakpoint = Breakpoint.DIFFERENCE
    """The statistic whose largest value in the window is the break: `difference`, `zscore` or
    `cusum` of step entropies. `random` takes any step of the window, `fixed_third` the one that
    starts nearest a third, `restart` keeps nothing: under these no failed trace is scored. `claims`
    looks at the whole trace whatever `window` says, and cuts where the break lies behind with
    probability 0.8. `checker` cuts at the first step that `steps.checker` finds wrong, and as
    `claims` does where it finds none. With the one real teacher measured, no other cut repaired
    more than `random`, and none yields more per token (docs/method-vs-paper.md)."""
    step_entropy: StepEntropy = StepEntropy.MEAN
    back_up: int = Field(1, ge=1)
    """1 drops the surge step; n drops n − 1 more before it."""
    window: float = Field(1 / 3, gt=0, le=1)
    """Share of the trace's tokens in which the break is looked for."""
    min_step_tokens: int = Field(8, ge=1)
    """Shorter steps are merged forward."""
    max_step_tokens: int = Field(512, ge=8)
    """Longer steps are split at sentence ends."""
    paths: int = Field(10, ge=1)
    """Failed traces repaired per extreme problem."""
    candidates: int = Field(20, ge=1)
    """Continuations per failed trace."""
    target: int | None = Field(8, ge=1)
    """A problem is done once so many repairs passed the gates; None draws all candidates."""
    hint: HintKind | Literal["auto"] = HintKind.GUIDED
    """What the teacher is told: `answer`; `guided`, `plan` or `diagnosis`, which it writes itself;
    `checker`, what the step checker found false; `partial`, the first quarter of a reference
    solution; `sibling`, that of the one correct trace. `auto` tries them on a few extreme problems
    and takes `answer` unless another is shown to yield more."""
    hint_probe: int = Field(8, ge=2)
    """`auto`: extreme problems on which the kinds are tried, each on 3 paths with 2 candidates."""
    hint_redraws: int = Field(3, ge=0)
    """Redraws of a hint that contains the answer, before falling back to an `answer` hint."""
    hint_gate: bool = False
    """Refuse hints the teacher writes that break off, end on an answer of their own, hold what
    `steps.checker` finds wrong, restate the problem or name nothing, as those that leak are
    refused."""
    hint_max_tokens: int = Field(160, ge=8)
    hint_temperature: float = Field(0.6, ge=0)
    hinted_samples: int = Field(8, ge=0)
    """Whole traces per problem of ρ < 0.5 under an `answer` hint: PACE's D2. 0: none."""
    early_answer_share: float = Field(0.3, ge=0, lt=1)
    """Gate: the answer may not be asserted in this first share of a continuation."""
    copied_ngram: int = Field(13, ge=3)
    """Gate: no n-gram of so many words may be copied from the hint."""
    hint_talk: tuple[str, ...] | None = None
    """Phrases that betray a hint. None: the built-in English list; give your own otherwise."""


class Steps(Section):
    """Step checkers, which read a trace's own steps."""

    checker: str | None = None
    """`arithmetic` evaluates the equations a trace asserts; `module:function` is your own (problem
    text, answer, list of steps) → the first wrong step from 1, 0 for none, None for no opinion. It
    runs in this process, without a time limit. None: no step is checked. It looks at equations
    alone, and where they may be meant otherwise it cannot tell: other bases, a rule of the
    problem's own, a slip that the trace takes back."""
    gate: bool = True
    """Refuse hinted and repaired traces, kept steps included, in which the checker finds a wrong
    step. One of which it cannot tell passes. Without a checker there is no such gate."""


class Line(Section):
    """Where PURE's line stands, for selections that have one; exactly one of these."""

    honest_lost: float | None = Field(None, gt=0, lt=1)
    """So large a share of unaided correct traces lies above it. None: another share puts it."""
    clean_lost: float | None = Field(None, gt=0, lt=1)
    """Of hinted and repaired traces past the gates in which `steps.checker` finds nothing wrong;
    with `pure.spare_checked` and `steps.gate` on none of these is scored. None: another share puts
    it."""
    fudged_passed: float | None = Field(None, gt=0, lt=1)
    """So large a share of those in which it does find something lies below; with `steps.gate` on
    there are none of these. None: another share puts it."""

    @model_validator(mode="after")
    def _one_share(self) -> "Line":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(type(self).model_fields)}; found {given or 'none'}"
            )
        return self


class Pure(Section):
    """PURE, perplexity-uncertainty filtering."""

    selection: Selection = Selection.FRACTION
    """`surprisal`: how surprising the answer is to the unhinted teacher where the trace writes it;
    `fraction`: the paper's ratio. With too few honest traces to draw a line by,
    `calibrated` becomes `fraction`, and `surprisal` drops a share as that does. `worst_result`, of
    numbers that steps claim behind a relation sign, is for arithmetic: a trace without any is as
    suspicious as can be. `joint`: the higher of a trace's two ranks by `surprisal` and `reliance`
    among all whole hinted traces, or all repairs; without a line, the worst `drop` share goes."""
    line: Line = Line(honest_lost=0.05)
    """What the line of `calibrated`, `surprisal` and `worst_result` may cost or let pass, estimated
    on the run. Where fewer than 20 traces could draw it by the checker's word, honest ones draw it
    at 0.05; where there are too few of them, a share goes, and the run says so first."""
    drop: float = Field(0.2, ge=0, lt=1)
    """λ: share of a problem's candidates dropped."""
    epsilon: float = Field(0.01, gt=0)
    u_floor: float = Field(0.1, gt=0)
    """U is floored here inside the logarithm; under that, −ln U would swamp the perplexity."""
    commit_below: float = Field(0.1, gt=0)
    """The trace has committed once U stays below this, in nats per answer token."""
    commit_steps: int = Field(2, ge=1)
    min_candidates: int = Field(5, ge=1)
    """Problems with fewer are pooled."""
    calibration_traces: int = Field(200, ge=20)
    """`calibrated`, `surprisal`, `worst_result`: so many unaided correct traces are scored to learn
    what honest ones look like; those of problems the teacher mostly solves, if they are enough."""
    drop_at_most: float = Field(0.65, gt=0, le=1)
    """`calibrated`, `surprisal`, `worst_result`: where more of a set than this is above the line,
    honest unaided traces are no measure for that set; the worst `drop` share goes instead, and the
    report says so."""
    spare_checked: bool = False
    """Neither score nor judge a hinted or repaired trace that `steps.gate` let pass because
    `steps.checker` read it and found nothing wrong: PURE judges those of which it cannot tell. For
    problems whose equations are the whole of the matter: where a wrong idea can be worked out
    without a false equation, the checker vouches for shortcuts."""
    measure_uncertainty: bool = True
    """After each new step, also ask how unsure the teacher is of the answer, which
    `fraction` and `calibrated` ask for by themselves. `surprisal` does without: a server that reads
    its whole prompt while scoring (vLLM) reads each trace once for every step of it. Switched on
    later, it scores again; `heal audit pure` always asks."""
    measure_reliance: bool = False
    """Also score every candidate with its hint in view, which the selections `reliance` and
    `joint` ask for by themselves; switch it on to compare detectors on the same traces."""
    measure_calibrated: bool = False
    """Also score unaided correct traces, which `calibrated`, `surprisal` and `worst_result` ask for
    by themselves, and ask after each step as `measure_uncertainty` does."""


class Pace(Section):
    """PACE, the progressive answer-guided curriculum."""

    cap_d1: int = Field(4, ge=1)
    cap_d1_hard: int = Field(8, ge=1)
    """The cap of D1 for problems the teacher mostly fails."""
    cap_d2: int = Field(4, ge=0)
    cap_d3: int = Field(4, ge=0)
    choice: Choice = Choice.DIVERSE
    """Which accepted traces of a problem a set takes where its cap leaves some out. `diverse`: next
    is the one least like any kept before. The untouched student scores those traces first for
    `rank_surprisal` (lowest ratio of mean token rank, clipped at 100, to mean surprisal), `logprob`
    (highest log-prob per token) and `middle` (highest p(1 − p), p the geometric mean of its tokens'
    probabilities). `random` asks nobody. Near-duplicates go, and `per_parent` holds, under all."""
    per_parent: int = Field(2, ge=1)
    """Repairs from one parent prefix."""
    near_duplicate: float = Field(0.8, gt=0, le=1)
    """5-gram MinHash Jaccard above which two traces of one problem are the same."""
    respect_marks: bool = False
    """Leave out traces that a reader marked bad in `heal view`; false counts them only."""
    replay: float = Field(0.3, ge=0, lt=1)
    """Share of stages II and III shown from the earlier sets."""
    stage_share: tuple[Share, Share, Share] = (0.5, 0.25, 0.25)
    """Each stage's share of the token budget; they add up to 1."""
    stage_lr: tuple[Rate, Rate, Rate] = (1.0, 0.7, 0.5)
    """Each stage's peak learning rate, times `train.learning_rate`."""
    epochs: float = Field(5.0, gt=0)
    """Token budget of every arm: so many times D1's tokens."""
    min_tokens: int = Field(0, ge=0)
    """Floor of that budget, for a run whose D1 is tiny."""
    max_shows: int = Field(8, ge=1)
    """A trace is shown at most so often in one stage; what is left over is replay."""
    fresh_text: bool = False
    """Show another of a problem's traces at each visit: those that its caps leave out, and
    near-duplicates that are not the same text, are shown in turn with those in the sets. How often
    a problem is shown stays as the caps say."""
    replay_easy: bool = False
    """Replay D1 of problems the teacher mostly solves, and no other set; all earlier sets where no
    such trace is."""
    frontier_from: Literal[2, 3] = 3
    """The stage from which D3 is shown: 2 brings it in together with D2."""
    closing: float = Field(0.0, ge=0, lt=1)
    """Share of stage III's tokens, at its end, shown evenly from all sets, so that what is new does
    not have the last word. 0: none."""
    own_replay: float = Field(0.0, ge=0, lt=1)
    """Share of every stage's tokens shown from the untouched student's own correct answers to
    training problems the teacher mostly solves, `evaluate.samples` attempts each, written before
    training. 0: none is asked."""
    own_d1: bool = False
    """D1 of problems the teacher mostly solves is the untouched student's own correct answers,
    trace for trace, as far as it has any: it is not taught in other words what it knows."""

    rehearsal: float = Field(0.0, ge=0, lt=1)
    """Share of the token budget of a fourth, closing stage at stage III's peak rate: the student of
    stage III is asked all training problems, `evaluate.samples` attempts each, and is shown its own
    correct answers, at most `cap_d1` of a problem, none that it cannot be taught nor, with
    `steps.gate`, one with a wrong step. What `max_shows` leaves over is shown from the sets.
    `stage_share` is of the rest, so the budget stays the same. 0: there is no such stage."""

    @property
    def asks_student(self) -> bool:
        """Whether the untouched student is asked for answers of its own."""
        return self.own_d1 or self.own_replay > 0

    @property
    def stages(self) -> int:
        """Of each student's training."""
        return len(self.stage_share) + (self.rehearsal > 0)

    @field_validator("stage_share")
    @classmethod
    def _shares_of_one(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        # not weights: 9, 9, 9 may have meant epochs
        if abs(sum(shares) - 1) > SHARE_ERROR:
            raise ValueError(f"the shares add up to {sum(shares):g}, not to 1")
        return shares
