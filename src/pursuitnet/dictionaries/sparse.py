"""Some columns of a dictionary: the dictionary of a working-set subproblem."""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.dictionaries.base import Dictionary


class Columns(Dictionary):
    """Some columns of a dictionary, as a sparse matrix and its transpose.

    Args:
        places: row indices of each column, (n, taps).
        values: its values there, (n, taps).
        numel: size of the signal.
    """

    def __init__(self, places: Int[Tensor, "n taps"], values: Float[Tensor, "n taps"], numel: int) -> None:
        super().__init__()
        self.code_channels, self.channels = (len(places),), numel
        self.places, self.values = places, values
        # Without MKL, some processors have no product of a sparse matrix and a vector.
        self.sparse = places.is_cuda or torch.backends.mkl.is_available()
        if self.sparse:
            flat = places.flatten().int()
            order = flat.argsort()  # faster than of 64 bits
            rows = torch.arange(0, flat.numel() + 1, places.shape[1], device=places.device)
            reached = torch.bincount(flat, minlength=numel).cumsum(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch calls CSR matrices beta; only their products are used here
                self.analysis = _csr_matrix(rows, flat, values.flatten(), numel)
                self.synthesis = _csr_matrix(
                    F.pad(reached, (1, 0)), order // places.shape[1], values.flatten()[order], len(places)
                )

    def analyze(self, signal: Float[Tensor, "1 numel"]) -> Float[Tensor, "1 n"]:
        code = self.analysis @ signal[0] if self.sparse else (signal[0][self.places] * self.values).sum(1)
        return code[None]

    def synthesize(
        self, code: Float[Tensor, "1 n"], signal_shape: Sequence[int] | None = None
    ) -> Float[Tensor, "1 numel"]:
        if self.sparse:
            return (self.synthesis @ code[0])[None]
        weighted = (code[0][:, None] * self.values).flatten()
        return code.new_zeros(self.channels).index_add(0, self.places.flatten(), weighted)[None]

    def matrix(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "numel n"]:
        return self.values.new_zeros(len(self.places), self.channels).scatter_add(1, self.places, self.values).mT

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        return torch.linalg.matrix_norm(self.matrix(), 2) ** 2


def _csr_matrix(ends: Tensor, columns: Tensor, values: Tensor, width: int) -> Tensor:
    """Return a sparse matrix of compressed rows with ``width`` columns."""
    size = (len(ends) - 1, width)
    return torch.sparse_csr_tensor(ends.int(), columns.int(), values, size, device=values.device)
