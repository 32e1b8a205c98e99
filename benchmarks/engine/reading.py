"""Rows about scoring: against a plain forward, PURE's probes as a tree, repairs of one path."""

import random
from collections.abc import Callable

import torch

from engine.measure import Row, interleaved, paired, seconds
from engine.subjects import Subjects, forget_prompts
from heal.engines.base import GenRequest, Probe, ScoreRequest

TRACE, STEPS, PROBE = 1000, 40, 13
NAIVE_EVERY = 4


def words(s: Subjects, tokens: int, seed: int) -> tuple[int, ...]:
    """Ids of no meaning: what is computed does not depend on them."""
    rng = random.Random(seed)
    high = min(s.engine.capabilities.vocabulary, 40_000)
    return tuple(rng.randrange(100, high) for _ in range(tokens))


def scoring(s: Subjects) -> Row:
    """Log-probs and entropies of 8 traces of 400 tokens, against forwards that give logits."""
    # Contexts of their own, or ours would share one.
    asked = [ScoreRequest(str(i), words(s, 60, 100 + i), words(s, 400, i)) for i in range(8)]
    tokens = sum(len(r.context_ids) + len(r.target_ids) for r in asked)
    batches = [asked[i : i + 4] for i in range(0, len(asked), 4)]

    def plain() -> float:
        def run() -> None:
            with torch.inference_mode():
                for batch in batches:
                    ids = torch.tensor([[*r.context_ids, *r.target_ids] for r in batch])
                    s.module(input_ids=ids, use_cache=False)

        return tokens / seconds(run)

    values = interleaved(
        {
            "ours": lambda: tokens / seconds(lambda: list(s.engine.score(asked))),
            "plain forward": plain,
        },
        s.repeats,
    )
    return Row(
        "scoring",
        "log-prob and entropy of 8 x (60 + 400) tokens; the forward gives logits only, 4 x 460",
        "tok/s",
        values,
        {"ours / plain forward": paired(values["ours"], values["plain forward"])},
        "≥ 0.9",
        _reading(s),
    )


def tree(s: Subjects) -> Row:
    """All probes of a 40-step trace in one pass, against one forward and against 40 passes."""
    target = words(s, TRACE, 1)
    context = words(s, 60, 2)
    marks = [TRACE * (k + 1) // STEPS for k in range(STEPS)]
    probe = words(s, PROBE, 3)
    probes = tuple(Probe(at, probe, PROBE - 3) for at in marks)
    bare = ScoreRequest("bare", context, target)
    branching = ScoreRequest("tree", context, target, probes)
    naive = [
        ScoreRequest(f"naive {at}", (*context, *target[:at]), probe)
        for at in marks[NAIVE_EVERY - 1 :: NAIVE_EVERY]
    ]
    ids = torch.tensor([[*context, *target]])

    def forward() -> None:
        with torch.inference_mode():
            s.module(input_ids=ids, use_cache=False)

    def scored(*asked: ScoreRequest) -> Callable[[], float]:
        return lambda: seconds(lambda: list(s.engine.score(asked)))

    values = interleaved(
        {
            "tree": scored(branching),
            "scoring without probes": scored(bare),
            "plain forward": lambda: seconds(forward),
            f"every {NAIVE_EVERY}th probe by itself": scored(*naive),
        },
        s.repeats,
    )
    each = values[f"every {NAIVE_EVERY}th probe by itself"]
    length = len(context) + TRACE
    return Row(
        "tree",
        f"PURE of a {STEPS}-step trace of {TRACE} tokens (+60), {STEPS} probes of {PROBE}",
        "s",
        values,
        {
            "time, tree / one forward": paired(values["tree"], values["plain forward"]),
            "time, tree / scoring": paired(values["tree"], values["scoring without probes"]),
            "tokens, tree / one forward": (length + STEPS * PROBE) / length,
            "time, naive / one forward": NAIVE_EVERY * paired(each, values["plain forward"]),
            "naive / tree": NAIVE_EVERY * paired(each, values["tree"]),
        },
        "time ratio within 10 % of token ratio",
        _reading(s),
    )


def siblings(s: Subjects) -> Row:
    """PURE of 8 repairs of one path, whose opening goes through the model once, and one by one."""
    context, kept, probe = words(s, 60, 2), words(s, 340, 3), words(s, PROBE, 4)
    probes = tuple(Probe(at, probe, PROBE - 3) for at in range(360, TRACE, TRACE // STEPS))
    asked = [
        ScoreRequest(str(i), context, (*kept, *words(s, TRACE - len(kept), 10 + i)), probes)
        for i in range(8)
    ]
    own = TRACE - len(kept) + len(probes) * PROBE
    opening = len(context) + len(kept)
    values = interleaved(
        {
            "together": lambda: seconds(lambda: list(s.engine.score(asked))),
            "one by one": lambda: seconds(lambda: [list(s.engine.score([r])) for r in asked]),
        },
        s.repeats,
    )
    return Row(
        "siblings",
        f"PURE of 8 repairs of {TRACE} tokens that share {opening}, {len(probes)} probes each",
        "s",
        values,
        {
            "time, one by one / together": paired(values["one by one"], values["together"]),
            "tokens": 8 * (opening + own) / (opening + 8 * own),
        },
        "reported",
        _reading(s),
    )


def repairs(s: Subjects) -> Row:
    """20 candidates of one path, asked for one call at a time as the rounds of repair do."""
    path = words(s, 500, 4)
    model = s.engine.model
    forget_prompts(s.engine)
    before = model.prefilled  # type: ignore[union-attr]
    for candidate in range(20):
        asked = GenRequest(f"c{candidate}", path, (candidate,), s.sampling(max_new_tokens=2))
        list(s.engine.generate([asked]))
    prefilled = float(model.prefilled - before)  # type: ignore[union-attr]
    return Row(
        "repairs",
        "20 repairs of one path of 500 tokens, each in a call of its own",
        "tokens prefilled",
        {"ours": [prefilled]},
        {"prefilled / path": prefilled / len(path)},
        "1",
        _reading(s),
    )


def _reading(s: Subjects) -> dict[str, object]:
    return {k: v for k, v in s.conditions.items() if k != "new_tokens"}
