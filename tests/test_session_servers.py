"""How servers fared is stored once for each engine, whatever it is used as."""

import json
from pathlib import Path

import pytest
from tests.scripted_run import Watch

from heal.recipe import parse
from heal.records import ServerFacts
from heal.session import Session
from heal.store import Store

RECIPE = {
    "run": "run",
    "problems": {"path": "problems.jsonl", "verifier": "math"},
    "teacher": {"engine": "scripted", "model": "script.json"},
}


class Counting:
    """An engine of one server that has answered so many requests."""

    answered = 0

    def servers(self) -> list[ServerFacts]:
        return [ServerFacts("http://a", self.answered, self.answered, {}, 0, 0, 0.0)]

    def close(self) -> None:
        pass


def answers(store: Store) -> list[int]:
    return [facts.answered for _, facts in store.live("server", ServerFacts)]


def test_an_engine_that_also_scores_is_counted_once(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        session = Session(parse(RECIPE), store, Watch())
        engine = Counting()
        session.__dict__["teacher"] = engine
        engine.answered = 304
        session._note_servers(session.__dict__)
        session.__dict__["scorer"] = engine
        engine.answered = 612
        session.close()
        assert answers(store) == [612]


def test_engines_opened_anew_add_up(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        session = Session(parse(RECIPE), store, Watch())
        for count in (5, 7):
            session.__dict__["teacher"] = engine = Counting()
            engine.answered = count
            session.close()
        assert sorted(answers(store)) == [5, 7]


def test_a_run_judges_with_the_verifier_its_problems_call_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"question": "Which?", "options": ["red", "blue"], "answer": "B"}
    Path("options.jsonl").write_text(json.dumps(options) + "\n")
    Path("plain.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n')
    with Store.open(tmp_path / "run") as store:
        for path, verifier in (("options.jsonl", "choice"), ("plain.jsonl", "math")):
            session = Session(parse(RECIPE | {"problems": {"path": path}}), store, Watch())
            assert session.config.problems.verifier == session.verifier.name == verifier
            named = {"path": path, "verifier": "exact"}
            session = Session(parse(RECIPE | {"problems": named}), store, Watch())
            assert session.config.problems.verifier == session.verifier.name == "exact"
