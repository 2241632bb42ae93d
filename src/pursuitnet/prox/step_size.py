"""The step c of the update: bounded by 1/L, free, or absorbed in the filters.

Each is called without arguments and returns the step c and the weight w of D·probe: the update of the layer is
c·Dᵀ( x − w·D·probe ). Eqs. 1 and 4 of the paper have w = 1. In Eq. 5 the filters contain 1/L already, so the step is 1,
and w = −c with the paper's c = −L.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries.inputs import check_number

Weight = Tensor | float


class BoundedStep(nn.Module):
    """c = σ(ρ)/L, inside (0, 1/L] for every learned ρ; L bounds λmax(DᵀD) at every image size.

    L is a buffer, so it is saved, loaded and moved with the weights. ``update_lipschitz`` sets it; the layer calls it
    before every training forward and on ``eval()``, so ``forward`` itself changes nothing.

    Args:
        ratio: initial c·L, inside (0, 1).
        learned: whether ρ is a parameter; otherwise the ratio is constant and may also be 1.
    """

    lipschitz: Tensor
    ratio: Tensor

    def __init__(self, ratio: float = 0.9, *, learned: bool = True) -> None:
        super().__init__()
        check_number("ratio", ratio, "c·L at the start, 0 < ratio < 1")
        if not 0 < ratio <= 1 or (learned and ratio == 1):
            raise ValueError(f"ratio is {ratio}; expected 0 < ratio < 1, or 1 with learned=False")
        self.register_buffer("lipschitz", torch.ones(1))  # compilers lose writes to a float64 tensor without axes
        if learned:
            self.logit = nn.Parameter(torch.tensor(ratio).logit())
        else:
            self.register_buffer("ratio", torch.tensor(ratio))

    def update_lipschitz(self, lipschitz: Tensor) -> None:
        """Set L, an upper bound of λmax(DᵀD) of the current dictionary."""
        own = torch.finfo(self.lipschitz.dtype)
        if own.eps > torch.finfo(lipschitz.dtype).eps:
            lipschitz = lipschitz * (1 + own.eps)  # rounding must not make the bound too small
        self.lipschitz.copy_(lipschitz.clamp(min=max(1e-6, 1 / own.max)))

    def extra_repr(self) -> str:
        return "learned" if hasattr(self, "logit") else f"ratio={float(self.ratio):.3g}"

    def forward(self, lipschitz: Tensor | None = None) -> tuple[Weight, Weight]:
        """Return (c, 1).

        Args:
            lipschitz: L, if it is not the one that ``update_lipschitz`` has set.
        """
        ratio = self.logit.sigmoid() if hasattr(self, "logit") else self.ratio
        L = self.lipschitz[0] if lipschitz is None else lipschitz.clamp(min=1e-6)
        return ratio * L.reciprocal(), 1.0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        name = f"{prefix}lipschitz"
        if name in state_dict:  # until version 0.1 it was a tensor without axes
            state_dict[name] = state_dict[name].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *others)


class FreeStep(nn.Module):
    """A learned c without any bound, as in Algorithms 2 and 3.

    Args:
        c: the initial value.
    """

    def __init__(self, c: Weight) -> None:
        super().__init__()
        if not isinstance(c, Tensor):
            check_number("c", c, "a number, the step at the start")
        self.c = nn.Parameter(torch.as_tensor(c).detach().clone().to(torch.get_default_dtype()))

    def forward(self) -> tuple[Weight, Weight]:
        return self.c, 1.0


class AbsorbedStep(nn.Module):
    """The step of Eq. 5, contained in the filters: the update is Dᵀ( x + c·D·probe ), with the paper's c = −L.

    Args:
        c: the initial value of a learned c; None where the probe is zero and c has no effect.
    """

    def __init__(self, c: float | None = None) -> None:
        super().__init__()
        if c is not None:
            check_number("c", c, "a number, that of Eq. 5 at the start, or None")
        self.c = None if c is None else nn.Parameter(torch.tensor(float(c)))

    def forward(self) -> tuple[Weight, Weight]:
        return 1.0, 1.0 if self.c is None else -self.c


Step = BoundedStep | FreeStep | AbsorbedStep
