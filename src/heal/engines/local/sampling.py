"""Drawing tokens from logits, row by row, with dice that do not know who shares the batch.

In: logits float32 [R, V], each row's filters, and its uniform numbers, which are a hash of (seed,
position, try). Out: token ids. No sort and no vocabulary-wide random numbers: a token is drawn from
the unfiltered distribution by a two-level inverse CDF and redrawn if a filter excludes it, which is
the filtered distribution exactly. Filters compose as in transformers: top-k, then top-p of what is
left, then min-p relative to the most likely token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heal.engines.base import Sampling

BAD_ROW = -1
"""Drawn for a row whose logits are not finite."""

_REDRAWS = 8
"""Rejected tries before a row is filtered by an explicit sort."""
_BLOCKS = (256, 128, 64)

Uints = NDArray[np.uint64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Filters:
    """The sampling settings of R rows, as tensors."""

    inverse_temperature: Tensor
    """float32 [R]; 1 for greedy rows."""
    greedy: NDArray[np.bool_]
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    certain: Tensor
    """float32 [R]: a token at least this likely passes every filter of its row."""

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> "Filters":
        """Lay out one row per sampling."""

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        inverse = [1.0 if s.temperature == 0 else 1.0 / s.temperature for s in samplings]
        return cls(
            inverse_temperature=column(inverse),
            greedy=np.array([s.temperature == 0 for s in samplings], dtype=np.bool_),
            top_p=column([s.top_p for s in samplings]),
            top_k=column([float(s.top_k) for s in samplings]),
            min_p=column([s.min_p for s in samplings]),
            certain=column([_certain(s) for s in samplings]),
        )

    @cached_property
    def tempered(self) -> bool:
        """Whether any row has a temperature other than 1 (or 0)."""
        return bool((self.inverse_temperature != 1).any())

    @cached_property
    def filtered(self) -> bool:
        """Whether any row has a filter."""
        return bool((self.certain > 0).any())

    def of_rows(self, rows: Tensor) -> "Filters":
        """The same for some of the rows."""
        at = rows.to(self.top_p.device)
        return Filters(
            self.inverse_temperature[at],
            self.greedy[rows.cpu().numpy()],
            self.top_p[at],
            self.top_k[at],
            self.min_p[at],
            self.certain[at],
        )

    def joined(self, other: "Filters") -> "Filters":
        """Both sets of rows, one after the other."""
        return Filters(
            torch.cat([self.inverse_temperature, other.inverse_temperature]),
            np.concatenate([self.greedy, other.greedy]),
            torch.cat([self.top_p, other.top_p]),
            torch.cat([self.top_k, other.top_k]),
            torch.cat([self.min_p, other.min_p]),
            torch.cat([self.certain, other.certain]),
        )


def _certain(s: Sampling) -> float:
    """A probability from which on no filter can exclude a token, whatever the others are."""
    if s.temperature == 0:
        return 0.0
    # Less than 1 − p lies above a token of probability p, and fewer than 1/p tokens do.
    bounds = [0.0, s.min_p]
    if s.top_k > 0:
        bounds.append(1.0 / s.top_k)
    if s.top_p < 1:
        bounds.append(2.0 if s.top_k > 0 else 1.0 - s.top_p + 1e-5)
    return max(bounds)


def uniforms(seeds: Uints, positions: Ints, attempt: int = 0) -> NDArray[np.float64]:
    """One number in (0, 1) per row: splitmix64 of seed, position and attempt."""
    with np.errstate(over="ignore"):
        mixed = _mix(seeds + np.uint64(0x9E3779B97F4A7C15))
        mixed = _mix(mixed + positions.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))
        mixed = _mix(mixed + np.uint64(attempt) * np.uint64(0x8CB92BA72F3D8DD7))
    return ((mixed >> np.uint64(24)).astype(np.float64) + 0.5) / 2.0**40


def _mix(x: Uints) -> Uints:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(logits: Tensor, filters: Filters, seeds: Uints, positions: Ints) -> Ints:
    """One token per row. `logits` is overwritten. Rows that are not finite get `BAD_ROW`."""
    logits = _in_blocks(logits)
    best = _argmax(logits) if filters.greedy.any() else None
    if best is not None and filters.greedy.all():
        return best
    if filters.tempered:
        logits.mul_(filters.inverse_temperature.unsqueeze(1))
    probabilities = torch.softmax(logits, dim=-1)
    tokens = _sample(probabilities, filters, seeds, positions)
    return tokens if best is None else np.where(filters.greedy, best, tokens)


def _in_blocks(logits: Tensor) -> Tensor:
    width = logits.shape[1]
    if width % _BLOCKS[-1] == 0:
        return logits
    missing = -width % _BLOCKS[0 if width > 4096 else -1]
    return torch.nn.functional.pad(logits, (0, missing), value=float("-inf"))


def _split(x: Tensor) -> Tensor:
    block = next(b for b in _BLOCKS if x.shape[1] % b == 0)
    return x.view(x.shape[0], -1, block)


def _pick(x: Tensor, block: Tensor) -> Tensor:
    """Row r's block number block[r]: [R, B]."""
    return x.gather(1, block.view(-1, 1, 1).expand(-1, 1, x.shape[2])).squeeze(1)


