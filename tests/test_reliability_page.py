"""Every promise of docs/reliability.md names a command that tries it: tests that are there."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = re.findall(
    r"`pytest ([^`]+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_promise_is_tried_by_tests_that_are_there(command: str) -> None:
    words = shlex.split(command)
    files = [ROOT / word for word in words if word.startswith("tests/")]
    names = [n for f in files for n in re.findall(r"^def (test_\w+)", f.read_text(), re.MULTILINE)]
    assert names
    if "-k" in words:
        for word in words[words.index("-k") + 1].split(" or "):
            assert any(word in name for name in names), word


def test_the_page_has_promises() -> None:
    assert len(COMMANDS) > 15
