"""The whole tree."""

from typing import Literal

from pydantic import Field, model_validator

from heal.config.engines import Engines
from heal.config.method import Gear, Pace, Pure, SamplingSettings, Steps
from heal.config.models import ModelRef, Student
from heal.config.problems import Problems
from heal.config.section import Section
from heal.config.training import Evaluate, Train
from heal.prompts import Prompts
from heal.records import Breakpoint, Choice

ArmName = Literal[
    "base",
    "rft",
    "rft_more",
    "star",
    "heal",
    "heal-shuffled",
    "heal-reverse",
    "heal-random-cut",
    "heal-restart",
    "heal-no-pure",
    "heal-random-drop",
    "heal-ratio",
    "heal-calibrated",
    "heal-random-choice",
    "heal-rank-surprisal",
    "heal-logprob",
    "heal-middle",
]
"""`base` is the untouched student; `heal.method.arms` says what the others are."""
_CHOOSING = {
    "heal-rank-surprisal": Choice.RANK_SURPRISAL,
    "heal-logprob": Choice.LOGPROB,
    "heal-middle": Choice.MIDDLE,
}
"""Arms whose traces the untouched student chooses."""
_CUTTING = {"heal-random-cut": Breakpoint.RANDOM, "heal-restart": Breakpoint.RESTART}
"""Arms whose repairs follow a breakpoint of their own."""


class Limits(Section):
    """Hard caps. A run that reaches one stops cleanly and says so; what it drew stays stored."""

    teacher_tokens: int | None = Field(None, ge=1)
    """Sampled teacher tokens; None: no cap. Training data is written after the last token is drawn:
    a run stopped here writes none until the cap is raised and the same command is run again."""
    failed_share: float = Field(0.5, gt=0, le=1)
    """A stage in which more than this share of at least 20 items failed stops the run."""
    retry_unverifiable: bool = False
    """Judge again, once in each process, what is stored as `unverifiable`: a checker that took too
    long on a busy machine, or crashed, may decide on another day."""


class Config(Section):
    """The whole tree: one YAML file."""

    run: str
    """The run folder."""
    seed: int = 0
    preset: Literal["default", "paper"] = "default"
    """`default` follows our own evidence: `gear.breakpoint` is `random`, `gear.hint_gate` is true,
    `steps.checker` is `arithmetic`, `pure.selection` is `surprisal`, `pure.measure_uncertainty` is
    false and `pace.rehearsal` is 0.2. With `paper` every field's own default holds, which this page
    shows beside them."""
    problems: Problems
    teacher: ModelRef | None
    """null: only what imported traces (`problems.traces`) need no model for: verdicts, strata, D1
    and students trained on it."""
    scorer: ModelRef | None = None
    """Scores for PURE, and for GEAR's cuts that are not random, when the teacher's engine cannot;
    None uses the teacher."""
    student: Student | None = None
    """None produces data only: no training, no evaluation."""
    arms: tuple[ArmName, ...] = ("base", "rft", "heal")
    """What is trained and compared."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds."""
    prompts: Prompts = Prompts()
    sampling: SamplingSettings = SamplingSettings()
    gear: Gear = Gear()
    steps: Steps = Steps()
    pure: Pure = Pure()
    pace: Pace = Pace()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    engine: Engines = Engines()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _a_cut_by_a_checker_has_one(self) -> "Config":
        if self.gear.breakpoint is Breakpoint.CHECKER and self.steps.checker is None:
            raise ValueError("gear.breakpoint 'checker' needs a steps.checker; try: arithmetic")
        return self

    @model_validator(mode="after")
    def _no_control_that_cuts_as_heal_does(self) -> "Config":
        for arm in self.arms:
            if _CUTTING.get(arm) is self.gear.breakpoint:
                raise ValueError(
                    f"the arm {arm!r} is 'heal' itself where gear.breakpoint is"
                    f" {self.gear.breakpoint.value!r}; try: --set gear.breakpoint=difference, or"
                    " leave it out of arms"
                )
        return self

    @model_validator(mode="after")
    def _without_a_teacher(self) -> "Config":
        traces = self.problems.traces
        if self.teacher is not None:
            return self
        if traces is None or traces.top_up or self.scorer is not None:
            raise ValueError("teacher: null needs problems.traces, no top_up and no scorer")
        drawing = [arm for arm in self.arms if arm in ("rft_more", "star")]
        if drawing:
            raise ValueError(f"teacher: null, and the arm {drawing[0]} needs one to sample")
        return self

    @model_validator(mode="after")
    def _a_student_that_can_choose(self) -> "Config":
        named = f"pace.choice {self.pace.choice.value!r}"
        asking = [(named, self.pace.choice, "--set pace.choice=diverse")]
        asking += [
            (f"the arm {arm!r}", _CHOOSING[arm], "leave it out of arms")
            for arm in self.arms
            if arm in _CHOOSING
        ]
        for who, choice, instead in asking:
            if lacking := _lacking(choice, self.student):
                raise ValueError(f"{who} {lacking}, or {instead}")
        return self

    @property
    def main_arm(self) -> ArmName | None:
        """The arm a report shows in full: `heal`, or the first that is trained."""
        trained = [arm for arm in self.arms if arm != "base"]
        return "heal" if "heal" in trained else next(iter(trained), None)


def _lacking(choice: Choice, student: Student | None) -> str | None:
    """What a choice asks for and the student cannot give, with the remedy; None: nothing."""
    if choice not in _CHOOSING.values():
        return None
    if student is None:
        return "asks the student, and there is none; try: --set student.model=FOLDER"
    dialect = student.serve.dialect if student.serve is not None else None
    if dialect == "llamacpp":
        return (
            "asks for log-probs of given text, which the student's llamacpp servers do not give;"
            " try: --set student.serve=null, which scores with the local engine"
        )
    if choice is Choice.RANK_SURPRISAL and dialect not in (None, "vllm"):
        return (
            "asks for token ranks, which the student's server does not tell (serve.dialect:"
            f" {dialect}); try: --set student.serve=null, which scores with the local engine"
        )
    return None
