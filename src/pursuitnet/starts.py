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
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Start:
    """Which of the two places of the first step X₋₁ takes; the other one holds zero."""

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


zero = Start("zero", anchored=False, probed=False)
resnet = Start("resnet", anchored=True, probed=False)
res_csc_simplified = Start("res_csc_simplified", anchored=False, probed=True)
res_csc = Start("res_csc", anchored=True, probed=True)
