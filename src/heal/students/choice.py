"""The untouched student's scores of accepted traces, by which PACE may choose among them.

A stage like those of the teacher: pure functions of one problem's records. A trace is scored as it
would be taught: behind the student's own prompt, in its own tokens, those of the trace alone. The
key names weights, tokens and prompt: a changed one is scored anew, and nothing else is.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from heal.engines.base import Engine, Scored, ScoreRequest
from heal.errors import CapabilityError
from heal.keys import content_key
from heal.method.choice import mean_rank
from heal.prompts import Prompts
from heal.records import StudentScore, Trace
from heal.stages.candidates import example
from heal.stages.found import Found, Lane, Request
from heal.students.rendering import Rendered, Renderer

STAGE = "student_score"

Open = Callable[[], Engine]
"""Opens the student, once, when a score is owed."""


@dataclass(frozen=True)
class Reader:
    """Who scores, and all that scores depend on."""

    model: str
    """Names the student's weights, and how they are run."""
    renderer: Renderer
    prompts: Prompts
    wants_ranks: bool

    def owes(self, found: Found, traces: Mapping[str, str], student: Open) -> Iterator[Request]:
        """Scores of those of a problem's traces, each with its stage, that have none.

        Raises: CapabilityError where the student's engine cannot give them.
        """
        for shown in dict.fromkeys(self._shown(found, traces).values()):
            if self._stored(found, shown) is None:
                yield self._request(found, shown, ranks_of(student(), self.wants_ranks))

    def conclude(
        self, found: Found, traces: Mapping[str, str]
    ) -> Iterator[tuple[str, StudentScore]]:
        """(trace, score); equal texts share one. One the student cannot be shown has none."""
        for trace, shown in self._shown(found, traces).items():
            score = self._stored(found, shown)
            if score is not None:
                yield trace, score

    def _shown(self, found: Found, traces: Mapping[str, str]) -> dict[str, Rendered]:
        return found.once("shown", lambda: dict(self._rendered(found, traces)))

    def _rendered(self, found: Found, traces: Mapping[str, str]) -> Iterator[tuple[str, Rendered]]:
        for key, stage in sorted(traces.items()):
            trace = found.get(stage, key, Trace)
            assert trace is not None, "columns name only what is stored"
            shown = self.renderer.render(example(trace, found.problem, self.prompts))
            if isinstance(shown, Rendered):
                yield key, shown

    def _stored(self, found: Found, shown: Rendered) -> StudentScore | None:
        """One with ranks serves any choice; one without, those that need none."""
        for ranks in (True,) if self.wants_ranks else (True, False):
            score = found.get(STAGE, self._key(shown, ranks), StudentScore)
            if score is not None:
                return score
        return None

    def _key(self, shown: Rendered, ranks: bool) -> str:
        return content_key(STAGE, self.model, shown.ids, shown.prompt_tokens, ranks)

    def _request(self, found: Found, shown: Rendered, ranks: bool) -> Request:
        key, start = self._key(shown, ranks), shown.prompt_tokens
        context, target = shown.ids[:start], shown.ids[start:-1]  # the last one ends the turn
        ask = ScoreRequest(key, context, target, ranks=ranks)

        def read(scored: Scored) -> StudentScore:
            error, rank = scored.error, scored.rank
            if error is None and ranks and rank is None:
                error = "log-probs came without ranks"
            whole = error is None
            return StudentScore(
                key,
                found.problem.id,
                len(target),
                float(scored.logprob.mean(dtype=float)) if whole else None,
                mean_rank(rank) if whole and rank is not None else None,
                scored.tokens,
                error,
            )

        return Request(Lane.SCORE, STAGE, (key,), ask, read)


def ranks_of(student: Engine, wanted: bool) -> bool:
    """Whether an engine is asked for ranks: always, if it can tell. Raises: CapabilityError."""
    able = student.capabilities
    if not able.score:
        raise CapabilityError(
            "the student's servers give no log-probs of a given text, by which pace.choice chooses",
            hint="--set student.serve=null scores with the local engine",
        )
    if wanted and not able.ranks:
        raise CapabilityError(
            "the student's servers do not tell a token's rank, which rank_surprisal reads",
            hint="--set pace.choice=logprob, or --set student.serve=null for the local engine",
        )
    return able.ranks
