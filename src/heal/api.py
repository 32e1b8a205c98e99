"""What `import heal` gives: a whole run in one call, or one module of the method on arrays.

In and out: plain lists, strings and NumPy arrays; no recipe, run folder or model is needed but for
`distill` and `open_run`. Tokens are `str` or UTF-8 `bytes`, log-probs and entropies in nats at
temperature 1, steps numbered from 1. `docs/api.md` is generated from this module.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heal.config import Pure
from heal.method import gear, segments
from heal.method import pure as pure_module
from heal.method.answers import states_answer
from heal.method.ceiling import ceiling
from heal.method.claims import worst_result
from heal.method.entropy import entropy_bounds, step_values
from heal.method.gear import Break
from heal.method.metrics import pass_at_k
from heal.records import (
    Breakpoint,
    PureScore,
    Selection,
    StepEntropy,
    StepWord,
    Stratum,
    Verdict,
)
from heal.report.view import RunView
from heal.steps import first_wrong_step as _first_wrong_step
from heal.verifiers import verify_answer

__all__ = [
    "Filtered",
    "ScoredTrace",
    "distill",
    "entropy_bounds",
    "find_breakpoint",
    "first_wrong_step",
    "open_run",
    "pass_at_k",
    "pure",
    "split_steps",
    "stratum",
    "verify_answer",
]

Token = str | bytes
Reading = Literal["surprisal", "worst_result", "mean_nll", "max_ppl", "length"]
"""What PURE can read from log-probs alone; the ratio needs probes, hence a run."""


class _Logged:
    """An observer that shows no progress; what a stage did goes to the log."""

    def begin(self, stage: str, total: int, unit: str = "items") -> None:
        """Not shown."""

    def stored(self, count: int) -> None:
        """Not shown."""

    def advance(self, count: int = 1) -> None:
        """Not shown."""

    def arrived(self, outcome: str, tokens: int) -> None:
        """Not shown."""

    def waiting(self, count: int) -> None:
        """Not shown."""

    def end(self, stage: str, line: str) -> None:
        """A stage's counts."""
        logging.getLogger("heal").info("%s: %s", stage, line)

    def say(self, text: str) -> None:
        """Something a person should know."""
        logging.getLogger("heal").warning("%s", text)


def distill(recipe: str | Path, *overrides: str, until: str | None = None) -> RunView:
    """Run a recipe, or continue it, and return its results; what `heal run -c RECIPE` does.

    overrides: `"gear.target=4"` and the like; until: the last stage to run, None for all. A
    function the recipe names runs only after `heal.functions.allow_code()`. What each stage did
    goes to the log `heal`.
    Raises: HealError with a message and a hint; after most of them the same call continues.
    """
    from heal.execute import execute
    from heal.recipe import load

    return execute(load(recipe, overrides), _Logged(), until=until)


def open_run(folder: str | Path) -> RunView:
    """What a run folder holds: counts, a few broken traces, students with intervals.

    Nothing is run or changed. Raises: UserError where there is no run.
    """
    from heal.report.load import load_view
    from heal.store import Store

    with Store.open(Path(folder), write=False) as store:
        return load_view(store)


def split_steps(
    tokens: Sequence[Token], *, min_tokens: int = 8, max_tokens: int = 512
) -> list[int]:
    """Where a trace's steps end: int[K], token indices, one past each step's last token.

    Blank lines end a step; steps under `min_tokens` join the next one, those over `max_tokens` are
    split at sentence ends. Code fences and `$$…$$` stay whole. Raises: TypeError for a single text.

    >>> heal.split_steps(["2", "+", "2", "=", "4", "\\n\\n", "So", " 4"], min_tokens=2)
    [6, 8]
    """
    return segments.split_steps(_bytes(tokens), min_tokens=min_tokens, max_tokens=max_tokens)


def find_breakpoint(
    entropies: Sequence[float] | NDArray[Any],
    step_ends: Sequence[int],
    *,
    upper: Sequence[float] | NDArray[Any] | None = None,
    statistic: str = "difference",
    window: float = gear.THIRD,
    step_entropy: str = "mean",
) -> Break:
    """Where a failed trace broke: GEAR's cut, by the largest surge of entropy between steps.

    entropies: float[T], nats, of each token; with `upper` they are lower bounds, as
    `entropy_bounds` gives them. step_ends: int[K] from `split_steps`. statistic: `difference`,
    `zscore`, `cusum`, or a control (`random`, `fixed_third`, `restart`); window: the share of
    the trace looked at; step_entropy: `mean` or `top20`. The result's `step` is the first one to
    drop, `margin` by how much it won, `fallback` why it is not the statistic's choice.
    Raises: ValueError for lengths that do not fit, or an unknown name. Source: docs/method.md §2.

    >>> entropies = [0.1, 0.1, 0.2, 0.1, 2.0, 1.5, 0.3, 0.1]
    >>> found = heal.find_breakpoint(entropies, [2, 4, 6, 8], window=1)
    >>> found.step, round(found.margin, 2)
    (3, 1.55)
    """
    low = _of_length(entropies, step_ends[-1] if len(step_ends) else 0, "entropies")
    high = low if upper is None else _of_length(upper, len(low), "upper")
    kind = StepEntropy(step_entropy)
    return gear.find_breakpoint(
        step_values(low, step_ends, kind),
        step_values(high, step_ends, kind),
        step_ends,
        kind=Breakpoint(statistic),
        window=window,
    )


