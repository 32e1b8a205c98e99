"""What models, problems and servers write is read on the terminal, and never acts on it."""

import re
from pathlib import Path

import pytest
from tests.scripted_run import ScriptedRun, easy, extreme, hard, unsynced, world

from heal.cli import main

ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe\u2066\r\x08"
VERBS = (
    "config -c recipe.yaml",
    "check -c recipe.yaml",
    "run -c recipe.yaml",
    "run -c recipe.yaml --set limits.teacher_tokens=1 --set sampling.n=50",
    "run -c recipe.yaml --set problems.path=gone\u202e.jsonl",
    "run -c recipe.yaml --set teacher.model=gone\u202e",
    "show run",
    "report run",
    "doctor run",
)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_lets_a_text_act_on_the_terminal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    rows, rules = world(easy("apples"), hard("pears"), extreme("plums"))
    rows = [{**row, "problem": f"{row['problem']} {HOSTILE}"} for row in rows]
    for rule in rules:
        rule["replies"] = [f"{HOSTILE} {text}" for text in rule.get("replies", [])]
    prompts = {"system": f"Be brief. {HOSTILE}"}
    ScriptedRun(tmp_path, (rows, rules), {"prompts": prompts}).go()
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    monkeypatch.setattr("sys.argv", ["heal", *verb.split(" ")])
    with pytest.raises(SystemExit), unsynced():
        main()
    said = "".join(capfd.readouterr())
    assert said
    assert not ACTING.search(said)


def test_an_answer_of_escape_codes_is_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["heal", "verify-answer", f"\\boxed{{{HOSTILE}}}", "4", "--verifier", "exact"]
    )
    with pytest.raises(SystemExit):
        main()
    said = "".join(capfd.readouterr())
    assert not ACTING.search(said)
    assert "␛]0;owned" in said
