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
    "sync_files",
    "written_whole",
]
