"""What is left of several cohorts goes on as one, and writes what it would have written apart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_models import make_checkpoint

from heal.config import LocalEngine as Settings
from heal.engines.base import GenRequest, Sampling
from heal.engines.local import cohort as cohorts
from heal.engines.local.cohort import Cohort, consolidated
from heal.engines.local.engine import LocalEngine, open_local
from heal.engines.local.native import NativeModel


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    threads = torch.get_num_threads()
    folder: Path = make_checkpoint(tmp_path_factory.mktemp("llama"))
    yield open_local(str(folder), Settings(rows=16, threads=1))
    torch.set_num_threads(threads)


def grown(model: NativeModel, prompt: tuple[int, ...], rows: int, length: int) -> Cohort:
    """Rows that have written `length` tokens each, no two alike."""
    cohort = model.fork(model.prefill([prompt]), [rows])
    assert isinstance(cohort, Cohort)
    for position in range(length):
        model.step([cohort], torch.arange(rows) * 7 % 90 + position % 50 + 5)
    return cohort


lengths = st.lists(st.integers(0, 20), min_size=2, max_size=4)


@settings(max_examples=10, deadline=None)
@given(lengths, st.sampled_from([[2, 3, 4, 2], [4, 2, 2, 3], [1, 1, 1, 1]]), st.integers(0, 99))
def test_joined_rows_see_what_they_saw_apart(
    engine: LocalEngine, written: list[int], rows: list[int], seed: int
) -> None:
    model = engine.model
    assert isinstance(model, NativeModel)
    prompts = [tuple(range(5, 8 + 9 * i)) for i in range(len(written))]
    with mock.patch.object(cohorts, "_FIRST_COLUMNS", 8):
        apart, together = (
            [grown(model, p, rows[i], written[i]) for i, p in enumerate(prompts)] for _ in range(2)
        )
    whole = together[0]
    for other in together[1:]:
        whole = whole.joined(other)
    alive = np.random.default_rng(seed).random(whole.rows) < 0.7
    alive[0] = True
    for turn in range(16):  # past the next growth of the slab
        fed = torch.arange(sum(c.rows for c in apart)) % 80 + turn % 11 + 5
        expected = model.step(apart, fed).clone()
        torch.testing.assert_close(model.step([whole], fed), expected, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        order = whole.keep(alive)
    fed = torch.arange(len(expected)) % 80 + 5
    expected = model.step(apart, fed).clone()
    found = model.step([whole], fed[torch.from_numpy(order)])
    torch.testing.assert_close(found, expected[order], atol=1e-4, rtol=1e-4)


def test_rows_are_joined_only_where_the_padding_is_cheap(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine.model
    assert isinstance(model, NativeModel)
    token = 2 * model.body.heads.kv * model.body.heads.dim * 4
    sizes = ((30, 2), (20, 3), (5, 2))  # tokens written, rows
    parts = [grown(model, (5, 6, 7), rows, length) for length, rows in sizes]
    monkeypatch.setattr(cohorts, "_READ_FOR_A_ROUND", 30 * token)
    assert [c.rows for c in consolidated(parts)] == [5, 2]
    monkeypatch.setattr(cohorts, "_COPIED_FOR_A_ROUND", 10 * token)
    assert [c.rows for c in consolidated(parts)] == [2, 3, 2]


def test_a_row_alone_and_a_row_beside_others_see_the_same(engine: LocalEngine) -> None:
    model = engine.model
    assert isinstance(model, NativeModel)
    prompt = tuple(range(5, 60))
    alone, beside = grown(model, prompt, 1, 0), grown(model, prompt, 2, 0)
    assert alone.length == len(prompt) and beside.length == 0
    for token in range(5, 90):
        first, second = (
            model.step([c], torch.full((c.rows,), token))[0].clone() for c in (alone, beside)
        )
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    assert [c.rows for c in consolidated([alone, beside])] == [1, 2]


def test_many_stragglers_share_a_cohort_and_write_the_same(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = [0]
    step = NativeModel.step

    def watched(self: NativeModel, memories: Any, tokens: Any) -> Any:
        most[0] = max(most[0], len(memories))
        return step(self, memories, tokens)

    monkeypatch.setattr(NativeModel, "step", watched)
    asked = [
        GenRequest(f"r{i}", engine.render("w" * i), (i, 50 + i), Sampling(max_new_tokens=9 + 7 * i))
        for i in range(1, 14)
    ]

    def written() -> dict[tuple[str, int], list[int]]:
        return {(g.request, g.index): g.ids.tolist() for g in engine.generate(asked)}

    joined, joined_cohorts = written(), most[0]
    most[0] = 0
    monkeypatch.setattr(NativeModel, "consolidate", lambda self, memories: list(memories))
    assert written() == joined
    assert joined_cohorts < most[0]
