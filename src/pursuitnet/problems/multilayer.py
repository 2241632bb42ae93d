"""The multi-layer model X = D₁Γ₁, Γ₁ = D₂Γ₂, … solved: layer by layer, or all layers at once to a certificate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.dictionaries import Code, Dictionary
from pursuitnet.dictionaries.composed import check_chain
from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.iterations import ISTA, Solver
from pursuitnet.iterations.proximal import Certificate
from pursuitnet.problems.admm import ADMM
from pursuitnet.problems.iht import IHT
from pursuitnet.problems.inputs import check_dictionary, with_dictionary
from pursuitnet.problems.lasso import Lasso, lasso
from pursuitnet.problems.loop import iterate
from pursuitnet.problems.omp import OMP
from pursuitnet.problems.projection import conjugate_gradients
from pursuitnet.problems.solve import ReducedSolver, Solution, check_budget, check_solver, default_tol, solve, warn
from pursuitnet.problems.working_set import WorkingSet
from pursuitnet.prox.threshold import nonnegative_threshold, soft_threshold


def layered_thresholding(
    signal: Float[Tensor, "B channels *size"],
    dictionaries: Sequence[Dictionary],
    thresholds: Sequence[float | Tensor],
    nonnegative: bool = False,
) -> tuple[Tensor, ...]:
    """Return Γ₁, …, Γ_k of Algorithm 1: Γᵢ = P_{bᵢ}(DᵢᵀΓᵢ₋₁) with Γ₀ = X. Gradients flow.

    Args:
        signal: X, (B, channels, …).
        dictionaries: D₁, …, D_k.
        thresholds: b₁, …, b_k, each ≥ 0: a number, or one for each channel (code_channels,).
        nonnegative: P = S⁺ (ReLU) instead of S.

    Raises:
        ValueError: for dictionaries or thresholds that do not match.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.LinearDictionary(torch.eye(2))
        >>> [code.tolist() for code in pn.layered_thresholding(torch.tensor([[3.0, -2.0]]), [D, D], [0.5, 1.0])]
        [[[2.5, -1.5]], [[1.5, -0.5]]]
    """
    pairs, shrink = (
        _paired(dictionaries, thresholds, "thresholds"),
        nonnegative_threshold if nonnegative else soft_threshold,
    )
    codes = [with_dictionary("the signal", signal, pairs[0][0])]
    for D, b in pairs:
        problem = lasso(codes[-1], D, b, nonnegative)
        parts = zip(D.analyze_parts(codes[-1]), problem.beta, strict=True)
        codes.append(D.join(tuple(shrink(z, theta) for z, theta in parts)))
    return tuple(codes[1:])


def layered_basis_pursuit(
    signal: Float[Tensor, "B channels *size"],
    dictionaries: Sequence[Dictionary],
    betas: Sequence[float | Tensor],
    **options: Any,
) -> tuple[Solution, ...]:
    """Return the solutions of (P2) layer by layer: min ½‖Γᵢ₋₁ − DᵢΓᵢ‖² + βᵢ‖Γᵢ‖₁ with Γ₀ = X (Papyan et al., 2017).

    Args:
        signal: X, (B, channels, …).
        dictionaries: D₁, …, D_k.
        betas: β₁, …, β_k, each as in ``solve``.
        options: those of ``solve``: solver, nonnegative, max_steps, tol, …

    Raises:
        ValueError: for dictionaries or betas that do not match.
    """
    solutions: list[Solution] = []
    for D, b in _paired(dictionaries, betas, "betas"):
        solutions.append(solve(solutions[-1].code if solutions else signal, D, b, **options))
    return tuple(solutions)


def multilayer_basis_pursuit(
    signal: Float[Tensor, "B channels *size"],
    dictionaries: Sequence[Dictionary],
    betas: Sequence[float | Tensor],
    solver: Solver | None = None,
    nonnegative: bool = False,
    max_steps: int = 1000,
    tol: float | None = None,
    *,
    trace: bool = False,
) -> Solution:
    """Solve all layers at once: min ½‖X − D₁Γ₁‖² + Σβᵢ‖Γᵢ‖₁ subject to Γᵢ₋₁ = DᵢΓᵢ (Sulam et al., 2020, Eq. 5).

    Without a solver, the alternating direction method of multipliers reaches the minimum. ``ISTA()`` and ``FISTA()``
    give ML-ISTA and ML-FISTA, whose sweeps a network unrolls (``MultiLayerPursuit``): their fixed point is only near
    the minimum, and the gap bounds the distance, as far as the sweep's own dual variables can prove. Has no gradients.

    Args:
        signal: X, (B, channels, …).
        dictionaries: D₁, …, D_k.
        betas: β₁, …, β_k, each as in ``solve``.
        solver: ISTA(), FISTA(), or None for the alternating direction method.
        nonnegative: Γ_k ≥ 0; the Γᵢ before it may have any sign.
        max_steps: maximum number of sweeps, or of steps of the alternating direction method.
        tol: relative duality gap to reach in every example; by default that of ``solve``.
        trace: keep objective and gap of every sweep.

    Returns:
        A ``Solution`` whose code is the deepest one, Γ_k.

    Raises:
        TypeError: for an argument of the wrong kind.
        ValueError: for dictionaries or betas that do not match.

    Warns:
        ConvergenceWarning: as ``solve`` does.
    """
    check_budget(max_steps, tol)
    if solver is not None:
        check_solver(solver)
    if isinstance(solver, (OMP, IHT, ReducedSolver, WorkingSet, ADMM)):
        raise ValueError(f"solver is {solver}; expected None (which is ADMM over all layers), ISTA() or FISTA()")
    pairs = _paired(dictionaries, betas, "betas")
    x = signal = with_dictionary("the signal", signal, pairs[0][0])
    tol = default_tol(signal) if tol is None else tol
    layers: list[Lasso] = []
    with torch.no_grad():
        for D, b in pairs:
            layers.append(lasso(x, D, b, nonnegative and len(layers) == len(pairs) - 1))
            x = torch.zeros_like(D.analyze(x))
        sweeps, deepest = MultiLayerLasso(signal, tuple(layers)), layers[-1].dictionary
        if solver is None:
            split = MultiLayerSplit(sweeps)
            # a step solves a least-squares problem, compared with which a certificate costs little
            run = iterate(split, ISTA(), split.begin(x), max_steps, tol, trace=trace, every=1)
            solution = Solution.of(split.full_code(run.code), run, tol)
        else:
            run = iterate(sweeps, solver, deepest.split(x), max_steps, tol, trace=trace)
            solution = Solution.of(deepest.join(run.code), run, tol)
    warn(
        solution, f"the duality gap is {float(solution.gap.max()):.1e}, above tol = {tol:g}", max_steps > 0 and tol > 0
    )
    return solution


@dataclass(frozen=True)
class MultiLayerLasso:
    """The problem of all layers at once; calling it is one sweep of ML-ISTA.

    Attributes:
        signal: X.
        layers: (P2) of each layer, for its D, β and step; their signals are ignored.
    """

    signal: Tensor
    layers: tuple[Lasso, ...]

    def __call__(self, probe: Code) -> Code:
        return self.sweep(probe)[0]

    def sweep(self, probe: Code) -> tuple[Code, list[Code]]:
        """Return the deepest code after a sweep down and up, and vᵢ ∈ βᵢ∂‖Γᵢ‖₁, what each threshold has subtracted."""
        signal, duals, code = self.signal, [], probe
        for layer, at in zip(self.layers, self.descend(probe), strict=True):
            code, dual = replace(layer, signal=signal).step_with(layer.prox_and_dual, at)
            duals.append(dual)
            signal = layer.dictionary.join(code)
        return code, duals

    def descend(self, deepest: Code) -> list[Code]:
        """Return Γ₁, …, Γ_k in parts, with Γᵢ₋₁ = DᵢΓᵢ."""
        codes = [deepest]
        for below, layer in zip(self.layers[-2::-1], self.layers[:0:-1], strict=True):
            codes.append(below.dictionary.split(layer.dictionary.synthesize_parts(codes[-1], layer.signal.shape)))
        return codes[::-1]

    def certificate(
        self, code: Code, duals: Sequence[Code] | None = None, residual: Tensor | None = None
    ) -> Certificate:
        """Return objective and duality gap.

        With A = D₁…D_k and Bᵢ = Dᵢ₊₁…D_k: for s ≤ 1, |Vᵢ| ≤ βᵢ and s·|AᵀR − ΣBᵢᵀVᵢ| ≤ β_k, every objective is at least
        s⟨X, R⟩ − ½s²‖R‖².

        Args:
            code: Γ_k in parts.
            duals: V₁, …, V_{k−1} in parts; those of a sweep from the code by default.
            residual: R; X − AΓ_k by default.
        """
        codes, D1 = self.descend(code), self.layers[0].dictionary
        own = self.signal - D1.synthesize_parts(codes[0], self.signal.shape)
        R = own if residual is None else residual
        duals = self.sweep(code)[1] if duals is None else duals
        objective = 0.5 * _dot(own, own)
        for layer, parts in zip(self.layers, codes, strict=True):
            objective = objective + layer.penalty(parts)
        most = self.layers[-1].dual_scale(self._dual_correlation(R, duals)).clamp(max=1)
        overlap, energy = _dot(self.signal, R), _dot(R, R)
        s = torch.where(energy > 0, overlap / energy, 0.0).clamp(min=0).minimum(most)
        gap = (objective - s * overlap + 0.5 * s.square() * energy).clamp(min=0)
        return Certificate(objective, torch.where(objective > 0, gap / objective, 0.0), ())

    def _dual_correlation(self, residual: Tensor, duals: Sequence[Code]) -> Code:
        """Return AᵀR − ΣBᵢᵀVᵢ in parts."""
        signal = residual
        for layer, dual in zip(self.layers[:-1], duals, strict=False):
            correlation = layer.dictionary.analyze_parts(signal)
            signal = layer.dictionary.join(tuple(d - v for d, v in zip(correlation, dual, strict=True)))
        return self.layers[-1].dictionary.analyze_parts(signal)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product of each example, (B,), in float64."""
    return (one.flatten(1).double() * other.flatten(1).double()).sum(1)


