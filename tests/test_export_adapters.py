"""Exported stages with adapters: the next one starts from whole weights, not from an adapter."""

import re
from pathlib import Path

import pytest
from tests.scripted_run import ScriptedRun, easy, extreme, world

from heal.export.formats import export

STAGED = ("trl", "llamafactory", "swift", "axolotl")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    settings = {"arms": ["heal"], "train": {"lora_rank": 2}}
    home = tmp_path_factory.mktemp("adapters")
    found = ScriptedRun(home, world(easy("apples"), extreme("plums")), settings)
    found.go()
    return found


@pytest.mark.parametrize("name", STAGED)
def test_a_stage_starts_from_the_merged_weights_of_the_one_before(
    run: ScriptedRun, tmp_path: Path, name: str
) -> None:
    export(run.folder, name, tmp_path)
    text = "\n".join(
        path.read_text() for path in sorted(tmp_path.iterdir()) if path.suffix in (".yaml", ".sh")
    )
    merged = re.findall(r"python merge\.py (out/\w+) (out/\w+-merged)$", text, re.MULTILINE)
    assert [b.removesuffix("-merged") for _, b in merged] == [a for a, _ in merged]
    assert len(merged) == 3
    sources = re.findall(r"(?:model_name_or_path|base_model|--model)[: ]+(\S+)", text)
    assert sources[1:] == [out for _, out in merged[:2]]
    compile((tmp_path / "merge.py").read_text(), "merge.py", "exec")


@pytest.mark.parametrize("name", STAGED)
def test_all_weights_need_no_merging(tmp_path: Path, name: str) -> None:
    plain = ScriptedRun(tmp_path / "run", world(easy("apples")), {"arms": ["rft"]})
    plain.go()
    export(plain.folder, name, tmp_path / "out")
    assert not (tmp_path / "out" / "merge.py").exists()
    assert not any("merge.py" in p.read_text() for p in (tmp_path / "out").glob("*.[ys]*"))
