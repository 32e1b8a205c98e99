"""Named benchmarks: where their problems are, and under which licence.

A name stands for a data set on the Hub, which is read from the cache of `datasets` where there is
no network. A copy at hand is read like any problem file. Ids, splits and fields are those that
lighteval 0.13 and evalscope 1.14 use; licences are those of the data sets' own cards.
"""

import difflib
from dataclasses import dataclass
from typing import Any

from heal.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """One data set to be examined on."""

    hub: str
    split: str
    fields: dict[str, str]
    """Field → column."""
    problems: int
    licence: str
    subset: str | None = None
    verifier: str = "math"


_PLAIN = {"problem": "problem", "answer": "answer"}
_ARENA = "CC BY-NC-SA 4.0"

BENCHMARKS = {
    "math-500": Benchmark("HuggingFaceH4/MATH-500", "test", _PLAIN, 500, "none stated (MATH: MIT)"),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "train", _PLAIN, 30, "none stated"),
    "aime25": Benchmark("MathArena/aime_2025", "train", _PLAIN, 30, _ARENA),
    "aime26": Benchmark("MathArena/aime_2026", "train", _PLAIN, 30, _ARENA),
    "amc23": Benchmark(
        "zwhe99/amc23", "test", {"problem": "question", "answer": "answer"}, 40, "none stated"
    ),
    "hmmt-feb-25": Benchmark("MathArena/hmmt_feb_2025", "train", _PLAIN, 30, _ARENA),
    "hmmt-nov-25": Benchmark("MathArena/hmmt_nov_2025", "train", _PLAIN, 30, _ARENA),
    "hmmt-feb-26": Benchmark("MathArena/hmmt_feb_2026", "train", _PLAIN, 33, _ARENA),
    "olympiadbench": Benchmark(
        "Hothan/OlympiadBench", "train", {"problem": "question", "answer": "final_answer"}, 674,
        "Apache-2.0", subset="OE_TO_maths_en_COMP",
    ),
    "gpqa-diamond": Benchmark(
        "Idavidrein/gpqa", "train", {}, 198, "CC BY 4.0", subset="gpqa_diamond", verifier="choice"
    ),
}  # fmt: skip
"""By name. AIME, AMC and HMMT problems belong to their contests, whatever a card says."""


def settings_of(name: str) -> dict[str, Any]:
    """The `problems` settings of a named benchmark. Raises: UserError for a name of none."""
    found = BENCHMARKS.get(name.lower().replace("_", "-"))
    if found is None:
        near = difflib.get_close_matches(name.lower(), BENCHMARKS, n=1)
        raise UserError(
            f"{name}: neither a file, a folder nor a benchmark"
            + (f"; did you mean {near[0]}?" if near else ""),
            hint=f"give a problem file, hub:NAME, or one of {', '.join(BENCHMARKS)}",
        )
    return {
        "hub": found.hub,
        "subset": found.subset,
        "split": found.split,
        "fields": found.fields,
        "verifier": found.verifier,
    }
