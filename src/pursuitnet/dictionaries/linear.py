"""A dictionary that is a matrix of atoms."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet.dictionaries.base import Code, Dictionary
from pursuitnet.dictionaries.inputs import as_weight, check_tensor, takes_weight
from pursuitnet.dictionaries.onednn import promote_half, without_autocast


class LinearDictionary(Dictionary):
    """A dictionary given by its atoms: D = weightᵀ, signals (B, features), codes (B, atoms).

    Args:
        weight: (atoms, features), one atom per row.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.LinearDictionary(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
        >>> D.analyze(torch.tensor([[2.0, 4.0]])).tolist(), D.synthesize(torch.tensor([[0.0, 0.0, 2.0]])).tolist()
        ([[2.0, 4.0, 3.0]], [[1.0, 1.0]])
    """

    @takes_weight("LinearDictionary(torch.randn(atoms, features))")
    def __init__(self, weight: Float[Tensor, "atoms features"]) -> None:
        super().__init__()
        weight = as_weight(weight, "(atoms, features)")
        if weight.dim() != 2:
            raise ValueError(f"weight has shape {tuple(weight.shape)}; expected (atoms, features)")
        self.weight = nn.Parameter(weight)
        self.code_channels, self.channels = (weight.shape[0],), weight.shape[1]

    def extra_repr(self) -> str:
        return f"{self.channels} → {self.code_channels[0]}"

    def analyze(self, signal: Float[Tensor, "B features"]) -> Float[Tensor, "B atoms"]:
        self.check_signal(signal)
        return F.linear(signal, self.weight)

    def analyze_parts(self, signal: Tensor) -> Code:
        return (F.linear(signal, self.weight),)

    def synthesize(
        self, code: Float[Tensor, "B atoms"], signal_shape: Sequence[int] | None = None
    ) -> Float[Tensor, "B features"]:
        self.check_code(code, (len(code), self.channels) if signal_shape is None else signal_shape)
        return F.linear(code, self.weight.mT)

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        return F.linear(parts[0], self.weight.mT)

    def check_signal(self, signal: Tensor) -> None:
        check_tensor(signal, self.weight)
        super().check_signal(signal)

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return λmax(DᵀD) itself: a matrix takes signals of one size only."""
        with without_autocast(self.weight.device):
            return torch.linalg.matrix_norm(promote_half(self.weight), 2) ** 2

    def columns(
        self, chosen: Int[Tensor, " n"], signal_shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "n features"], Float[Tensor, "n features"]]:
        values = self.weight[chosen]
        return torch.arange(self.channels, device=values.device).expand_as(values), values

    def atom_norms(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "1 atoms"]:
        return self.weight.norm(dim=1).unsqueeze(0)
