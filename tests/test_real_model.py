"""The real-model benchmark's tables: what they count, checked on traces whose figures are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from benchmarks import (
    real_breakpoints,
    real_checker,
    real_model_checkers,
    real_model_problems,
    real_pure,
)
from benchmarks.real_model_readings import (
    STAGE,
    Item,
    Reading,
    items,
    read,
    spread,
    wanted,
    write_figures,
)
from tests.tiny_models import make_checkpoint

from heal.config import LocalEngine
from heal.data.problems import read_problems
from heal.engines.local.engine import open_local
from heal.recipe import load as load_recipe
from heal.recipe import parse
from heal.records import Check, Finish, Gate, Origin, Problem, Trace, Verdict
from heal.steps import open_checker
from heal.store import Store, Stored, TraceRow

STEPS = [
    "We add 4 + 4 = 8 pens.\n\n",
    "Then 8 * 3 = 25 pens.\n\n",
    "So 25 + 1 = 26 pens.\n\n",
    "It is 26.\n",
]


def reading(n, *, steps=STEPS, surprise_at=None, origin=Origin.UNAIDED, family="a", problem=None):
    """A reading of one token per character, costly where told: the step's last digit."""
    pieces = list("".join(steps))
    ends = np.cumsum([len(s) for s in steps]).tolist()
    bare = np.full(len(pieces), -0.1, np.float32)
    if surprise_at is not None:
        start = ends[surprise_at - 2] if surprise_at > 1 else 0
        digits = [i for i in range(start, ends[surprise_at - 1]) if pieces[i].isdigit()]
        bare[digits[-1]] = -3.0
    return Reading(
        key=f"r{n}",
        run="run",
        problem_id=problem or f"{n:016x}",
        problem="?",
        answer="25",
        family=family,
        trace=f"t{n}",
        origin=origin,
        verdict=Verdict.WRONG if origin is Origin.UNAIDED else Verdict.CORRECT,
        own_answer="26",
        gate=None if origin is Origin.UNAIDED else "passed",
        prefix_tokens=0,
        step_ends=ends,
        steps=[s.strip() for s in steps],
        pieces=pieces,
        bare=bare,
        bare_entropy=-bare,
        gold=np.full(len(pieces), -0.1, np.float32),
        gold_entropy=-bare,
        own=np.full(len(pieces), -0.1, np.float32),
        gold_after=np.zeros(len(ends) + 1, np.float32),
        own_after=np.zeros(len(ends) + 1, np.float32),
    )


def stored(folder, readings):
    with Store.open(folder) as store:
        store.commit(Stored(STAGE, r.key, r.problem_id, r) for r in readings)
    return folder


# Problem ids of both halves: the hash's parity is that of its first eight digits.
IDS = [f"{n:08x}{n:08x}" for n in range(24)]


def test_a_rule_that_finds_the_planted_break_is_chosen_and_scored_on_the_other_half(tmp_path):
    folder = stored(tmp_path / "r", [reading(n, surprise_at=2, problem=IDS[n]) for n in range(24)])
    traces = real_breakpoints.load(folder)
    assert len(traces) == 24 and {t.broke for t in traces} == {2}
    found = real_breakpoints.table(traces)
    assert found["rules"][found["chosen"]]["exact"]["share"] == 1.0
    assert found["rules"]["surprisal · max of results"]["exact"]["n"] == 12
    assert found["rivals"]["restart"]["exact"]["share"] == 0.0
    assert found["rivals"]["restart"]["kept"] == {"mean": 0.0, "half": 0.0, "n": 12}
    assert found["rivals"]["the last step"]["not_after"]["share"] == 0.0
    assert found["rivals"]["the last step"]["kept"]["mean"] == 1.0
    gap = found["differences_of_exact_hits"][f"{found['chosen']} − restart"]
    assert gap["mean"] == 1.0
    json.dumps(found, allow_nan=False)
    assert len(real_breakpoints.load(folder, real_breakpoints.by_family)) == 24


