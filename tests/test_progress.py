"""Progress without a terminal: plain lines, the first within seconds."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from heal.cli.progress import ConsoleObserver


def test_plain_lines_come_after_3_seconds_and_then_every_15(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("heal.cli.progress.time", SimpleNamespace(monotonic=lambda: now))
    written = io.StringIO()
    observer = ConsoleObserver(Console(file=written, width=80))
    observer.begin("sample", 100, "problems")
    seen = []
    for second in range(40):
        now = 100.0 + second
        observer.advance()
        seen.append(written.getvalue().count("\n"))
    lines = [second for second, (a, b) in enumerate(zip([0, *seen], seen, strict=False)) if b > a]
    assert lines == [3, 18, 33]
    assert written.getvalue().splitlines()[0] == "sample    4 of 100 problems · about 0:01:12 left"
