"""What servers say when they refuse, in shapes that real ones use, and what is made of each."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.engines.http.dialects import DIALECTS
from heal.engines.http.dialects.base import read_as
from heal.engines.http.dialects.completions import _Completion
from heal.engines.http.failures import (
    LONGEST_CAUSE,
    BadAnswerError,
    BrokenError,
    RefusedError,
    RejectedError,
    RequestError,
    check_status,
)
from heal.method.entropy import entropy_bounds

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "cases" / "server_words.jsonl").read_text().splitlines()
]
KINDS = {
    "refused": RefusedError,
    "rejected": RejectedError,
    "broken": BrokenError,
    "bad answer": BadAnswerError,
}


@dataclass
class Said:
    status_code: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return json.loads(self.content)


def raised(response: Said) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check_status(response, now=0.0)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["from"])
def test_a_refusal_keeps_its_words_and_means_what_it_says(case: dict[str, Any]) -> None:
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    error = raised(Said(case["status"], body.encode(), case.get("headers", {})))
    assert type(error) is KINDS[case["means"]]
    assert error.cause == case["cause"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [], "error": {"message": "late"}}',
        b'{"choices": [{"text": "he wrote \\"error\\": {\\"code\\": 500}"}]}',
        b'{"tokens": [1], "stop_type": "eos", "error": null}',
        b'{"error": null}',
        b"[]",
    ],
)
def test_an_answer_is_no_error_for_the_word_in_it(body: bytes) -> None:
    check_status(Said(200, body), now=0.0)


@given(st.integers(200, 599), st.binary(max_size=200))
def test_any_body_is_a_short_cause_or_an_answer(status: int, body: bytes) -> None:
    try:
        check_status(Said(status, body), now=0.0)
    except RequestError as error:
        assert len(error.cause) <= LONGEST_CAUSE
    else:
        assert status == 200


def test_a_body_nested_beyond_reading_is_a_cause() -> None:
    deep = b'{"error":' + b"[" * 30_000
    assert raised(Said(500, deep)).cause == "HTTP 500"
    check_status(Said(200, deep), now=0.0)
    with pytest.raises(BadAnswerError):
        read_as(b'{"choices":' + b"[" * 100_000 + b"NaN", _Completion)


def test_a_zero_probability_among_the_tops_is_read() -> None:
    """As vLLM's `prompt_logprobs` come through Python's own JSON."""
    dialect = DIALECTS["vllm"]()
    places = [None, {"5": {"logprob": -0.5}, "6": {"logprob": -1.5}, "7": {"logprob": -np.inf}}]
    body = json.dumps({"choices": [{"prompt_logprobs": places}]}).encode()
    assert b"-Infinity" in body
    found = dialect.scored(body, [4, 5], 1, 3)
    assert found.logprob.tolist() == [-0.5]
    assert found.top.tolist() == [[-0.5, -1.5, -np.inf]]
    low, high = entropy_bounds(found.top, 10, found.logprob)
    assert 0 < low[0] <= high[0] < np.log(10)


def test_a_zero_probability_among_sglangs_tops_is_read() -> None:
    meta = {
        "input_token_logprobs": [[None, 4, None], [-0.5, 5, None]],
        "input_top_logprobs": [None, [[-0.5, 5, None], [-np.inf, 6, None]]],
        "finish_reason": {"type": "length"},
    }
    found = DIALECTS["sglang"]().scored(json.dumps({"meta_info": meta}).encode(), [4, 5], 1, 2)
    assert found.top.tolist() == [[-0.5, -np.inf]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_among_the_tops_is_refused_by_name(bad: float) -> None:
    places = [None, {"5": {"logprob": -0.5}, "6": {"logprob": bad}, "7": {"logprob": -3.0}}]
    body = json.dumps({"choices": [{"prompt_logprobs": places}]}).encode()
    with pytest.raises(BadAnswerError, match=r"log-probs (that are no numbers|above 0)"):
        DIALECTS["vllm"]().scored(body, [4, 5], 1, 1)
