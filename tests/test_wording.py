"""Counts in words: one thing is never counted in the plural, wherever something is counted."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from heal.wording import count, plural

SOURCE = Path(__file__).parent.parent / "src" / "heal"

NOUNS = """
actors answers arms attempts batches bytes candidates cases characters claims columns comparisons
continuations conversations copies cuts differences digits errors examples failures families fields
files folders generations groups hints hours items jobs judges keys lines losses marks messages
minutes models notes options others pairs pages parts paths places plans pools problems
processes programs prompts questions readings records repairs requests resamples rows runs samples
scores seconds seeds sentences servers settings shards solutions splits stages steps strata students
tables tasks threads times tokens traces tries turns units values verdicts weights words workers
"""
COUNTED = re.compile(rf"^ (?:[a-z-]+ ){{0,2}}?(?:{'|'.join(NOUNS.split())})\b(?!/)")
NO_COUNT = re.compile(r"(@|seed|step|line|stage|round|schema|schedule)\s*$")
"""What a number is the name of: `pass@8`, `step 3`."""


@pytest.mark.parametrize(
    ("n", "said"),
    [(0, "0 traces"), (1, "1 trace"), (2, "2 traces"), (12_345, "12,345 traces"), (1.2, "1 trace")],
)
def test_one_is_one(n: float, said: str) -> None:
    assert plural(n, "trace") == said


def test_a_plural_of_its_own_is_given() -> None:
    assert (plural(1, "try", "tries"), plural(3, "try", "tries")) == ("1 try", "3 tries")
    assert count(1234) == "1,234"


def counted(source: str) -> Iterator[str]:
    """Every place where text prints a value and writes a plural after it, whatever the value."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for value, after in zip(node.values, [*node.values[1:], None], strict=True):
            if isinstance(value, ast.Constant):
                before = str(value.value)
                continue
            words = str(after.value) if isinstance(after, ast.Constant) else ""
            if _is_a_count(value) and COUNTED.match(words) and not NO_COUNT.search(before):
                yield f"line {node.lineno}: {ast.unparse(value)}{words}"
            before = ""


TEXT = re.compile(r"^(?:\w+\.)?(?:plural|percent_of|\w+_text|\w+_name)\(|^[A-Z_]+(?:\[\w+\])?$")
"""What is text already, or a constant of ours."""


def _is_a_count(value: ast.expr) -> bool:
    """A whole number, as far as its format tells."""
    assert isinstance(value, ast.FormattedValue)
    form = ast.unparse(value.format_spec) if value.format_spec else ""
    whole = not set(form) & set("%.>") and value.conversion == -1
    return whole and not TEXT.match(ast.unparse(value.value))


def test_the_rule_below_finds_what_it_looks_for() -> None:
    assert list(counted("f'{n:,} more traces'")) and list(counted("f'{a} of {n} problems left'"))
    assert not list(counted("f'{plural(n, \"trace\")} left'")) and not list(counted("f'{a} is'"))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.stem)
def test_what_is_counted_goes_through_plural(path: Path) -> None:
    assert list(counted(path.read_text(encoding="utf-8"))) == []
