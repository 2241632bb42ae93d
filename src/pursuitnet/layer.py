"""The layer of all networks: a few steps of a pursuit."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import Code, Dictionary
from pursuitnet.dictionaries.hooks import run_hooks
from pursuitnet.dictionaries.inputs import check_count, check_kind, is_autocast_on, kind_of
from pursuitnet.dictionaries.onednn import without_autocast
from pursuitnet.iterations import FISTA, ISTA, Solver, unroll
from pursuitnet.iterations.checkpointing import checkpointed_scan, recompute_of
from pursuitnet.iterations.update import proximal_step
from pursuitnet.problems.iht import IHT
from pursuitnet.problems.omp import OMP
from pursuitnet.problems.solve import Solution, check_budget, solve
from pursuitnet.problems.solve import check_solver as check_problem_solver
from pursuitnet.prox.noise import NoiseThreshold
from pursuitnet.prox.norms import BatchNorm
from pursuitnet.prox.step_size import BoundedStep, Step, Weight
from pursuitnet.prox.threshold import IdentityPenalty, Threshold
from pursuitnet.starts import AnyStart, LearnedStart, Start, zero


class PursuitLayer(nn.Module):
    """A layer that codes its input: (B, channels, …) → (B, code_channels, …).

    The first step begins at the anchor and probe of ``start``, the ``unfolding`` further ones at the current code:

        Γ ← P_θ( anchor − c · Dᵀ( D · probe − x ) )          Eq. 1 of the paper, c = 1/L, θ = β·c

    By default P normalizes each channel by the statistics of the batch (``default_threshold``), so that signals and
    gradients keep their size through stacked layers, whatever the scale of the signal. The code is then normalized:
    ``reconstruct`` returns the signal's shape, not its scale. Training needs batches with more than one value per
    channel, and evaluation uses running statistics, so that it is meaningful only after training.

    Twelve plain layers of random filters or matrices learn the digits to ≥ 90 % in 5 epochs of Adam at 3e-3. At 30
    layers, 16 filters do, but plain matrices stay near 75 %: the scale of their atoms does not change the code but does
    set the relative size of Adam's steps, and a rate of 1e-2 gains 13 points. With ``res_csc_simplified``, each layer
    multiplies by two random matrices, and 30 of them stay below 80 % even then; skip connections, as of ``resnet``,
    reach 88 to 92 % (docs/trainability.md).

    ``threshold=Threshold(dictionary.code_channels)`` is the paper's form without normalization: the code is in units of
    the signal and does not depend on the batch. It dies in a stack: a channel is zero wherever dⱼᵀx ≤ β, and as
    c ≤ 1/L, each layer makes the code smaller than its signal, from the start zero by a factor of about √L, so that
    after a few layers nothing exceeds β and no gradient flows back. Use it for single layers, and for signals whose
    correlations with the atoms are larger than β.

    With ``unfolding="solved"`` the layer takes as many steps as it needs to reach the optimum of its Lasso. Gradients
    are by implicit differentiation, with memory that does not grow with the steps: see ``solve``, which also returns
    the certificate. P then has no normalization by default, since a Lasso has no batch statistics, and there is no
    step c to learn.

    Args:
        dictionary: D.
        start: the first step's (anchor, probe).
        solver: chooses the probe of each further step; by default ISTA(), and FISTA() where the layer is solved.
        unfolding: number of steps after the first, ≥ 0, or "solved"; the parameters do not grow with it.
        step: c; by default learned inside (0, 1/L].
        threshold: P; by default S⁺ with a learned β for every channel of the code, after normalization.
        tol: relative duality gap of a solved layer; by default that of ``pursuitnet.solve``.
        max_steps: maximum number of steps of a solved layer; it warns if they are not enough.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> dictionary = pn.WithIdentity(pn.ConvDictionary(torch.randn(16, 3, 3, 3), padding=1))
        >>> layer = pn.PursuitLayer(dictionary, unfolding=2)
        >>> x = torch.rand(4, 3, 8, 8)
        >>> code = layer(x)
        >>> code.shape, bool((code >= 0).all())
        (torch.Size([4, 19, 8, 8]), True)
        >>> layer.reconstruct(code, x.shape).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        dictionary: Dictionary,
        start: AnyStart = zero,
        solver: Solver | None = None,
        unfolding: int | Literal["solved"] = 0,
        *,
        step: Step | None = None,
        threshold: Threshold | None = None,
        tol: float | None = None,
        max_steps: int = 1000,
    ) -> None:
        super().__init__()
        solved = unfolding == "solved"
        solver = (FISTA() if solved else ISTA()) if solver is None else solver
        check_arguments(dictionary, start, solver, unfolding, step, threshold)
        check_budget(max_steps, tol)
        self.dictionary, self.start, self.solver, self.unfolding = dictionary, start, solver, unfolding
        self.tol, self.max_steps = tol, max_steps
        self.grad_checkpointing = False
        channels = dictionary.code_channels
        if isinstance(unfolding, str):
            self.step: Step = BoundedStep(1.0, learned=False)
            self.threshold = Threshold(channels, 0.1) if threshold is None else threshold
            if why := self.why_not_solvable():
                raise ValueError(f"the layer cannot be solved: {why}")
        else:
            self.step = BoundedStep() if step is None else step
            self.threshold = default_threshold(channels, start, unfolding) if threshold is None else threshold
        self.update_lipschitz()
        self.register_forward_pre_hook(prepare)

    def forward(self, x: Tensor, previous: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return the code of x.

        Args:
            x: the signal (B, channels, …).
            previous: X₋₁ in the shape of the code, for the starts that begin there.
            noise: standard deviation of the noise in each signal, (B,), for a threshold that depends on it
                (``NoiseThreshold``).
        """
        return self.dictionary.join(self.forward_parts(x, previous, noise))

    def forward_parts(self, x: Tensor, previous: Tensor | None = None, noise: Tensor | None = None) -> Code:
        """Return the code of x in parts; the steps are all here."""
        x = to_autocast_dtype(x)
        self.dictionary.check_signal(x)
        if self.unfolding == "solved":
            return self.dictionary.split(self.solve(x).code)
        first = self.start(previous)
        if previous is not None and self.start.needs_previous:
            self.dictionary.check_code(previous, x.shape, "previous")
        if noise is not None and not isinstance(self.threshold, NoiseThreshold):
            raise ValueError("noise is given, but the threshold does not depend on it; expected a NoiseThreshold")
        anchor, probe = (None if code is None else self.dictionary.split(code) for code in first)
        steps = unroll(self.solver, self.update_at, int(self.unfolding))
        # the first code is bound to no name here, so that inference frees it once the second is computed
        return checkpointed_scan(
            steps, self.solver.init(self.update(x, anchor, probe, 0, noise)), recompute_of(self), (x, noise), segment=2
        ).code

    def update_at(self, step: int, probe: Code, x: Tensor, noise: Tensor | None = None) -> Code:
        """Return the update at the current code, which is both anchor and probe."""
        return self.update(x, probe, probe, step, noise)

    def update(
        self, x: Tensor, anchor: Code | None, probe: Code | None, step: int = 0, noise: Tensor | None = None
    ) -> Code:
        """Return P_θ( anchor − c·Dᵀ(D·probe − x) ) in parts, with P, c and D of this layer."""
        c, weight = self._weights()
        P = self.threshold if noise is None else partial(self.threshold, noise=noise)
        return proximal_step(self.dictionary, x, anchor, probe, partial(P, c=c, step=step), c, weight)

    def solve(self, x: Tensor) -> Solution:
        """Return the optimum of the layer's Lasso, min ½‖x − DΓ‖² + Σβ|Γ| (Γ ≥ 0), with its certificate.

        A threshold with a ridge ρ adds ½·ρ·‖Γ‖².

        Any layer whose P has no normalization has such an optimum, whatever its unfolding. Gradients flow to x, the
        weights and β by implicit differentiation. Under autocast it is solved in the type of the dictionary.

        Raises:
            ValueError: where the layer is not a step on a Lasso, with the reason.

        Warns:
            ConvergenceWarning: where ``tol`` is not reached within ``max_steps``.
        """
        if why := self.why_not_solvable():
            raise ValueError(f"the layer cannot be solved: {why}")
        D, P = self.dictionary, self.threshold
        penalties = (P.identity_penalty, P.penalty)[-len(D.code_channels) :]
        beta = torch.cat([b.expand(n) for b, n in zip(penalties, D.code_channels, strict=True)])
        gradient: Literal["implicit"] | None = "implicit" if torch.is_grad_enabled() else None
        solver: Solver | Literal["auto"] = self.solver if self.unfolding == "solved" else "auto"
        with without_autocast(x.device):
            x = x.to(D._reference_tensor().dtype)
            return solve(x, D, beta, solver, P.nonnegative, self.max_steps, self.tol, ridge=P.ridge, gradient=gradient)

    def why_not_solvable(self) -> str | None:
        """Return why the layer is not a step on a convex Lasso from zero, as a sentence; None where it is one."""
        P = self.threshold
        if self.start.needs_previous:
            return f"it starts at X₋₁ ({self.start.name}), on which no optimum depends; expected the start zero"
        if P.norm is not None:
            return "P normalizes, and a Lasso has no batch statistics; expected Threshold(…) without norm"
        if P.free:
            return "β may be negative (free); expected a Threshold with free=False"
        if len(P.code_channels) > 1 and P.identity is IdentityPenalty.SIGNED and P.nonnegative:
            return "one part of its code is signed and the other is not; expected identity own, same or none"
        return None

    def reflect(self, x: Tensor) -> Tensor:
        """Return x − 2·D·Γ(x), the reflected proximal operator of the layer, in the shape of x: a 1-Lipschitz map.

        One step from zero, Γ = P_θ(c·Dᵀx): where P is differentiable its slopes M are 0 or 1, and the Jacobian
        I − 2c·D·M·Dᵀ has eigenvalues between −1 and 1, as c·λmax(DᵀD) ≤ 1 (with c = 1/L it is the convex potential
        layer of Meunier et al., 2022). Solved, D·Γ is the proximal map of a convex function of x, and a reflected
        proximal map is nonexpansive. Neither holds in between: already two steps can have slopes above 1.

        Raises:
            ValueError: where the map need not be 1-Lipschitz, with the reason.
        """
        if why := self.why_not_nonexpansive():
            raise ValueError(f"x − 2·D·Γ of this layer is not certified to be 1-Lipschitz: {why}")
        return x - 2 * self.reconstruct(self(x), x.shape)

    def why_not_nonexpansive(self) -> str | None:
        """Return why ``reflect`` need not be 1-Lipschitz, as a sentence; None where it is."""
        if self.unfolding not in (0, "solved"):
            return f"unfolding is {self.unfolding}; expected 0, one step, or 'solved': two steps can expand distances"
        if self.start.needs_previous:
            return f"it starts at X₋₁ ({self.start.name}); expected the start zero"
        if self.threshold.norm is not None:
            return "P normalizes; expected threshold=Threshold(dictionary.code_channels), without norm"
        if not isinstance(self.step, BoundedStep):
            return f"its step is a {type(self.step).__name__}, which may leave (0, 1/L]; expected BoundedStep()"
        return None

    def extra_repr(self) -> str:
        return f"start={self.start.name}, solver={self.solver}, unfolding={self.unfolding}"

    def _weights(self) -> tuple[Weight, Weight]:
        """Return (c, weight of D·probe); training inside a transform, where no buffer can be written, computes L."""
        if torch._C._are_functorch_transforms_active() and self.training and isinstance(self.step, BoundedStep):
            return self.step(self.dictionary.lipschitz_bound().detach())
        return self.step()

    def reconstruct(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        """Return DΓ, the reconstruction of the signal; up to scale where P normalizes."""
        return self.dictionary.synthesize(code, signal_shape)

    @torch.no_grad()
    def update_lipschitz(self) -> None:
        """Compute L of the current dictionary and pass it to the step, if that is bounded by it."""
        if isinstance(self.step, BoundedStep):
            self.step.update_lipschitz(self.dictionary.lipschitz_bound())

    def train(self, mode: bool = True) -> "PursuitLayer":
        """Set training or evaluation mode; evaluation mode updates L."""
        if not mode:
            run_hooks(self.dictionary)  # after loading, weights that hooks compute may be out of date
            self.update_lipschitz()
        return super().train(mode)


def default_threshold(code_channels: tuple[int, ...], start: AnyStart = zero, unfolding: int = 0) -> Threshold:
    """Return the default P of a layer, with separate statistics in every step.

    The whole sum is normalized, as in the MSD networks of ``create_model``. From ``resnet`` only the update is
    normalized, as in its residual networks: c·Dᵀx is small compared with X₋₁, and would be lost if the two were
    normalized together. X₋₁ is then expected at the scale of a code, and as nothing bounds the sum, β is larger and
    keeps it from growing with depth.

    β may take either sign, as the paper's bias b. Where no skip connection carries the signal past a layer, it begins
    at −0.7: θ is the mean of a channel minus 0.7 standard deviations, and 3/4 of a code are non-zero. For normally
    distributed sums, gradients grow by 1.21 per layer at β = 0, to ten times over 12 layers, but by 1.09 at −0.7. With
    an identity part β stays ≥ 0.

    ``PursuitLayer`` describes how many such layers learn in a stack. A lower β allows deeper but less sparse stacks: at
    −0.8, where 4/5 of a code are non-zero, 30 matrices learn the digits to about 5 points more.

    Args:
        code_channels: channels of each part of the code, ``dictionary.code_channels``.
        start: the layer's start.
        unfolding: the layer's number of steps after the first.
    """
    dense = len(code_channels) > 1
    on: Literal["sum", "update"] = "update" if start.anchored and (dense or not start.probed) else "sum"
    if on == "update":
        penalty = 0.2
    elif dense:
        penalty = 0.01
    else:
        penalty = -0.2 if start.anchored else -0.7
    norm = BatchNorm(on=on, identity="scale", eps=1e-14)  # far below the variance of c·Dᵀx for signals of size 1e-3
    return Threshold(code_channels, penalty, free=not dense, norm=norm, steps=unfolding + 1)


def check_arguments(
    dictionary: Dictionary,
    start: AnyStart,
    solver: object,
    unfolding: int | Literal["solved"],
    step: Step | None,
    threshold: Threshold | None,
) -> None:
    """Raise TypeError or ValueError unless these make a ``PursuitLayer``."""
    check_kind("dictionary", dictionary, Dictionary, "such as ConvDictionary(weight)")
    starts = "pursuitnet.zero, resnet, res_csc_simplified, res_csc or LearnedStart(), not a string"
    if not isinstance(start, LearnedStart):
        check_kind("start", start, Start, starts)
    if unfolding == "solved":
        check_problem_solver(solver)
        if step is not None:
            raise ValueError("a solved layer has no step to learn: leave step out, or give a number of steps")
    else:
        check_solver(solver)
        check_count("unfolding", unfolding, 0, "the number of steps after the first, or 'solved'")
    if isinstance(solver, OMP | IHT):
        raise TypeError(
            f"solver is {solver}, which solves (P0); expected FISTA(), ISTA(), WorkingSet() or ReducedSolver()"
        )
    if step is not None:
        check_kind("step", step, nn.Module, "such as BoundedStep() or FreeStep(0.1)")
    if threshold is None:
        return
    check_kind("threshold", threshold, Threshold, "such as Threshold(dictionary.code_channels, 0.1)")
    if threshold.code_channels != dictionary.code_channels:
        raise ValueError(
            f"the threshold is made for code_channels {threshold.code_channels}; expected those of the dictionary, "
            f"{dictionary.code_channels}"
        )


def check_solver(solver: object) -> None:
    """Raise TypeError unless a layer can take steps of this solver."""
    if getattr(solver, "whole_problem", False) and not isinstance(solver, type):
        raise TypeError(
            f"solver is {solver}, which needs the whole problem and not only its update: pass it to "
            "solve(signal, dictionary, beta, solver), and ISTA() or FISTA() to the layer"
        )
    if isinstance(solver, type) or not all(callable(getattr(solver, name, None)) for name in ("init", "step")):
        raise TypeError(
            f"solver is {kind_of(solver)}; expected an object with init and step: pursuitnet.ISTA() or "
            "pursuitnet.FISTA()"
        )


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Return a signal in autocast's type, where autocast is on: a code in two types would be slow."""
    if not isinstance(x, Tensor) or not x.is_floating_point():  # check_signal raises for it
        return x
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if is_autocast_on(device) else x


def prepare(layer: PursuitLayer, inputs: tuple[Any, ...]) -> None:
    """Update weights that hooks compute and, in training, L; runs before every forward."""
    run_hooks(layer.dictionary, inputs[:1])
    if layer.training:
        inside = torch._C._are_functorch_transforms_active()
        with suppress(RuntimeError) if inside else nullcontext():  # torch.func forbids writing to outer buffers
            layer.update_lipschitz()
