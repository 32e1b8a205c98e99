"""Drawing tokens from logits, row by row, from random numbers that do not depend on the batch.

In: logits float32 [R, V], each row's filters, and its uniform numbers, which are a hash of (seed,
position, lane, try). Out: token ids. No sort and no vocabulary-wide random numbers: a token is
drawn from the unfiltered distribution by a two-level race and redrawn if a filter excludes it,
which is the filtered distribution exactly. Filters compose as in transformers: top-k, then top-p of
what is left, then min-p relative to the most likely token.
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
_TOKEN_LANES = np.uint64(1 << 32)
"""Lanes below are blocks."""

Uints = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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


def uniforms(seeds: Uints, positions: Ints, lanes: Uints, attempt: int = 0) -> Floats:
    """Numbers in (0, 1) [R, n]: splitmix64 of seed, position, attempt and lane ([n] or [R, n])."""
    with np.errstate(over="ignore"):
        key = _mix(seeds + np.uint64(0x9E3779B97F4A7C15))
        key = _mix(key + positions.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))
        key = _mix(key + np.uint64(attempt) * np.uint64(0x8CB92BA72F3D8DD7))
        mixed = _mix(key[:, None] + lanes * np.uint64(0xABC98388FB8FAC03))
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
    probabilities = torch.softmax(logits, dim=-1, out=logits)  # in place: half the memory traffic
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
    tokens, chance = _race(probabilities, seeds, positions)
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


def _race(p: Tensor, seeds: Uints, positions: Ints, attempt: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens [R], drawn from p, and their probabilities.

    An exponential race (argmin E/p) first between blocks of the vocabulary, then inside the winner:
    p exactly, for hundreds of random numbers per row instead of one per token. An inverse CDF would
    need one, but a rounding error early in the vocabulary shifts every later token's interval, so
    that the same seed would write something else in another batch; a race only turns on its ties.
    """
    blocks = _split(p)
    count, size = blocks.shape[1:]
    sums = blocks.sum(-1)
    first = uniforms(seeds, positions, np.arange(count, dtype=np.uint64), attempt)
    block = _winner(sums, first)
    starts: Uints = (block * size).cpu().numpy().astype(np.uint64)[:, None] + _TOKEN_LANES
    inside = np.arange(size, dtype=np.uint64)
    second = uniforms(seeds, positions, starts + inside, attempt)
    tokens = block * size + _winner(_pick(blocks, block), second)
    chance = p.gather(1, tokens.unsqueeze(1)).squeeze(1)
    finite = torch.isfinite(sums.sum(-1))
    return tokens.masked_fill_(~finite, BAD_ROW), chance


def _winner(p: Tensor, u: Floats) -> Tensor:
    return (torch.from_numpy(-np.log(u)).to(p.device) / p.double()).argmin(-1)


def _redrawn(p: Tensor, tokens: Tensor, f: Filters, seeds: Uints, positions: Ints) -> Tensor:
    """Replace tokens a filter excludes, redrawing until one passes."""
    tokens = tokens.clone()
    todo = torch.arange(len(tokens), device=p.device)
    limit = _topp_limits(p, f)
    for attempt in range(1, _REDRAWS + 1):
        passed = _allowed(p[todo], tokens[todo], f, todo, limit)
        todo = todo[~passed]
        if not len(todo):
            return tokens
        rows = todo.cpu().numpy()
        if attempt < _REDRAWS:
            tokens[todo] = _race(p[todo], seeds[rows], positions[rows], attempt)[0]
        else:
            u = uniforms(seeds[rows], positions[rows], np.zeros(1, np.uint64), attempt)
            tokens[todo] = _sorted_draw(p[todo], f, todo, limit, u)
    return tokens


def _topp_limits(p: Tensor, f: Filters) -> Tensor:
    """The mass above a token at which top-p excludes it: top-p of what top-k leaves."""
    both = ((f.top_k > 0) & (f.top_p < 1)).nonzero().squeeze(1)
    limits = f.top_p.clone()
    if len(both):
        k = f.top_k[both].long().clamp_(max=p.shape[1])
        sums = p[both].topk(int(k.max())).values.cumsum(-1)
        limits[both] *= sums.gather(1, k.unsqueeze(1) - 1).squeeze(1)
    return limits


def _allowed(p: Tensor, tokens: Tensor, f: Filters, rows: Tensor, limit: Tensor) -> Tensor:
    chance = p.gather(1, tokens.unsqueeze(1))
    above = p > chance
    mass = (p * above).sum(-1)
    passed = (f.top_p[rows] >= 1) | (mass < limit[rows])
    passed &= (f.top_k[rows] == 0) | (above.sum(-1) < f.top_k[rows])
    return passed & (chance.squeeze(1) >= f.min_p[rows] * p.amax(-1))


def _sorted_draw(p: Tensor, f: Filters, rows: Tensor, limit: Tensor, u: Floats) -> Tensor:
    """The filtered distribution spelled out, for rows that keep being rejected."""
    ordered, ids = p.double().sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    rank = torch.arange(p.shape[1], device=p.device)[None]
    kept = (f.top_p[rows][:, None] >= 1) | (cumulative - ordered < limit[rows][:, None])
    kept &= (f.top_k[rows][:, None] == 0) | (rank < f.top_k[rows][:, None])
    kept &= ordered >= f.min_p[rows][:, None] * ordered[:, :1]
    kept[:, 0] = True
    cumulative = (ordered * kept).cumsum(-1)
    target = torch.from_numpy(u).to(p.device) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True).clamp_(max=p.shape[1] - 1)
    return ids.gather(1, index).squeeze(1)
