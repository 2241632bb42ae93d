"""Codes of a batch of images for the current dictionary: to a certificate, starting at the previous codes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pursuitnet.dictionaries import Code, ConvDictionary, Dictionary, WithIdentity
from pursuitnet.iterations.proximal import FISTA, Certificate
from pursuitnet.problems.lasso import lasso
from pursuitnet.problems.learning.filters import completed, filters_of, masked_dictionary, unpadded
from pursuitnet.problems.learning.images import Batch
from pursuitnet.problems.learning.statistics import SufficientStatistics
from pursuitnet.problems.solve import ReducedSolver, run_solver
from pursuitnet.problems.working_set import WorkingSet

SPARSE = 0.05
"""The fraction of non-zeros up to which a working set is the faster solver."""


@dataclass(frozen=True)
class SparseCode:
    """A code stored as the positions and values of its non-zeros."""

    shape: torch.Size
    places: Tensor
    values: Tensor

    @staticmethod
    def of(code: Tensor) -> "SparseCode":
        places = code.flatten().nonzero()[:, 0]
        return SparseCode(code.shape, places, code.flatten()[places])

    @property
    def density(self) -> float:
        return len(self.places) / max(1, self.shape.numel())

    def dense(self) -> Tensor:
        """Return the code as a tensor."""
        zero = self.values.new_zeros(self.shape.numel())
        return zero.index_copy(0, self.places, self.values).view(self.shape)


@dataclass(frozen=True)
class CodedBatch:
    """A batch with its code in parts, the atoms' last, and its certificate."""

    batch: Batch
    code: Code
    certificate: Certificate

    @property
    def identity(self) -> Tensor | float:
        """Return the identity part of the code, or 0."""
        return self.code[0] if len(self.code) > 1 else 0.0

    @torch.no_grad()
    def sums(self, dictionary: Dictionary) -> SufficientStatistics:
        """Return the sufficient statistics of the code for the filters."""
        filters, sides = unpadded(filters_of(dictionary))
        signal = self.batch.signal - self.identity
        return SufficientStatistics.of(
            filters, self.code[-1], completed(filters, sides, signal, self.batch.mask, self.code[-1])
        )

    def residual(self, dictionary: Dictionary) -> Tensor:
        """Return x − DΓ, zero where x is not known."""
        return residual_of(dictionary, self.batch, self.code)


@torch.no_grad()
def residual_of(dictionary: Dictionary, batch: Batch, code: Code) -> Tensor:
    """Return x − DΓ of a batch for codes in parts, zero where x is not known."""
    D, signal = masked_dictionary(dictionary, batch.mask), batch.signal
    return signal - D.synthesize_parts(code, signal.shape)


@dataclass(frozen=True)
class Coder:
    """Computes codes.

    Attributes:
        beta: β ≥ 0, a number or one for each channel of the code.
        nonnegative: whether Γ ≥ 0.
        max_steps: maximum number of steps.
        solver: as ``solve`` takes it; None chooses by the kind of dictionary and the density of the codes.
    """

    beta: Tensor
    nonnegative: bool = False
    max_steps: int = 1000
    solver: Any = None

    @torch.no_grad()
    def __call__(self, dictionary: Dictionary, batch: Batch, tol: float, start: Tensor | None = None) -> CodedBatch:
        """Return the code of a batch, to a gap of at most tol where that can be reached.

        Args:
            dictionary: D.
            batch: the images.
            tol: the relative gap of each image.
            start: the initial code, (B, code_channels, …).
        """
        D, x = masked_dictionary(dictionary, batch.mask), batch.signal
        problem = lasso(x, D, self.beta, self.nonnegative)
        if start is None:
            start = x.new_zeros(len(x), sum(D.code_channels), *(D.code_size(x.shape) if D.dims else ()))
        initial, solver = D.split(start), self.solver or self._default_solver(dictionary, batch, start)
        run, code = run_solver(problem, solver, initial, self.max_steps, tol)
        return CodedBatch(batch, code, run.certificate)

    def _default_solver(self, dictionary: Dictionary, batch: Batch, start: Tensor) -> Any:
        """Return a fast solver: WorkingSet where few columns are used and each reaches few entries of a signal."""
        if isinstance(dictionary, WithIdentity):
            return ReducedSolver(FISTA())
        one_mask = batch.mask is None or len(batch.mask) == 1 or len(batch.signal) == 1
        sparse = int((start != 0).sum()) <= SPARSE * start.numel()
        convolution = isinstance(dictionary, ConvDictionary)
        return WorkingSet() if convolution and one_mask and sparse else FISTA()