def _argmax(logits: Tensor) -> Ints:
    # Two levels: one argmax over the whole vocabulary is twenty times slower on CPU.
    blocks = _split(logits)
    tops = blocks.amax(-1)
    block = tops.argmax(-1)
    inner = _pick(blocks, block).argmax(-1)
    tokens = block * blocks.shape[2] + inner
    finite = torch.isfinite(tops).any(-1) & ~torch.isnan(tops).any(-1)
    return tokens.masked_fill_(~finite, BAD_ROW).cpu().numpy()


def _sample(probabilities: Tensor, filters: Filters, seeds: Uints, positions: Ints) -> Ints:
    tokens, chance = _inverse_cdf(probabilities, uniforms(seeds, positions))
    if filters.filtered:
        suspects = ((chance < filters.certain) & (tokens >= 0)).nonzero().squeeze(1)
        if len(suspects):
            rows = suspects.cpu().numpy()
            tokens[suspects] = _redrawn(
                probabilities.index_select(0, suspects),
                tokens[suspects],
                filters.of_rows(suspects),
                seeds[rows],
                positions[rows],
            )
    return tokens.cpu().numpy()


def _inverse_cdf(probabilities: Tensor, u: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Tokens [R] and their probabilities; float64 sums keep rare tokens at their true share."""
    blocks = _split(probabilities)
    outer = blocks.sum(-1).double().cumsum(-1)
    total = outer[:, -1:]
    where = torch.from_numpy(u).to(outer.device).unsqueeze(1) * total
    block = torch.searchsorted(outer, where, right=True).clamp_(max=outer.shape[1] - 1)
    below = outer.gather(1, (block - 1).clamp_(min=0)).masked_fill_(block == 0, 0.0)
    share = (where - below) / (outer.gather(1, block) - below)
    inner = _pick(blocks, block.squeeze(1)).double().cumsum(-1)
    target = share.clamp_(0, 1 - 2.0**-50) * inner[:, -1:]
    index = torch.searchsorted(inner, target, right=True).clamp_(max=inner.shape[1] - 1)
    tokens = (block * blocks.shape[2] + index).clamp_(min=0)
    chance = probabilities.gather(1, tokens).squeeze(1)
    bad = ~torch.isfinite(total)
    return tokens.masked_fill_(bad, BAD_ROW).squeeze(1), chance


def _redrawn(p: Tensor, tokens: Tensor, f: Filters, seeds: Uints, positions: Ints) -> Tensor:
    """Replace tokens a filter excludes, redrawing until one passes."""
    tokens = tokens.clone()
    todo = torch.arange(len(tokens), device=p.device)
    limit = _topk_mass(p, f.top_k) * f.top_p
    for attempt in range(1, _REDRAWS + 1):
        passed = _allowed(p[todo], tokens[todo], f, todo, limit)
        todo = todo[~passed]
        if not len(todo):
            return tokens
        rows = todo.cpu().numpy()
        u = uniforms(seeds[rows], positions[rows], attempt)
        if attempt < _REDRAWS:
            tokens[todo] = _inverse_cdf(p[todo], u)[0]
        else:
            tokens[todo] = _sorted_draw(p[todo], f, todo, limit, u)
    return tokens


def _topk_mass(p: Tensor, top_k: Tensor) -> Tensor:
    """Probability of each row's top-k tokens; 1 where the filter is off."""
    mass = torch.ones_like(top_k)
    for row in (top_k > 0).nonzero().squeeze(1).tolist():
        k = min(int(top_k[row]), p.shape[1])
        mass[row] = p[row].topk(k).values.sum()
    return mass


def _allowed(p: Tensor, tokens: Tensor, f: Filters, rows: Tensor, limit: Tensor) -> Tensor:
    chance = p.gather(1, tokens.unsqueeze(1))
    above = p > chance
    mass = (p * above).sum(-1)
    passed = (f.top_p[rows] >= 1) | (mass < limit[rows])
    passed &= (f.top_k[rows] == 0) | (above.sum(-1) < f.top_k[rows])
    return passed & (chance.squeeze(1) >= f.min_p[rows] * p.amax(-1))


def _sorted_draw(
    p: Tensor, f: Filters, rows: Tensor, limit: Tensor, u: NDArray[np.float64]
) -> Tensor:
    """The filtered distribution spelled out, for rows that keep being rejected."""
    ordered, ids = p.double().sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    rank = torch.arange(p.shape[1], device=p.device)[None]
    kept = (f.top_p[rows][:, None] >= 1) | (cumulative - ordered < limit[rows][:, None])
    kept &= (f.top_k[rows][:, None] == 0) | (rank < f.top_k[rows][:, None])
    kept &= ordered >= f.min_p[rows][:, None] * ordered[:, :1]
    kept[:, 0] = True
    cumulative = (ordered * kept).cumsum(-1)
    target = torch.from_numpy(u).to(p.device)[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True).clamp_(max=p.shape[1] - 1)
    return ids.gather(1, index).squeeze(1)
