"""Row about int8 weights: what they gain, and what they cost in likelihood."""

from dataclasses import replace

import numpy as np

from engine.measure import Row, interleaved, paired
from engine.subjects import Subjects
from engine.writing import ROWS, ours
from heal.engines.base import ScoreRequest


def int8(s: Subjects) -> Row:
    """128 rows, and how far log-probs and entropies of the float32 model's own traces move."""
    chosen = s.sampling()
    asked = s.requests(ROWS, chosen)
    for engine in (s.engine, s.int8):
        ours(engine, s.requests(ROWS, replace(chosen, max_new_tokens=2)))
    values = interleaved(
        {"ours": lambda: ours(s.engine, asked), "ours int8": lambda: ours(s.int8, asked)},
        s.repeats,
    )
    return Row(
        "int8",
        f"8 x 16 x {s.new_tokens} tokens, 128 rows, int8 against float32",
        "tok/s",
        values,
        {"int8 / float32": paired(values["ours int8"], values["ours"])},
        "reported",
        s.conditions,
        errors(s),
    )


def errors(s: Subjects) -> dict[str, float]:
    """Of int8 against float32, on traces of the float32 model at temperature 1, in nats."""
    asked = s.requests(16, s.sampling(temperature=1.0, top_p=1.0, max_new_tokens=128))
    prompts = {request.id: request.prompt_ids for request in asked}
    texts = [
        ScoreRequest(f"{g.request} {g.index}", prompts[g.request], tuple(g.ids.tolist()))
        for g in s.engine.generate(asked)
    ]
    exact, rounded = ({x.request: x for x in e.score(texts)} for e in (s.engine, s.int8))

    def moved(value: str) -> np.ndarray:
        pairs = [(getattr(exact[t.id], value), getattr(rounded[t.id], value)) for t in texts]
        return np.concatenate([after - before for before, after in pairs])

    logprob, entropy = moved("logprob"), moved("entropy_lo")
    nll = -np.concatenate([exact[t.id].logprob for t in texts]).mean()
    return {
        "tokens": len(logprob),
        "NLL per token": float(nll),
        "NLL rises by": float(-logprob.mean()),
        "mean |log-prob error|": float(np.abs(logprob).mean()),
        "mean |entropy error|": float(np.abs(entropy).mean()),
    }