@dataclass(frozen=True)
class MultiLayerSplit:
    """The multi-layer problem as the alternating direction method of multipliers iterates it (Boyd et al., 2011).

    Every Γᵢ has a copy Yᵢ that is thresholded and a multiplier ρWᵢ; Γ_k solves a least-squares problem by conjugate
    gradients. ρ is adapted to the residuals, for each example by itself. The iterate is (Γ_k, Y₁, …, Y_k, W₁, …, W_k,
    ρ), not in parts.

    Attributes:
        problem: the problem to solve.
    """

    problem: MultiLayerLasso

    def begin(self, code: Tensor) -> Code:
        """Return the initial iterate for a Γ_k."""
        copies = self._descend(code)
        multipliers = [torch.zeros_like(y) for y in copies]
        return (code, *copies, *multipliers, code.new_ones(len(code), *[1] * (code.dim() - 1)))

    def __call__(self, probe: Code) -> Code:
        code, copies, multipliers, rho = self._unpack(probe)
        x, layers = self.problem.signal, self.problem.layers

        def normal(g: Tensor) -> Tensor:
            images = self._descend(g)
            return self._ascend(self._first(images), [rho * i for i in images])

        right = self._ascend(x, [rho * (y - w) for y, w in zip(copies, multipliers, strict=True)])
        code = code + conjugate_gradients(normal, right - normal(code), most=30)
        images = self._descend(code)
        sums = [i + w for i, w in zip(images, multipliers, strict=True)]
        new = [_shrunk(layer, z, rho) for layer, z in zip(layers, sums, strict=True)]
        primal = _norms([i - y for i, y in zip(images, new, strict=True)])
        dual = rho * _norms([n - y for n, y in zip(new, copies, strict=True)])
        factor = 1 + (primal > 10 * dual) * 1.0 - (dual > 10 * primal) * 0.5
        return (code, *new, *((z - y) / factor for z, y in zip(sums, new, strict=True)), rho * factor)

    def certificate(self, code: Code) -> Certificate:
        """Return objective and duality gap of Y_k; ρW and X − AΓ_k are the dual variables."""
        deepest, copies, multipliers, rho = self._unpack(code)
        last = self.problem.layers[-1].dictionary
        duals = [layer.dictionary.split(rho * w) for layer, w in zip(self.problem.layers, multipliers, strict=True)]
        residual = self.problem.signal - self._first(self._descend(deepest))
        return self.problem.certificate(last.split(copies[-1]), duals[:-1], residual)

    def full_code(self, code: Code) -> Tensor:
        """Return Y_k, the sparse copy of Γ_k."""
        return self._unpack(code)[1][-1]

    def _unpack(self, code: Code) -> tuple[Tensor, Code, Code, Tensor]:
        k = len(self.problem.layers)
        return code[0], code[1 : k + 1], code[k + 1 : 2 * k + 1], code[-1]

    def _first(self, codes: Sequence[Tensor]) -> Tensor:
        """Return D₁Γ₁."""
        return self.problem.layers[0].dictionary.synthesize(codes[0], self.problem.signal.shape)

    def _descend(self, code: Tensor) -> list[Tensor]:
        """Return Γ₁, …, Γ_k with Γᵢ₋₁ = DᵢΓᵢ."""
        layers = self.problem.layers
        parts = self.problem.descend(layers[-1].dictionary.split(code))
        return [layer.dictionary.join(p) for layer, p in zip(layers, parts, strict=True)]

    def _ascend(self, signal: Tensor, codes: Sequence[Tensor]) -> Tensor:
        """Return AᵀX + ΣBᵢᵀZᵢ, the adjoint of ``_descend`` and ``_first``."""
        for layer, z in zip(self.problem.layers, codes, strict=True):
            signal = layer.dictionary.analyze(signal) + z
        return signal


