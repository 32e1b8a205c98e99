"""One line per stage: what went in and what became of it, in counts that add up.

In: records. Out: text. Words for a person; nothing reads them back.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from heal.records import Cut, Finish, Hint, Trace


def tally(lead: str, unit: str, outcomes: Mapping[str, int]) -> str:
    """`240 problems · 7,200 traces: 7,100 stop · 100 length`; zero counts are left out."""
    total = sum(outcomes.values())
    parts = [
        f"{count:,} {str(name).replace('_', ' ')}"
        for name, count in sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    line = f"{total:,} {unit}" + (f": {' · '.join(parts)}" if parts else "")
    return f"{lead} · {line}" if lead else line


def finishes(traces: Mapping[str, Trace]) -> Counter[str]:
    """Traces by how they ended, in words."""
    words = {Finish.STOP: "complete", Finish.LENGTH: "truncated", Finish.LOOP: "looping"}
    return Counter(words.get(trace.finish, str(trace.finish)) for trace in traces.values())


def fallback_name(cut: Cut) -> str:
    """How a cut was found, in words."""
    if cut.fallback is not None:
        return f"fallback ({cut.fallback.replace('_', ' ')})"
    if np.isnan(cut.surge).all():
        return "blind"  # a control that does not ask the entropy
    return "undecided surge" if cut.undecided else "surge"


def hint_name(hint: Hint) -> str:
    """A hint's kind, and what it was to be if it fell back."""
    if hint.kind is hint.asked:
        return f"{hint.kind}, cut off" if hint.cut_off else hint.kind
    why = "failed" if hint.error else "leaking" if hint.leaks else "missing"
    return f"{hint.kind} for {why} {hint.asked}"
