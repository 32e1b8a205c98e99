"""Prompts that went through the model, kept for the next request that opens with the same ids.

The candidates of one failed path are asked for in rounds, each with the same hinted prompt and kept
prefix: the prompt is prefilled in the first. Least recently asked for goes first.
"""

from collections import OrderedDict

from heal.engines.local.cohort import Prefix


class PrefixCache:
    """Prefixes by their ids, within a limit of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self.kept: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def find(self, ids: tuple[int, ...]) -> Prefix | None:
        """The prefix of exactly these ids, if it is kept."""
        found = self.kept.get(ids)
        if found is not None:
            self.kept.move_to_end(ids)
        return found

    def keep(self, ids: tuple[int, ...], prefix: Prefix) -> None:
        """Take it in, and drop others until all fit; one beyond the limit is not taken."""
        if prefix.nbytes > self.limit or ids in self.kept:
            return
        # A prefix is a view of its whole batch, which would stay alive with it.
        self.kept[ids] = prefix.copied()
        self.held += prefix.nbytes
        while self.held > self.limit:
            self.held -= self.kept.popitem(last=False)[1].nbytes