def _shrunk(layer: Lasso, z: Tensor, rho: Tensor) -> Tensor:
    D = layer.dictionary
    return D.join(tuple(layer.shrink(p, b / rho) for p, b in zip(D.split(z), layer.beta, strict=True)))


def _norms(values: Sequence[Tensor]) -> Tensor:
    """Return the norm of each example over several codes, (B, 1, …)."""
    squares = torch.stack([v.flatten(1).square().sum(1) for v in values]).sum(0)
    return squares.sqrt().view(-1, *[1] * (values[0].dim() - 1))


def _paired(
    dictionaries: Sequence[Dictionary], values: Sequence[float | Tensor], name: str
) -> list[tuple[Dictionary, float | Tensor]]:
    if isinstance(dictionaries, (Dictionary, Tensor)) or not hasattr(dictionaries, "__len__"):
        raise TypeError(f"dictionaries is {kind_of(dictionaries)}; expected one for each layer, as in [D1, D2]")
    if isinstance(values, (str, dict)) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{name} is {kind_of(values)}; expected one for each of the dictionaries, as in [0.1, 0.1]")
    if not len(dictionaries) or len(dictionaries) != len(values):
        raise ValueError(f"{len(dictionaries)} dictionaries and {len(values)} {name}; expected the same number, ≥ 1")
    for i, D in enumerate(dictionaries, 1):
        check_dictionary(D, f"dictionary {i}")
    check_chain(dictionaries)
    return list(zip(dictionaries, values, strict=True))
