"""A model that says what a script says: whole runs in seconds, with chosen entropies and probes.

Text is tokenised one byte = one id; four special ids end a turn or open one. The script is a JSON
file (or a Python list) of rules, or `{"context": 4096, "rules": [...]}`:

    {"match": "Problem 7.*Hint:",      regular expression, searched in the rendered prompt
     "replies": ["Step one.\\n\\nSo \\\\boxed{4}."],   what is written; seed s gets reply s mod n
     "truncated": false,               true: the reply never ends its turn (Finish.LENGTH)
     "entropies": [0.2, 2.5, 0.4],     nats: a number, one per token, or one per step
     "logprobs": -1.0,                 the same shapes; without it, minus the entropy
     "answer_logprob": [-3.0, -0.01],  of each probe token: a number, or one per step done
     "error": "out of memory"}         every request that matches fails with these words

Only `match` is required. The first rule that matches and has `replies` (or `error`) writes; the
first that matches and has scores (or `error`) scores. A prompt reads
`<system>words<end><user>words<end><assistant>prefix`; a scored text is the prompt with the target
behind it. Steps end at blank lines, and a list shorter than the steps repeats its last number.
Unscripted scores are an entropy of 1 and log-probs of −1. Temperature and filters are ignored.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from heal.engines.base import (
    Capabilities,
    Generated,
    GenRequest,
    Scored,
    ScoreRequest,
    failed_generation,
    failed_score,
)
from heal.errors import UserError
from heal.records import Finish, FloatArray
from heal.wording import plural

END, USER, ASSISTANT, SYSTEM = 256, 257, 258, 259
_NAMES = {END: b"<end>", USER: b"<user>", ASSISTANT: b"<assistant>", SYSTEM: b"<system>"}
_VOCABULARY = 260
_BYTES = [bytes([i]) for i in range(256)] + [b""] * (_VOCABULARY - 256)
_SHOWN = _BYTES[:256] + [_NAMES[i] for i in range(256, _VOCABULARY)]
_CONTEXT = 1 << 20
_STEP_END = re.compile(rb"\n\s*\n")

Numbers = float | list[float]


class Rule(BaseModel):
    """One rule of a script; the module's docstring says what each field does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: str
    replies: list[str] = []
    truncated: bool = False
    entropies: Numbers | None = None
    logprobs: Numbers | None = None
    answer_logprob: Numbers | None = None
    error: str | None = None

    @field_validator("match")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @field_validator("entropies", "logprobs", "answer_logprob")
    @classmethod
    def _not_empty(cls, numbers: Numbers | None) -> Numbers | None:
        if numbers == []:
            raise ValueError("an empty list")
        return numbers

    @property
    def writes(self) -> bool:
        """Whether it decides what is written."""
        return bool(self.replies) or self.error is not None

    @property
    def scores(self) -> bool:
        """Whether it decides scores."""
        given = (self.entropies, self.logprobs, self.answer_logprob, self.error)
        return any(value is not None for value in given)

    def found_in(self, text: str) -> bool:
        """Whether the rule applies to a text."""
        return re.search(self.match, text, re.DOTALL) is not None


@dataclass(frozen=True)
class _Steps:
    """How many steps have begun at each token of a target, from 1."""

    number: list[int]

    @classmethod
    def of(cls, target: Sequence[int]) -> "_Steps":
        text = bytes(i if i < 256 else 0x20 for i in target)
        number, start = [], 0
        ends = [m.end() for m in _STEP_END.finditer(text) if m.end() < len(text)]
        for step, end in enumerate([*ends, len(text)], start=1):
            number += [step] * (end - start)
            start = end
        return cls(number)

    def done(self, at: int) -> int:
        """Steps begun within the first `at` tokens; 0 before any."""
        return self.number[at - 1] if at else 0


