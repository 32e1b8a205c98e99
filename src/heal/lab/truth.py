"""The truth of a lab trace, judged from its text alone.

In: a problem's text and a trace's text. Out: a `Truth`: whether every step is true and what it goes
on with explains everything given, where it first goes wrong, and what it answers. Steps are the
blank-line pieces of the trace, counted from 0.
"""

from __future__ import annotations

from heal.lab.world import Truth, split_steps
from heal.lab.worlds import parse

__all__ = ["Truth", "judge", "split_steps"]


def judge(problem_text: str, trace_text: str) -> Truth:
    """Read a trace step by step. Raises: ValueError if the problem is not one of the lab's."""
    world, problem = parse(problem_text)
    return world.judge(problem, trace_text)
