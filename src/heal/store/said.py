"""What the step checker said, read back: by trace, of one problem or of all."""

from collections.abc import Iterable, Iterator

from heal.records import StepWord, StepWords
from heal.store.folder import Store

STAGE, KEY = "stepwords", StepWords.KEY


def step_words(store: Store, problem: str | None = None) -> Iterator[tuple[str, StepWord]]:
    """Trace and word; nothing where the run names no checker (any more).

    Raises: DamagedError.
    """
    config = store.meta("config") or {}
    if config.get("steps", {}).get("checker") is None:
        return
    if problem is None:
        every: Iterable[StepWords | None] = (own for _, own in store.read(STAGE, StepWords))
    else:
        every = [store.get(STAGE, KEY, problem, StepWords)]
    for own in every:
        yield from own.words.items() if own is not None else ()
