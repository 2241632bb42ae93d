"""Pursuits that sweep over several layers, ML-ISTA and ML-FISTA: the one exception to layer by layer.

After Sulam, Aberdam, Beck and Elad (2019), the paper's reference [27].
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import Code
from pursuitnet.dictionaries.inputs import check_count, kind_of
from pursuitnet.iterations import ISTA, Solver, unroll
from pursuitnet.iterations.checkpointing import checkpointed_scan, recompute_of
from pursuitnet.layer import PursuitLayer, check_solver, prepare, to_autocast_dtype


class MultiLayerPursuit(nn.Module):
    """Several layers pursued together: X = D₁Γ₁, Γ₁ = D₂Γ₂, …; returns the deepest code.

    The first pass is the feed-forward one. Each of ``unfolding`` further sweeps goes down from the deepest code,
    γ̂ᵢ₋₁ = Dᵢγ̂ᵢ, and back up, γᵢ ← P( γ̂ᵢ − cᵢ·Dᵢᵀ(Dᵢγ̂ᵢ − γᵢ₋₁) ), which is each layer's own update. The solver's
    momentum acts on the deepest code.

    Args:
        layers: the layers, first to last; each starts at zero and has unfolding 0. A normalization with statistics for
            fewer steps than there are sweeps gets separate ones for each sweep.
        solver: ISTA() for ML-ISTA, FISTA() for ML-FISTA.
        unfolding: number of sweeps after the feed-forward pass, ≥ 0.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> first = pn.PursuitLayer(pn.ConvDictionary(torch.randn(8, 1, 3, 3), padding=1))
        >>> second = pn.PursuitLayer(pn.ConvDictionary(torch.randn(16, 8, 3, 3), stride=2, padding=1))
        >>> pn.MultiLayerPursuit([first, second], unfolding=2)(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 16, 4, 4])
    """

    def __init__(self, layers: Iterable[PursuitLayer], solver: Solver = ISTA(), unfolding: int = 0) -> None:
        super().__init__()
        check_count("unfolding", unfolding, 0, "the number of sweeps after the first pass")
        check_solver(solver)
        if not isinstance(layers, Iterable) or isinstance(layers, PursuitLayer | str):
            raise TypeError(f"layers is {kind_of(layers)}; expected several in a list, as in [layer1, layer2]")
        self.layers = nn.ModuleList(layers)
        if not len(self.layers) or len(self._each()) < len(self.layers):
            kinds = ", ".join(type(layer).__name__ for layer in self.layers) or "none"
            raise ValueError(f"the layers are {kinds}; expected one or more, each a PursuitLayer")
        self.solver, self.unfolding, self.grad_checkpointing = solver, unfolding, False
        for layer in self._each():
            if layer.start.needs_previous or layer.unfolding:
                raise ValueError(
                    f"a layer has start {layer.start.name!r} and unfolding {layer.unfolding}; layers that are swept "
                    "together start at zero and have unfolding 0"
                )
            layer.threshold.extend(unfolding + 1)
        self.register_forward_pre_hook(_prepare_all)

    def forward(self, x: Tensor) -> Tensor:
        """Return the deepest code of x: (B, channels, …) → (B, code_channels of the last layer, …)."""
        x = to_autocast_dtype(x)
        shapes, signal = [], x
        code: Code = ()
        for layer in self._each():
            layer.dictionary.check_signal(signal)
            shapes.append(signal.shape)
            code = layer.update(signal, None, None)
            signal = layer.dictionary.join(code)
        chain = unroll(self.solver, self.sweep, self.unfolding)
        state = checkpointed_scan(chain, self.solver.init(code), recompute_of(self), (x, shapes), segment=2)
        return self._each()[-1].dictionary.join(state.code)

    def extra_repr(self) -> str:
        return f"solver={self.solver}, unfolding={self.unfolding}"

    def sweep(self, step: int, deepest: Code, x: Tensor, shapes: Sequence[torch.Size]) -> Code:
        """Return the deepest code after one sweep down and up."""
        layers, probes = self._each(), [deepest]
        for below, layer, shape in zip(layers[-2::-1], layers[:0:-1], shapes[:0:-1], strict=True):
            probes.append(below.dictionary.split(layer.dictionary.synthesize_parts(probes[-1], shape)))
        signal, code = x, deepest
        for layer, probe in zip(layers, reversed(probes), strict=True):
            code = layer.update_at(step, probe, signal)
            signal = layer.dictionary.join(code)
        return code

    def _each(self) -> list[PursuitLayer]:
        return [layer for layer in self.layers if isinstance(layer, PursuitLayer)]


def _prepare_all(pursuit: MultiLayerPursuit, inputs: tuple[Any, ...]) -> None:
    for layer in pursuit._each():
        prepare(layer, inputs)


def unfolded(model: nn.Module) -> list[PursuitLayer | MultiLayerPursuit]:
    """Return the pursuits whose unfolding can be changed: sweeps, and layers with further steps, or else all layers."""
    pursuits = [m for m in model.modules() if isinstance(m, PursuitLayer | MultiLayerPursuit)]
    swept = {id(layer) for pursuit in pursuits if isinstance(pursuit, MultiLayerPursuit) for layer in pursuit.layers}
    own = [pursuit for pursuit in pursuits if id(pursuit) not in swept]
    return [pursuit for pursuit in own if isinstance(pursuit, MultiLayerPursuit) or pursuit.unfolding] or own


@contextmanager
def with_unfolding(model: nn.Module, unfolding: int) -> Iterator[None]:
    """Give the pursuits that ``unfolded`` returns another number of steps after the first, inside the context.

    Steps beyond the trained ones use the batch-normalization statistics of the last one (see ``Threshold``).

    Raises:
        ValueError: for a negative number, and for a model without pursuits.
    """
    if unfolding < 0:
        raise ValueError(f"unfolding is {unfolding}; expected an integer ≥ 0, the number of steps after the first")
    pursuits = unfolded(model)
    if not pursuits:
        raise ValueError("the network has no pursuits to unfold; expected PursuitLayers, as in those of create_model")
    trained = [pursuit.unfolding for pursuit in pursuits]
    try:
        for pursuit in pursuits:
            pursuit.unfolding = unfolding
        yield
    finally:
        for pursuit, number in zip(pursuits, trained, strict=True):
            pursuit.unfolding = number
