"""The matrices of a decoder, in floating point or as 8-bit integers; a bias belongs to its matrix.

A product of few rows takes as long as reading the weights takes, so integers of a quarter of the
size make it that much faster; a product of many rows gains from integer instructions. The price is
rounding: a quantized model is another model, and its name says so.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

STEPS = 127
"""An absolute value of 1, as an 8-bit integer; −128 stays unused, so that signs are symmetric."""


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
class Int8:
    """Stored [N, K], seen as [K, N]; one scale per column, and one per row of what is multiplied.

    Sums are exact integers and scales belong to one row, so what a row gives does not depend on the
    rows beside it, not even in its last bit.
    """

    weight: Tensor
    """int8."""
    scale: Tensor
    """float32 [N]: what 1 stands for, divided by `STEPS`."""
    bias: Tensor | None = None

    @classmethod
    def of(cls, matrix: Dense) -> "Int8":
        """The nearest one."""
        columns = matrix.weight.float().t()
        weight, scale = _rounded(columns)
        return cls(weight.t(), scale.squeeze(1) / STEPS, matrix.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def nbytes(self) -> int:
        """Integers and scales."""
        return self.weight.nbytes + self.scale.nbytes

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x · self + bias; the rows of x are rounded as well."""
        rounded, size = _rounded(x)
        sums = torch._int_mm(rounded, self.weight)
        found = torch.mul(sums, self.scale, out=out).mul_(size / STEPS)
        return found if self.bias is None else found.add_(self.bias)

    def add_product(self, x: Tensor, y: Tensor) -> None:
        """x += y · self + bias."""
        x.add_(self.product(y))


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [M, K] and the float32 [M, 1] that `STEPS` stands for in each row."""
    size = rows.abs().amax(dim=-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
    return (rows * (STEPS / size)).round_().to(torch.int8), size


def int8_is_exact() -> bool:
    """Whether this processor's integer products neither saturate nor wrap."""
    rows = torch.full((2, 1536), STEPS, dtype=torch.int8)
    rows[1] = -STEPS
    columns = torch.full((8, 1536), STEPS, dtype=torch.int8)
    expected = torch.tensor([[1536 * STEPS**2] * 8, [-1536 * STEPS**2] * 8], dtype=torch.int32)
    return torch.equal(torch._int_mm(rows, columns.t()), expected)
