"""The scripted engine does what its script says, and a wrong script is explained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heal.config import Engines, ModelRef
from heal.engines import model_files, open_engine
from heal.engines.base import GenRequest, Probe, Sampling, Scored, ScoreRequest
from heal.engines.scripted import END, ScriptedEngine, open_scripted
from heal.errors import UserError
from heal.records import Finish

TRACE = "First look.\n\nThen leap.\n\nSo it is 4."


def write(engine: ScriptedEngine, user: str, seeds: tuple[int, ...] = (0,), **sampling: Any):
    request = GenRequest("r", engine.render(user), seeds, Sampling(**sampling))
    return list(engine.generate([request]))


def score(rule: dict[str, Any], target: str = TRACE, at: tuple[int, ...] = ()) -> Scored:
    engine = ScriptedEngine([{"match": "sum", **rule}])
    probes = tuple(Probe(a, engine.encode("so 4"), 3) for a in at)
    request = ScoreRequest("s", engine.render("a sum"), engine.encode(target), probes)
    (scored,) = engine.score([request])
    return scored


def test_the_first_matching_rule_writes() -> None:
    engine = ScriptedEngine(
        [{"match": "apples", "replies": ["one"]}, {"match": "", "replies": ["other"]}]
    )
    assert engine.decode(write(engine, "two apples")[0].ids.tolist()) == "one"
    assert engine.decode(write(engine, "two pears")[0].ids.tolist()) == "other"


def test_rules_see_the_turns_and_the_kept_prefix() -> None:
    engine = ScriptedEngine(
        [
            {"match": "Hint:.*<assistant>First look", "replies": ["repaired"]},
            {"match": "<assistant>$", "replies": ["unaided"]},
        ]
    )
    prompt = (*engine.render("sum\n\nHint: add"), *engine.encode("First look.\n\n"))
    (found,) = engine.generate([GenRequest("r", prompt, (0,), Sampling())])
    assert engine.decode(found.ids.tolist()) == "repaired"
    assert engine.decode(write(engine, "sum")[0].ids.tolist()) == "unaided"


def test_seeds_pick_replies_round_robin() -> None:
    engine = ScriptedEngine([{"match": "", "replies": ["a", "b", "c"]}])
    written = [engine.decode(g.ids.tolist()) for g in write(engine, "x", tuple(range(7)))]
    assert written == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_reply_ends_its_turn() -> None:
    (g,) = write(ScriptedEngine([{"match": "", "replies": ["ab"]}]), "x")
    assert g.ids.tolist() == [97, 98, END]
    assert g.finish is Finish.STOP


@pytest.mark.parametrize("rule", [{"truncated": True}, {}])
def test_a_truncated_reply_or_budget_is_length(rule: dict[str, Any]) -> None:
    engine = ScriptedEngine([{"match": "", "replies": ["abcd"], **rule}])
    (g,) = write(engine, "x", max_new_tokens=4)
    assert g.ids.tolist() == [97, 98, 99, 100]
    assert g.finish is Finish.LENGTH


def test_a_prompt_no_rule_matches_is_an_error_result() -> None:
    (g,) = write(ScriptedEngine([{"match": "pears", "replies": ["x"]}]), "apples")
    assert g.finish is Finish.ERROR
    assert "no rule matches" in (g.error or "")


def test_a_scripted_failure_reaches_writing_and_scoring() -> None:
    engine = ScriptedEngine([{"match": "sum", "error": "out of memory"}])
    assert write(engine, "a sum")[0].error == "out of memory"
    assert score({"error": "out of memory"}).error == "out of memory"


def test_entropies_may_be_one_number() -> None:
    assert set(score({"entropies": 0.5}).entropy_lo.tolist()) == {0.5}


def test_entropies_may_be_one_per_step_blank_lines_included() -> None:
    found = score({"entropies": [1.0, 3.0, 0.5]}).entropy_lo
    starts = [0, len("First look.\n\n"), len("First look.\n\nThen leap.\n\n"), len(TRACE)]
    for value, low, high in zip((1.0, 3.0, 0.5), starts, starts[1:], strict=False):
        assert set(found[low:high].tolist()) == {value}


def test_entropies_may_be_one_per_token() -> None:
    numbers = [0.1, 0.2, 0.3]
    found = score({"entropies": numbers}, target="abc").entropy_lo
    np.testing.assert_allclose(found, numbers, rtol=1e-6)


def test_a_short_list_repeats_its_last_number() -> None:
    assert score({"entropies": [1.0, 2.0]}).entropy_lo[-1] == 2.0


def test_logprobs_default_to_minus_the_entropy() -> None:
    assert set(score({"entropies": 0.5}).logprob.tolist()) == {-0.5}
    assert set(score({"entropies": 0.5, "logprobs": -2}).logprob.tolist()) == {-2.0}


def test_probes_follow_the_steps_done() -> None:
    ends = (0, len("First look.\n\n"), len("First look.\n\nThen leap.\n\n"), len(TRACE))
    scored = score({"answer_logprob": [-4, -3, -2, -0.01]}, at=ends)
    assert [p.tolist() for p in scored.probe_logprob] == [
        [pytest.approx(x)] for x in (-4, -3, -2, -0.01)
    ]


def test_scores_may_depend_on_the_target() -> None:
    engine = ScriptedEngine(
        [{"match": "<assistant>.*leap", "entropies": 2}, {"match": "", "entropies": 1}]
    )
    context = engine.render("x")
    asked = [ScoreRequest(t, context, engine.encode(t)) for t in ("a leap", "a walk")]
    assert [s.entropy_lo[0] for s in engine.score(asked)] == [2.0, 1.0]


def test_unscripted_scores_have_plain_defaults() -> None:
    scored = score({"replies": ["x"]}, at=(0,))
    assert set(scored.entropy_lo.tolist()) == {1.0}
    assert scored.probe_logprob[0].tolist() == [-1.0]


def test_the_model_id_follows_the_rules() -> None:
    one, same, other = (ScriptedEngine([{"match": m}]).model_id for m in ("a", "a", "b"))
    assert one == same != other


def test_a_script_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    rules = [{"match": "", "replies": ["hello"]}]
    for tree in (rules, {"context": 50, "rules": rules}):
        path.write_text(json.dumps(tree))
        engine = open_engine(ModelRef(engine="scripted", model=str(path)), Engines())
        assert engine.capabilities.context == (50 if isinstance(tree, dict) else 1 << 20)
    assert model_files(str(path)).startswith("script-")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a JSON script"),
        ('{"rule": []}', "neither a list of rules"),
        ('"words"', "neither a list of rules"),
        ('[{"replies": ["x"]}]', "rule 1: match"),
        ('[{"match": "a"}, {"match": "("}]', "rule 2: match: .*not a regular expression"),
        ('[{"match": "", "reply": "x"}]', "rule 1: reply"),
        ('[{"match": "", "entropies": []}]', "rule 1: entropies"),
    ],
)
def test_a_wrong_script_says_which_rule(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        open_scripted(str(path))
    assert caught.value.hint
    assert str(path) in str(caught.value)


def test_a_missing_script_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such script"):
        open_scripted(str(tmp_path / "none.json"))
