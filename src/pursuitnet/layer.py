"""The one layer: a few steps of a pursuit."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import Code, Dictionary
from pursuitnet.memory import again_of, in_turn
from pursuitnet.norms import BatchNorm
from pursuitnet.solvers import ISTA, Solver, further_steps
from pursuitnet.starts import Start, zero
from pursuitnet.steps import BoundedStep, Step
from pursuitnet.thresholds import Threshold, moved


class PursuitLayer(nn.Module):
    """A layer that codes its input: (B, channels, …) → (B, rows, …).

    The first step begins where ``start`` says, ``unfolding`` further ones at the running code:

        Γ ← P_θ( anchor − c · Dᵀ( D · probe − x ) )          Eq. 1 of the paper, c = 1/L, θ = β·c

    By default P normalises each row by the statistics of the batch (``default_threshold``), so that stacked layers pass
    on signals and gradients of one size, whatever the scale of the signal. The code is then in units of its own size:
    ``reconstruct`` gives the signal's shape, not its scale. Training needs batches with more than one value a row, and
    evaluation uses running statistics, so that it means something after training only.

    ``threshold=Threshold(dictionary.rows)`` is the paper's bare form, with the code in units of the signal, batch by
    batch or one by one. It dies in a stack: a row is zero wherever dⱼᵀx ≤ β, and as c ≤ 1/L, each layer makes the code
    smaller than its signal, about √L times from zero, so that after a few layers nothing exceeds β and no gradient
    comes back. It is for single layers and signals whose correlations with the atoms are larger than β.

    Args:
        dictionary: D.
        start: the first step's (anchor, probe).
        solver: which probe each further step takes.
        unfolding: number of steps after the first, ≥ 0; the parameters do not grow with it.
        step: c; by default learned inside (0, 1/L].
        threshold: P; by default non-negative with a learned β ≥ 0 for every row of the code, after normalisation.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        start: Start = zero,
        solver: Solver = ISTA(),
        unfolding: int = 0,
        *,
        step: Step | None = None,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(unfolding, int) or unfolding < 0:
            raise ValueError(f"unfolding is {unfolding}; expected an integer ≥ 0, the number of steps after the first")
        self.dictionary, self.start, self.solver, self.unfolding = dictionary, start, solver, unfolding
        self.grad_checkpointing = False
        self.step = BoundedStep() if step is None else step
        self.threshold = default_threshold(dictionary.rows, start, unfolding) if threshold is None else threshold
        if self.threshold.rows != dictionary.rows:
            raise ValueError(
                f"the threshold is made for rows {self.threshold.rows}, the dictionary has {dictionary.rows}"
            )
        self.track()
        self.register_forward_pre_hook(_track_in_training)

    def forward(self, x: Tensor, previous: Tensor | None = None) -> Tensor:
        """Return the code of x.

        Args:
            x: the signal (B, channels, …).
            previous: X₋₁ in the shape of the code, for the starts that begin there.
        """
        return self.dictionary.join(self.pursue(x, previous))

    def pursue(self, x: Tensor, previous: Tensor | None = None) -> Code:
        """Return the code of x in parts; the steps are all here."""
        x = in_one_format(x)
        places = self.start(previous)
        if previous is not None and self.start.needs_previous:
            self.dictionary.check_code(previous, x.shape, "previous")
        anchor, probe = (None if p is None else self.dictionary.split(p) for p in places)
        chain = further_steps(self.solver, self.refine, self.unfolding)
        # the first code has no name here: inference lets it go when the second is there
        return in_turn(chain, self.solver.init(self.update(x, anchor, probe)), again_of(self), (x,), together=2).code

    def refine(self, step: int, probe: Code, x: Tensor) -> Code:
        """Return the update at the running code, where anchor and probe are one."""
        return self.update(x, probe, probe, step)

    def update(self, x: Tensor, anchor: Code | None, probe: Code | None, step: int = 0) -> Code:
        """Return P_θ( anchor − c·Dᵀ(D·probe − x) ), the only forward rule of the package.

        Dᵀ is linear, so it is applied once, to the residual, and never to x and D·probe apart.
        """
        s, t = self.step()
        if probe is None:
            descent, sign = x, 1.0
        elif s is t:
            descent, sign = self.dictionary.misfit(probe, x), -1.0
        else:
            model = self.dictionary.synthesize_parts(probe, x.shape)
            descent, sign = moved(x, model, t, -1.0), 1.0
        return self.threshold(anchor, self.dictionary.analyze_parts(descent), s, step, sign, spent=descent is not x)

    def reconstruct(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        """Return DΓ, the part of the signal that the code explains; up to scale where P normalises."""
        return self.dictionary.synthesize(code, signal_shape)

    @torch.no_grad()
    def track(self) -> None:
        """Measure L of the dictionary as it stands, and hand it to the step, if that is bounded by it."""
        if isinstance(self.step, BoundedStep):
            self.step.track(self.dictionary.lipschitz_bound())

    def train(self, mode: bool = True) -> "PursuitLayer":
        """Set training or evaluation mode; evaluation mode brings L up to date."""
        if not mode:
            self.track()
        return super().train(mode)


def default_threshold(rows: tuple[int, ...], start: Start = zero, unfolding: int = 0) -> Threshold:
    """Return the P of a layer that is given none, with own statistics in every step.

    From zero the whole sum is normalised, as in the MSD networks of ``create_model``. Beside an anchor only the update
    is, as in its residual networks: c·Dᵀx is small beside X₋₁, and normalised together with it would be lost. As
    nothing bounds the sum then, β is larger there and keeps it from growing with depth. An identity part is divided by
    its size.

    Args:
        rows: rows of each part of the code, ``dictionary.rows``.
        start: the layer's start.
        unfolding: the layer's number of steps after the first.
    """
    on: Literal["sum", "update"] = "update" if start.anchored else "sum"
    norm = BatchNorm(on=on, identity="scale", eps=1e-14)  # far below the variance of c·Dᵀx for signals of size 1e-3
    return Threshold(rows, 0.2 if start.anchored else 0.01, norm=norm, steps=unfolding + 1)


def in_one_format(x: Tensor) -> Tensor:
    """Return a signal in the number format of autocast, where it is on: a code in two formats would be slow."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _track_in_training(layer: PursuitLayer, inputs: object) -> None:
    if layer.training:
        layer.track()