def first_wrong_step(steps: Sequence[str], problem: str = "") -> StepWord:
    """The first step that asserts a false equation, by exact arithmetic.

    steps: text[K]. The result's `outcome` is `wrong_step` (with its number in `step` and the
    equation in `detail`), `none_found`, or `cannot_tell` where no equation could be checked.

    >>> word = heal.first_wrong_step(["4 * 387 = 1588", "so 1588 + 573 = 2161"])
    >>> word.step, word.detail
    (1, '4 * 387 = 1588')
    """
    return _first_wrong_step(steps, problem)


def stratum(verdicts: Sequence[str]) -> Stratum:
    """How hard a problem is for its teacher, from its verdicts: easy, hard, extreme, …

    verdicts: `correct`, `wrong`, `no_answer`, `truncated` or `unverifiable` of each attempt.
    Raises: ValueError for other words. Source: docs/method.md §1.

    >>> heal.stratum(["wrong"] * 15 + ["correct"]).value
    'extreme'
    """
    return ceiling("", [Verdict(word) for word in verdicts], len(verdicts)).stratum


@dataclass(frozen=True)
class ScoredTrace:
    """A trace with what an unhinted teacher thinks of it: what `pure` reads."""

    tokens: Sequence[Token]
    """[T], in order; joined they are the trace."""
    logprobs: Sequence[float] | NDArray[Any]
    """float[T], nats: ln p of each token after the problem alone, no hint in view."""
    answer: str
    """The answer the trace ends in."""
    first_step: int = 1
    """The first step that is not kept from a failed trace; 1 for a whole one."""
    step_ends: Sequence[int] | None = None
    """int[K]; None: `split_steps` of the tokens."""


@dataclass(frozen=True)
class Filtered:
    """What PURE says of some traces, in their order."""

    scores: NDArray[np.float64]
    """float64[N], high is suspicious; inf where a trace offers nothing to read."""
    kept: NDArray[np.bool_]
    """bool[N]."""
    line: float | None
    """The score above which a trace is dropped; None: too few honest ones, so a share was."""


def pure(
    traces: Sequence[ScoredTrace],
    honest: Sequence[ScoredTrace] = (),
    *,
    reading: Reading = "surprisal",
    drop: float = 0.2,
) -> Filtered:
    """Tell breakthroughs from shortcuts by the teacher's own likelihoods.

    honest: right traces that were written without a hint; from 20 on they draw the line, with
    fewer the worst `drop` share goes. reading: `surprisal` (what the answer costs where it is
    written, the default), `worst_result` (what a claimed number costs), or a control.
    Raises: ValueError for lengths that do not fit. Source: docs/method.md §3.

    >>> tokens = ["Six", " sevens", " make", " 4", "2", "."]
    >>> derived = heal.ScoredTrace(tokens, [-0.2, -0.1, -0.1, -0.1, 0.0, -0.1], "42")
    >>> told = heal.ScoredTrace(tokens, [-0.2, -0.1, -0.1, -3.0, -2.0, -0.1], "42")
    >>> found = heal.pure([derived, told], honest=[derived] * 20, drop=0)
    >>> found.kept.tolist(), found.scores.round(1).tolist()
    ([True, False], [0.1, 5.0])
    """
    kind = Selection(reading)
    settings = Pure(selection=kind, drop=drop)
    profiles = [_profile(str(n), trace) for n, trace in enumerate(traces)]
    measure = pure_module.calibrate([_profile(str(n), x) for n, x in enumerate(honest)], settings)
    scores = pure_module.drop_scores(profiles, kind, settings, calibration=measure)
    names = {profile.trace: profile.problem_id for profile in profiles}
    dropped = pure_module.dropped_by(scores, names, kind, settings, measure)
    line = measure.lines.get(kind)
    used = line is not None and pure_module.fits(scores, line, settings)
    return Filtered(
        np.array([scores[name] for name in names], np.float64),
        np.array([name not in dropped for name in names], bool),
        line if used else None,
    )


def _profile(name: str, trace: ScoredTrace) -> PureScore:
    pieces = _bytes(trace.tokens)
    logprobs = _of_length(trace.logprobs, len(pieces), "logprobs")
    ends = trace.step_ends or segments.split_steps(pieces, min_tokens=8, max_tokens=512)
    starts = [0, *ends[:-1]]
    texts = [
        b"".join(pieces[a:b]).decode(errors="replace") for a, b in zip(starts, ends, strict=True)
    ]
    return PureScore(
        key=name,
        problem_id="",
        trace=name,
        log_ppl=step_values(-logprobs, ends, StepEntropy.MEAN),
        uncertainty=np.full(len(ends) + 1, np.nan, np.float32),
        step_tokens=np.diff([0, *ends]).tolist(),
        first_step=trace.first_step,
        scorable=[not states_answer(text, trace.answer) for text in texts],
        answer_surprisal=pure_module.step_surprisal(pieces, logprobs, ends, trace.answer),
        worst_result=worst_result(logprobs, ends, pieces, trace.first_step),
    )


def _bytes(tokens: Sequence[Token]) -> list[bytes]:
    if isinstance(tokens, str | bytes):
        raise TypeError("give the tokens one by one, not as one text")
    return [token.encode() if isinstance(token, str) else token for token in tokens]


def _of_length(
    values: Sequence[float] | NDArray[Any], length: int, name: str
) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    if array.shape != (length,):
        raise ValueError(f"{name}: shape {array.shape} where ({length},) is needed")
    return array