def test_runs_named_fresh_judge_and_all_others_choose(tmp_path):
    made = [Reading(**{**vars(reading(n)), "run": f"run-{n % 2}"}) for n in range(6)]
    traces = real_breakpoints.load(stored(tmp_path / "r", made), fresh=["run-1"])
    assert {(t.reading.run, t.chooses) for t in traces} == {("run-0", True), ("run-1", False)}


def test_a_trace_without_a_false_equation_is_not_a_truth(tmp_path):
    honest = ["We add 4 + 4 = 8 pens.\n\n", "It is 8.\n"]
    folder = stored(tmp_path / "r", [reading(1), reading(2, steps=honest)])
    assert [t.reading.trace for t in real_breakpoints.load(folder)] == ["t1"]


def test_the_good_part_kept_is_counted_in_tokens_up_to_the_break():
    failed = real_breakpoints.Failed(reading(1), 3, False)
    first, second = len(STEPS[0]), len(STEPS[1])
    assert failed.kept(1) == 0
    assert failed.kept(2) == pytest.approx(first / (first + second))
    assert failed.kept(3) == failed.kept(4) == 1
    assert np.isnan(real_breakpoints.Failed(reading(1), 1, False).kept(2))


CLEAN = ["We add 4 + 4 = 8 pens.\n\n", "Then 8 * 3 = 24 pens.\n\n", "So 24 + 1 = 25 pens.\n"]


def assisted(n, fudged, surprise_at=None, family="a", gate="passed"):
    steps = STEPS if fudged else CLEAN
    made = reading(n, steps=steps, surprise_at=surprise_at, origin=Origin.HINTED, family=family)
    return Reading(**{**vars(made), "gate": gate})


def test_fudged_and_clean_are_the_checkers_word_and_gated_traces_are_left_out(tmp_path):
    made = [assisted(1, True), assisted(2, False), assisted(3, True, gate="hint_talk"), reading(4)]
    found = real_pure.load(stored(tmp_path / "r", made))
    assert {t.reading.trace: t.fudged for t in found} == {"t1": True, "t2": False}


def test_an_auroc_within_families_does_not_see_what_only_tells_families_apart():
    traces = [
        real_pure.Assisted(assisted(n, n % 2 == 0, family=f), n % 2 == 0, 2, True)
        for n, f in [(0, "a"), (1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "b")]
    ]
    families = np.array([1.0 if t.reading.family == "a" else 0.0 for t in traces])
    assert real_pure.matched_auroc(traces, families) == 0.5
    truth = np.array([float(t.fudged) for t in traces])
    assert real_pure.matched_auroc(traces, truth) == 1.0
    assert real_pure.matched_auroc(traces, -truth) == 0.0
    assert real_pure.matched_auroc(traces[:1], truth[:1]) is None


def test_the_reading_that_was_planted_separates_and_its_line_holds_on_the_other_half(tmp_path):
    made = [assisted(n, n % 3 == 0, surprise_at=2 if n % 3 == 0 else None) for n in range(40)]
    made = [Reading(**{**vars(r), "problem_id": f"{n:08x}{0:08x}"}) for n, r in enumerate(made)]
    found = real_pure.table(real_pure.load(stored(tmp_path / "r", made)))
    assert found["facts"]["fudged"] == 14 and found["facts"]["clean"] == 26
    assert found["detectors"]["worst result"]["auroc"]["mean"] == 1.0
    assert found["worst_result_above"]["mean_nll"]["mean"] >= 0
    row = found["lines"]["worst result"][0]
    assert row["let_through"]["share"] == 0.0 and row["clean_kept"]["share"] == 1.0
    json.dumps(found, allow_nan=False)


