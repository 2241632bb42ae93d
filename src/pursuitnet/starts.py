"""Factor 1, where a pursuit starts: a 2×2 table of (anchor, probe), after Section IV of the paper.

The first step of a layer is Γ ← P_θ( anchor − c · Dᵀ( D · probe − x ) ). Each of the two is either zero or X₋₁, the
input of the closest earlier layer:

    ====================  ======  ======  =========================================
    start                 anchor  probe   the network it gives
    ====================  ======  ======  =========================================
    zero                  0       0       plain network, Eq. 3; MSDNet; MSD-CSC
    resnet                X₋₁     0       ResNet, Fig. 3B
    res_csc_simplified    0       X₋₁     Res-CSC-Simplified, Fig. 3C
    res_csc               X₋₁     X₋₁     Res-CSC, Eqs. 4 and 5, Fig. 3A
    ====================  ======  ======  =========================================

``LearnedStart`` lets training choose a point of the square whose corners these are: anchor a·X₋₁, probe p·X₋₁.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Start:
    """Which of anchor and probe of the first step is X₋₁; the other one is zero."""

    name: str
    anchored: bool
    probed: bool

    @property
    def needs_previous(self) -> bool:
        return self.anchored or self.probed

    def __call__(self, previous: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return (anchor, probe), where None stands for zero: no convolution is spent on a zero."""
        if self.needs_previous and previous is None:
            raise ValueError(f"the start {self.name!r} begins at X₋₁ but previous is None; call layer(x, previous=…)")
        return (previous if self.anchored else None, previous if self.probed else None)


class LearnedStart(nn.Module):
    """A start inside the square of the four: anchor = a·X₋₁ and probe = p·X₋₁, with a and p learned in [0, 1].

    At the corners it equals zero, resnet, res_csc_simplified and res_csc bit for bit. Weights outside of [0, 1] are
    clamped, with a gradient of 1 as inside, so that training can bring them back.

    Args:
        anchor: initial value of a.
        probe: initial value of p.
    """

    name = "learned"
    anchored = probed = needs_previous = True

    def __init__(self, anchor: float = 1.0, probe: float = 1.0) -> None:
        super().__init__()
        for name, value in (("anchor", anchor), ("probe", probe)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a number from 0 to 1")
        self.a = nn.Parameter(torch.tensor([float(anchor)]))  # one axis: steps c, which have none, learn more slowly
        self.p = nn.Parameter(torch.tensor([float(probe)]))

    def place(self) -> tuple[Tensor, Tensor]:
        """Return (a, p), each (1,), inside [0, 1]."""
        return _clamp_straight_through(self.a), _clamp_straight_through(self.p)

    def forward(self, previous: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return (anchor, probe)."""
        if previous is None:
            raise ValueError(f"the start {self.name!r} begins at X₋₁ but previous is None; call layer(x, previous=…)")
        a, p = (weight.to(previous.dtype) for weight in self.place())
        return a * previous, p * previous

    def extra_repr(self) -> str:
        a, p = (float(weight.detach()) for weight in self.place())
        return f"anchor={a:.3g}, probe={p:.3g}"


AnyStart = Start | LearnedStart


def _clamp_straight_through(weight: Tensor) -> Tensor:
    """Return a weight clamped to [0, 1], with gradient 1 everywhere."""
    return weight.detach().clamp(0, 1) + (weight - weight.detach())


zero = Start("zero", anchored=False, probed=False)
resnet = Start("resnet", anchored=True, probed=False)
res_csc_simplified = Start("res_csc_simplified", anchored=False, probed=True)
res_csc = Start("res_csc", anchored=True, probed=True)
