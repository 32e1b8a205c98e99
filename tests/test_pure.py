"""PURE: the ratio counts where the method says, and a selection drops exactly what it says."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scripted_run import MAGIC, ScriptedRun, extreme

from heal.config import Pure
from heal.method.answers import mention_spans
from heal.method.pure import (
    calibrate,
    calibrated_score,
    commitment,
    drop_scores,
    fits,
    joint,
    select,
    step_ratios,
    step_surprisal,
    surprisal,
    trace_score,
)
from heal.records import Drop, HintedScore, PureScore, Selection, Trace
from heal.store import ScoreRow, SelectedRow, Store

SETTINGS = Pure()
FINAL_ANSWERS = Path(__file__).parent / "cases" / "final_answers.jsonl"
RANKED = [k for k in Selection if k is not Selection.CALIBRATED]


def profile(
    uncertainty,
    log_ppl=None,
    *,
    first=1,
    scorable=None,
    trace="t",
    problem="p",
    tokens=None,
    answers=None,
    worst=0.1,
):
    """A profile from U_1 … U_K; U_0 is never read."""
    steps = len(uncertainty)
    return PureScore(
        key=f"k{trace}",
        problem_id=problem,
        trace=trace,
        log_ppl=np.asarray([0.5] * steps if log_ppl is None else log_ppl, np.float32),
        uncertainty=np.asarray([np.nan, *uncertainty], np.float32),
        step_tokens=[10] * steps if tokens is None else tokens,
        first_step=first,
        scorable=[True] * steps if scorable is None else scorable,
        answer_surprisal=np.asarray(answers if answers else [0.1] * steps, np.float32),
        hinted_log_ppl=0.3,
        worst_result=worst,
    )


def with_score(trace, value, problem="p"):
    """A profile of one step whose S rises with `value`."""
    return profile([2.0], [value], trace=trace, problem=problem)


@pytest.mark.parametrize(
    ("uncertainty", "first", "expected"),
    [
        ([2, 1, 0.05, 0.05, 0.05], 1, 3),
        ([2, 0.05, 1, 0.05, 0.05], 1, 4),
        ([2, 1, 1, 1, 0.05], 1, 5),
        ([2, 0.05, 1, 1, 1], 1, None),
        ([0.01, 0.01, 0.01, 2, 2], 3, None),
        ([0.01, 0.01, 0.01, 0.01, 2], 3, 3),
        ([2, 2, 0.1, 0.1, 2], 1, None),
        ([2, 0.05, math.nan, math.nan, math.nan], 1, None),
        ([], 1, None),
    ],
)
def test_commitment_needs_two_successive_low_steps_or_the_last(uncertainty, first, expected):
    assert commitment(profile(uncertainty, first=first), SETTINGS) == expected


def test_the_ratio_is_log_perplexity_over_floored_uncertainty():
    score = profile([2.0, 0.02, 0.01], [0.5, 0.7, 0.9])
    ratios = step_ratios(score, SETTINGS)
    assert ratios[0] == pytest.approx(0.5 - math.log(2.01))
    assert ratios[1] == pytest.approx(0.7 - math.log(0.11))
    assert math.isnan(ratios[2])


def test_steps_after_commitment_before_the_break_and_unscorable_do_not_count():
    score = profile(
        [2, 2, 1, 0.05, 0.05, 0.05],
        [9, 1, 2, 5, 9, 9],
        first=2,
        scorable=[True, True, True, False, True, True],
    )
    reading = trace_score(score, SETTINGS)
    assert (reading.commit_step, reading.never_committed) == (4, False)
    assert reading.score == pytest.approx(2 - math.log(1.01))


def test_a_trace_that_never_commits_is_scored_to_its_end_and_says_so():
    reading = trace_score(profile([2, 2, 2], [0, 0, 3]), SETTINGS)
    assert reading.never_committed
    assert reading.score == pytest.approx(3 - math.log(2.01))


def test_a_trace_without_a_scorable_step_has_no_score_and_goes_first():
    silent = profile([2, 1], scorable=[False, False], trace="silent")
    assert trace_score(silent, SETTINGS).score is None
    others = [with_score(str(i), i) for i in range(4)]
    assert select([silent, *others], Selection.FRACTION, SETTINGS) == {"silent"}


def test_fraction_drops_the_worst_of_each_problem():
    easy = [with_score(f"e{i}", i / 10, "easy") for i in range(5)]
    wild = [with_score(f"w{i}", 10 + i, "wild") for i in range(10)]
    assert select(easy + wild, Selection.FRACTION, SETTINGS) == {"e4", "w9", "w8"}


def test_small_problems_are_pooled_on_their_own_scale():
    small = [with_score("a0", 1, "a"), with_score("a1", 1.1, "a"), with_score("a2", 1.4, "a")]
    small += [with_score("b0", 50, "b"), with_score("b1", 51, "b")]
    # by raw score both of b's would go before any of a's
    assert select(small, Selection.FRACTION, SETTINGS) == {"a2"}


def test_a_lone_candidate_is_dropped_last_of_its_pool():
    lone = with_score("lone", 99, "alone")
    pairs = [with_score(f"{p}{i}", i, p) for p in "abcd" for i in (0, 1)]
    assert "lone" not in select([lone, *pairs], Selection.FRACTION, SETTINGS)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 12), min_size=1),
    st.sampled_from(RANKED),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_every_ranked_selection_drops_the_same_number(sizes, kind, share, seed):
    settings = Pure(drop=share)
    rng = np.random.default_rng(seed)
    candidates = [
        profile(
            rng.random(4) * 2,
            rng.random(4),
            trace=f"{p}{i}",
            problem=p,
            answers=list(rng.random(4)),
        )
        for p, n in sizes.items()
        for i in range(n)
    ]
    dropped = select(candidates, kind, settings, seed=seed)
    lost = Counter(t[0] for t in dropped)
    for p, n in sizes.items():
        assert n < 5 or lost[p] == int(share * n + 0.5)
    pooled = sum(n for n in sizes.values() if n < 5)
    assert sum(lost[p] for p, n in sizes.items() if n < 5) == int(share * pooled + 0.5)
    assert select(candidates[::-1], kind, settings, seed=seed) == dropped
    scores = drop_scores(candidates, kind, settings, seed=seed)
    for p, n in sizes.items():
        if n >= 5 and 0 < lost[p] < n:
            out = [scores[t] for t in scores if t[0] == p and t in dropped]
            kept = [scores[t] for t in scores if t[0] == p and t not in dropped]
            assert min(out) >= max(kept)


def test_controls_measure_what_they_are_named_after():
    score = profile([2, 2, 0.05], [4, 1, 2], first=2, tokens=[10, 10, 30])

    def value(kind):
        return drop_scores([score], kind, SETTINGS)["t"]

    assert value(Selection.LENGTH) == -40
    assert value(Selection.MAX_PPL) == 2
    assert value(Selection.MEAN_NLL) == pytest.approx(1.75)
    assert value(Selection.RELIANCE) == pytest.approx(1.75 - 0.3)


def read_twice(trace, surprise, reliance, problem="p"):
    """A profile of one step with these two readings; nan: it never mentions the answer."""
    return profile([1], [0.3 + reliance], trace=trace, problem=problem, answers=[surprise])


def test_joint_is_the_higher_of_two_mid_ranks_by_hand():
    told = [
        read_twice("a", 0.1, 2.0),
        read_twice("b", 0.2, 0.5),
        read_twice("c", 3.0, 0.5),
        read_twice("silent", math.nan, 0.1),
        profile([1], first=2, trace="kept whole"),
    ]
    # of three by surprisal: 1/6, 3/6, 5/6; of four by reliance: 7/8, 4/8, 4/8, 1/8
    expected = {"a": 7 / 8, "b": 1 / 2, "c": 5 / 6, "silent": 1 / 8, "kept whole": math.inf}
    for order in (told, told[::-1]):
        found = drop_scores(order, Selection.JOINT, SETTINGS)
        assert found == pytest.approx(expected)
        assert list(found) == [p.trace for p in order]
    assert drop_scores([], Selection.JOINT, SETTINGS) == {}


def test_joint_ranks_the_whole_set_and_drops_a_share_of_each_problem():
    easy = [read_twice(f"e{i}", i / 100, i / 100, "easy") for i in range(5)]
    by_answer = [read_twice(f"a{i}", 5 + i, 1, "a") for i in range(5)]
    by_hint = [read_twice(f"h{i}", 2, 5 + i, "h") for i in range(5)]
    pool = easy + by_answer + by_hint
    found = drop_scores(pool, Selection.JOINT, SETTINGS)
    assert max(found[p.trace] for p in easy) == pytest.approx(4.5 / 15)
    assert drop_scores(easy, Selection.JOINT, SETTINGS)["e4"] == pytest.approx(0.9)
    assert select(pool, Selection.JOINT, SETTINGS) == {"e4", "a4", "h4"}


READ = st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, math.inf])


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(READ, READ), min_size=1),
    st.integers(0, 1),
    st.floats(0, 5),
    st.data(),
)
def test_joint_rises_with_either_reading_and_no_rival_with_it(read, which, more, data):
    one = data.draw(st.sampled_from(sorted(read)))
    readings = [{t: both[k] for t, both in read.items()} for k in (0, 1)]
    before = joint(*readings)
    readings[which][one] += more
    after = joint(*readings)
    assert after[one] >= before[one]
    assert all(after[t] <= before[t] for t in read if t != one)
    assert all(0 < s < 1 or s == math.inf for s in after.values())
    shuffled = data.draw(st.permutations(sorted(read)))
    assert joint(*({t: own[t] for t in shuffled} for own in readings)) == after


def test_random_follows_its_seed():
    candidates = [with_score(str(i), 0) for i in range(40)]
    first = select(candidates, Selection.RANDOM, SETTINGS, seed=1)
    assert first == select(candidates, Selection.RANDOM, SETTINGS, seed=1)
    assert first != select(candidates, Selection.RANDOM, SETTINGS, seed=2)


def test_a_selection_without_its_measurements_is_refused():
    bare = PureScore("k", "p", "t", np.zeros(1), np.ones(2), [5], 1, [True])
    with pytest.raises(ValueError, match="reliance"):
        select([bare], Selection.RELIANCE, SETTINGS)
    kept_whole = PureScore("k", "p", "t", np.zeros(1), np.ones(2), [5], 2, [True])
    assert drop_scores([kept_whole], Selection.RELIANCE, SETTINGS) == {"t": math.inf}
    with pytest.raises(ValueError, match="reliance"):
        select([replace(bare, answer_surprisal=np.ones(1))], Selection.JOINT, SETTINGS)
    with pytest.raises(ValueError, match="worst_result"):
        select([bare], Selection.WORST_RESULT, SETTINGS)
    with pytest.raises(ValueError, match="surprisal"):
        select([bare], Selection.SURPRISAL, SETTINGS)
    with pytest.raises(ValueError, match="calibration"):
        select([bare], Selection.CALIBRATED, SETTINGS)
    silent = calibrate([profile([1, 1])] * 19, SETTINGS)
    assert (silent.bins, silent.lines) == (None, {})
    with pytest.raises(ValueError, match="with U"):
        calibrated_score(bare, SETTINGS, silent)


def simulated(rng, trace, leap=0.0):
    """U falls to nothing at a random step; ln PPL depends on U and length, plus a leap there."""
    steps = int(rng.integers(6, 14))
    settle = int(rng.integers(3, steps))
    u = np.where(np.arange(steps) < settle, rng.uniform(0.5, 3, steps), 0.02)
    tokens = rng.integers(8, 60, steps)
    log_ppl = 0.3 + 0.2 * u + 3 / tokens + rng.normal(0, 0.1, steps)
    log_ppl[settle] += leap
    return profile(u, log_ppl, trace=trace, tokens=[int(t) for t in tokens])


def test_calibrated_keeps_about_95_percent_of_honest_traces_and_finds_leaps():
    rng = np.random.default_rng(0)
    calibration = calibrate([simulated(rng, str(i)) for i in range(300)], SETTINGS)
    honest = [simulated(rng, f"h{i}") for i in range(400)]
    leaps = [simulated(rng, f"l{i}", leap=1.0) for i in range(400)]
    dropped = select(honest + leaps, Selection.CALIBRATED, SETTINGS, calibration=calibration)
    assert 0.02 < sum(t[0] == "h" for t in dropped) / 400 < 0.10
    assert sum(t[0] == "l" for t in dropped) / 400 > 0.95
    assert calibration.bins is not None
    assert (calibration.traces, calibration.bins.mean.shape) == (300, (5, 5))


def test_fraction_cannot_clean_a_pool_that_is_mostly_fudged_and_calibrated_can():
    rng = np.random.default_rng(1)
    calibration = calibrate([simulated(rng, str(i)) for i in range(300)], SETTINGS)
    pool = [simulated(rng, f"l{i}", leap=1.5) for i in range(60)]
    pool += [simulated(rng, f"h{i}") for i in range(40)]
    by_fraction = select(pool, Selection.FRACTION, SETTINGS)
    calibrated = select(pool, Selection.CALIBRATED, SETTINGS, calibration=calibration)
    assert len(by_fraction) == 20
    assert sum(t[0] == "l" for t in calibrated) > 55


def test_where_nearly_all_look_abnormal_calibrated_drops_a_share_instead():
    rng = np.random.default_rng(1)
    calibration = calibrate([simulated(rng, str(i)) for i in range(300)], SETTINGS)
    pool = [simulated(rng, f"l{i}", leap=1.5) for i in range(90)]
    pool += [simulated(rng, f"h{i}") for i in range(10)]
    scores = drop_scores(pool, Selection.CALIBRATED, SETTINGS, calibration=calibration)
    assert not fits(scores, calibration.lines[Selection.CALIBRATED], SETTINGS)
    dropped = select(pool, Selection.CALIBRATED, SETTINGS, calibration=calibration)
    assert len(dropped) == 20
    assert min(scores[t] for t in dropped) >= max(scores[t] for t in scores.keys() - dropped)


def test_calibrated_looks_only_near_commitment():
    rng = np.random.default_rng(2)
    calibration = calibrate([simulated(rng, str(i)) for i in range(100)], SETTINGS)
    u = [2, 2, 2, 2, 0.02, 0.02, 0.02, 0.02]
    assert commitment(profile(u), SETTINGS) == 5
    counted = []
    for k in range(1, 9):
        log_ppl = np.full(8, 0.5)
        log_ppl[k - 1] = 9
        score = calibrated_score(profile(u, log_ppl), SETTINGS, calibration)
        counted += [k] * (score > calibration.lines[Selection.CALIBRATED])
    assert counted == [3, 4, 5, 6, 7]


def test_surprisal_is_the_costliest_new_mention_and_nothing_speaks_for_a_trace_without_one():
    nan = math.nan
    assert surprisal(profile([1, 1, 1], answers=[9, nan, 2], first=2)) == 2
    assert surprisal(profile([1, 1, 1], answers=[9, nan, nan], first=2)) is None
    silent = profile([1], answers=[nan], trace="silent")
    spoken = [profile([1], answers=[i], trace=str(i)) for i in range(4)]
    assert select([silent, *spoken], Selection.SURPRISAL, SETTINGS) == {"silent"}


def test_surprisal_drops_what_honest_traces_do_not_reach_however_much_that_is():
    rng = np.random.default_rng(3)

    def said(trace, low, high):
        return profile([2, 0.02, 0.02], answers=[math.nan, rng.uniform(low, high), 0], trace=trace)

    calibration = calibrate([said(str(i), 0, 1) for i in range(200)], SETTINGS)
    assert calibration.lines[Selection.SURPRISAL] == pytest.approx(0.95, abs=0.05)
    pool = [said(f"f{i}", 3, 9) for i in range(60)] + [said(f"h{i}", 0, 0.9) for i in range(40)]
    dropped = select(pool, Selection.SURPRISAL, SETTINGS, calibration=calibration)
    assert dropped == {c.trace for c in pool if c.trace[0] == "f"}


def test_worst_result_drops_above_its_line_and_what_claims_no_number():
    rng = np.random.default_rng(3)

    def claimed(trace, low, high):
        return profile([1], worst=rng.uniform(low, high), trace=trace)

    honest = [claimed(str(i), 0, 1) for i in range(200)]
    unmeasured = [profile([1], worst=None), profile([1], worst=math.nan)] * 99
    calibration = calibrate(honest + unmeasured, SETTINGS)
    assert calibration.lines[Selection.WORST_RESULT] == pytest.approx(0.95, abs=0.05)
    assert Selection.WORST_RESULT not in calibrate(unmeasured, SETTINGS).lines
    silent = profile([1], worst=math.nan, trace="silent")
    pool = [silent, *(claimed(f"f{i}", 3, 9) for i in range(60))]
    pool += [claimed(f"h{i}", 0, 0.9) for i in range(40)]
    dropped = select(pool, Selection.WORST_RESULT, SETTINGS, calibration=calibration)
    assert dropped == {c.trace for c in pool if c.trace[0] in "fs"}


def test_a_line_needs_no_u_and_twenty_traces_that_can_be_read():
    nan = math.nan

    def said(answer):
        return profile([nan, nan], answers=[nan, answer], worst=None)

    calibration = calibrate([said(i / 20) for i in range(20)] + [said(nan)] * 99, SETTINGS)
    assert calibration.lines.keys() == {Selection.SURPRISAL}
    assert calibration.bins is None
    assert calibrate([said(0.5)] * 19 + [said(nan)] * 99, SETTINGS).lines == {}


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.data())
def test_a_mention_costs_its_tokens_wherever_they_are_cut(lengths, data):
    text = b"so 69 and 17 make 86, which is 86.0 and not 186 or 8.6"
    logprob = -np.asarray(data.draw(st.lists(st.floats(0, 5), min_size=60, max_size=60)))
    cuts = np.minimum(np.cumsum(lengths), len(text))
    edges = sorted({0, *cuts.tolist(), len(text)})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    logprob = logprob[: len(pieces)].astype(np.float32)
    at = text.index(b"86")
    touched = [i for i, a in enumerate(edges[:-1]) if a < at + 2 and edges[i + 1] > at]
    found = step_surprisal(pieces, logprob, [len(pieces)], "86")
    assert found[0] == pytest.approx(-logprob[touched].sum(), rel=1e-5, abs=1e-6)


def test_mentions_count_for_the_step_they_begin_in():
    pieces = [b"It is ", b"4", b".\n\n", b"Then ", b"7", b".\n\n", b"4", b" 7", b" done"]
    logprob = -np.arange(1, 10, dtype=np.float32)
    found = step_surprisal(pieces, logprob, [3, 6, 8], "4, 7")
    assert found.tolist() == [2, 5, 8]
    assert np.isnan(step_surprisal(pieces, logprob, [3, 6, 8], "12")).all()


@pytest.mark.parametrize(
    ("text", "answer", "mentions"),
    [
        ("so 69 and 17 make 86.", "86", ["86"]),
        ("186 or 8.6 or 86.5 or 0.86", "86", []),
        ("a=8,6 and (1,2)", "86", []),
        ("(1,2)", "(1,2)", ["1", "2"]),
        ("all 1,234 apples", "1", []),
        ("all 1,234 apples", "234", []),
        ("all 1,234 or 1234 or 1{,}234 apples", "1234", ["1,234", "1234", "1{,}234"]),
        ("a 12cm rod, 12 cm", "12cm", ["12", "12"]),
        ("it is 3x", "3x", ["3"]),
        ("x_1 and H2O", "x_1", ["1"]),
        (r"that is \sqrt2", r"\sqrt2", ["2"]),
        (r"so \frac{a}{b} it is", r"\frac{a}{b}", [r"\frac{a}{b}"]),
        ("so a/b it is", r"\frac{a}{b}", ["a/b"]),
        ("the point (x, y)", "(x,y)", ["(x, y)"]),
        ("A train. It is A.", "A", ["A"]),
        ("New  york it is", "New York", ["New  york"]),
        ("nothing", "", []),
    ],
)
def test_an_answer_is_mentioned_by_its_numbers_or_else_by_its_words(text, answer, mentions):
    data = text.encode()
    assert [data[a:b].decode() for a, b in mention_spans(data, answer)] == mentions


def test_whatever_answer_a_trace_ends_on_is_mentioned_in_it():
    rows = [json.loads(line) for line in FINAL_ANSWERS.read_text().splitlines()]
    ended = [(row["text"], row["answer"]) for row in rows if row.get("answer")]
    assert len(ended) > 10
    unseen = [(t, a) for t, a in ended if a in t and not mention_spans(t.encode(), a)]
    assert unseen == []


def reliance_run(tmp_path: Path, *rules: dict, **pure) -> ScriptedRun:
    """One problem at the ceiling: repairs that hardly look at the hint, and a leap that does.

    The kept steps are made very surprising, which must not matter.
    """
    rows, script = extreme("plums")
    seen = [
        {"match": f"Hint:.*{MAGIC}", "logprobs": [-9, -9, -0.1]},
        {"match": "Hint:.*Carrying the one", "logprobs": [-9, -9, -0.25]},
    ]
    return ScriptedRun(tmp_path, (rows, [*rules, *seen, *script]), {"pure": pure})


GROUPS = ("hinted", "difference")


def profiles(run: ScriptedRun) -> dict[str, PureScore]:
    """By trace."""
    return {p.trace: p for tag in GROUPS for p in run.read("pure", PureScore, tag)}


def hinted_scores(run: ScriptedRun) -> dict[str, HintedScore]:
    return {h.trace: h for tag in GROUPS for h in run.read("reliance", HintedScore, tag)}


def scored_anew(run: ScriptedRun, *overrides: str) -> int:
    """Run up to `select`; how many scorings that took."""
    before = run.stored()
    run.go(*overrides, until="select")
    after = run.stored()
    scored = ("pure", "reliance")
    return sum(len(after.get(s, set()) - before.get(s, set())) for s in scored)


def repairs(run: ScriptedRun) -> dict[str, Trace]:
    return {t.key: t for t in run.read("repair", Trace, "difference")}


def reliances(run: ScriptedRun) -> dict[bool, set[float]]:
    """−Δ of the repairs, by whether they leap."""
    bare, hinted = profiles(run), hinted_scores(run)
    traces = {key: trace for key, trace in repairs(run).items() if key in bare}
    both = [replace(bare[key], hinted_log_ppl=hinted[key].log_ppl) for key in traces]
    scores = drop_scores(both, Selection.RELIANCE, SETTINGS)
    leaps = {key: MAGIC in trace.text for key, trace in traces.items()}
    return {
        kind: {round(s, 2) for t, s in scores.items() if leaps[t] is kind} for kind in (False, True)
    }


def test_reliance_compares_the_same_new_tokens_with_and_without_the_hint(tmp_path):
    run = reliance_run(tmp_path, measure_reliance=True)
    run.go(until="select")
    found = reliances(run)
    assert found[False] == {0.05}
    (leap,) = found[True]
    assert leap > 0.5


def test_the_hinted_pass_is_paid_once_and_switching_the_selection_is_free(tmp_path):
    run = reliance_run(tmp_path)
    run.go(until="select")
    plain = profiles(run)
    assert plain
    assert hinted_scores(run) == {}

    assert scored_anew(run, "pure.selection=reliance") == len(plain)
    hinted = hinted_scores(run)
    assert plain.keys() == hinted.keys()
    assert {t: p.key for t, p in profiles(run).items()} == {t: p.key for t, p in plain.items()}
    counted = {(row.stage, row.trace): row.scored_tokens for row in run.rows(ScoreRow)}
    for trace in plain:
        assert counted["pure", trace] == plain[trace].scored_tokens > 0
        assert counted["reliance", trace] == hinted[trace].scored_tokens > 0

    stored = run.stored()
    for selection in ("fraction", "reliance", "max_ppl"):
        assert scored_anew(run, f"pure.selection={selection}") == 0
        # what an earlier selection asked for is no part of the run, but stays
        assert bool(hinted_scores(run)) == (selection == "reliance")
        assert run.stored() == stored


def test_surprisal_asks_for_no_uncertainty_and_a_profile_that_has_it_is_not_paid_again(tmp_path):
    run = reliance_run(tmp_path, selection="surprisal", measure_uncertainty=False)
    run.go(until="select")
    bare = profiles(run)
    assert bare
    assert not any(p.has_uncertainty or p.probe_tokens for p in bare.values())
    assert {row.commitment for row in run.rows(ScoreRow, "stage='pure'")} == {None}

    assert scored_anew(run, "pure.selection=fraction") == len(bare)
    full = profiles(run)
    for trace, profile_ in full.items():
        assert profile_.has_uncertainty
        assert profile_.probe_tokens > 0
        assert profile_.log_ppl.tolist() == bare[trace].log_ppl.tolist()
        assert np.array_equal(
            profile_.answer_surprisal, bare[trace].answer_surprisal, equal_nan=True
        )

    assert scored_anew(run) == 0
    assert {p.key for p in profiles(run).values()} == {p.key for p in full.values()}


def test_a_folder_of_before_is_scored_again_once_worst_result_selects_and_not_before(tmp_path):
    run = reliance_run(tmp_path, selection="surprisal", measure_uncertainty=False)
    run.go(until="select")
    old = profiles(run)
    with Store.open(run.folder) as store:
        for _, one in list(store.read("pure", PureScore)):
            store.put("pure", one.key, one.problem_id, replace(one, worst_result=None))
    assert scored_anew(run, "gear.target=4") == 0
    assert scored_anew(run, "pure.selection=worst_result") == len(old) > 0
    new = profiles(run)
    assert new.keys() == old.keys()
    assert {p.key for p in new.values()}.isdisjoint(p.key for p in old.values())
    assert all(p.worst_result is not None for p in new.values())
    assert scored_anew(run) == 0
    assert scored_anew(run, "pure.selection=surprisal") == 0
    assert {p.key for p in profiles(run).values()} == {p.key for p in old.values()}


def test_a_failed_profile_is_owed_again_under_the_name_of_what_is_asked_for_now(tmp_path):
    run = reliance_run(tmp_path, selection="fraction")
    run.go(until="select")
    first = next(iter(profiles(run).values()))
    broken = replace(first, error="timed out", uncertainty=first.uncertainty * np.nan)
    with Store.open(run.folder) as store:
        store.put("pure", broken.key, broken.problem_id, broken)
    settings = ("pure.selection=surprisal", "pure.measure_uncertainty=false")
    run.go(*settings, until="select")
    run.go(until="select")
    again = profiles(run)[first.trace]
    assert again.error is None
    assert again.has_uncertainty


def dropped_by_pure(run: ScriptedRun, pool: str = "") -> set[str]:
    chosen = run.rows(SelectedRow, "arm='heal'")
    return {x.trace for x in chosen if x.drop == Drop.PURE and pool in x.pool}


def test_the_most_reliant_repairs_are_dropped(tmp_path):
    run = reliance_run(tmp_path, selection="reliance")
    run.go(until="select")
    leaps = {key for key, trace in repairs(run).items() if MAGIC in trace.text}
    assert dropped_by_pure(run, "D3") == leaps != set()


def test_joint_asks_for_the_hinted_pass_and_no_u_and_drops_the_leap(tmp_path):
    run = reliance_run(tmp_path, selection="joint", measure_uncertainty=False)
    run.go(until="select")
    found, hinted = profiles(run), hinted_scores(run)
    assert found.keys() == hinted.keys()
    assert not any(p.has_uncertainty for p in found.values())
    assert all(p.answer_surprisal is not None for p in found.values())
    leaps = {key for key, trace in repairs(run).items() if MAGIC in trace.text}
    assert dropped_by_pure(run, "D3") == leaps != set()
    assert run.meta("pure")["heal"]["line"] is None
    both = {t: replace(p, hinted_log_ppl=hinted[t].log_ppl) for t, p in found.items()}
    own = [both[t] for t in repairs(run) if t in both]
    ranks = drop_scores(own, Selection.JOINT, SETTINGS)
    chosen = run.rows(SelectedRow, "arm='heal' AND pool='D3'")
    assert {row.trace: row.score for row in chosen} == pytest.approx(ranks)
    assert len(own) > 1
    assert scored_anew(run, "pure.selection=reliance") == 0
    assert scored_anew(run, "pure.selection=surprisal") == 0


def test_a_trace_without_its_hinted_score_is_dropped_only_where_reliance_selects(tmp_path):
    broken = {"match": "Hint:.*the green way makes.*<end>", "error": "out of memory"}
    run = reliance_run(tmp_path, broken, measure_reliance=True)
    run.go(until="select")
    failed = {trace for trace, h in hinted_scores(run).items() if h.error is not None}
    fact = "traces that could not be scored with their hint in view"
    assert run.meta("facts")[fact] == len(failed) == 2
    assert not dropped_by_pure(run) & failed
    run.go("pure.selection=reliance", until="select")
    assert run.meta("facts")[fact] == 2
    assert dropped_by_pure(run) & failed == failed
