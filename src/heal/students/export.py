"""Training rows: examples as chat messages, and the files of the three stages."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from heal.method.curriculum import STAGES
from heal.method.pace import POOLS
from heal.method.thinking import Malformed, canonical, read_thought
from heal.records import Example
from heal.store import Store

STAGE_NAMES = STAGES[: len(POOLS)]
"""Of the stages that show sets."""


def row_of(shown: Example) -> dict[str, Any]:
    """An example as a chat row."""
    return {
        "messages": messages(shown),
        "problem_id": shown.problem_id,
        "trace": shown.trace,
        "set": shown.pool,
    }


def messages(shown: Example) -> list[dict[str, str]]:
    """An example as chat messages."""
    system = [{"role": "system", "content": shown.system}] if shown.system else []
    return [
        *system,
        {"role": "user", "content": shown.user},
        {"role": "assistant", "content": _said(shown.assistant)},
    ]


def _said(text: str) -> str:
    """One closed pair of `<think>` tags where the trace thinks, none where it does not."""
    thought = read_thought(text)
    return text if isinstance(thought, Malformed) else canonical(thought)


class StageFiles:
    """`data/stage1_foundation.jsonl` and its two sisters, written set by set.

    Rows come problem by problem and go to a part for each set; a stage's file is the parts of all
    sets up to its own, put together whole or not at all.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Self:
        folder = self._store.folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        self._parts = {pool: folder / f".{pool}.part" for pool in POOLS}
        self._open = {pool: part.open("w", encoding="utf-8") for pool, part in self._parts.items()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for file in self._open.values():
            file.close()
        if kind is None:
            for stage, name in enumerate(STAGE_NAMES, 1):
                self._store.write_parts(f"data/stage{stage}_{name}.jsonl", self._up_to(stage))
        for part in self._parts.values():
            part.unlink(missing_ok=True)

    def write(self, shown: Example) -> None:
        """Add an example to its set."""
        self._open[shown.pool].write(json.dumps(row_of(shown), ensure_ascii=False) + "\n")

    def _up_to(self, stage: int) -> list[Path]:
        return [self._parts[pool] for pool in POOLS[:stage]]
