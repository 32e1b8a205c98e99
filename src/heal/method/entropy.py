"""Entropies: from a token's distribution to a step's number, all in nats.

In: per-token entropies, or the top-k log-probs an engine returned instead. Out: per-step values
and, where only the top k are known, bounds that hold whatever the tail looks like. Log-probs must
be at temperature 1 over the full vocabulary; tempered ones would give bounds of something else.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal.records import FloatArray, StepEntropy

TOP_SHARE = 5
"""`top20` averages one token in five, rounded up: the forking tokens."""
ROUNDING = 1e-4


def entropy_bounds(
    topk_logprobs: NDArray[Any],
    vocabulary: int,
    sampled_logprob: NDArray[Any] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound of H = −Σ p ln p for each token, float32[T].

    topk_logprobs: float[T, k], the k largest, padded with −inf. With known mass 1 − r and
    H_k = −Σ p_i ln p_i over the known,

        lo = H_k − r ln min(p_k, r)          (no tail token is likelier than p_k)
        hi = H_k − r ln r + r ln(V − known)  (the tail is even)

    sampled_logprob: float[T]; a sampled token below the top k joins the known ones.
    Source: docs/method.md §2.2.
    """
    known = np.asarray(topk_logprobs, np.float64)
    kth = np.where(np.isfinite(known), known, np.inf).min(axis=1)
    if sampled_logprob is not None:
        sampled = np.asarray(sampled_logprob, np.float64)
        # the kth itself, rounded on its way here, must not count twice; leaving one out is safe
        outside = np.where(sampled < kth - ROUNDING, sampled, -np.inf)
        known = np.concatenate([known, outside[:, None]], axis=1)
    mass = np.exp(known)
    tail = np.clip(1 - mass.sum(axis=1), 0, 1)
    head_entropy = -(mass * np.where(mass > 0, known, 0)).sum(axis=1)
    unknown = np.maximum(vocabulary - (mass > 0).sum(axis=1), 1)
    safe = np.where(tail > 0, tail, 1)
    lo = head_entropy - tail * np.log(np.minimum(np.exp(kth), safe))
    hi = head_entropy - tail * np.log(safe) + tail * np.log(unknown)
    return lo.astype(np.float32), np.maximum(lo, hi).astype(np.float32)


def answer_entropy(answers: Sequence[str]) -> float:
    """Entropy of a few sampled answers, in nats: −Σ f ln f over the share f of each.

    Of n samples it can be at most ln n, and is too low by about (kinds − 1) / 2n on average.
    Raises: ValueError without answers.
    """
    if not answers:
        raise ValueError("the entropy of no answers")
    shares = np.array(list(Counter(answers).values())) / len(answers)
    return float(-(shares * np.log(shares)).sum())


def step_values(
    token_values: FloatArray, step_ends: Sequence[int], kind: StepEntropy
) -> FloatArray:
    """E_k for each step, float32[K]: the mean of its tokens, or of their highest 20 %.

    Both are monotone, so bounds of the tokens give bounds of the step. Source: docs/method.md §2.
    """
    values = np.asarray(token_values, np.float64)
    steps = np.split(values, np.asarray(step_ends, np.int64))[: len(step_ends)]
    if kind is StepEntropy.TOP20:
        steps = [np.sort(step)[::-1][: math.ceil(len(step) / TOP_SHARE)] for step in steps]
    return np.array([step.mean() for step in steps], np.float32)
