"""A threshold that depends on the noise level of the signal."""

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import Code
from pursuitnet.prox.threshold import Threshold
from pursuitnet.utils.inplace import reusable


class NoiseThreshold(Threshold):
    """S_θ with θ = c·(β₀ + σ·β₁): noise of standard deviation σ gives a coefficient the standard deviation σ·‖dⱼ‖.

    Args:
        code_channels: channels of the code, ``dictionary.code_channels``, in one part.
        penalty: initial β₀ of every channel.
        slope: initial β₁ of every channel, or one number each, (code_channels,).
    """

    def __init__(self, code_channels: tuple[int, ...], penalty: float = 0.0, slope: Tensor | float = 1.5) -> None:
        super().__init__(code_channels, penalty, nonnegative=False)
        if len(code_channels) != 1:
            raise ValueError(
                f"the code has parts of {code_channels} channels; expected one part, of a dictionary without identity"
            )
        self.noise_weight = nn.Parameter(
            torch.as_tensor(slope, dtype=torch.get_default_dtype()).expand(code_channels).clone()
        )

    @property
    def slope(self) -> Tensor:
        """β₁, (code_channels,)."""
        return self._beta(self.noise_weight)

    def penalty_at(self, noise: Tensor) -> Tensor:
        """Return β = β₀ + σ·β₁, (B, code_channels), for noise of standard deviation σ, (B,)."""
        return self.penalty + noise[:, None] * self.slope

    def forward(
        self,
        anchor: Code | None,
        update: Code,
        c: Tensor | float = 1.0,
        step: int = 0,
        *,
        fresh: bool = False,
        noise: Tensor | None = None,
    ) -> Code:
        if noise is None:
            raise ValueError("noise is None; expected its standard deviation in each signal, (B,): layer(x, noise=…)")
        (u,) = update
        z = u if anchor is None else torch.add(anchor[0], u, out=reusable(u, anchor[0]) if fresh else None)
        return (self.prox(-1, z, self.penalty_at(noise) * c, inplace=fresh or z is not u),)
