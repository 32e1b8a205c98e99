"""How a trace file is read, in lines for a person, before a run has it.

In: the `problems` settings. Out: lines: form, problems, traces, how they ended, what is left out.
Opens no model, so nothing is tokenised, and no verifier.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from heal.config import Problems
from heal.data.preview import shown
from heal.data.problems import read_problems
from heal.data.trace_formats import Given, LeftOut
from heal.data.traces import Ending, Matcher, TraceFile
from heal.errors import UserError
from heal.records import Finish
from heal.wording import plural

_START = 160


def lines_of(settings: Problems) -> Iterator[str]:
    """What a run would import. Raises: UserError."""
    assert settings.traces is not None, "the verb names a file"
    file = TraceFile(settings.traces, Path.cwd())
    try:
        problems = read_problems(settings, Path.cwd())
    except UserError as error:
        # the traces can be shown without their problems, but not verified
        yield f"problems: {error}" + (f" ({error.hint})" if error.hint else "")
        problems = None
    matcher = Matcher(problems.problems) if problems else None
    ending = Ending(settings.traces, problems.verifier if problems else "math")
    counts, first = Counter[str](), None
    for found in file.rows():
        counts["rows"] += 1
        if matcher is not None and matcher.find(found) is None:
            counts["rows whose problem is not used"] += 1
        for one in found.traces:
            if isinstance(one, LeftOut):
                counts[f"not imported: {one.reason}"] += 1
                continue
            text, finish = ending.of(one)
            first = first or (found.place, one)
            finish = finish or ending.derive(text, 0)
            counts["traces that ended by themselves"] += finish is Finish.STOP
            counts["traces that were cut off"] += finish is Finish.LENGTH
            counts["traces with a verdict of the file's own"] += one.said is not None
    yield f"{settings.traces.path}: read as {file.form.name if file.form else 'nothing'}"
    if problems is not None:
        yield f"problems: {problems.summary}; verifier: {problems.verifier}"
    for text, count in (*counts.items(), *ending.counted.items()):
        if count:
            yield f"  {count:>9,}  {shown(text)}"
    if first is not None:
        yield from _example(*first)
    yield ""
    yield f"nothing was imported; into a run: heal import {settings.traces.format} " + (
        f"{settings.traces.path} -c RECIPE.yaml"
    )


def _example(place: str, one: Given) -> Iterator[str]:
    yield ""
    yield f"the first trace, at {place}: {plural(len(one.text), 'character')}"
    ends = (
        one.text if len(one.text) <= 2 * _START else f"{one.text[:_START]} … {one.text[-_START:]}"
    )
    yield from (f"    {shown(line)}" for line in ends.split("\n"))
