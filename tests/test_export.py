"""`heal export`: rows that read back equal, in each format's true shape, with their lineage."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.scripted_run import ScriptedRun, easy, extreme, hard, world
from tests.tiny_student import make_student

from heal.cli import main
from heal.errors import UserError
from heal.export.formats import FORMATS, export
from heal.export.rows import one_think_block
from heal.store import Store

LINEAGE = {
    "problem_id", "trace", "set", "stage", "origin", "parent", "cut_step", "hint_kind",
    "pure_score", "family", "stratum",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    """A finished run without a student: data only."""
    parts = world(easy("apples"), hard("pears"), extreme("plums"), extreme("figs"))
    found = ScriptedRun(tmp_path_factory.mktemp("export"), parts, {"arms": ["rft", "heal"]})
    found.go()
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def kept(run: ScriptedRun) -> dict[str, tuple[str, str]]:
    """Trace → user and assistant, as HEAL's own stage file has them."""
    rows = run.stage_rows("stage3_frontier.jsonl")
    return {r["trace"]: (r["messages"][-2]["content"], r["messages"][-1]["content"]) for r in rows}


def test_messages_are_those_of_the_stage_files(run: ScriptedRun, tmp_path: Path) -> None:
    made = export(run.folder, "trl", tmp_path / "out")
    rows = lines(tmp_path / "out/messages.jsonl")
    assert {r["trace"]: tuple(m["content"] for m in r["messages"]) for r in rows} == kept(run)
    assert made.files["messages.jsonl"] == len(rows) == len(kept(run)) > 10
    assert all(set(r) == {"messages"} | LINEAGE for r in rows)
    assert not any("Hint" in r["messages"][-2]["content"] for r in rows)


def test_lineage_leads_back_into_the_run(run: ScriptedRun, tmp_path: Path) -> None:
    export(run.folder, "trl", tmp_path)
    rows = {r["trace"]: r for r in lines(tmp_path / "messages.jsonl")}
    repaired = [r for r in rows.values() if r["set"] == "D3"]
    assert repaired
    for row in repaired:
        assert (row["origin"], row["stage"], row["cut_step"]) == ("repaired", "frontier", 3)
        assert row["parent"] in run.stored()["sample"]
        assert row["hint_kind"] == "guided"
        assert row["pure_score"] is not None
    assert Counter(r["stage"] for r in rows.values() if r["set"] == "D1") == Counter(
        {"foundation": sum(r["set"] == "D1" for r in rows.values())}
    )


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "trl-plan"])  # needs a plan
def test_every_format_says_what_it_wrote(run: ScriptedRun, tmp_path: Path, name: str) -> None:
    made = export(run.folder, name, tmp_path / name)
    told = json.loads((tmp_path / name / "export.json").read_text())
    assert told["files"] == made.files
    assert {p.name for p in (tmp_path / name).iterdir()} == {*made.files, "export.json"}
    for file, rows in made.files.items():
        if file.endswith(".jsonl"):
            assert len(lines(tmp_path / name / file)) == rows > 0
    again = export(run.folder, name, tmp_path / name)
    assert again == made


