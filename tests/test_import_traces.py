"""Traces that were sampled elsewhere: every form read, joined, verified, repaired, and counted."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_run import (
    ANSWER,
    WAYS,
    ScriptedRun,
    easy,
    failed,
    kill,
    right,
    row,
    small_world,
    strata,
    world,
)  # fmt: skip
from tests.trace_shapes import ASKED, CUT, SHAPES, WHOLE, Shape, lines

from heal.cli import main
from heal.errors import UserError
from heal.records import Finish, Imported, Stratum, Trace, Verdict
from heal.store import ProblemRow, SelectedRow, TraceRow

NO_TEACHER = {"teacher": None, "arms": ["rft"]}
FAILED = [failed("plums", way) for way in WAYS]


def importing(**more: Any) -> dict[str, Any]:
    return {"problems": {"traces": {"path": "traces.jsonl", **more}}}


def rows_of(traces: dict[str, list[str]], **more: Any) -> list[dict[str, Any]]:
    return [{**row(name), "generations": texts, **more} for name, texts in traces.items()]


THREE = {
    "apples": [right("apples", "tall"), right("apples", "wide")],
    "pears": [right("pears", "tall"), *(failed("pears", way) for way in WAYS[:3])],
    "plums": FAILED,
}
"""As the teacher of `small_world` would write them."""


def with_traces(home: Path, rows: list[dict[str, Any]], **settings: Any) -> ScriptedRun:
    given = {**importing(), **settings}
    run = ScriptedRun(home, small_world(), given)
    lines(*rows)(home / "traces.jsonl")
    return run


def heal(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["heal", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


# ── every form ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.form}-{shape.file}")
def test_every_form_is_told_by_its_columns_and_read(tmp_path: Path, shape: Shape) -> None:
    run = ScriptedRun(tmp_path, world(easy("apples")), importing(path=shape.file))
    shape.write(tmp_path / shape.file)
    run.go(*shape.settings, until="verify")
    traces = {trace.finish: trace.text for trace in run.read("sample", Trace)} or {
        trace.finish: trace.text for trace in run.everything("sample", Trace).values()
    }
    assert traces == {Finish.STOP: WHOLE, Finish.LENGTH: CUT}
    assert run.watch.lines["import"].split(" · ")[0].split(", ")[-1] == shape.form
    verdicts = {trace.verdict for trace in run.rows(TraceRow)}
    assert verdicts == {Verdict.CORRECT, Verdict.TRUNCATED}
    (listed,) = run.read("import", Imported)
    assert listed.said == ([True, False] if shape.says_verdict else [None, None])
    derived = {text for text in run.meta("facts") if "without a finish reason" in text}
    assert len(derived) == (0 if shape.says_finish else 2)


@pytest.mark.parametrize(
    "shape", [s for s in SHAPES if s.has_gold], ids=lambda s: f"{s.form}-{s.file}"
)
def test_a_file_with_golds_needs_no_problem_file(tmp_path: Path, shape: Shape) -> None:
    run = ScriptedRun(tmp_path, world(easy("apples")), importing(path=shape.file))
    shape.write(tmp_path / shape.file)
    run.go("problems.path=null", *shape.settings, until="verify")
    (problem,) = run.rows(ProblemRow)
    assert (problem.n, problem.correct, problem.truncated) == (2, 1, 1)
    assert run.nouns() == {problem.problem: "apples"}


def test_openthoughts_with_metadata_gives_thinking_and_answer(tmp_path: Path) -> None:
    run = with_traces(
        tmp_path,
        [
            {
                "problem": ASKED["problem"],
                "deepseek_reasoning": "I add.",
                "deepseek_solution": f"\\boxed{{{ANSWER}}}",
                "ground_truth_solution": f"It is \\boxed{{{ANSWER}}}.",
                "domain": "math",
                "source": "numina_math",
            }
        ],
    )
    run.go("problems.path=null", until="verify")
    (trace,) = run.everything("sample", Trace).values()
    assert trace.text == f"<think>\nI add.\n</think>\n\n\\boxed{{{ANSWER}}}"
    assert [t.verdict for t in run.rows(TraceRow)] == [Verdict.CORRECT]


# ── whole runs ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    """A whole run from imported traces: nothing is sampled unaided."""
    said = [{**one, "finish_reasons": ["stop"] * len(one["generations"])} for one in rows_of(THREE)]
    run = with_traces(tmp_path_factory.mktemp("imported"), said)
    run.go()
    return run


def test_imported_traces_are_verified_and_make_the_strata(imported: ScriptedRun) -> None:
    found = {imported.nouns()[p.problem]: (p.n, p.correct) for p in imported.rows(ProblemRow)}
    assert found == {"apples": (2, 2), "pears": (4, 1), "plums": (5, 0)}
    assert strata(imported)["apples"] is Stratum.EASY
    assert strata(imported)["plums"] is Stratum.EXTREME


def test_failed_imported_traces_are_cut_and_repaired(imported: ScriptedRun) -> None:
    sampled = {t.key: t.text for t in imported.everything("sample", Trace).values()}
    repairs = list(imported.everything("repair", Trace).values())
    assert repairs
    for repair in repairs:
        assert repair.parent in sampled
        # the scripted tokenizer has an id for every byte
        kept = sampled[repair.parent][: repair.prefix_tokens]
        assert kept
        assert repair.text.startswith(kept)


def test_the_sets_are_filled_from_what_was_imported(imported: ScriptedRun) -> None:
    kept = {row.pool for row in imported.rows(SelectedRow, "arm='heal' AND [drop]='kept'")}
    assert kept == {"D1", "D2", "D3"}
    taught = {r["messages"][-1]["content"] for r in imported.stage_rows("stage1_foundation.jsonl")}
    assert taught <= {text for texts in THREE.values() for text in texts}


def test_no_unaided_trace_is_asked_of_the_teacher(imported: ScriptedRun) -> None:
    assert len(imported.stored()["sample"]) == sum(map(len, THREE.values()))
    assert imported.watch.lines["import"] == "open-r1 · 3 problems · 11 traces: 11 complete"


def test_the_report_counts_what_was_imported(imported: ScriptedRun) -> None:
    assert imported.view is not None
    facts = {fact.text: fact.count for fact in imported.view.facts}
    assert facts["imported traces"] == 11
    assert facts["trace rows read"] == 3


def test_the_same_traces_imported_and_sampled_give_the_same_sets(tmp_path: Path) -> None:
    """What the teacher would have drawn, drawn elsewhere."""
    sampled = ScriptedRun(tmp_path / "sampled", small_world(), {"sampling": {"n": 30}})
    sampled.go()
    texts: dict[str, list[str]] = {}
    for trace in sorted(sampled.everything("sample", Trace).values(), key=lambda t: t.seed_index):
        texts.setdefault(sampled.nouns()[trace.problem_id], []).append(trace.text)
    again = with_traces(
        tmp_path / "again",
        [r | {"finish_reasons": ["stop"] * len(r["generations"])} for r in rows_of(texts)],
    )
    again.go()
    assert strata(again) == strata(sampled)
    assert taught(again) == taught(sampled)


def taught(run: ScriptedRun) -> Counter[tuple[str, str]]:
    """(file, what the assistant says) of every training row."""
    rows = [(name, one) for name in run.data() for one in run.stage_rows(name)]
    return Counter((name, one["messages"][-1]["content"]) for name, one in rows)


# ── how traces ended, and what they say ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "settings", "finish"),
    [
        (WHOLE, {}, Finish.STOP),
        (CUT, {}, Finish.LENGTH),
        ("<think>\nI think that \\boxed{142}", {}, Finish.LENGTH),
        ("I do not know how to go on", {}, Finish.LENGTH),
        ("I do not know how to go on<|im_end|>", {}, Finish.STOP),
        (WHOLE, {"max_tokens": 20}, Finish.LENGTH),
        (CUT, {"finish": "stop"}, Finish.STOP),
        (WHOLE, {"finish": "length"}, Finish.LENGTH),
    ],
)
def test_how_a_trace_ended_follows_from_its_text(
    tmp_path: Path, text: str, settings: dict[str, Any], finish: Finish
) -> None:
    run = with_traces(tmp_path, rows_of({"apples": [text]}), **importing(**settings))
    run.go(until="verify")
    (trace,) = run.everything("sample", Trace).values()
    assert trace.finish is finish
    assert trace.text == text.removesuffix("<|im_end|>")
    facts = run.meta("facts")
    by_rule = [n for t, n in facts.items() if "without a finish reason" in t]
    ended = "imported traces whose end token was taken off their text"
    assert (by_rule, facts.get(ended)) == (([], 1) if "<|im_end|>" in text else ([1], None))


def test_verdicts_that_differ_from_the_files_own_are_counted_and_named(tmp_path: Path) -> None:
    said = [True, False, True, False]
    rows = rows_of({"pears": THREE["pears"]}, correctness_math_verify=said)
    run = with_traces(tmp_path, rows)
    run.go(until="verify")
    facts = run.meta("facts")
    assert facts["imported traces on which our verifier agrees with their file"] == 3
    assert facts["imported traces their file calls correct, and our verifier does not"] == 1
    assert "traces.jsonl:1: its file says correct, our verifier wrong" in run.watch.said


def test_rows_of_other_problems_and_traces_without_text_are_counted(tmp_path: Path) -> None:
    rows = [
        *rows_of({"apples": [WHOLE, "", None], "melons": [WHOLE, CUT]}),
        {**row("apples"), "generations": []},
    ]
    run = with_traces(tmp_path, rows)
    run.go(until="verify")
    facts = run.meta("facts")
    assert facts["traces not imported: their problem is not in the run"] == 2
    assert facts["traces not imported: empty"] == 1
    assert facts["traces not imported: no text"] == 1
    assert facts["traces not imported: a row without traces"] == 1
    assert facts["problems without any imported trace"] == 2
    assert run.watch.lines["import"].endswith("6 traces: 5 left out · 1 complete")


def test_text_the_tokenizer_does_not_give_back_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heal.engines.scripted import ScriptedEngine

    decode = ScriptedEngine.decode

    def lossy(self: Any, ids: Any) -> str:
        return decode(self, ids).replace("é", "e")

    monkeypatch.setattr(ScriptedEngine, "decode", lossy)
    run = with_traces(tmp_path, rows_of({"apples": ["café " + WHOLE, WHOLE]}))
    run.go(until="verify")
    assert run.meta("facts")["imported traces whose text the tokenizer does not give back"] == 1
    # what was written stays what it was
    assert "café " + WHOLE in {t.text for t in run.everything("sample", Trace).values()}


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("[THINK]I add.[/THINK]\\boxed{142}", "<think>\nI add.\n</think>\n\n\\boxed{142}"),
        (
            "<|channel|>analysis<|message|>I add.<|end|><|start|>assistant<|channel|>final"
            "<|message|>\\boxed{142}<|return|>",
            "<think>\nI add.\n</think>\n\n\\boxed{142}",
        ),
        ("I write [1, 2] and <|nothing|> \\boxed{142}", None),
    ],
)
def test_thinking_is_put_in_canonical_tags(
    tmp_path: Path, given: str, canonical: str | None
) -> None:
    run = with_traces(tmp_path, rows_of({"apples": [given]}))
    run.go(until="verify")
    (trace,) = run.everything("sample", Trace).values()
    assert trace.text == (canonical or given)
    told = "imported traces whose thinking was put in <think> tags"
    assert run.meta("facts").get(told, 0) == (canonical is not None)


# ── without a teacher, and with one that tops up ────────────────────────────────────────────────


def test_without_a_teacher_there_are_strata_and_d1_and_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_traces(tmp_path, rows_of(THREE), **NO_TEACHER)
    (tmp_path / "script.json").unlink()
    run.go()
    assert strata(run)["apples"] is Stratum.EASY
    assert set(run.stored()) <= {"sample", "check", "import", "problem"}
    facts = run.meta("facts")
    assert facts["failed traces of extreme problems not repaired: there is no teacher"] >= 5
    assert facts["imported traces without token counts, as there is no teacher"] == 11
    monkeypatch.chdir(tmp_path)
    words = ("export", "trl", "run", "--out", "sft")
    code, out, err = heal(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0, out + err
    assert any((tmp_path / "sft").rglob("*.jsonl"))


def test_the_report_and_the_card_say_what_was_imported(
    imported: ScriptedRun, tmp_path: Path
) -> None:
    from heal.export.formats import export
    from heal.report.sentences import teacher_sentences

    alone = with_traces(tmp_path / "alone", rows_of(THREE), **NO_TEACHER)
    alone.go("arms=[rft, heal]")
    views = [run.view for run in (imported, alone) if run.view is not None]
    told = [" ".join(teacher_sentences(view)) for view in views]
    assert all(text.startswith("The imported traces solve 2 of 3 problems") for text in told)
    assert "HEAL repaired 1 of those 2" in told[0]
    assert "Nothing was repaired, as there is no teacher" in told[1]
    for run, words in ((imported, "Teacher, which repaired them"), (alone, "There is no teacher")):
        export(run.folder, "datasets", tmp_path / words, None)
        card = (tmp_path / words / "README.md").read_text()
        assert "Unaided traces were imported from `traces.jsonl`" in card
        assert words in card
        assert "40 traces per problem" not in card


def test_the_teacher_draws_only_what_is_missing(tmp_path: Path) -> None:
    run = with_traces(tmp_path, rows_of(THREE), **importing(top_up=True))
    run.go("sampling.n=6", "sampling.adaptive=false", until="verify")
    found = {run.nouns()[p.problem]: p.n for p in run.rows(ProblemRow)}
    assert found == {"apples": 6, "pears": 6, "plums": 6}
    drawn = Counter(run.nouns()[t.problem_id] for t in run.everything("sample", Trace).values())
    assert drawn == found
    verdicts = 3 * 6
    assert run.watch.answers["problems"] == (6 - 2) + (6 - 4) + (6 - 5) + verdicts


# ── again, and after a death ────────────────────────────────────────────────────────────────────


def test_running_again_does_nothing(tmp_path: Path) -> None:
    run = with_traces(tmp_path, rows_of(THREE))
    run.go()
    before, facts = run.live(), run.meta("facts")
    again = run.go()
    assert any("nothing to do" in line for line in again.said)
    assert (run.live(), run.meta("facts")) == (before, facts)


def test_a_file_that_only_moved_is_not_imported_again(tmp_path: Path) -> None:
    run = with_traces(tmp_path, rows_of(THREE))
    run.go(until="verify")
    stored = run.stored()
    (tmp_path / "traces.jsonl").rename(tmp_path / "moved.jsonl")
    run.go("problems.traces.path=moved.jsonl", until="verify", adopt=True)
    assert run.stored() == stored


def test_a_changed_file_is_imported_again_and_nothing_is_stored_twice(tmp_path: Path) -> None:
    run = with_traces(tmp_path, rows_of(THREE))
    run.go(until="verify")
    stored = run.stored()["sample"]
    more = {**THREE, "apples": [*THREE["apples"], failed("apples", "red")]}
    lines(*rows_of(more))(tmp_path / "traces.jsonl")
    run.go(until="verify")
    assert len(run.stored()["sample"] - stored) == 1
    assert run.stored()["sample"] >= stored
    found = {run.nouns()[p.problem]: (p.n, p.correct) for p in run.rows(ProblemRow)}
    assert found["apples"] == (3, 2)


def test_an_import_that_was_killed_goes_on_and_ends_alike(tmp_path: Path) -> None:
    texts = {"apples": [f"{i} {right('apples', 'tall')}" for i in range(600)]}
    whole = with_traces(tmp_path / "whole", rows_of(texts))
    whole.go(until="verify")
    killed = with_traces(tmp_path / "killed", rows_of(texts))
    kill(killed.home, "sample", 300)
    assert 0 < len(killed.stored()["sample"]) < 600
    assert "import" not in killed.stored()
    killed.go(until="verify")
    assert killed.live() == whole.live()
    assert killed.meta("facts") == whole.meta("facts")


def test_a_large_file_takes_the_memory_of_its_keys(tmp_path: Path) -> None:
    run = with_traces(tmp_path, [], **NO_TEACHER)
    with (tmp_path / "traces.jsonl").open("w") as file:
        for i in range(6_000):
            text = f"Way {i}. " + "I go on and on. " * 640 + f"\\boxed{{{ANSWER}}}"
            told = {**row("apples"), "generations": [text], "finish_reasons": ["stop"]}
            file.write(json.dumps(told) + "\n")
    size = (tmp_path / "traces.jsonl").stat().st_size
    assert size > 50 << 20
    tool, root = Path(__file__).parent / "import_memory.py", Path(__file__).parent.parent
    paths = os.pathsep.join([str(root / "src"), str(root)])
    done = subprocess.run(
        [sys.executable, str(tool), str(run.home)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "6,000 traces: 6,000 complete" in told["line"]
    assert (told["peak_kib"]["import"] - told["before_kib"]) << 10 < size / 2


# ── what is wrong with a file ───────────────────────────────────────────────────────────────────

GOOD = json.dumps(rows_of({"apples": [WHOLE]})[0])
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "no file": ("none.jsonl", b"", "none.jsonl: no such file"),
    "empty": ("traces.jsonl", b"", "traces.jsonl: empty file"),
    "half a line": ("traces.jsonl", f"{GOOD}\n{GOOD[:40]}".encode(), "traces.jsonl:2: not valid"),
    "no object": ("traces.jsonl", f"{GOOD}\n[1]\n".encode(), "traces.jsonl:2: expected an object"),
    "no text": ("traces.jsonl", b"\xff\xfe\xfa" * 3 + b"\n", "traces.jsonl"),
    "no traces": ("traces.jsonl", b'{"problem": "1 + 1?", "answer": "2"}\n', "no column with trac"),
    "parquet": ("traces.parquet", b"PAR1 nothing PAR1", "traces.parquet"),
    "zip": ("traces.eval", b"PK\x03\x04 cut", "traces.eval: cannot be unpacked"),
    "kind": ("traces.pkl", b"\x80\x04", "traces.pkl: cannot read .pkl"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_damaged_file_is_told_with_its_place_and_a_command(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, words = BROKEN[what]
    ScriptedRun(tmp_path, small_world())
    monkeypatch.chdir(tmp_path)
    if what != "no file":
        Path(name).write_bytes(content)
    shown = ("import", "auto", name)
    for more in ((), ("-c", "recipe.yaml")):
        code, out, err = heal(*shown, *more, monkeypatch=monkeypatch, capsys=capsys)
        assert code == 2, out + err
        assert words in out + err
        assert re.search(r"^  → ", err, re.MULTILINE), err
        assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher": None}, "teacher: null needs problems.traces"),
        ({**importing(top_up=True), "teacher": None}, "teacher: null needs problems.traces"),
        ({**importing(), "teacher": None, "arms": ["star"]}, "the arm star needs one to sample"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    run = ScriptedRun(tmp_path, small_world(), settings)
    with pytest.raises(UserError, match=re.escape(words)):
        run.go()


# ── the verb ────────────────────────────────────────────────────────────────────────────────────


def test_the_verb_shows_a_file_without_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(*rows_of(THREE))(tmp_path / "traces.jsonl")
    monkeypatch.chdir(tmp_path)
    shown = ("import", "auto", "traces.jsonl")
    code, out, _ = heal(*shown, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert "read as open-r1" in out
    assert re.search(r"\b11  traces that ended by themselves", out)
    assert max(map(len, out.splitlines())) <= 200
    assert [p.name for p in tmp_path.iterdir()] == ["traces.jsonl"]


def test_the_verb_imports_into_a_run_and_says_what_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun(tmp_path, small_world())
    lines(*rows_of(THREE))(tmp_path / "traces.jsonl")
    monkeypatch.chdir(tmp_path)
    words = ("import", "open-r1", "traces.jsonl", "-c", "recipe.yaml")
    code, out, err = heal(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0, out + err
    assert len(run.stored()["sample"]) == 11
    assert "traces:\n    path: traces.jsonl\n    format: open-r1" in out
    follows = re.search(r"heal run recipe.yaml (--set [^\n]*)$", out, re.MULTILINE)
    assert follows, out
    # the command it names goes on with what was imported
    code, out, err = heal("run", "recipe.yaml", *shlex.split(follows[1]), monkeypatch=monkeypatch,
                          capsys=capsys)  # fmt: skip
    assert code == 0, out + err
    assert len(run.stored()["sample"]) == 11
    assert run.stored()["repair"]


@pytest.mark.parametrize("pair", ["generation", "=x", "generation=", "nosuch=x"])
def test_a_wrong_mapping_is_told(
    pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(*rows_of(THREE))(tmp_path / "traces.jsonl")
    monkeypatch.chdir(tmp_path)
    words = ("import", "generic", "traces.jsonl", "--fields", pair)
    code, _, err = heal(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "  → " in err
