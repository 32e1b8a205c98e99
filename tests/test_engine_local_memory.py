"""What the local engine keeps in memory: bounds on rows, prompts kept for later, slabs cut down."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny_models import make_checkpoint

from heal.config import LocalEngine as Settings
from heal.engines.base import GenRequest, Sampling
from heal.engines.local import memory
from heal.engines.local.cohort import Cohort
from heal.engines.local.decode import DecodeLoop, Policy
from heal.engines.local.engine import LocalEngine, open_local
from heal.engines.local.native import NativeModel
from heal.engines.local.standard import StandardModel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def engine(checkpoint: Path) -> Iterator[LocalEngine]:
    threads = torch.get_num_threads()
    yield open_local(str(checkpoint), Settings(rows=64, threads=1))
    torch.set_num_threads(threads)


def native(engine: LocalEngine) -> NativeModel:
    assert isinstance(engine.model, NativeModel)
    return engine.model


def asked(engine: LocalEngine, name: str, n: int, tokens: int = 12) -> GenRequest:
    drawn = Sampling(temperature=0.9, max_new_tokens=tokens)
    return GenRequest(name, engine.render(name), tuple(range(n)), drawn)


def widest(engine: LocalEngine, kv_bytes: int | None, requests: list[GenRequest]) -> int:
    """The most rows alive at once; every row must be written all the same."""
    seen = []

    class Watching(DecodeLoop):
        def _step(self) -> Any:
            seen.append(self.rows.alive_count)
            return super()._step()

    policy = Policy(rows=64, end_ids=engine.end_ids, prefill_tokens=512, kv_bytes=kv_bytes)
    found = list(Watching(native(engine), policy, requests, lambda _: None).run())
    assert len(found) == sum(len(r.seeds) for r in requests)
    assert all(g.error is None for g in found)
    return max(seen)


def test_a_token_of_keys_and_values_is_as_large_as_its_tensors(engine: LocalEngine) -> None:
    (start,) = native(engine).prefill([(5, 6, 7)])
    assert native(engine).token_bytes * 3 == start.k.nbytes + start.v.nbytes  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_the_plain_path_knows_its_bytes_per_token(tmp_path: Path, kind: str) -> None:
    from heal.engines.local import loading

    folder = make_checkpoint(tmp_path, kind)
    module = loading.load_module(loading.locate(str(folder)), "float32", "cpu")
    model = StandardModel(module, 64)
    (start,) = model.prefill([(5, 6, 7)])
    layers = start.cache.layers  # type: ignore[attr-defined]
    assert model.token_bytes * 3 == sum(x.keys.nbytes + x.values.nbytes for x in layers)


def test_rows_that_do_not_fit_in_memory_wait(engine: LocalEngine) -> None:
    requests = [asked(engine, f"p{i}", 6, tokens=20) for i in range(6)]
    assert widest(engine, None, requests) == 36
    row, prompt = 20 * native(engine).token_bytes, len(requests[0].prompt_ids)
    budget = 9 * row + 2 * prompt * native(engine).token_bytes
    assert widest(engine, budget, requests) == 9


def test_a_row_larger_than_the_memory_runs_alone(engine: LocalEngine) -> None:
    assert widest(engine, 1, [asked(engine, "p", 3)]) == 1


def test_what_fits_in_memory_does_not_change_what_is_written(engine: LocalEngine) -> None:
    requests = [asked(engine, f"p{i}", 5, tokens=20) for i in range(4)]
    tight = LocalEngine(
        native(engine), engine.tokens, "tight", Settings(rows=64, memory_gb=1e-4, threads=1)
    )
    free, bound = (
        {(g.request, g.index): g.ids.tolist() for g in e.generate(requests)}
        for e in (engine, tight)
    )
    assert free == bound


def test_free_memory_is_half_of_what_the_system_and_the_container_leave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert memory.kv_bytes(2.0, CPU) == 2 << 30
    assert 0 < memory.free_bytes(CPU) < 1 << 46
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.kv_bytes(None, CPU) == 300
    (tmp_path / "memory.stat").write_text("anon 50\nactive_file 50\ninactive_file 300\n")
    assert memory.kv_bytes(None, CPU) == 450
    (tmp_path / "memory.stat").unlink()
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.kv_bytes(None, CPU) > 300
    assert memory._available(tmp_path / "nothing") is None


def test_candidates_of_one_path_prefill_it_once_over_many_calls(engine: LocalEngine) -> None:
    path = (*engine.render("a long question"), *range(5, 105))
    before = native(engine).prefilled
    for candidate in range(20):
        drawn = Sampling(temperature=0.9, max_new_tokens=4)
        list(engine.generate([GenRequest(f"c{candidate}", path, (candidate,), drawn)]))
    assert native(engine).prefilled - before == len(path)


def test_equal_prompts_of_one_call_are_prefilled_once(engine: LocalEngine) -> None:
    before = native(engine).prefilled
    starts = native(engine).prefill([(9, 8, 7), (5, 6), (9, 8, 7)])
    assert native(engine).prefilled - before == 5
    assert starts[0] is starts[2]


def test_a_kept_prompt_writes_what_a_fresh_one_writes(
    engine: LocalEngine, checkpoint: Path
) -> None:
    requests = [asked(engine, "p" * k, 4, tokens=30) for k in range(1, 6)]
    first, second = (
        {(g.request, g.index): g.ids.tolist() for g in engine.generate(requests)} for _ in range(2)
    )
    assert first == second


def test_prompts_beyond_the_limit_are_forgotten_oldest_first(engine: LocalEngine) -> None:
    model = native(engine)
    (start,) = model.prefill([(1, 2, 3, 4)])
    model.prefixes.kept.clear()
    model.prefixes.held, model.prefixes.limit = 0, 2 * start.nbytes  # type: ignore[attr-defined]
    for ids in ((1, 2, 3, 4), (2, 2, 3, 4), (1, 2, 3, 4), (3, 2, 3, 4)):
        model.prefill([ids])
    assert list(model.prefixes.kept) == [(1, 2, 3, 4), (3, 2, 3, 4)]
    model.prefill([tuple(range(100))])  # larger than the limit
    assert model.prefixes.held == 2 * start.nbytes  # type: ignore[attr-defined]


def test_a_slab_is_cut_down_as_its_rows_end(engine: LocalEngine) -> None:
    model = native(engine)
    rows = model.fork(model.prefill([(1, 2, 3)]), [16])
    assert isinstance(rows, Cohort)
    with torch.inference_mode():
        whole = model.step([rows], torch.arange(5, 21)).clone()
        held = rows.k[:, :, :, : rows.length].clone()
        order = rows.keep(np.arange(16) % 4 == 1)
        assert rows.k.shape[1] == 4
        assert torch.equal(rows.k[:, :, :, : rows.length], held[:, order])
    assert whole.shape[0] == 16
