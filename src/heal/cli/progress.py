"""What a person sees while a run works: a bar on a terminal, plain lines anywhere else.

Rates and ETAs count only what this process did; what was stored earlier is shown as such.
"""

import time
from collections import Counter

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_EVERY_S = 15.0


class ConsoleObserver:
    """Reports a run's stages to a rich console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._total = self._arrived = self._stored = self._tokens = 0
        self._outcomes: Counter[str] = Counter()
        self._started = self._spoke = 0.0

    def begin(self, stage: str, total: int) -> None:
        """A stage of `total` items starts."""
        self._stage, self._total = stage, total
        self._arrived = self._stored = self._tokens = 0
        self._outcomes = Counter()
        self._started = self._spoke = time.monotonic()
        if self.console.is_terminal and total:
            self._bar = Progress(
                TextColumn("{task.description:<9}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(stage, total=total, rate="")
            self._bar.start()

    def stored(self, count: int) -> None:
        """So many items of this stage were there already."""
        self._stored += count
        self._show()

    def advance(self, outcome: str, tokens: int) -> None:
        """One item arrived."""
        self._arrived += 1
        self._tokens += tokens
        self._outcomes[outcome] += 1
        self._show()

    def end(self, line: str) -> None:
        """The stage is over; `line` says what came of it."""
        if self._bar:
            self._bar.stop()
            self._bar = None
        spent = time.monotonic() - self._started
        reused = " · nothing to do" if not self._arrived and self._stored else ""
        text = Text.assemble(line, (f" · {spent:.1f} s{reused}", "dim"))
        margin = f"{self._stage:<9} "
        for part in text.wrap(self.console, max(20, self.console.width - len(margin))):
            part.rstrip()
            self.console.print(Text(margin) + part, highlight=False, soft_wrap=True)
            margin = " " * len(margin)

    def say(self, text: str) -> None:
        """Something a person should know."""
        self.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _show(self) -> None:
        if self._bar and self._task is not None:
            done = min(self._total, self._stored + self._arrived)
            self._bar.update(self._task, completed=done, rate=self._rate())
            return
        now = time.monotonic()
        if not self.console.is_terminal and now - self._spoke >= PLAIN_EVERY_S:
            self._spoke = now
            of = f" of {self._total:,}" if self._total else ""
            self.console.print(
                f"{self._stage:<9} {self._stored + self._arrived:,}{of}{self._rate()}"
                f"{self._eta(now)}",
                highlight=False,
            )

    def _rate(self) -> str:
        spent = max(1e-3, time.monotonic() - self._started)
        failed = self._outcomes["failed"]
        words = f" · {self._arrived / spent:,.1f}/s"
        if self._tokens:
            words += f" · {self._tokens / spent:,.0f} tok/s"
        return words + (f" · {failed:,} failed" if failed else "")

    def _eta(self, now: float) -> str:
        left = self._total - self._stored - self._arrived
        if not self._arrived or left <= 0:
            return ""
        return f" · about {left * (now - self._started) / self._arrived:,.0f} s left"