class ScriptedEngine:
    """An `Engine` that follows rules."""

    def __init__(
        self, rules: Iterable[Rule | Mapping[str, Any]], *, context: int = _CONTEXT
    ) -> None:
        self.rules = [
            r if isinstance(r, Rule) else _rule(r, "script", i) for i, r in _counted(rules)
        ]
        words = json.dumps([r.model_dump() for r in self.rules], sort_keys=True)
        self.model_id = f"scripted-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
        self.capabilities = Capabilities(
            score=True, entropy="exact", seeds=True, context=context, vocabulary=_VOCABULARY
        )
        self.end_ids = frozenset({END})

    def render(self, user: str, *, system: str | None = None) -> tuple[int, ...]:
        """Ids of a conversation up to the opened assistant turn."""
        opening = () if system is None else (SYSTEM, *system.encode(), END)
        return (*opening, USER, *user.encode(), END, ASSISTANT)

    def encode(self, text: str) -> tuple[int, ...]:
        """The text's bytes."""
        return tuple(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(ids)).decode(errors="replace")

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """One byte each, none for special ids."""
        return [_BYTES[i] for i in ids]

    def generate(self, requests: Iterable[GenRequest | None]) -> Iterator[Generated | None]:
        """Replies, request by request."""
        for request in requests:
            if request is None:
                yield None
                continue
            for index, seed in enumerate(request.seeds):
                yield self._reply(request, index, seed)

    def score(self, requests: Iterable[ScoreRequest | None]) -> Iterator[Scored | None]:
        """Scripted values, request by request."""
        for request in requests:
            yield None if request is None else self._scored(request)

    def close(self) -> None:
        """Nothing to free."""

    def _reply(self, request: GenRequest, index: int, seed: int) -> Generated:
        prompt, context = request.prompt_ids, self.capabilities.context
        if not prompt:
            return failed_generation(request, index, "the prompt is empty")
        if len(prompt) >= context:
            size = plural(len(prompt), "token")
            reason = f"prompt of {size} leaves no room in a context of {context:,}"
            return failed_generation(request, index, reason)
        text = _shown(prompt)
        rule = next((r for r in self.rules if r.writes and r.found_in(text)), None)
        if rule is None:
            return failed_generation(request, index, f"no rule matches …{text[-80:]!r}")
        if rule.error is not None:
            return failed_generation(request, index, rule.error)
        reply = rule.replies[seed % len(rule.replies)].encode()
        ids = [*reply] if rule.truncated else [*reply, END]
        ids = ids[: min(request.sampling.max_new_tokens, context - len(prompt))]
        finish = Finish.STOP if ids and ids[-1] == END else Finish.LENGTH
        return Generated(request.id, index, np.array(ids, np.int32), finish)

    def _scored(self, request: ScoreRequest) -> Scored:
        context, target = request.context_ids, request.target_ids
        if not context:
            return failed_score(
                request, "the context is empty, so nothing predicts the first token"
            )
        length = len(context) + len(target)
        if length > self.capabilities.context:
            reason = f"{plural(length, 'token')} exceed a context of {self.capabilities.context}"
            return failed_score(request, reason)
        text = _shown((*context, *target))
        rule = next((r for r in self.rules if r.scores and r.found_in(text)), Rule(match=""))
        if rule.error is not None:
            return failed_score(request, rule.error)
        steps = _Steps.of(target)
        entropy = _spread(1.0 if rule.entropies is None else rule.entropies, steps)
        logprob = -entropy if rule.logprobs is None else _spread(rule.logprobs, steps)
        answer = -1.0 if rule.answer_logprob is None else rule.answer_logprob
        probes = tuple(
            np.full(len(p.ids) - p.score_from, _at(answer, steps.done(p.at)), np.float32)
            for p in request.probes
        )
        tokens = length + sum(len(p.ids) for p in request.probes)
        return Scored(request.id, logprob, entropy, entropy, probes, tokens)


def open_scripted(path: str) -> ScriptedEngine:
    """Read a script. Raises: UserError saying which rule is wrong."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such script", hint="a JSON list of rules") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path}: not a JSON script: {error}", hint="a JSON list of rules"
        ) from None
    tree: Any = {"rules": raw} if isinstance(raw, list) else raw
    known = isinstance(tree, dict) and set(tree) <= {"rules", "context"}
    if not known or not isinstance(tree.get("rules"), list):
        raise UserError(
            f"{path}: neither a list of rules nor an object with `rules` (and `context`)",
            hint="see the format in heal.engines.scripted",
        )
    rules = [_rule(item, path, index) for index, item in _counted(tree["rules"])]
    return ScriptedEngine(rules, context=int(tree.get("context", _CONTEXT)))


def _counted(rules: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate(rules, start=1)


def _rule(raw: Any, where: str, number: int) -> Rule:
    try:
        return Rule.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "rule"
        raise UserError(
            f"{where}: rule {number}: {field}: {first['msg']}",
            hint=f"fields of a rule: {', '.join(Rule.model_fields)}",
        ) from None


def _shown(ids: Sequence[int]) -> str:
    """Text with the special ids visible, for rules to match."""
    return b"".join(map(_SHOWN.__getitem__, ids)).decode(errors="replace")


def _spread(numbers: Numbers, steps: _Steps) -> FloatArray:
    """One number per token: float32[T]."""
    if isinstance(numbers, list) and len(numbers) == len(steps.number):
        return np.array(numbers, np.float32)
    return np.array([_at(numbers, step - 1) for step in steps.number], np.float32)


def _at(numbers: Numbers, index: int) -> float:
    if not isinstance(numbers, list):
        return numbers
    return numbers[min(index, len(numbers) - 1)]
