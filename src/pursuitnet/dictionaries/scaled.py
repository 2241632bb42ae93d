"""D·diag(s), each atom with its own scale, so that λmax ≤ 1."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pursuitnet.dictionaries.base import Code, Dictionary
from pursuitnet.dictionaries.conv import ConvDictionary
from pursuitnet.dictionaries.inputs import check_kind
from pursuitnet.dictionaries.linear import LinearDictionary
from pursuitnet.dictionaries.onednn import CONVOLUTIONS, without_autocast


class ScaledDictionary(Dictionary):
    """D·diag(s) with s_j² = q_j / Σᵢ |dⱼᵀdᵢ|·qᵢ, so that λmax ≤ 1 at every signal size, for any learned D and q.

    By Gershgorin's circles: the rows of diag(s)·DᵀD·diag(s), weighted by q/s, sum to 1 at most. A step c = 1 on it is
    a separate step for each atom of D, and x − 2·D·Γ is the layer of Araujo et al., A unified algebraic perspective on
    Lipschitz neural networks (2023). Gradients flow through s.

    Args:
        dictionary: D, a ConvDictionary or LinearDictionary.
    """

    def __init__(self, dictionary: ConvDictionary | LinearDictionary) -> None:
        super().__init__()
        if not isinstance(dictionary, ConvDictionary | LinearDictionary):
            check_kind("dictionary", dictionary, ConvDictionary, "such as ConvDictionary(weight, padding=1)")
        self.dictionary = dictionary
        self.log_q = nn.Parameter(dictionary.weight.new_zeros(len(dictionary.weight)))
        self.channels, self.dims, self.code_channels = dictionary.channels, dictionary.dims, dictionary.code_channels

    def scale(self) -> Float[Tensor, " atoms"]:
        """Return s, (atoms,)."""
        q = self.log_q.exp()
        sums = absolute_gram(self.dictionary) @ q.to(self.dictionary.weight.dtype)
        return (q / sums.clamp(min=torch.finfo(sums.dtype).tiny ** 0.5)).sqrt()

    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B atoms *code_size"]:
        return self._scaled(self.dictionary.analyze(signal))

    def synthesize(
        self, code: Float[Tensor, "B atoms *code_size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        return self.dictionary.synthesize(self._scaled(code), signal_shape)

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        return self.dictionary.code_size(signal_shape)

    def analyze_parts(self, signal: Tensor) -> Code:
        return (self._scaled(self.dictionary.analyze_parts(signal)[0]),)

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        return self.dictionary.synthesize_parts((self._scaled(parts[0]),), signal_shape)

    def check_signal(self, signal: Tensor) -> None:
        self.dictionary.check_signal(signal)

    def columns(
        self, chosen: Int[Tensor, " n"], signal_shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "n taps"], Float[Tensor, "n taps"]]:
        places, values = self.dictionary.columns(chosen, signal_shape)
        positions = self.atom_norms(signal_shape)[0, 0].numel()
        return places, values * self.scale()[chosen // positions, None]

    def atom_norms(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "1 atoms *code_size"]:
        return self._scaled(self.dictionary.atom_norms(signal_shape))

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return 1 plus a margin for the rounding of s."""
        weight = self.dictionary.weight
        return weight.new_tensor(1 + (weight[0].numel() + len(weight)) * torch.finfo(weight.dtype).eps)

    def _scaled(self, code: Tensor) -> Tensor:
        return code * self.scale().to(code.dtype).view(-1, *[1] * self.dims)


def absolute_gram(dictionary: ConvDictionary | LinearDictionary) -> Float[Tensor, "atoms atoms"]:
    """Return Σ |dⱼᵀdᵢ| over all positions of atom i, on an infinite signal, which bounds it on every finite one."""
    weight = dictionary.weight
    with without_autocast(weight.device):
        if isinstance(dictionary, LinearDictionary):
            return (weight @ weight.mT).abs()
        filters = dictionary._polyphase(dictionary.dense_weight())
        room = [k - 1 for k in filters.shape[2:]]
        products: Tensor = CONVOLUTIONS[dictionary.dims - 1](filters, filters, None, 1, room)
        return products.abs().flatten(2).sum(dim=2)
