"""Gates: what a hinted or repaired trace must not show before PURE looks at it (docs/method.md §2).

In: texts, verdicts, the settings of GEAR and a step checker's word. Out: the first gate that
refused, by name. The phrases of `HINT_TALK` and the spelled-out numbers are English; for other
languages give `gear.hint_talk`.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from heal.config import Gear
from heal.method.answers import is_short, mention, plain, states_answer
from heal.method.final_answers import count_final_answers
from heal.records import Finish, Gate, HintFlaw, Verdict

HINT_TALK = (
    "the hint",
    "this hint",
    "your hint",
    "hint says",
    "hint suggests",
    "hint tells",
    "as hinted",
    "as given",
    "the answer is given",
    "the answer is known",
    "the answer is already given",
    "the answer is already known",
    "the given answer",
    "the known answer",
    "the provided answer",
    "the expected answer",
    "the stated answer",
    "the target answer",
    "given that the answer is",
    "given that the final answer",
    "we know the answer is",
    "we know that the answer",
    "we know the final answer",
    "we are told the answer",
    "we are told that the answer",
    "told that the final answer",
    "already know the answer",
    "the answer is supposed to be",
    "to match the answer",
    "match the given answer",
    "match the known answer",
    "match the expected",
    "matches the given answer",
    "matches the known answer",
    "matches the expected",
    "working backwards from the answer",
    "working backward from the answer",
    "work backwards from the answer",
    "work backward from the answer",
    "backwards from the answer",
    "reverse-engineer",
    "reverse engineer",
)

_WORD = re.compile(r"\w+")
_EMPTY_WORDS = frozenset(
    {
        "about", "actually", "again", "answer", "attempt", "back", "before", "begin", "better",
        "careful", "carefully", "check", "correct", "could", "does", "doing", "done", "double",
        "each", "error", "every", "final", "find", "first", "follow", "following", "from",
        "give", "given", "goal", "good", "great", "hard", "harder", "hint", "hints",
        "idea", "ideas", "important",
        "instead", "just", "keep", "kind", "last", "like", "look", "made", "make", "making",
        "mind", "missing", "mistake", "more", "most", "must", "name", "names", "need", "needed",
        "needs", "next", "none", "once", "only", "other", "over", "part", "please", "problem",
        "problems", "proceed", "question", "read", "really", "reason", "reasoning",
        "reconsider", "remember", "rethink", "review", "right", "same", "should", "simply",
        "solution", "solve", "solving", "some", "start", "state", "step", "steps", "still",
        "student", "subgoal", "sure", "take", "that", "then", "there", "they", "thing", "think",
        "this", "through", "time", "toward", "towards", "true", "using", "verify", "very",
        "want", "well", "were", "what", "when", "where", "which", "while", "will", "with",
        "without", "work", "working", "would", "wrong", "your",
    }
)  # fmt: skip
"""Words in which encouragement is given; what is left names something."""
NEW_WORDS, RUN = 2, 4
"""Of `restates`: words of over three letters that a hint must add, and how many make a run."""


def passes_gates(
    *,
    verdict: Verdict,
    finish: Finish,
    problem: str,
    prefix: str,
    continuation: str,
    hint: str,
    answer: str,
    settings: Gear,
    has_wrong_step: Callable[[], bool] = lambda: False,
) -> Gate:
    """The first gate that refuses the trace, or `PASSED`.

    `prefix` is what was kept, written without any hint ("" for a whole trace); `continuation` is
    what came after it, under `hint`. `has_wrong_step` says what a step checker finds in both; it
    is asked last and only of what every other gate lets pass.
    """
    if finish is not Finish.STOP or verdict is Verdict.TRUNCATED:
        return Gate.INCOMPLETE
    if verdict is not Verdict.CORRECT:
        return Gate.INCORRECT
    if count_final_answers(prefix + continuation) > 1:
        return Gate.SEVERAL_ANSWERS
    phrases = HINT_TALK if settings.hint_talk is None else settings.hint_talk
    if talks_of_hint(continuation, problem, phrases):
        return Gate.HINT_TALK
    if copies_hint(continuation, hint, f"{problem}\n{prefix}", settings.copied_ngram):
        return Gate.COPIED_HINT
    if answers_early(continuation, f"{problem}\n{prefix}", answer, settings.early_answer_share):
        return Gate.EARLY_ANSWER
    return Gate.WRONG_STEP if has_wrong_step() else Gate.PASSED


def leaks(hint_text: str, answer: str) -> bool:
    """Whether a hint gives the answer away; every kind but `answer` must not."""
    return states_answer(hint_text, answer)


def hint_flaw(
    text: str,
    answer: str,
    known: str,
    cut_off: bool,
    strict: bool,
    is_false: Callable[[], bool] = lambda: False,
) -> HintFlaw | None:
    """Why a written hint must not be used; None where nothing speaks against it.

    known: the problem and the work that is kept. strict: refuse what helps nobody, too. `is_false`
    says whether a step checker finds something wrong in it.
    """
    if not text:
        return HintFlaw.EMPTY
    if leaks(text, answer):
        return HintFlaw.LEAKS
    if not strict:
        return None
    flaws: tuple[tuple[HintFlaw, Callable[[], bool]], ...] = (
        (HintFlaw.CUT_OFF, lambda: cut_off),
        (HintFlaw.CONCLUDES, lambda: count_final_answers(text) > 0),
        (HintFlaw.FALSE, is_false),
        (HintFlaw.NAMES_NOTHING, lambda: names_nothing(text)),
        (HintFlaw.RESTATES, lambda: restates(text, known)),
    )
    return next((flaw for flaw, has in flaws if has()), None)


def names_nothing(text: str) -> bool:
    """Whether a text is encouragement alone: no figure, and no word that is not in every hint.

    The words are English; a text in another language always names something.
    """
    words = _WORD.findall(text.casefold())
    return not any(word.isdigit() or (len(word) > 3 and word not in _EMPTY_WORDS) for word in words)


def restates(text: str, known: str) -> bool:
    """Whether a text has fewer than `NEW_WORDS` words of its own, or mostly runs of known words."""
    own, old = (set(filter(_tells, _WORD.findall(t.casefold()))) for t in (text, known))
    if len(own - old) < NEW_WORDS:
        return True
    runs, known_runs = _word_ngrams(text, RUN), _word_ngrams(known, RUN)
    return bool(runs) and len(runs & known_runs) > len(runs) / 2


def _tells(word: str) -> bool:
    return len(word) > 3 and not word.isdigit()


def talks_of_hint(text: str, problem: str, phrases: Sequence[str] = HINT_TALK) -> bool:
    """Whether the text uses a phrase that betrays a hint and that the problem does not use."""
    return any(
        pattern.search(text) and not pattern.search(problem)
        for pattern in _patterns(tuple(phrases))
    )


def copies_hint(text: str, hint: str, known: str, n: int) -> bool:
    """Whether n words in a row of the hint, not found in `known`, reappear in the text."""
    from_hint = _word_ngrams(hint, n) - _word_ngrams(known, n)
    return not from_hint.isdisjoint(_word_ngrams(text, n))


def answers_early(continuation: str, known: str, answer: str, share: float) -> bool:
    """Whether the answer, in neither problem nor prefix, appears in the first share of characters.

    Answers of two characters or fewer are let pass: they turn up by chance.
    """
    if is_short(answer) or mention(known, answer) is not None:
        return False
    end = mention(continuation, answer)
    return end is not None and end <= share * len(plain(continuation))


@lru_cache(maxsize=8)
def _patterns(phrases: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, p.split())) + r"(?!\w)", re.IGNORECASE)
        for p in phrases
        if p.strip()
    )


def _word_ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
