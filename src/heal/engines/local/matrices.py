"""The matrices of a decoder, in floating point or as 8-bit integers; a bias belongs to its matrix.

A product of few rows takes as long as reading the weights takes, and one of many rows as long as
its multiplications. `Dense` and `Packed` hold the same numbers, for two libraries of which now one,
now the other is faster. Integers make both kinds of product faster still. The price is rounding, of
the weights and of what is multiplied: a quantized model is another model, and its id says so.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

STEPS = 127
"""What the largest absolute value becomes; −128 stays unused, so that signs are symmetric."""


class Matrix(Protocol):
    """[K, N], and what is done with it."""

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        ...

    @property
    def nbytes(self) -> int:
        """What one product has to read of it."""
        ...

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x · self + bias, [M, N]; into `out` where that saves memory."""
        ...

    def add_product(self, x: Tensor, y: Tensor) -> None:
        """x += y · self + bias."""
        ...


@dataclass(frozen=True)
class Dense:
    """Stored [K, N]: MKL multiplies that a fifth faster than [N, K] at 64 rows."""

    weight: Tensor
    bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.weight.nbytes

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x · self + bias."""
        if self.bias is None:
            return torch.mm(x, self.weight, out=out)
        return torch.addmm(self.bias, x, self.weight, out=out)

    def add_product(self, x: Tensor, y: Tensor) -> None:
        """The residual is added inside the product."""
        if self.bias is not None:
            x.add_(self.bias)
        x.addmm_(y, self.weight)


@dataclass(frozen=True)
class Packed:
    """Laid out for oneDNN's products: one layout serves any number of rows.

    MKL is slow on processors that are not Intel's, where these products took a third of the time,
    and lays a bfloat16 matrix out anew each time, where they took two thirds (LOG.md).
    `packing_pays` says where.
    """

    weight: Tensor
    """An opaque tensor of shape [N, K]."""
    bias: Tensor | None = None

    @classmethod
    def of(cls, matrix: Dense) -> "Packed":
        """The same matrix."""
        rows = matrix.weight.t().contiguous()
        # For very few rows oneDNN would choose a layout that is slow for all others.
        return cls(torch.ops.mkldnn._reorder_linear_weight(rows, 128), matrix.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        return self.weight.shape[1], self.weight.shape[0]

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.weight.dtype.itemsize * self.weight.shape[0] * self.weight.shape[1]

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x · self + bias, always in memory of its own."""
        return _linear(x, self.weight, self.bias)

    def add_product(self, x: Tensor, y: Tensor) -> None:
        """x += y · self + bias."""
        x.add_(_linear(y, self.weight, self.bias))


def _linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return found


def can_pack(dtype: str, device: str) -> bool:
    """Whether there is a oneDNN, and it multiplies such matrices on this processor."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # Without AVX-512 it would widen every bfloat16 product, and gain nothing.
    return dtype == "float32" or (
        dtype == "bfloat16" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def packing_pays(matrix: Dense, rows: int) -> bool:
    """Whether oneDNN multiplies so many rows faster here than MKL, by a quarter and more: timed.

    Where the two are about as fast, a timing would choose now one and now the other.
    """
    x = torch.ones(rows, matrix.shape[0], dtype=matrix.weight.dtype)
    packed = Packed.of(matrix)
    return 1.25 * _least_s(lambda: packed.product(x)) < _least_s(lambda: matrix.product(x))


def _least_s(work: Callable[[], object], tries: int = 7) -> float:
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@dataclass(frozen=True)
class Watched:
    """A matrix that remembers how large its inputs were."""

    matrix: Dense
    largest: Tensor
    """[K]: the largest absolute value seen in each column of x."""

    @classmethod
    def of(cls, matrix: Dense) -> "Watched":
        """One that has seen nothing."""
        return cls(matrix, matrix.weight.new_zeros(matrix.shape[0]))

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        return self.matrix.shape

    @property
    def nbytes(self) -> int:
        """As of the matrix."""
        return self.matrix.nbytes

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x · self + bias."""
        torch.maximum(self.largest, x.abs().amax(dim=0), out=self.largest)
        return self.matrix.product(x, out)

    def add_product(self, x: Tensor, y: Tensor) -> None:
        """x += y · self + bias."""
        x.add_(self.product(y))


@dataclass(frozen=True)
class Int8:
    """Stored [N, K], seen as [K, N]: one scale per column, and one per row of what is multiplied.

    Few columns of x are far larger than the others, and would leave them no steps: each is divided
    by the geometric mean of what x and the weights have there, and the weights multiplied by it
    (SmoothQuant, arXiv 2211.10438). Sums are exact and scales belong to one row, so what a row
    gives does not depend on the rows beside it, not even in its last bit.
    """

    weight: Tensor
    """int8."""
    scale: Tensor
    """float32 [N]: the size of a step."""
    smooth: Tensor
    """float32 [K]: what x is multiplied by."""
    bias: Tensor | None = None

    @classmethod
    def of(cls, watched: Watched) -> "Int8":
        """The nearest one for inputs like those that were seen."""
        columns = watched.matrix.weight.t().float().contiguous()  # [N, K]
        tiny = torch.finfo(torch.float32).tiny
        weights = columns.abs().amax(dim=0).clamp_min_(tiny)
        inputs = watched.largest.float().clamp_min(tiny)
        # A column of x that was never used, or never matters, stays as it is.
        used = (watched.largest > 0) & (columns != 0).any(dim=0)
        smooth = torch.where(used, (weights / inputs).sqrt(), 1.0)
        columns = columns / smooth
        scale = _step(columns)
        rounded = (columns / scale).round_().to(torch.int8)
        return cls(rounded.t(), scale.squeeze(1), smooth, watched.matrix.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def nbytes(self) -> int:
        """Integers and scales."""
        return self.weight.nbytes + self.scale.nbytes + self.smooth.nbytes

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x · self + bias."""
        smooth = x * self.smooth
        step = _step(smooth)
        sums = torch._int_mm(smooth.div_(step).round_().to(torch.int8), self.weight)
        found = torch.mul(sums, self.scale, out=out).mul_(step)
        return found if self.bias is None else found.add_(self.bias)

    def add_product(self, x: Tensor, y: Tensor) -> None:
        """x += y · self + bias."""
        x.add_(self.product(y))


def _step(rows: Tensor) -> Tensor:
    """[M, 1]: the largest absolute value of each row over `STEPS`."""
    largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, keepdim=True)
    return largest.div_(STEPS).clamp_min_(torch.finfo(torch.float32).tiny)


def int8_is_exact() -> bool:
    """Whether this processor's integer products neither saturate nor wrap."""
    signs = torch.tensor([[1], [-1]], dtype=torch.int8)
    rows = (STEPS * signs).expand(2, 1536).contiguous()
    columns = torch.full((8, 1536), STEPS, dtype=torch.int8)
    expected = (signs.int() * 1536 * STEPS**2).expand(2, 8)
    return torch.equal(torch._int_mm(rows, columns.t()), expected)
