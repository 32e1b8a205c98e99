"""All questions to one open engine: its context, ids, seeds, thinking, scores and speed.

In: a config, an engine and the problems. Out: findings on a target. It draws some hundred tokens.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from heal.before.findings import Finding, Outcome, Speed, Target
from heal.config import Config
from heal.engines.base import Engine, Generated, GenRequest, Sampling, ScoreRequest, answers
from heal.engines.scripted import ScriptedEngine
from heal.errors import HealError
from heal.method.arms import wants_scores
from heal.method.final_answers import extract_answer
from heal.records import Finish, Problem
from heal.stages.sample import solve_ids
from heal.wording import plural

GREEDY_TOKENS = 16
SEED_TOKENS = 64
"""Drawn to tell seeds apart: a first line is often the same whatever the seed."""
TRACES, TRACE_TOKENS = 4, 256
"""Traces drawn to time the model and to see how long they get, and where each is cut."""
THINKING = ("<think>", "</think>")
BATCH_S = 20.0
"""Seconds that timing as many traces at once as a run has may take, at most."""


@dataclass
class Probe:
    """All questions to one open engine."""

    config: Config
    engine: Engine
    problems: tuple[Problem, ...]
    target: Target

    def run(self, scores: bool) -> None:
        """Ask everything; a question that goes wrong is a finding, and the next is asked."""
        prompt = solve_ids(self.problems[0], self.config.prompts, self.engine)
        self.target.prompt, self.target.prompt_tokens = shown(prompt, self.engine), len(prompt)
        can = self.engine.capabilities
        self._found(
            "reached", Outcome.OK, f"context {can.context:,}, vocabulary {can.vocabulary:,}"
        )
        questions: list[Callable[[tuple[int, ...]], Finding]] = [
            self._context,
            self._tokenizer,
            self._continuation,
            self._seeds,
            self._thinking,
        ]
        if scores:
            questions += [self._scores, self._basis] if can.score else [self._no_scores]
        for question in questions:
            try:
                self.target.findings.append(question(prompt))
            except Exception as error:  # whatever a server or a template comes up with
                name = question.__name__.strip("_")
                self._found(name, Outcome.FAILED, str(error) or type(error).__name__)
        try:
            self.target.speed = self._speed(prompt)
        except HealError as error:
            self._found("speed", Outcome.FAILED, str(error), error.hint)

    def _found(self, question: str, outcome: Outcome, words: str, hint: str | None = None) -> None:
        self.target.findings.append(Finding(question, outcome, words, hint))

    def _draw(
        self, prompt: tuple[int, ...], seeds: tuple[int, ...], s: Sampling
    ) -> list[Generated]:
        """Raises: HealError when a sample fails."""
        found = sorted(
            answers(self.engine.generate([GenRequest("check", prompt, seeds, s)])),
            key=lambda g: g.index,
        )
        for generated in found:
            if generated.error:
                raise HealError(generated.error)
        return found

    def _greedy(self, prompt: tuple[int, ...], tokens: int = GREEDY_TOKENS) -> tuple[int, ...]:
        sampling = Sampling(temperature=0, max_new_tokens=tokens)
        return tuple(self._draw(prompt, (1,), sampling)[0].ids.tolist())

    def _context(self, prompt: tuple[int, ...]) -> Finding:
        longest = max(self.problems, key=lambda p: len(p.problem))
        length = len(solve_ids(longest, self.config.prompts, self.engine))
        room, wanted = self.engine.capabilities.context, self.config.sampling.max_new_tokens
        tokens = plural(length, "token")
        words = f"the longest prompt has {tokens}, and {wanted:,} more may be written"
        if length + wanted <= room:
            return Finding("context", Outcome.OK, words)
        hint = (
            f"a trace gets {max(0, room - length):,}: --set sampling.max_new_tokens=… or serve more"
        )
        outcome = Outcome.FAILED if length >= room else Outcome.NOTE
        return Finding("context", outcome, f"{words}: more than {room:,}", hint)

    def _tokenizer(self, prompt: tuple[int, ...]) -> Finding:
        from heal.engines.http.engine import HttpEngine
        from heal.engines.http.inspect import read_by_both

        text = "So 3 × 4 = 12.\n\nÉ, 漢字 and 🙂."
        if self.engine.decode(self.engine.encode(text)) != text:
            words = f"its tokenizer does not give {text!r} back"
            return Finding("token ids", Outcome.FAILED, words, "give the model's own tokenizer")
        if not isinstance(self.engine, HttpEngine):
            return Finding("token ids", Outcome.OK, "text survives the way to ids and back")
        read = read_by_both(self.engine, prompt, GREEDY_TOKENS)
        if read.server is None:
            return Finding("token ids", Outcome.NOTE, "the server sends no text to compare with")
        if read.agrees:
            return Finding(
                "token ids", Outcome.OK, "the server reads its ids as our tokenizer does"
            )
        words = f"the server reads {read.server!r} where our tokenizer reads {read.ours!r}"
        return Finding("token ids", Outcome.FAILED, words, "give the served model's own tokenizer")

    def _continuation(self, prompt: tuple[int, ...]) -> Finding:
        """A prompt that ends inside the assistant's turn is continued there."""
        whole = self._greedy(prompt)
        kept = whole[: len(whole) // 2]
        rest = self._greedy((*prompt, *kept), len(whole) - len(kept))
        if rest == whole[len(kept) :]:
            words = "cut in the middle, a greedy trace goes on as before"
            return Finding("continuation", Outcome.OK, words)
        if isinstance(self.engine, ScriptedEngine):
            return Finding("continuation", Outcome.NOTE, "a script begins anew wherever it is cut")
        before, after = self.engine.decode(whole[len(kept) :]), self.engine.decode(rest)
        same = next(
            (i for i, (a, b) in enumerate(zip(rest, whole[len(kept) :], strict=False)) if a != b), 0
        )
        words = f"cut in the middle, it goes on with {after!r} instead of {before!r}"
        # A near tie may fall the other way in another batch; a new turn differs at once.
        if same:
            return Finding("continuation", Outcome.NOTE, f"{words} (from token {same + 1} on)")
        return Finding("continuation", Outcome.FAILED, words, "GEAR needs a server that continues")

    def _seeds(self, prompt: tuple[int, ...]) -> Finding:
        room = min(self.config.sampling.max_new_tokens, SEED_TOKENS)
        sampling = Sampling(temperature=1.0, max_new_tokens=room)
        first = [tuple(g.ids.tolist()) for g in self._draw(prompt, (11, 12, 13, 14), sampling)]
        again = [tuple(g.ids.tolist()) for g in self._draw(prompt, (11, 12, 13, 14), sampling)]
        if len(set(first)) == 1:
            words = "four seeds wrote the same: is it sampling at all?"
            return Finding("seeds", Outcome.NOTE, words)
        if first == again:
            return Finding("seeds", Outcome.OK, "the same seed writes the same")
        promised = (
            "though this engine promises it" if self.engine.capabilities.seeds else "as known"
        )
        words = f"the same seed writes other traces, {promised}; a run is valid, not repeatable"
        return Finding("seeds", Outcome.NOTE, words)

    def _thinking(self, prompt: tuple[int, ...]) -> Finding:
        """Tags must survive as text, and the closing one must be configured where they are used."""
        text = "a".join(THINKING)
        close = self.config.prompts.think_close
        template = str(getattr(self.template_owner, "chat_template", "") or "")
        if close is None and THINKING[0] not in template and THINKING[0] not in self.prompt_end:
            return Finding("thinking", Outcome.OK, "no thinking tags in the template")
        if self.engine.decode(self.engine.encode(text)) != text:
            words = f"the tokenizer drops {' and '.join(THINKING)} when it reads ids"
            return Finding("thinking", Outcome.FAILED, words, "use a tokenizer that keeps them")
        if close is None:
            words = "the template knows <think>, but prompts.think_close is not set"
            hint = "if it is a think-model: --set prompts.think_close='</think>'"
            return Finding("thinking", Outcome.NOTE, words, hint)
        opened = "opened by the prompt" if THINKING[0] in self.prompt_end else "opened by the model"
        return Finding("thinking", Outcome.OK, f"{close} survives; the thinking part is {opened}")

    @property
    def template_owner(self) -> object:
        """Whatever holds the chat template; an object without one for a scripted engine."""
        return getattr(getattr(self.engine, "tokens", None), "tokenizer", None)

    @property
    def prompt_end(self) -> str:
        """The first prompt's last words."""
        return (self.target.prompt or "")[-40:]

    def _no_scores(self, prompt: tuple[int, ...]) -> Finding:
        who = "GEAR and PURE need" if wants_scores(self.config) else "PURE needs"
        return Finding(
            "scoring",
            Outcome.FAILED,
            f"it gives no log-probs of given tokens, which {who}",
            "name a model that can: --set scorer.engine=local --set scorer.model=FOLDER",
        )

    def _scores(self, prompt: tuple[int, ...]) -> Finding:
        written = self._greedy(prompt)
        (scored,) = answers(self.engine.score([ScoreRequest("check", prompt, written)]))
        if scored.error:
            raise HealError(scored.error)
        width = float((scored.entropy_hi - scored.entropy_lo).mean())
        known = "exact" if width < 1e-4 else f"known to ±{width / 2:.2f} nats on average"
        words = f"greedy tokens at {float(scored.logprob.mean()):.2f} nats; entropies {known}"
        unlikely = float(scored.logprob.min()) < -math.log(self.engine.capabilities.vocabulary)
        if unlikely:
            words += "; yet one greedy token is less likely than chance"
            return Finding("scoring", Outcome.FAILED, words, "are these one model's weights?")
        return Finding("scoring", Outcome.OK, words)

    def _basis(self, prompt: tuple[int, ...]) -> Finding:
        """Log-probs must be those of temperature 1, whatever the request says."""
        from heal.engines.http.engine import HttpEngine
        from heal.engines.http.inspect import logprobs_at

        if not isinstance(self.engine, HttpEngine):
            return Finding("log-prob basis", Outcome.OK, "temperature 1, full vocabulary")
        ids = (*prompt, *self._greedy(prompt))
        one, half = (logprobs_at(self.engine, ids, len(prompt), t) for t in (1.0, 0.5))
        if np.abs(one - half).max() < 0.05:
            return Finding("log-prob basis", Outcome.OK, "the same at T = 0.5 and T = 1")
        words = "follows the temperature of the request; HEAL always asks at T = 1"
        return Finding("log-prob basis", Outcome.NOTE, words)

    def _speed(self, prompt: tuple[int, ...]) -> Speed | None:
        c = self.config.sampling
        room = min(c.max_new_tokens, TRACE_TOKENS, self.engine.capabilities.context - len(prompt))
        if room < 1 or self.target.failed:
            return None
        sampling = Sampling(c.temperature, c.top_p, c.top_k, c.min_p, room)
        started = time.monotonic()
        found = self._draw(prompt, tuple(range(1, TRACES + 1)), sampling)
        gold = self.problems[0].answer
        texts = [self.engine.decode(g.ids.tolist()) for g in found if g.finish is Finish.STOP]
        self.target.answers += [(a, gold) for a in map(extract_answer, texts) if a is not None]
        tokens = sum(len(g.ids) for g in found)
        ended = room == c.max_new_tokens or all(g.finish is Finish.STOP for g in found)
        speed = tokens / max(1e-9, time.monotonic() - started)
        mean = tokens / len(found)
        # One after another is the most that more traces at once may take.
        many = min(self._at_once(), int(BATCH_S * speed / max(1.0, mean)))
        if many <= TRACES:
            return Speed(speed, mean if ended else None)
        started = time.monotonic()
        found = self._draw(prompt, tuple(range(1, many + 1)), sampling)
        tokens = sum(len(g.ids) for g in found)
        spent = max(1e-9, time.monotonic() - started)
        return Speed(tokens / spent, tokens / len(found) if ended else None, many)

    def _at_once(self) -> int:
        """Traces that a run has under way at once, as far as one target tells."""
        from heal.engines.http.engine import HttpEngine

        engines = self.config.engine
        return engines.http.in_flight if isinstance(self.engine, HttpEngine) else engines.local.rows


def shown(ids: tuple[int, ...], engine: Engine) -> str:
    """Ids as text in which special tokens show as ⟨id⟩."""
    pieces = engine.token_bytes(ids)
    marked = [p or f"⟨{i}⟩".encode() for i, p in zip(ids, pieces, strict=True)]
    return b"".join(marked).decode(errors="replace")
