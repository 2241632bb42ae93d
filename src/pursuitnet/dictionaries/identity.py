"""[I D], the dictionary of dense connection."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pursuitnet.dictionaries.base import Code, Dictionary
from pursuitnet.dictionaries.conv import ConvDictionary
from pursuitnet.dictionaries.inputs import check_kind
from pursuitnet.utils.inplace import reusable


class WithIdentity(Dictionary):
    """[I D], the dictionary of MSDNet and MSD-CSC: the code is the signal's channels, then the atoms (Section V-A).

    Args:
        dictionary: D, whose code has the size of its signal, so that the two stack.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.WithIdentity(pn.ConvDictionary(torch.randn(16, 3, 3, 3), padding=1))
        >>> code = D.analyze(torch.rand(4, 3, 9, 9))
        >>> [part.shape[1] for part in D.split(code)]
        [3, 16]
    """

    def __init__(self, dictionary: Dictionary) -> None:
        super().__init__()
        check_kind("dictionary", dictionary, Dictionary, "such as ConvDictionary(weight, padding=1)")
        if isinstance(dictionary, ConvDictionary) and not dictionary.keeps_size:
            padding = tuple(r / 2 for r in dictionary.reach)
            raise ValueError(
                f"[I D] needs codes of the signal's size, that is stride 1 and padding {padding}; "
                f"got stride {dictionary.stride} and padding {dictionary.padding}"
            )
        self.dictionary = dictionary
        self.channels, self.dims = dictionary.channels, dictionary.dims
        self.code_channels = (dictionary.channels, sum(dictionary.code_channels))

    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B code_channels *size"]:
        return self.join((signal, self.dictionary.analyze(signal)))

    def synthesize(
        self, code: Float[Tensor, "B code_channels *size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        self.check_code(code, signal_shape)
        identity, atoms = self.split(code)
        return identity + self.dictionary.synthesize(atoms, signal_shape)

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        return self.dictionary.code_size(signal_shape)

    def split(self, code: Tensor) -> Code:
        return tuple(code.split(self.code_channels, dim=1))

    def join(self, parts: Code) -> Tensor:
        return torch.cat(parts, dim=1)

    def analyze_parts(self, signal: Tensor) -> Code:
        return signal, self.dictionary.join(self.dictionary.analyze_parts(signal))

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        model = self.dictionary.synthesize_parts(self.dictionary.split(parts[1]), signal_shape)
        return torch.add(model, parts[0], out=reusable(model, parts[0]))

    def check_signal(self, signal: Tensor) -> None:
        self.dictionary.check_signal(signal)

    def columns(
        self, chosen: Int[Tensor, " n"], signal_shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "n taps"], Float[Tensor, "n taps"]]:
        numel = math.prod(self._example(signal_shape))
        places, values = self.dictionary.columns((chosen - numel).clamp(min=0), signal_shape)
        own = (chosen < numel)[:, None]
        one = torch.zeros_like(values).index_fill(1, torch.zeros(1, dtype=torch.long, device=values.device), 1)
        return torch.where(own, chosen[:, None], places), torch.where(own, one, values)

    def atom_norms(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "1 code_channels *size"]:
        inner = self.dictionary.atom_norms(signal_shape)
        return torch.cat([inner.new_ones(1, *self._example(signal_shape)), inner], dim=1)

    def lipschitz(self, signal_shape: Sequence[int] | None = None) -> float:
        """Return 1 + λmax(DᵀD), by Lemma 3."""
        return 1 + self.dictionary.lipschitz(signal_shape)

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        return 1 + self.dictionary.lipschitz_bound()
