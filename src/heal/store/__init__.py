"""The run folder: bodies, columns, and what keeps them whole."""

from heal.store.bodies import DamagedError, decode, encode
from heal.store.columns import (
    AttemptRow,
    CutRow,
    HintRow,
    ProblemRow,
    Row,
    ScoreRow,
    SelectedRow,
    TraceRow,
)
from heal.store.disk import DATABASE, LOCK, disk_errors, sync_files, written_whole
from heal.store.folder import Store, Stored, Totals
from heal.store.said import step_words

__all__ = [
    "DATABASE",
    "LOCK",
    "AttemptRow",
    "CutRow",
    "DamagedError",
    "HintRow",
    "ProblemRow",
    "Row",
    "ScoreRow",
    "SelectedRow",
    "Store",
    "Stored",
    "Totals",
    "TraceRow",
    "decode",
    "disk_errors",
    "encode",
    "step_words",
    "sync_files",
    "written_whole",
]
