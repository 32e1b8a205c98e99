"""Checkpoints inside a stage: what a killed run need not train again (docs/training.md).

In: folders a trainer wrote. Out: one sealed checkpoint, the newest, or none. A checkpoint is
written beside its place, its files are summed and synced, and then it is renamed: one that is there
is whole unless the disk has damaged it since, which the sums tell. Knows nothing of models.
"""

import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from heal.store import sync_files

__all__ = ["Checkpoint", "Checkpoints", "Note"]

SEAL = "sealed.json"
WRITING = "writing"
_BLOCK_BYTES = 1 << 22

Note = Callable[[str], None]
"""Told what a person should know, in one line."""


@dataclass(frozen=True)
class Checkpoint:
    """One sealed state of a stage."""

    folder: Path
    losses: list[float]
    """By step; there are as many as steps were made."""
    seconds: float
    """That training took up to here, over all processes."""


@dataclass(frozen=True)
class Checkpoints:
    """Those of one stage: at most one is kept."""

    folder: Path
    key: str
    """Of the stage: a checkpoint of any other is none of ours."""
    every: int | None
    """Optimizer steps from one to the next; None writes none."""
    layout: str = "one process"
    """Which processes shared the work: a state of two is not that of one."""
    before_s: float = field(default=0.0, compare=False)
    """Seconds of training in earlier processes."""

    @property
    def writing(self) -> Path:
        """Where the trainer writes before a checkpoint is sealed."""
        return self.folder / WRITING

    def newest(self, note: Note) -> Checkpoint | None:
        """The checkpoint to go on from. One that cannot be used is told, and removed with the rest.

        None: the stage starts at its start.
        """
        shutil.rmtree(self.writing, ignore_errors=True)
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            fault = self._fault(folder)
            if fault is None:
                return self._opened(folder)
            note(f"{folder}: {fault}; the stage starts again without it")
            shutil.rmtree(folder)
        return None

    def seal(self, written: Path, losses: Sequence[float], seconds: float) -> None:
        """Make what the trainer wrote the one checkpoint of the stage."""
        told = {
            "key": self.key,
            "layout": self.layout,
            "losses": list(losses),
            "seconds": self.before_s + seconds,
            "sums": {name: _sum(written / name) for name in _files(written)},
        }
        (written / SEAL).write_text(json.dumps(told), encoding="utf-8")
        sync_files(written)
        place = self.folder / f"step-{len(losses):08d}"
        shutil.rmtree(place, ignore_errors=True)
        written.rename(place)
        sync_files(self.folder)  # the new name outlives a power cut before the old one is removed
        for other in self.folder.glob("step-*"):
            if other != place:
                shutil.rmtree(other)

    def drop(self) -> None:
        """Forget them all: the stage is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fault(self, folder: Path) -> str | None:
        try:
            seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
            sums = {name: _sum(folder / name) for name in seal["sums"]}
            damaged = [name for name, found in sums.items() if found != seal["sums"][name]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"the checkpoint is damaged ({error.__class__.__name__}: {error})"
        if damaged:
            return f"the checkpoint is damaged ({', '.join(damaged)})"
        if seal.get("key") != self.key:
            return "the checkpoint is of another plan, student or setting"
        if seal.get("layout") != self.layout:
            return f"the checkpoint was written by {seal.get('layout')}, and this is {self.layout}"
        return None

    def _opened(self, folder: Path) -> Checkpoint:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return Checkpoint(folder, seal["losses"], seal["seconds"])


def _files(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def _sum(file: Path) -> list[int]:
    """Size and CRC-32: they tell damage, not malice."""
    found, size = 0, 0
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            found, size = zlib.crc32(block, found), size + len(block)
    return [size, found]
