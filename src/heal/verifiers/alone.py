"""math-verify by itself, with its own defaults: the second reading beside our own rules.

In: a trace, or a bare answer in a box, and the gold answer. Out: correct or wrong; what it cannot
parse is wrong, and what it fails on is `UNVERIFIABLE`. Runs in a worker process.
"""

import logging

from heal.records import Verdict
from heal.verifiers.math import limit_memory
from heal.verifiers.worker import Judge

OPENER = "heal.verifiers.alone:open_judge"


def open_judge() -> Judge:
    """Import math-verify and return the judge."""
    limit_memory()
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def judge(candidate: str | None, reference: str) -> tuple[str, str | None]:
        wanted = parse(f"\\boxed{{{reference}}}")
        if not any(not isinstance(part, str) for part in wanted):
            return Verdict.WRONG, "math-verify cannot read the gold answer"
        read = wanted if candidate is None else parse(candidate)
        if verify(wanted, read):
            return Verdict.CORRECT, "equal by math-verify"
        return Verdict.WRONG, "not equal by math-verify" if read else "math-verify reads no answer"

    return judge
