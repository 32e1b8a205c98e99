"""`import heal`: about a dozen names, pinned here; each documented, with examples that run."""

import dataclasses
import doctest
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.scripted_run import ScriptedRun
from tests.test_docs import DOCS, REGENERATE, WRITE

import heal
from heal import api
from heal.records import Verdict

PINNED = {
    "Filtered": "(scores, kept, line)",
    "ScoredTrace": "(tokens, logprobs, answer, first_step=1, step_ends=None)",
    "distill": "(recipe, *overrides, until=None)",
    "entropy_bounds": "(topk_logprobs, vocabulary, sampled_logprob=None)",
    "find_breakpoint": (
        "(entropies, step_ends, *, upper=None, statistic='difference', "
        "window=0.3333333333333333, step_entropy='mean')"
    ),
    "first_wrong_step": "(steps, problem='')",
    "open_run": "(folder)",
    "pass_at_k": "(n, correct, k)",
    "pure": "(traces, honest=(), *, reading='surprisal', drop=0.2)",
    "split_steps": "(tokens, *, min_tokens=8, max_tokens=512)",
    "stratum": "(verdicts)",
    "verify_answer": "(answer_text, gold, verifier='math')",
}
"""Whoever changes one of these breaks somebody's notebook: say so in CHANGELOG.md."""


def bare_signature(name: str) -> str:
    """A signature without annotations."""
    empty = inspect.Signature.empty
    signature = inspect.signature(getattr(heal, name))
    bare = [p.replace(annotation=empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=empty))


def page() -> str:
    head = (
        "# Python API\n\nWhat `import heal` gives: a whole run in one call, or one module of the"
        " method on arrays.\nTokens are `str` or UTF-8 `bytes`; log-probs and entropies are in"
        " nats at temperature 1; steps are\nnumbered from 1. The other modules are internal and"
        " may change without notice.\n"
    )
    return head + "".join(f"\n## {name}\n\n{entry(name)}" for name in sorted(PINNED))


def entry(name: str) -> str:
    """Signature, docstring with its examples fenced, fields of a dataclass."""
    found = getattr(heal, name)
    text = inspect.cleandoc(found.__doc__ or "")
    words, _, examples = text.partition(">>> ")
    shown = f"```text\nheal.{name}{bare_signature(name)}\n```\n\n{words.strip()}\n"
    if examples:
        shown += f"\n```pycon\n>>> {examples.strip()}\n```\n"
    if dataclasses.is_dataclass(found):
        shown += "\n| field | meaning |\n|---|---|\n"
        shown += "".join(f"| `{field}` | {meaning} |\n" for field, meaning in notes(found))
    return shown


def notes(kind: type) -> Iterator[tuple[str, str]]:
    """Each field of a dataclass with what stands under it in the source."""
    source = inspect.getsource(kind)
    for field in dataclasses.fields(kind):
        found = re.search(rf'^    {field.name}: [^\n]*\n    """(.*?)"""', source, re.M | re.S)
        assert found, f"{kind.__name__}.{field.name} is not documented"
        yield field.name, " ".join(found[1].split())


def test_the_names_and_their_signatures_are_these() -> None:
    assert sorted(api.__all__) == sorted(PINNED)
    assert {name: bare_signature(name) for name in PINNED} == PINNED
    assert set(dir(heal)) == {*PINNED, "__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = heal.nothing_like_it


def test_importing_heal_loads_nothing_else() -> None:
    code = "import sys, heal; sys.exit(any(m in sys.modules for m in ('numpy', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_example_in_the_docstrings_runs() -> None:
    found = doctest.testmod(api, extraglobs={"heal": heal})
    assert found.attempted >= 8
    assert found.failed == 0


def test_the_page_is_current() -> None:
    file = DOCS / "api.md"
    if os.environ.get(WRITE):
        file.write_text(page(), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == page(), f"docs/api.md is {REGENERATE}"


def test_a_recipe_runs_and_its_folder_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ScriptedRun(tmp_path)
    monkeypatch.chdir(tmp_path)
    view = heal.distill("recipe.yaml", until="verify")
    again = heal.open_run("run")
    assert view.stopped is not None
    assert view.traces == again.traces
    assert {count.verdict for count in again.traces} >= {Verdict.CORRECT, Verdict.WRONG}


def test_bounds_of_entropies_cut_where_the_entropies_do() -> None:
    entropies = np.array([0.1, 0.2, 0.1, 0.1, 1.9, 1.8, 0.2, 0.2], np.float32)
    ends = [2, 4, 6, 8]
    exact = heal.find_breakpoint(entropies, ends, window=1)
    bounded = heal.find_breakpoint(entropies - 0.05, ends, upper=entropies + 0.05, window=1)
    assert exact.step == bounded.step == 3
    assert bounded.margin < exact.margin


def test_a_window_is_a_share_of_the_trace() -> None:
    late = [0.1, 0.1, 0.1, 0.2, 0.1, 0.1, 3.0, 3.0]
    assert heal.find_breakpoint(late, [2, 4, 6, 8], window=1).step == 4
    assert heal.find_breakpoint(late, [2, 4, 6, 8]).step == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: heal.find_breakpoint([0.1, 0.2], [3]), r"shape \(2,\) where \(3,\)"),
        (lambda: heal.find_breakpoint([0.1], [1], statistic="surge"), "surge"),
        (lambda: heal.stratum(["right"]), "right"),
        (lambda: heal.pure([heal.ScoredTrace(["4"], [-1.0, -2.0], "4")]), "logprobs"),
        (lambda: heal.split_steps("one text"), "one by one"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(call: object, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        call()  # type: ignore[operator]


def told(n: int) -> heal.ScoredTrace:
    """A trace whose answer cost n nats where it was written."""
    return heal.ScoredTrace(["The", " sum", " is", " 96", "."], [-0.1, -0.1, -0.1, -n, -0.1], "96")


def test_few_honest_traces_draw_no_line_and_a_share_goes() -> None:
    found = heal.pure([told(n) for n in range(5)], honest=[told(0)] * 19)
    assert found.line is None
    assert found.kept.tolist() == [True] * 4 + [False]


def test_honest_traces_draw_the_line() -> None:
    found = heal.pure([told(n) for n in range(5)], honest=[told(2)] * 20)
    assert found.line == pytest.approx(2.0)
    assert found.kept.tolist() == [True, True, True, False, False]
