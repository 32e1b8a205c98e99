"""The local engine's own promises: batching, dice, refusals and loading."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_models import make_checkpoint

from heal.config import Engines, ModelRef
from heal.config import LocalEngine as Settings
from heal.engines import model_files, open_engine, resolve_model
from heal.engines.base import Generated, GenRequest, Probe, Sampling, ScoreRequest
from heal.engines.local import attention, loading, sampling, trees
from heal.engines.local.cohort import _filled_holes
from heal.engines.local.decode import DecodeLoop, Policy
from heal.engines.local.engine import LocalEngine, open_local
from heal.engines.local.matrices import Dense, Int8, Packed, Watched, can_pack
from heal.engines.local.native import NativeModel
from heal.engines.local.rows import repeats_itself
from heal.engines.local.scoring import batches_by_length
from heal.engines.local.siblings import Family, families, ids_of
from heal.engines.local.standard import StandardModel
from heal.errors import CapabilityError, UserError
from heal.records import Finish


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[LocalEngine]:
    threads = torch.get_num_threads()
    yield open_local(str(checkpoint), Settings(rows=8, threads=1))
    torch.set_num_threads(threads)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def with_settings(engine: LocalEngine, **changes: Any) -> LocalEngine:
    assert engine.model is not None
    settings = engine.settings.model_copy(update=changes)
    return LocalEngine(engine.model, engine.tokens, engine.model_id, settings)


def asked(engine: LocalEngine, name: str, n: int, tokens: int = 12) -> GenRequest:
    drawn = Sampling(temperature=0.9, max_new_tokens=tokens)
    return GenRequest(name, engine.render(name), tuple(range(n)), drawn)


def by_index(found: Iterator[Generated]) -> dict[tuple[str, int], list[int]]:
    return {(g.request, g.index): g.ids.tolist() for g in found}


# ── batching ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_known_architectures_take_the_fast_path(tmp_path: Path, kind: str) -> None:
    changes = {"sliding_window": None} if kind == "mistral" else {}
    opened = open_local(str(make_checkpoint(tmp_path, kind, **changes)), Settings())
    assert isinstance(opened.model, NativeModel)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv", [1, 2, 6])
def test_heads_tied_or_not_and_any_grouping_score_as_transformers_does(
    tmp_path: Path, kind: str, tied: bool, kv: int
) -> None:
    folder = make_checkpoint(tmp_path, kind, tie_word_embeddings=tied, num_key_value_heads=kv)
    module = loading.load_module(loading.locate(str(folder)), "float32", "cpu")
    fast = NativeModel(loading.load_module(loading.locate(str(folder)), "float32", "cpu"), 256)
    ids = tuple(range(5, 45))
    asked = ScoreRequest("s", ids[:7], ids[7:], (Probe(0, (9, 8), 0), Probe(20, (9, 8, 7), 1)))
    (found,) = fast.score([Family((asked,), 0)])
    (expected,) = StandardModel(module, 256).score([Family((asked,), 0)])
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-4)
    np.testing.assert_allclose(found.entropy_lo, expected.entropy_lo, atol=1e-4)
    for mine, theirs in zip(found.probe_logprob, expected.probe_logprob, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_branches_in_many_blocks_score_as_each_probe_by_itself(checkpoint: Path) -> None:
    module = loading.load_module(loading.locate(str(checkpoint)), "float32", "cpu")
    plain = StandardModel(module, 256)
    fast = NativeModel(loading.load_module(loading.locate(str(checkpoint)), "float32", "cpu"), 256)
    dice = np.random.default_rng(4)
    requests = []
    # Out of order, of unlike lengths and beyond a block's edge; rows of one batch, unlike too.
    for name, length, count in (("a", 60, 31), ("b", 24, 11), ("c", 60, 0)):
        ids = tuple(dice.integers(3, 90, size=length).tolist())
        probes = tuple(
            Probe(int(dice.integers(0, length - 6)), tuple(ids[: int(dice.integers(2, 9))]), 1)
            for _ in range(count)
        )
        requests.append(ScoreRequest(name, ids[:7], ids[7:], probes))
    assert sum(len(probe.ids) for probe in requests[0].probes) > 2 * trees.BLOCK
    found = fast.score([Family((request,), 0) for request in requests])
    for mine, request in zip(found, requests, strict=True):
        (expected,) = plain.score([Family((request,), 0)])
        np.testing.assert_allclose(mine.logprob, expected.logprob, atol=1e-4)
        for one, other in zip(mine.probe_logprob, expected.probe_logprob, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_an_unknown_architecture_takes_the_plain_path(tmp_path: Path) -> None:
    opened = open_local(str(make_checkpoint(tmp_path, "gpt2")), Settings())
    assert isinstance(opened.model, StandardModel)


def test_a_model_the_fast_path_gets_wrong_takes_the_plain_path(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = NativeModel.prefill

    def wrong(self: NativeModel, prompts: Any) -> Any:
        return [replace(start, logits=start.logits + 1) for start in right(self, prompts)]

    monkeypatch.setattr(NativeModel, "prefill", wrong)
    assert isinstance(open_local(str(checkpoint), Settings()).model, StandardModel)


def test_both_paths_write_the_same_traces(engine: LocalEngine, checkpoint: Path) -> None:
    module = loading.load_module(loading.locate(str(checkpoint)), "float32", "cpu")
    plain = LocalEngine(StandardModel(module, 256), engine.tokens, "plain", engine.settings)
    requests = [asked(engine, "ab" * k, k, tokens=9 * k) for k in range(1, 7)]
    assert by_index(engine.generate(requests)) == by_index(plain.generate(requests))


def test_a_prompt_is_prefilled_once_for_all_its_seeds(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    prefill = NativeModel.prefill

    def counting(self: NativeModel, prompts: Any) -> Any:
        seen.extend(prompts)
        return prefill(self, prompts)

    monkeypatch.setattr(NativeModel, "prefill", counting)
    requests = [asked(engine, name, 13) for name in ("one", "two", "three")]
    assert len(list(engine.generate(requests))) == 39
    assert sorted(seen) == sorted(r.prompt_ids for r in requests)


def test_traces_longer_than_the_first_slab_go_on_unharmed(engine: LocalEngine) -> None:
    request = asked(engine, "long", 5, tokens=200)
    endless = with_settings(engine)
    endless.end_ids = frozenset()
    for g in endless.generate([request]):
        assert len(g.ids) == 200
        (scored,) = engine.score([ScoreRequest("s", request.prompt_ids, tuple(g.ids.tolist()))])
        # A wrong cache would write tokens the model finds absurd.
        assert scored.logprob.mean() > -2.5 * scored.entropy_lo.mean() - 0.5


def test_one_row_at_a_time_writes_what_many_rows_write(engine: LocalEngine) -> None:
    requests = [asked(engine, "ab" * k, 3, tokens=20) for k in range(1, 5)]
    single = with_settings(engine, rows=1)
    assert by_index(engine.generate(requests)) == by_index(single.generate(requests))


def test_a_prompt_that_breaks_prefill_costs_no_sibling(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = asked(engine, "bad", 11)
    prefill = NativeModel.prefill

    def failing(self: NativeModel, prompts: Any) -> Any:
        if bad.prompt_ids in prompts:
            raise MemoryError("no room")
        return prefill(self, prompts)

    monkeypatch.setattr(NativeModel, "prefill", failing)
    found = list(engine.generate([asked(engine, "ok", 2), bad, asked(engine, "fine", 2)]))
    errors = [g for g in found if g.finish is Finish.ERROR]
    assert sorted(g.index for g in errors) == list(range(11))
    assert {g.error for g in errors} == {"MemoryError: no room"}
    assert len(found) == 15


def test_a_step_that_fails_ends_its_rows_and_the_rest_go_on(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = NativeModel.step, iter(range(1000))

    def failing(self: NativeModel, *given: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("lost")
        return step(self, *given)

    monkeypatch.setattr(NativeModel, "step", failing)
    found = list(engine.generate([asked(engine, name, 8, 30) for name in ("one", "two")]))
    assert len({(g.request, g.index) for g in found}) == len(found) == 16
    assert any(g.error == "RuntimeError: lost" for g in found)
    assert any(g.error is None for g in found)


def test_logits_that_are_not_finite_end_a_row_as_an_error(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = NativeModel.step
    monkeypatch.setattr(NativeModel, "step", lambda *given: step(*given) * float("nan"))
    for temperature in (0.0, 0.7):
        request = asked(engine, "one", 1)
        request = replace(request, sampling=replace(request.sampling, temperature=temperature))
        (g,) = engine.generate([request])
        assert g.finish is Finish.ERROR
        assert g.error == "the model returned non-finite logits"


def test_a_bad_score_request_costs_no_sibling(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = NativeModel.score

    def failing(self: NativeModel, batch: Any) -> Any:
        if any(r.id == "bad" for family in batch for r in family.requests):
            raise RuntimeError("lost")
        return score(self, batch)

    monkeypatch.setattr(NativeModel, "score", failing)
    found = {
        s.request: s.error
        for s in engine.score(ScoreRequest(n, (5, 6), (7, 8)) for n in ("a", "bad", "b"))
    }
    assert found == {"a": None, "bad": "RuntimeError: lost", "b": None}


@pytest.mark.parametrize(
    "request_",
    [
        GenRequest("x", (5, 10**6), (1,), Sampling()),
        GenRequest("x", (5, -1), (1,), Sampling()),
        GenRequest("x", (5,), (1,), Sampling(temperature=-1)),
        GenRequest("x", (5,), (1,), Sampling(top_p=0)),
        GenRequest("x", (5,), (1,), Sampling(max_new_tokens=0)),
    ],
)
def test_an_impossible_request_is_an_error_result(
    engine: LocalEngine, request_: GenRequest
) -> None:
    (g,) = engine.generate([request_])
    assert g.finish is Finish.ERROR
    assert g.error


def test_the_context_bounds_a_trace(engine: LocalEngine) -> None:
    prompt = engine.encode("a") * 250
    endless = with_settings(engine)
    endless.end_ids = frozenset()
    (g,) = endless.generate([GenRequest("x", prompt, (1,), Sampling(max_new_tokens=100))])
    assert (len(g.ids), g.finish) == (6, Finish.LENGTH)


def test_a_repeating_trace_is_stopped_as_a_loop(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "heal.engines.local.decode.draw", lambda logits, *_: np.full(len(logits), 9)
    )
    looping = with_settings(engine, loop_ngram=4, loop_repeats=3)
    (g,) = looping.generate([asked(engine, "x", 1, tokens=100)])
    assert (len(g.ids), g.finish) == (12, Finish.LOOP)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=30), st.integers(1, 10))
def test_repeats_itself_means_a_period(ids: list[int], longest: int) -> None:
    periods = [
        p
        for p in range(1, longest + 1)
        if all(ids[i] == ids[i + p] for i in range(max(0, len(ids) - p)))
    ]
    assert repeats_itself(np.array(ids, np.int32), longest) == bool(periods)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_filling_holes_keeps_every_live_row_and_moves_few(alive: list[bool]) -> None:
    mask = np.array(alive)
    order = _filled_holes(mask)
    assert sorted(order.tolist()) == np.flatnonzero(mask).tolist()
    moved = (order != np.arange(len(order))).sum()
    assert moved <= (~mask[: len(order)]).sum()


def written(name: str, context: str, target: str, *probes: int) -> ScoreRequest:
    """Letters as ids, and a probe of three ids after so many target tokens."""
    branches = tuple(Probe(at, (7, 8, 9), 1) for at in probes)
    return ScoreRequest(name, tuple(map(ord, context)), tuple(map(ord, target)), branches)


TEXTS = st.text("ab", max_size=60)
SCORINGS = st.lists(st.tuples(st.text("ab", min_size=1, max_size=60), TEXTS), max_size=24)


@given(SCORINGS, st.integers(64, 400))
def test_score_batches_keep_every_request_and_the_budget(
    texts: list[tuple[str, str]], budget: int
) -> None:
    requests = [written(str(i), *text) for i, text in enumerate(texts)]
    batches = list(batches_by_length(families(requests), budget))
    found = [r.id for batch in batches for family in batch for r in family.requests]
    assert sorted(found) == sorted(r.id for r in requests)
    for batch in batches:
        rows = sum(len(family.requests) for family in batch)
        assert rows == 1 or rows * max(family.widest for family in batch) <= budget


@given(SCORINGS, st.integers(0, 60))
def test_siblings_share_what_all_of_them_open_with_and_no_probe_leaves(
    texts: list[tuple[str, str]], at: int
) -> None:
    # a common opening, or hardly anything would be worth sharing
    requests = [
        written(str(i), "abba" * 5 + context, target, min(at, len(target)))
        for i, (context, target) in enumerate(texts)
    ]
    for family in families(requests):
        assert (family.shared == 0) == (len(family.requests) == 1)
        for request in family.requests:
            assert ids_of(request)[: family.shared] == family.trunk
            assert len(ids_of(request)) > family.shared
            assert len(request.context_ids) + request.probes[0].at >= family.shared


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_siblings_score_as_each_alone(tmp_path: Path, kind: str) -> None:
    opened = open_local(str(make_checkpoint(tmp_path, kind)), Settings(score_tokens=4096))
    model = opened.model
    assert isinstance(model, NativeModel)
    opening, other = "what is 12 times 7? first", "what is 12 times 7? well now"
    asked_for = [
        written("a", opening, " we multiply 12 by 7", 5, 12, 20),
        written("b", opening, " we multiply 12 and add", 15, 15),
        written("c", opening, " we multiply", 12),
        written("d", opening, " we multiply 12 by 7"),
        written("e", "what is 12 times 7? ", "first we multiply 12 by 9", 20),
        written("f", other, " it is 84", 0),
        written("g", other, " it is 84", 9),
        written("h", "a stranger", " comes"),
        written("i", other, "", 0),
    ]
    shared = families(asked_for)
    assert 1 < len(shared) < len(asked_for)
    together = {scored.request: scored for scored in opened.score(asked_for)}
    for request in asked_for:
        (alone,) = model.score([Family((request,), 0)])
        found = together[request.id]
        np.testing.assert_allclose(found.logprob, alone.logprob, atol=1e-5)
        np.testing.assert_allclose(found.entropy_lo, alone.entropy_lo, atol=1e-5)
        assert len(found.probe_logprob) == len(request.probes)
        for mine, theirs in zip(found.probe_logprob, alone.probe_logprob, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
        assert found.tokens == alone.tokens


def test_a_decode_loop_asks_for_no_more_than_it_has_rows(engine: LocalEngine) -> None:
    widest = 0

    class Watching(DecodeLoop):
        def _step(self) -> Iterator[Generated]:
            nonlocal widest
            widest = max(widest, len(self.rows))
            yield from super()._step()

    policy = Policy(rows=6, end_ids=engine.end_ids, prefill_tokens=64)
    assert engine.model is not None
    loop = Watching(
        engine.model, policy, [asked(engine, str(i), 4) for i in range(9)], lambda _: None
    )
    assert len(list(loop.run())) == 36
    assert widest == 6


# ── dice and filters ────────────────────────────────────────────────────────────────────────────

seeds = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20)


@given(seeds, st.integers(0, 10_000), st.integers(0, 8))
def test_a_uniform_depends_on_its_own_row_only(values: list[int], at: int, attempt: int) -> None:
    array, lanes = np.array(values, np.uint64), np.arange(3, dtype=np.uint64)
    together = sampling.uniforms(array, np.full(len(values), at), lanes, attempt)
    for index in range(len(values)):
        alone = sampling.uniforms(array[index : index + 1], np.array([at]), lanes, attempt)
        assert (alone[0] == together[index]).all()
        assert ((alone > 0) & (alone < 1)).all()


def test_uniforms_are_uniform_and_unrelated_over_seeds_positions_lanes_and_tries() -> None:
    n = 20_000
    zero, one = np.zeros(1, np.uint64), np.ones(1, np.uint64)
    many, still = np.arange(n, dtype=np.uint64), np.zeros(n, np.int64)
    columns = [
        sampling.uniforms(many, still, zero)[:, 0],
        sampling.uniforms(np.zeros(n, np.uint64), np.arange(n), zero)[:, 0],
        sampling.uniforms(zero, np.zeros(1, np.int64), many)[0],
        sampling.uniforms(many, still, one)[:, 0],
        sampling.uniforms(many, still, zero, 1)[:, 0],
    ]
    for u in columns:
        assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * n)
        assert np.histogram(u, 20, (0, 1))[0].min() > n / 20 * 0.85
    related = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(related).max() < 5 / np.sqrt(n)


def test_rounding_errors_in_the_logits_hardly_ever_change_a_draw() -> None:
    rows, vocabulary = 2000, 49_152
    torch.manual_seed(0)
    logits = torch.randn(vocabulary) * 2.5
    laid_out = sampling.Filters.of([Sampling()] * 100, logits.device)
    changed = 0
    for start in range(0, rows, 100):
        ids, at = np.arange(start, start + 100, dtype=np.uint64), np.zeros(100, np.int64)
        noise = torch.randn(100, vocabulary) * 1e-5
        plain = sampling.draw(logits.repeat(100, 1), laid_out, ids, at)
        changed += int((plain != sampling.draw(logits + noise, laid_out, ids, at)).sum())
    assert changed <= 3


filters = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.3, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 10_000]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)


@given(st.lists(filters, min_size=1, max_size=6), st.sampled_from([5, 64, 700, 4352]), st.data())
def test_a_draw_never_leaves_what_its_filters_allow(
    rows: list[Sampling], vocabulary: int, data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 1000))
    logits = torch.randn(len(rows), vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    laid_out = sampling.Filters.of(rows, logits.device)
    ids = np.arange(seed, seed + len(rows), dtype=np.uint64)
    tokens = sampling.draw(logits.clone(), laid_out, ids, np.zeros(len(rows), np.int64))
    for row, (s, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
        if s.temperature == 0:
            assert logits[row, token] == logits[row].max()
            continue
        p = torch.softmax(logits[row].double() / s.temperature, -1)
        ordered = p.sort(descending=True).values
        kept = ordered[: s.top_k or None]
        rank = int((p > p[token] + 1e-7).sum())
        assert rank < len(kept)
        assert kept[:rank].sum() < s.top_p * kept.sum() + 1e-5 or s.top_p == 1
        assert p[token] >= s.min_p * ordered[0] - 1e-6


@pytest.mark.parametrize(
    "s",
    [
        Sampling(top_k=2),
        Sampling(top_p=0.02),  # nearly always rejected: the explicit sort decides
        Sampling(top_k=20, top_p=0.5),
        Sampling(temperature=0.5, top_p=0.9, min_p=0.01),
    ],
)
def test_draws_follow_the_filtered_distribution(s: Sampling) -> None:
    n, vocabulary = 4000, 300
    row = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))
    laid_out = sampling.Filters.of([s] * n, row.device)
    tokens = sampling.draw(
        row.repeat(n, 1), laid_out, np.arange(n, dtype=np.uint64), np.zeros(n, np.int64)
    )
    p = torch.softmax(row.double() / s.temperature, -1)
    order = p.argsort(descending=True)
    kept = order[: s.top_k or None]
    mass = p[kept].cumsum(0) - p[kept]
    kept = kept[(mass < s.top_p * p[kept].sum()) & (p[kept] >= s.min_p * p.max())]
    wanted = (p[kept] / p[kept].sum()).numpy()
    counts = np.bincount(tokens, minlength=vocabulary)[kept.numpy()]
    assert counts.sum() == n
    error = (counts - n * wanted) / np.sqrt(n * wanted * (1 - wanted) + 1e-9)
    assert np.abs(error).max() < 4.5


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 100))
def test_merged_attention_equals_attention_over_all_keys(a: int, b: int, seed: int) -> None:
    torch.manual_seed(seed)
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, a + b, 8), torch.randn(2, 3, a + b, 8)
    whole, _ = attention.attend_plain(q, k, v, scale=0.3)
    for attend in (attention.attend, attention.attend_plain):
        first = attend(q, k[:, :, :a], v[:, :, :a], scale=0.3)
        second = attend(q, k[:, :, a:], v[:, :, a:], scale=0.3)
        torch.testing.assert_close(attention.merge(*first, *second), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_twenty_thousand_first_tokens_follow_the_softmax(
    engine: LocalEngine, checkpoint: Path, top_p: float
) -> None:
    n, prompt = 20_000, engine.render("three")
    drawn = Sampling(temperature=0.8, top_p=top_p, max_new_tokens=1)
    wide = with_settings(engine, rows=2000)
    found = wide.generate([GenRequest("chi", prompt, tuple(range(n)), drawn)])
    firsts = [int(g.ids[0]) for g in found]
    module = loading.load_module(loading.locate(str(checkpoint)), "float32", "cpu")
    with torch.inference_mode():
        logits = module(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    p = torch.softmax(logits / 0.8, -1)
    ordered, order = p.sort(descending=True)
    p[order[ordered.cumsum(0) - ordered >= top_p]] = 0
    expected = (n * p / p.sum()).numpy()
    counts = np.bincount(firsts, minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    filled = wanted > 0
    assert scipy.stats.chisquare(observed[filled], wanted[filled]).pvalue > 1e-3


# ── loading ─────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_folder_says_that_nothing_is_downloaded() -> None:
    with pytest.raises(UserError, match="no such model folder") as caught:
        open_local("somebody/some-model")
    assert "heal downloads none" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (["config.json"], "no config.json"),
        (["model.safetensors"], "no weights"),
        (["tokenizer.json"], "no tokenizer"),
        (["chat_template.jinja"], "no chat template"),
    ],
)
def test_a_missing_part_is_named(folder: Path, lost: list[str], words: str) -> None:
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(UserError, match=words) as caught:
        open_local(str(folder))
    assert str(folder) in str(caught.value)
    assert caught.value.hint


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match="'no_such_package_here' is not installed"):
        open_local("pkg://no_such_package_here/model")


def test_a_model_inside_a_package_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "heal_test_package").mkdir()
    (folder.parent / "heal_test_package" / "__init__.py").touch()
    folder.rename(folder.parent / "heal_test_package" / "model")
    monkeypatch.syspath_prepend(folder.parent)
    expected = folder.parent / "heal_test_package" / "model"
    assert resolve_model("pkg://heal_test_package/model") == expected


def test_damaged_weights_are_a_user_error(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match="cannot be opened"):
        open_local(str(folder))


def test_the_fingerprint_follows_the_content_not_the_place(checkpoint: Path, folder: Path) -> None:
    assert model_files(str(folder)) == model_files(str(checkpoint))
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert model_files(str(folder)) != model_files(str(checkpoint))


def test_the_fingerprint_ignores_who_saved_the_config(checkpoint: Path, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "0"}))
    assert model_files(str(folder)) == model_files(str(checkpoint))
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert model_files(str(folder)) != model_files(str(checkpoint))


def test_half_precision_weights_are_opened_as_float32(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_checkpoint(tmp_path)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    module.save_pretrained(folder)
    opened = open_local(str(folder))
    assert isinstance(opened.model, NativeModel)
    assert opened.model.body.dtype is torch.float32


def test_a_gguf_is_parsed_once_for_all_who_read_it(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["<a>", "é", "🙂"])
    writer.add_tensor("weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    original, names = gguf.GGUFReader, gguf.get_tensor_name_map
    plain = original(path)
    with loading.read_once():
        first = gguf.GGUFReader(str(path))
        with loading.read_once():
            assert gguf.GGUFReader(path) is first
        assert gguf.GGUFReader(path) is first
        arch = gguf.MODEL_ARCH.LLAMA
        assert gguf.get_tensor_name_map(arch, 2) is gguf.get_tensor_name_map(arch, 2)
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (original, names)
    assert {k: f.contents() for k, f in first.fields.items()} == {
        k: f.contents() for k, f in plain.fields.items()
    }
    assert np.array_equal(first.tensors[0].data, plain.tensors[0].data)


def test_a_sliding_window_shorter_than_the_context_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "mistral", sliding_window=64)
    with pytest.raises(CapabilityError, match="sliding window of 64") as caught:
        open_local(str(folder))
    assert caught.value.hint == "--set engine.local.context=64"
    assert open_local(str(folder), Settings(context=64)).capabilities.context == 64


def test_a_context_beyond_the_models_positions_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="exceeds the model's 256 positions"):
        open_local(str(checkpoint), Settings(context=257))


def test_an_unknown_device_is_a_user_error(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"engine\.local\.device=nonsense"):
        open_local(str(checkpoint), Settings(device="nonsense"))


def test_the_turn_end_of_the_template_ends_a_trace(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["eos_token"] = "<|user|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name in ("config.json", "generation_config.json"):
        declared = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**declared, "eos_token_id": 1}))
    assert open_local(str(folder)).end_ids == {0, 1}


def test_a_template_that_refuses_is_a_user_error(folder: Path) -> None:
    refusing = "{{ raise_exception('no system role') }}"
    (folder / "chat_template.jinja").write_text(refusing)
    with pytest.raises(UserError, match="no system role"):
        open_local(str(folder)).render("hello", system="be brief")


def test_open_engine_opens_what_the_config_names(checkpoint: Path) -> None:
    opened = open_engine(ModelRef(model=str(checkpoint)), Engines())
    assert isinstance(opened, LocalEngine)


def test_a_closed_engine_does_not_write(checkpoint: Path) -> None:
    opened = open_local(str(checkpoint))
    opened.close()
    with pytest.raises(RuntimeError, match="closed"):
        opened.generate([])


# ── int8 ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def rounded(checkpoint: Path) -> LocalEngine:
    return open_local(str(checkpoint), Settings(rows=8, threads=1, weights="int8"))


def test_int8_weights_are_another_model_with_nearly_the_same_values(
    engine: LocalEngine, rounded: LocalEngine
) -> None:
    assert rounded.model_id == f"{engine.model_id}-int8"
    ids = tuple(range(40, 90))
    (exact,), (near,) = (
        list(e.score([ScoreRequest("a", ids[:8], ids[8:])])) for e in (engine, rounded)
    )
    assert 0 < np.abs(exact.logprob - near.logprob).max() < 0.05
    assert 0 < np.abs(exact.entropy_lo - near.entropy_lo).max() < 0.05


def test_int8_rows_do_not_feel_each_other(rounded: LocalEngine) -> None:
    asked_for = [asked(rounded, name, 4) for name in ("one", "two", "three")]
    together = {(g.request, g.index): g.ids.tolist() for g in rounded.generate(asked_for)}
    alone = with_settings(rounded, rows=1)
    assert together == {(g.request, g.index): g.ids.tolist() for g in alone.generate(asked_for)}


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_an_int8_product_is_near_the_exact_one_whatever_the_columns_sizes(
    rows: int, seed: int
) -> None:
    torch.manual_seed(seed)
    sizes = 10.0 ** torch.randint(-3, 4, (96,))
    x, weight = torch.randn(rows, 96) * sizes, torch.randn(96, 40) / sizes[:, None]
    watched = Watched.of(Dense(weight, torch.randn(40)))
    exact = watched.product(x)
    found = Int8.of(watched).product(x)
    assert float((found - exact).abs().max()) < 0.1 * float(exact.abs().max())
    row = Int8.of(watched).product(x[:1])
    assert torch.equal(row[0], found[0])


@given(st.integers(1, 200), st.sampled_from([8, 80, 96]), st.booleans(), st.integers(0, 99))
def test_a_packed_product_is_the_plain_one(rows: int, width: int, biased: bool, seed: int) -> None:
    torch.manual_seed(seed)
    plain = Dense(torch.randn(width, 40), torch.randn(40) if biased else None)
    packed = Packed.of(plain)
    wide = torch.randn(rows, 2 * width)
    x = wide[:, :width]  # as half of a product of two halves lies in memory
    assert packed.shape == plain.shape
    assert packed.nbytes == plain.nbytes
    assert torch.allclose(packed.product(x), plain.product(x), atol=1e-4)
    sums = torch.randn(rows, 40)
    expected = sums.clone()
    packed.add_product(sums, x)
    plain.add_product(expected, x)
    assert torch.allclose(sums, expected, atol=1e-4)


@pytest.mark.skipif(not can_pack("bfloat16", "cpu"), reason="this processor has no bfloat16")
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_a_packed_product_of_bfloat16_is_the_plain_one(rows: int) -> None:
    torch.manual_seed(rows)
    weight, bias = torch.randn(96, 40).bfloat16(), torch.randn(40).bfloat16()
    plain, x = Dense(weight, bias), torch.randn(rows, 96).bfloat16()
    packed = Packed.of(plain)
    assert packed.nbytes == plain.nbytes
    exact = x.float() @ weight.float() + bias.float()
    for found in (packed.product(x), plain.product(x)):
        assert found.dtype is torch.bfloat16
        assert torch.allclose(found.float(), exact, rtol=0.01, atol=0.1)
    sums = torch.randn(rows, 40).bfloat16()
    expected = sums.float() + exact
    packed.add_product(sums, x)
    assert torch.allclose(sums.float(), expected, rtol=0.01, atol=0.2)


@pytest.mark.parametrize("pays", [True, False])
def test_a_model_is_packed_where_that_pays_and_writes_and_scores_the_same(
    checkpoint: Path, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal.engines.local.native.packing_pays", lambda *_: pays)
    opened = open_local(str(checkpoint), Settings(rows=8))
    kind = Packed if pays else Dense
    body = opened.model.body  # type: ignore[union-attr]
    assert isinstance(body.head, kind)
    assert all(isinstance(layer.down, kind) for layer in body.layers)
    plain = open_local(str(checkpoint), Settings(rows=8, products="mkl"))
    assert isinstance(plain.model.body.head, Dense)  # type: ignore[union-attr]
    fixed = open_local(str(checkpoint), Settings(rows=8, products="onednn"))
    assert isinstance(fixed.model.body.head, Packed)  # type: ignore[union-attr]
    request = asked(plain, "a question", 4)
    written = {(g.request, g.index): g.ids.tolist() for g in opened.generate([request])}
    assert written == {(g.request, g.index): g.ids.tolist() for g in plain.generate([request])}
    ids = tuple(range(40, 90))
    (a,), (b,) = (list(e.score([ScoreRequest("a", ids[:8], ids[8:])])) for e in (opened, plain))
    assert np.abs(a.logprob - b.logprob).max() < 1e-4
    assert np.abs(a.entropy_lo - b.entropy_lo).max() < 1e-4


def test_int8_is_refused_where_it_cannot_run(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dtype=float32"):
        open_local(str(checkpoint), Settings(weights="int8", dtype="bfloat16"))
    other = make_checkpoint(tmp_path, "gpt2")
    with pytest.raises(CapabilityError, match="only Llama-like"):
        open_local(str(other), Settings(weights="int8"))


def test_int8_is_refused_where_integer_products_saturate(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: true(a, b).clamp(-(2**23), 2**23))
    with pytest.raises(CapabilityError, match="overflow"):
        open_local(str(checkpoint), Settings(weights="int8"))
