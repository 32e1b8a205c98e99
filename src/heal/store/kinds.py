"""What is stored under each stage."""

from heal.records import (
    AuditItem,
    Check,
    Cut,
    EvalTrace,
    Hint,
    HintDraw,
    HintedScore,
    Imported,
    Problem,
    PureScore,
    SampledAnswer,
    SampledUncertainty,
    ServerFacts,
    StagePlan,
    StepWords,
    TokenScores,
    Trace,
    TrainResult,
)

TRACES = ("sample", "hinted", "repair", "matched")
KINDS: dict[str, type] = {
    **dict.fromkeys(TRACES, Trace),
    "import": Imported,
    "check": Check,
    "scores": TokenScores,
    "cut": Cut,
    "hint_draw": HintDraw,
    "hint": Hint,
    "stepwords": StepWords,
    "pure": PureScore,
    "reliance": HintedScore,
    "problem": Problem,
    "plan": StagePlan,
    "train": TrainResult,
    "evaluate": EvalTrace,
    "server": ServerFacts,
    "audit": AuditItem,
    "audit_trace": Trace,
    "audit_check": Check,
    "audit_pure": PureScore,
    "audit_answer": SampledAnswer,
    "audit_sampled": SampledUncertainty,
    "audit_reliance": HintedScore,
}
"""Of a stage that is not here, a body is known to be whole, and not what it says."""
