"""What flows between the stages: plain frozen records and the names of every outcome.

No logic, no disk, no model. Token arrays are int32, per-token values float32; likelihoods and
entropies are natural logarithms (nats) at temperature 1 over the full vocabulary. A `key` is a
content hash: the same work always has the same key, wherever it stands in a file.
"""

from heal.records.outcomes import (
    AuditOutcome,
    AuditSide,
    Breakpoint,
    Drop,
    Fallback,
    Finish,
    Gate,
    HintFlaw,
    HintKind,
    Origin,
    Outcome,
    Selection,
    Split,
    StepEntropy,
    Stratum,
    Verdict,
)
from heal.records.repairs import (
    AuditItem,
    Cut,
    FloatArray,
    Hint,
    HintDraw,
    HintedScore,
    PureScore,
    SampledAnswer,
    SampledUncertainty,
    TokenScores,
)
from heal.records.servers import (
    ServerFacts,
)
from heal.records.students import (
    EvalTrace,
    Example,
    OwnAnswer,
    Selected,
    StageExam,
    StagePlan,
    TrainResult,
)
from heal.records.traces import (
    Ceiling,
    Check,
    Imported,
    IntArray,
    Problem,
    StepWord,
    StepWords,
    Trace,
)

__all__ = [
    "AuditItem",
    "AuditOutcome",
    "AuditSide",
    "Breakpoint",
    "Ceiling",
    "Check",
    "Cut",
    "Drop",
    "EvalTrace",
    "Example",
    "Fallback",
    "Finish",
    "FloatArray",
    "Gate",
    "Hint",
    "HintDraw",
    "HintFlaw",
    "HintKind",
    "HintedScore",
    "Imported",
    "IntArray",
    "Origin",
    "Outcome",
    "OwnAnswer",
    "Problem",
    "PureScore",
    "SampledAnswer",
    "SampledUncertainty",
    "Selected",
    "Selection",
    "ServerFacts",
    "Split",
    "StageExam",
    "StagePlan",
    "StepEntropy",
    "StepWord",
    "StepWords",
    "Stratum",
    "TokenScores",
    "Trace",
    "TrainResult",
    "Verdict",
]
