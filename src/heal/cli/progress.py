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
)
from rich.text import Text

from heal.redaction import redact, visible
from heal.wording import plural

PLAIN_FIRST_S, PLAIN_EVERY_S = 3.0, 15.0
"""Between two plain lines, and before the first of a stage."""
MARGIN = 10
"""Columns for the name of a stage."""


class ConsoleObserver:
    """Reports a run's stages to a rich console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage, self._unit = "", ""
        self._total = self._finished = self._stored = 0
        self._arrived = self._tokens = self._waiting = 0
        self._outcomes: Counter[str] = Counter()
        self._started = self._spoke = time.monotonic()
        self._begun = dict[str, float]()  # since when, of a stage that others interrupt
        self._earlier = dict[str, tuple[float, int]]()  # its seconds and units so far

    def begin(self, stage: str, total: int, unit: str = "items") -> None:
        """A part of the work that has `total` units starts, or goes on after another."""
        self.close()
        self._interrupt()
        self._stage, self._total, self._unit = stage, total, unit
        self._finished = self._stored = self._arrived = self._tokens = self._waiting = 0
        self._outcomes = Counter()
        self._started = self._spoke = time.monotonic()
        self._begun.setdefault(stage, self._started)
        if self.console.is_terminal and total:
            self._bar = Progress(
                TextColumn("{task.description:<9}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(stage, total=total, rate="", left="")
            self._bar.start()

    def stored(self, count: int) -> None:
        """So many units of it were there already."""
        self._stored += count
        self._show()

    def advance(self, count: int = 1) -> None:
        """So many units of it are finished."""
        self._finished += count
        self._show()

    def arrived(self, outcome: str, tokens: int) -> None:
        """One answer came, of the many a unit may take."""
        self._arrived += 1
        self._tokens += tokens
        self._outcomes[outcome] += 1
        self._show()

    def waiting(self, count: int) -> None:
        """So many answers are under way, and none came just now."""
        self._waiting = count
        self._show()

    def end(self, stage: str, line: str) -> None:
        """A stage is over; `line` says what came of it."""
        told = [visible(redact(line))]
        if stage == self._stage:
            began = self._begun.get(stage, self._started)
            told.append(f" · {time.monotonic() - began:.1f} s")
            self._begun.clear()
            self._earlier.clear()
        self.close()
        text = Text.assemble(told[0], *((part, "dim") for part in told[1:]))
        margin = f"{stage:<{MARGIN}}"
        for part in text.wrap(self.console, max(20, self.console.width - MARGIN)):
            part.rstrip()
            self.console.print(Text(margin) + part, highlight=False, soft_wrap=True)
            margin = " " * MARGIN

    def say(self, text: str) -> None:
        """Something a person should know."""
        self.console.print(visible(redact(text)), highlight=False, markup=False)

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _interrupt(self) -> None:
        """Remember how a stage that goes on later went so far."""
        seconds, units = self._earlier.get(self._stage, (0.0, 0))
        spent = time.monotonic() - self._started
        self._earlier[self._stage] = seconds + spent, units + self._finished

    def _show(self) -> None:
        if self._bar and self._task is not None:
            done = min(self._total, self._stored + self._finished)
            left = self._eta(time.monotonic())
            self._bar.update(self._task, completed=done, rate=self._rate(), left=left)
            return
        now = time.monotonic()
        first = self._spoke == self._started
        due = self._spoke + (PLAIN_FIRST_S if first else PLAIN_EVERY_S)
        if not self.console.is_terminal and self._total and now >= due:
            self._spoke = now
            far = f"{self._stored + self._finished:,} of {self._total:,} {self._unit}"
            line = f"{self._stage:<{MARGIN}}{far}{self._rate()}{self._eta(now)}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def _rate(self) -> str:
        spent = max(1e-3, time.monotonic() - self._started)
        failed = self._outcomes["failed"]
        words = f" · {_speed(self._arrived / spent)}" if self._arrived else ""
        if self._tokens:
            words += f" · {self._tokens / spent:,.0f} tok/s"
        elif self._waiting and not self._arrived:
            words = f" · {plural(self._waiting, 'answer')} under way"
        return words + (f" · {failed:,} failed" if failed else "")

    def _eta(self, now: float) -> str:
        spent, units = self._earlier.get(self._stage, (0.0, 0))
        spent, units = spent + now - self._started, units + self._finished
        left = self._total - self._stored - self._finished
        if not units or left <= 0:
            return ""
        minutes, seconds = divmod(round(left * spent / units), 60)
        hours, minutes = divmod(minutes, 60)
        return f" · about {hours}:{minutes:02d}:{seconds:02d} left"


def _speed(per_second: float) -> str:
    slow = per_second < 0.1
    return f"{60 * per_second:.1f} answers/min" if slow else f"{per_second:,.1f} answers/s"
