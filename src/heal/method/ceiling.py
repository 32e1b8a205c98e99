"""The teacher ceiling: how the unaided teacher fares on one problem, and its stratum.

In: the verdicts of a problem's traces. Out: one `Ceiling`. A trace nobody could judge counts
neither for nor against the teacher; a problem with too few judged traces is in no stratum.
"""

from collections.abc import Sequence

from heal.records import Ceiling, Stratum, Verdict

HARD_BELOW = 0.5
EXTREME_SHARE = 1 / 30
JUDGED_SHARE = 1 / 3
"""At least this share of the planned traces must be judged: 10 of 30."""


def ceiling(problem_id: str, verdicts: Sequence[Verdict], planned: int) -> Ceiling:
    """Count verdicts and place the problem: easy ρ ≥ 0.5, hard below, extreme c ≤ max(1, N/30).

    ρ = c / (n − truncated − unverifiable); `no_answer` is judged, and not correct. `planned` is N,
    so traces lost to errors make a problem undetermined, never easier. Source: docs/method.md §1.
    """
    n = len(verdicts)
    correct = sum(v is Verdict.CORRECT for v in verdicts)
    truncated = sum(v is Verdict.TRUNCATED for v in verdicts)
    unverifiable = sum(v is Verdict.UNVERIFIABLE for v in verdicts)
    judged = n - truncated - unverifiable
    rho = correct / judged if judged else None
    if truncated > n / 2:
        stratum = Stratum.TRUNCATED
    elif rho is None or judged < planned * JUDGED_SHARE:
        stratum = Stratum.UNDETERMINED
    elif rho >= HARD_BELOW:
        stratum = Stratum.EASY
    else:
        few = correct <= max(1, planned * EXTREME_SHARE)
        stratum = Stratum.EXTREME if few else Stratum.HARD
    return Ceiling(problem_id, n, correct, truncated, unverifiable, stratum, rho)