def test_conversations_have_the_names_of_sharegpt(run: ScriptedRun, tmp_path: Path) -> None:
    export(run.folder, "sharegpt", tmp_path)
    for row in lines(tmp_path / "conversations.jsonl"):
        (human, gpt) = row["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert (human["value"], gpt["value"]) == kept(run)[row["trace"]]


def test_a_pair_is_a_failure_and_its_repair(run: ScriptedRun, tmp_path: Path) -> None:
    made = export(run.folder, "dpo", tmp_path)
    pairs = lines(tmp_path / "pairs.jsonl")
    assert len(pairs) + sum(made.refused.values()) == len(kept(run))
    for pair in pairs:
        good, bad = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        assert "\\boxed{142}" in good
        assert "\\boxed{142}" not in bad
        # the steps before the cut are the same
        assert good.split("\n\n")[:2] == bad.split("\n\n")[:2]


def test_privileged_rows_hold_the_hint_and_the_prompt_does_not(
    run: ScriptedRun, tmp_path: Path
) -> None:
    export(run.folder, "privileged", tmp_path)
    rows = lines(tmp_path / "privileged.jsonl")
    assert {r["set"] for r in rows} == {"D2", "D3"}
    for row in rows:
        assert row["privileged_context"]
        assert row["privileged_context"] not in row["prompt"][0]["content"]


def test_the_data_set_opens_with_a_split_per_set(run: ScriptedRun, tmp_path: Path) -> None:
    from datasets import load_dataset

    made = export(run.folder, "datasets", tmp_path / "d")
    found = load_dataset(str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    assert {f"{name}.parquet": len(rows) for name, rows in found.items()} == {
        file: rows for file, rows in made.files.items() if rows
    }
    texts = {r["trace"]: r["messages"][-1]["content"] for rows in found.values() for r in rows}
    assert texts == {trace: text for trace, (_, text) in kept(run).items()}
    card = (tmp_path / "d/README.md").read_text()
    for words in ("## Yield", "## Limits", "Licences", "## How to train on it"):
        assert words in card


def test_parquet_for_verl_reads_back(run: ScriptedRun, tmp_path: Path) -> None:
    from pyarrow import parquet

    export(run.folder, "verl", tmp_path)
    rows = parquet.read_table(tmp_path / "train.parquet").to_pylist()
    assert {r["trace"]: (r["prompt"], r["response"]) for r in rows} == kept(run)


# --- trainers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "rows", "rate"),
    [
        ("llamafactory", "model_name_or_path", "dataset", "learning_rate"),
        ("axolotl", "base_model", "datasets", "learning_rate"),
        ("trl", "model_name_or_path", "datasets", "learning_rate"),
    ],
)
def test_each_stage_starts_from_the_one_before_at_its_own_rate(
    run: ScriptedRun, tmp_path: Path, name: str, source: str, rows: str, rate: str
) -> None:
    export(run.folder, name, tmp_path)
    stages = [yaml.safe_load(p.read_text()) for p in sorted(tmp_path.glob("stage*.yaml"))]
    assert [s[source] for s in stages[1:]] == [s["output_dir"] for s in stages[:-1]]
    assert [round(s[rate] / stages[0][rate], 3) for s in stages] == [1.0, 0.7, 0.5]
    for number, stage in enumerate(stages, 1):
        assert re.search(r"foundation|bridge|frontier", json.dumps(stage[rows]))
        assert (tmp_path / f"stage{number}_{stage['output_dir'][4:]}.jsonl").is_file()


def test_stage_files_show_the_frontier_last_and_replay_what_came_before(
    run: ScriptedRun, tmp_path: Path
) -> None:
    export(run.folder, "llamafactory", tmp_path)
    sets = [
        Counter(row["set"] for row in lines(path)) for path in sorted(tmp_path.glob("stage*.jsonl"))
    ]
    assert set(sets[0]) == {"D1"}
    assert set(sets[1]) == {"D1", "D2"}
    assert set(sets[2]) == {"D1", "D2", "D3"}
    assert sets[2]["D3"] >= sets[2].total() / 2


def test_trls_stages_teach_the_completion_alone(run: ScriptedRun, tmp_path: Path) -> None:
    export(run.folder, "trl", tmp_path)
    for path in tmp_path.glob("stage*.jsonl"):
        assert all(r["prompt"] and r["completion"] and "messages" not in r for r in lines(path))


def test_llamafactory_is_told_where_roles_stand(run: ScriptedRun, tmp_path: Path) -> None:
    export(run.folder, "llamafactory", tmp_path)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    for one in info.values():
        row = lines(tmp_path / one["file_name"])[0]
        message = row[one["columns"]["messages"]][0]
        assert message[one["tags"]["role_tag"]] == one["tags"]["user_tag"]
        assert message[one["tags"]["content_tag"]]


def test_a_runs_own_plan_is_followed_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a student there is a plan: the rows of each stage are its batches, in order."""
    from heal.records import StagePlan

    config = make_student(tmp_path / "student") / "config.json"
    config.write_text(config.read_text().replace('_embeddings": 256', '_embeddings": 1024'))
    settings = {
        "student": {"model": "student"}, "arms": ["heal"], "pace": {"epochs": 0.5},
        "train": {"threads": 1, "max_length": 900}, "problems": {"held_out": 0},
        "engine": {"local": {"threads": 1}},
    }  # fmt: skip
    run = ScriptedRun(tmp_path, world(easy("apples"), extreme("plums")), settings)
    run.go()
    monkeypatch.chdir(tmp_path)
    export(run.folder, "swift", tmp_path / "out")
    with Store.open(run.folder, write=False) as store:
        plans = {plan.index: plan for _, plan in store.live("plan", StagePlan)}
    for number, path in enumerate(sorted((tmp_path / "out").glob("stage*.jsonl")), 1):
        shown = [trace for batch in plans[number].batches for trace in batch]
        assert [row["trace"] for row in lines(path)] == shown
    script = (tmp_path / "out/train.sh").read_text()
    assert script.count("swift sft") == 3
    assert str(tmp_path / "student") in script


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_itself_trains_on_the_rows_and_on_the_pairs(run: ScriptedRun, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    export(run.folder, "trl", tmp_path / "trl")
    export(run.folder, "dpo", tmp_path / "dpo")
    make_student(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    common: dict[str, Any] = {
        "max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True,
        "bf16": False, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip
    for kind, trainer, config in (
        ("trl/prompt_completion.jsonl", SFTTrainer, SFTConfig),
        ("dpo/pairs.jsonl", DPOTrainer, DPOConfig),
    ):
        rows = load_dataset("json", data_files=str(tmp_path / kind), cache_dir=str(tmp_path / "c"))
        one = trainer(
            model=AutoModelForCausalLM.from_pretrained(tmp_path / "student"),
            args=config(output_dir=str(tmp_path / "out"), **common),
            train_dataset=rows["train"],
            processing_class=tokenizer,
        )
        one.train()
        assert one.state.global_step == 1


# --- thinking, refusals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("No thinking. 4", "No thinking. 4"),
        ("<think>\na\n</think>\n\n4", "<think>\na\n</think>\n\n4"),
        ("a\n</think>\n\n4", "<think>\na\n</think>\n\n4"),
        ("<think>\na", None),
        ("<think>a</think><think>b</think>4", None),
        ("a</think>b</think>4", None),
        ("4 <think>a</think>", None),
    ],
)
def test_a_row_has_one_closed_think_block_or_none(text: str, shown: str | None) -> None:
    assert one_think_block(text) == shown


def test_thinking_that_never_ends_is_not_exported_and_the_run_says_so(tmp_path: Path) -> None:
    rows, rules = world(easy("apples"), easy("melons"))
    text = json.dumps(rules).replace("With the wide", "<think> With the wide")
    run = ScriptedRun(tmp_path, (rows, json.loads(text)))
    run.go()
    assert run.meta("facts")["examples whose thinking is not one closed section"] >= 2
    made = export(run.folder, "sharegpt", tmp_path / "out")
    assert made.files["conversations.jsonl"] == 2
    assert made.refused == {}


Shell = Callable[[str], tuple[int, str]]


def test_the_verb_lists_files_and_the_next_step(
    run: ScriptedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.home)
    for command, code, words in (
        ("heal export dpo run --out a", 0, "next: trl dpo"),
        ("heal export parquet run", 2, "choose one of trl, trl-plan"),
        ("heal export trl run --arm star", 2, "--arm heal"),
        ("heal export trl nowhere", 2, "nowhere"),
        ("heal export trl run --out .", 2, "holds something else"),
    ):
        monkeypatch.setattr("sys.argv", command.split())
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code or 0, words in said.out + said.err) == (code, True), command


def test_a_run_that_selected_nothing_says_what_to_do(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go(until="verify")
    with pytest.raises(UserError, match="nothing is selected"):
        export(run.folder, "trl", tmp_path / "out")