def test_a_false_equation_in_the_kept_prefix_is_inherited():
    made = assisted(1, True)
    kept = Reading(**{**vars(made), "prefix_tokens": made.step_ends[1]})
    assert real_pure.Assisted(kept, True, 2, True).inherited
    assert not real_pure.Assisted(made, True, 2, True).inherited


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("teacher") / "model")
    return open_local(str(folder), LocalEngine(threads=1))


@pytest.fixture
def run_folder(tmp_path, engine):
    """A run folder of three traces: failed, hinted and right, and one cut off."""
    config = parse({
        "run": "run", "problems": {"path": "p.jsonl"}, "teacher": {"model": "m"}, "student": None,
        "arms": ["base", "heal"], "gear": {"min_step_tokens": 1},
    })  # fmt: skip
    problem = Problem("p1", "What is 8 * 3 + 1?", "25", meta={"family": "sums"})

    def trace(key, origin, steps, finish=Finish.STOP):
        text = "".join(steps)
        ids = np.array(engine.encode(text), np.int32)
        return Trace(key, "p1", origin, 0, ids, text, finish, prompt_tokens=5)

    made = [
        ("sample", trace("failed", Origin.UNAIDED, STEPS), Verdict.WRONG, "26"),
        ("sample", trace("cut", Origin.UNAIDED, STEPS, Finish.LENGTH), Verdict.TRUNCATED, None),
        ("hinted", trace("right", Origin.HINTED, CLEAN), Verdict.CORRECT, "25"),
    ]
    with Store.open(tmp_path / "run") as store:
        store.write_text("config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
        store.put("problem", "p1", "p1", problem)
        for stage, t, verdict, answer in made:
            store.put(stage, t.key, "p1", t)
            store.put("check", f"c-{t.key}", "p1", Check(t.key, verdict, answer))
        right = made[-1][1]
        sizes = (len(right.ids), len(right.ids))
        told = ("correct", "25", Gate.PASSED, None, None, False)
        store.insert([TraceRow("p1", "hinted", "", "right", 0, right.finish, *sizes, *told)])
    return tmp_path / "run"


def test_a_run_folder_is_read_once_with_every_context(run_folder, engine, tmp_path):
    chosen = [item for item in items(run_folder) if wanted(item, engine)]
    assert {item.trace.key for item in chosen} == {"failed", "right"}
    with Store.open(tmp_path / "readings") as store:
        assert read(chosen, engine, store) == 2
        ungated = [replace(item, gate=None) for item in chosen]
        assert read(ungated, engine, store) == read(chosen, engine, store) == 0
        found = {r.trace: r for _, r in store.read(STAGE, Reading)}
    failed, right = found["failed"], found["right"]
    assert "".join(failed.pieces) == "".join(STEPS)
    assert len(failed.bare) == len(failed.gold) == len(failed.own) == len(failed.pieces)
    assert len(failed.gold_after) == len(failed.own_after) == len(failed.step_ends) + 1
    assert np.abs(failed.gold - failed.own).max() > 0
    assert right.gate == "passed" and not len(right.own) and not len(right.own_after)
    assert failed.steps[1] == "Then 8 * 3 = 25 pens."


def test_no_problem_has_more_than_its_share_of_readings(run_folder):
    one = next(iter(items(run_folder)))
    many = [
        Item(**{**vars(one), "trace": Trace(**{**vars(one.trace), "key": f"k{n}"})})
        for n in range(9)
    ]
    assert [i.trace.key for i in spread(many, 4, 0)] == ["k0", "k1", "k2", "k3"]
    assert spread(many, 0, 9) == []


def test_a_seed_names_its_problems_and_the_recipe_reads_them(tmp_path):
    pytest.importorskip("reasoning_gym")
    for sizes in real_model_problems.SIZES.values():
        first, again, other = (
            list(real_model_problems.problems(seed, sizes)) for seed in (1, 1, 2)
        )
        assert first == again != other
        assert {row["family"] for row in first} == set(sizes)
        assert len(first) == sum(count for count, _ in sizes.values())
        assert not any("only the result" in row["problem"] for row in first)
    real_model_problems.write(tmp_path, "some-teacher", 1, real_model_problems.EASIER)
    config = load_recipe(tmp_path / "recipe.yaml")
    found = read_problems(config.problems, tmp_path)
    assert len(found.problems) + found.facts.get("duplicate problems dropped", 0) == 38
    assert {p.meta["family"] for p in found.problems} == set(real_model_problems.EASIER)


LEGS = "Now, how many legs are there in total if you have 2 ducks, 7 scorpions, 12 butterflys?"
SUM = "State the final answer to the following arithmetic problem: 865 + 351 - 301 ="


@pytest.mark.parametrize(
    ("problem", "steps", "expected"),
    [
        (LEGS, ["- Each duck has 2 legs.", "2 ducks: 2 * 2 = 4"], 0),
        (LEGS, ["- Each duck has 2 legs.", "2. **Scorpions**: Each scorpion has 6 legs."], 2),
        (LEGS, ["Scorpions:\n- number: 7\n- legs: \\(7 \\times 8 = 56\\)"], 0),
        (LEGS, ["Scorpions:\n- number: 7\n- legs: \\(7 \\times 6 = 42\\)"], 1),
        (LEGS, ["Butterflies: \\(12 \\text{ butterflies} \\times 4 \\text{ legs} = 48\\)"], 1),
        (LEGS, ["All 2 ducks have 4 legs together.", "Add them."], None),
        (LEGS, ["Each duck has 2 legs.", "4 + 56 + 72 = 142"], 2),
        (LEGS, ["Ducks and scorpions have legs.", "I count."], None),
        (SUM, ["865 + 351 = 1216", "1216 - 301 = 915"], 0),
        (SUM, ["865 + 351 = 1216", "1216 + 301 = 1517"], 2),
        (SUM, ["865 + 351 = 1206", "1206 + 301 = 1507"], 1),
        (SUM, ["351 + 865 = 1216", "301 + 4 = 305"], 0),
        ("What is 3 * 4?", ["3 * 4 = 13"], 1),
        ("What is 3 * 4?", ["It is twelve."], None),
    ],
)
def test_what_the_family_tells_is_truth_too(problem, steps, expected):
    assert real_model_checkers.first_wrong(problem, "?", steps) == expected


def test_the_familys_checker_is_a_checker(code_allowed):
    checker = open_checker("benchmarks.real_model_checkers:first_wrong")
    assert checker is not None
    assert checker(SUM, "915", ["865 + 351 = 1216", "1216 + 301 = 1517"]).step == 2


def test_the_checkers_table_counts_what_it_names_and_lists_right_traces_it_flags(run_folder):
    with Store.open(run_folder) as store:
        lucky = dict(store.read("sample", Trace))["failed"]
        store.put("sample", "lucky", "p1", replace(lucky, key="lucky"))
        store.put("check", "c-lucky", "p1", Check("lucky", Verdict.CORRECT, "26"))
    found = real_checker.table([run_folder])
    named, flagged = found["wrong_traces_named"]["sums"], found["right_traces_flagged"]["sums"]
    assert (named["share"], named["n"]) == (flagged["share"], flagged["n"]) == (1, 1)
    assert [f["equation"] for f in found["flagged"]] == ["8 * 3 = 25"]
    assert found["equations"] == {
        "wrong true": 2, "wrong false": 1, "correct true": 2, "correct false": 1,
    }  # fmt: skip


def test_figures_are_written_small_and_read_back(tmp_path):
    share = {"share": 0.12345, "low": 0.1, "high": 0.2, "n": 9}
    write_figures(tmp_path / "a" / "f.json", {"x": {"y": share, "kept": None}, "n": 3})
    text = (tmp_path / "a" / "f.json").read_text("utf-8")
    assert json.loads(text) == {"x": {"y": [0.123, 0.1, 0.2, 9], "kept": None}, "n": 3}
    assert '"y": [0.123, 0.1, 0.2, 9]' in text
