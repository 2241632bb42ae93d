"""The alternating direction method of multipliers for (P1), where (ρI + DDᵀ)⁻¹ is cheap: on a torus, or of a matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pursuitnet.dictionaries import CircularDictionary, Code, ConvDictionary, Dictionary, LinearDictionary, WithIdentity
from pursuitnet.dictionaries.fourier import FourierDictionary, direct
from pursuitnet.iterations.proximal import Certificate
from pursuitnet.problems.lasso import Lasso, PartiallyPenalizedLasso

Inverse = Callable[[Tensor, Tensor], Tensor]
"""(signal, ρ) → (ρI + DDᵀ)⁻¹ · signal."""
FIRST_FIT_RHO = 0.3  # beside ½‖x − Wy‖², whose curvature is 1


@dataclass(frozen=True)
class ADMM:
    """The alternating direction method of multipliers, which solves a least-squares problem in every step.

    For a CircularDictionary in the Fourier domain (Wohlberg, 2016): by the Sherman-Morrison formula for one channel,
    by a system as small as the channels for several (Woodbury). For a zero-padded ConvDictionary on a torus that holds
    the padding, with what lies beside the signal decoupled by a mask (Heide et al., 2015). For a LinearDictionary by
    its singular values. Steps cost about what those of FISTA do, and fewer are needed where β is small and the code
    dense.

    Attributes:
        rho: ρ > 0, the weight of the constraint at the start; by default from β and the length of the atoms.
        relaxation: of the constraint, between 0 and 2; 1 is none, above 1 over-relaxation.
        adaptive_rho: whether ρ follows the residuals, each example its own (relative ones: Wohlberg, 2017), ever less,
            so that the method still converges. Where some β is 0 and x can be fitted exactly, the residuals say
            nothing, and ρ stays.
    """

    whole_problem: ClassVar[bool] = True
    rho: float | None = None
    relaxation: float = 1.8
    adaptive_rho: bool = True

    def __post_init__(self) -> None:
        if self.rho is not None and (isinstance(self.rho, bool) or not isinstance(self.rho, Real) or not self.rho > 0):
            raise ValueError(f"rho is {self.rho!r}; expected a number > 0, or None for one that suits β")
        if isinstance(self.relaxation, bool) or not isinstance(self.relaxation, Real) or not 0 < self.relaxation < 2:
            raise ValueError(f"relaxation is {self.relaxation!r}; expected a number between 0 and 2, such as 1.8")
        if not isinstance(self.adaptive_rho, bool):
            raise ValueError(f"adaptive_rho is {self.adaptive_rho!r}; expected True or False")

    def split(self, problem: Lasso) -> "FourierSplit | MaskedSplit":
        """Return the problem in the form whose update is one step of this method.

        Raises:
            ValueError: for a dictionary whose least-squares problem is not cheap.
        """
        if isinstance(problem, PartiallyPenalizedLasso) and self.adaptive_rho:
            return replace(self, adaptive_rho=False).split(problem)
        D, shape = direct(problem.dictionary), problem.signal.shape
        if type(D) is ConvDictionary:
            fourier = FourierDictionary(D, shape[2:])
            return MaskedSplit(replace(problem, dictionary=fourier), self, fourier, on_torus(fourier))
        fast, inverse = _cheap(D, shape)
        return FourierSplit(replace(problem, dictionary=fast), self, inverse)

    def first_rho(self, problem: Lasso) -> Tensor:
        """Return ρ to begin with, (B, 1, …).

        It has the unit of ‖dⱼ‖², and thresholds a code at β/ρ; about right is 5·‖dⱼ‖²·√(β/β_max).
        """
        x, D = problem.signal, problem.dictionary
        shape = (len(x), *[1] * (x.dim() - 1))
        if self.rho is not None:
            return x.new_full(shape, float(self.rho))
        share = problem.dual_scale(D.analyze_parts(x)).clamp(1e-4, 1).sqrt()
        lengths = D.atom_norms(x.shape).square().mean().clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
        return (5 * lengths * share).to(x.dtype).view(shape)

    def rho_factor(self, value: Tensor, copy: Tensor, last: Tensor, multiplier: Tensor, taken: Tensor) -> Tensor:
        """Return by how much ρ changes, (B, 1, …): √(primal/dual residual), each a relative one, and ever nearer to 1.

        Args:
            value: Γ, in the constraint Γ = Y.
            copy: Y.
            last: Y one step before.
            multiplier: U.
            taken: the steps before.
        """
        shape = (len(value), *[1] * (value.dim() - 1))
        if not self.adaptive_rho:
            return value.new_ones(shape)
        primal = norm(value - copy) / norm(value).maximum(norm(copy))
        dual = norm(copy - last) / norm(multiplier)
        ratio = (primal / dual).sqrt()
        ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0).clamp(0.1, 10)
        return (ratio ** (1 / (1 + (taken / 100) ** 2))).view(shape)


class Variables(NamedTuple):
    """What is iterated, as one code.

    Attributes:
        copy: Y, the sparse copy of Γ, joined.
        multiplier: U, scaled by 1/ρ.
        dual: what is proportional to a dual point, in the shape of the signal; at the optimum x − DΓ.
        rho: ρ of each example, (B, 1, …).
        taken: the steps taken.
    """

    copy: Tensor
    multiplier: Tensor
    dual: Tensor
    rho: Tensor
    taken: Tensor


class MaskedVariables(NamedTuple):
    """What is iterated on the torus, as one code.

    Attributes:
        copy: Y, the sparse copy of Γ.
        multiplier: U, scaled by 1/ρ.
        fit: y, the copy of CΓ.
        dual: v, its multiplier, scaled by 1/σ.
        rho: ρ of each example, (B, 1, …).
        fit_rho: σ, that of the second constraint.
        taken: the steps taken.
    """

    copy: Tensor
    multiplier: Tensor
    fit: Tensor
    dual: Tensor
    rho: Tensor
    fit_rho: Tensor
    taken: Tensor


@dataclass(frozen=True)
class FourierSplit:
    """min ½‖x − DΓ‖² + Σβ|Y| subject to Γ = Y.

    Γ = z + Dᵀw with w = (ρI + DDᵀ)⁻¹(x − Dz) and z = Y − U; then x − DΓ = ρw, which is the dual point, and Y is the
    threshold of Γ + U.

    Attributes:
        problem: (P1).
        method: how.
        inverse: (ρI + DDᵀ)⁻¹.
    """

    problem: Lasso
    method: ADMM
    inverse: Inverse

    def begin(self, code: Code) -> Code:
        """Return the variables to begin at."""
        problem, D = self.problem, self.problem.dictionary
        rho, off = self.method.first_rho(problem), problem.residual(code)
        new_multiplier = D.join(clipped(problem, D.analyze_parts(off)))
        return Variables(D.join(code), new_multiplier / rho, off, rho, rho.new_zeros(()))

    def __call__(self, probe: Code) -> Code:
        copy, multiplier, _, rho, taken = Variables(*probe)
        problem, D, x = self.problem, self.problem.dictionary, self.problem.signal
        z = copy - multiplier
        w = self.inverse(x - D.synthesize_parts(D.split(z), x.shape), rho)
        code = z.add_(D.join(D.analyze_parts(w)))
        argument = torch.lerp(copy, code, self.method.relaxation).add_(multiplier)
        new = D.join(problem.threshold(D.split(argument), 1 / rho))
        new_multiplier = argument.sub_(new)
        factor = self.method.rho_factor(code, new, copy, new_multiplier, taken)
        return Variables(new, new_multiplier / factor, rho * w, rho * factor, taken + 1)

    def certificate(self, code: Code) -> Certificate:
        """Return objective and duality gap of Y, with x − DΓ for the dual point."""
        copy, _, dual, *_ = Variables(*code)
        return self.problem.certificate(self.problem.dictionary.split(copy), dual=dual)._replace(correlation=())

    def full_code(self, code: Code) -> Code:
        """Return Y."""
        return self.problem.full_code(self.problem.dictionary.split(code[0]))


@dataclass(frozen=True)
class MaskedSplit:
    """min ½‖x − Wy‖² + Σβ|Y| subject to Γ = Y and CΓ = y, on a torus that holds the signal and its padding.

    C is the convolution on the torus, W cuts the signal out of it, and Y is zero where D has no column. Γ solves
    (ρI + σCᵀC)Γ = ρ(Y − U) + σCᵀ(y − v), with weights ρ and σ of the constraints that follow their own residuals.

    Attributes:
        problem: (P1), of a dictionary with its torus.
        method: how.
        fourier: that dictionary.
        inverse: (ρI + CCᵀ)⁻¹.
    """

    problem: Lasso
    method: ADMM
    fourier: FourierDictionary

    inverse: Inverse

    def begin(self, code: Code) -> Code:
        """Return the variables to begin at."""
        problem, fourier, x = self.problem, self.fourier, self.problem.signal
        rho, off = self.method.first_rho(problem), problem.residual(code)
        (new_multiplier,) = clipped(problem, fourier.analyze_parts(off))
        copy, multiplier = fourier.place(code[0], fourier.corners), fourier.place(new_multiplier / rho, fourier.corners)
        sigma = torch.full_like(rho, FIRST_FIT_RHO)
        dual = fourier.place(-off / sigma, fourier.window)
        fit = fourier.torus.synthesize(copy)
        return MaskedVariables(copy, multiplier, fit, dual, rho, sigma, x.new_zeros(()))

    def __call__(self, probe: Code) -> Code:
        copy, multiplier, fit, dual, rho, sigma, taken = MaskedVariables(*probe)
        fourier, alpha = self.fourier, self.method.relaxation
        z, target = copy - multiplier, fit - dual
        w = self.inverse(target - fourier.torus.synthesize(z), rho / sigma)
        code, model = z.add_(fourier.torus.analyze(w)), target - rho / sigma * w  # CΓ = Cz + CCᵀw
        argument = torch.lerp(copy, code, alpha).add_(multiplier)
        new = self._thresholded(argument, rho)
        new_multiplier = argument.sub_(new)
        fit_argument = torch.lerp(fit, model, alpha).add_(dual)
        new_fit = self._fitted(fit_argument, sigma)
        new_dual = fit_argument - new_fit
        factor = self.method.rho_factor(code, new, copy, new_multiplier, taken)
        fit_factor = self.method.rho_factor(model, new_fit, fit, new_dual, taken)
        return MaskedVariables(
            new, new_multiplier / factor, new_fit, new_dual / fit_factor, rho * factor, sigma * fit_factor, taken + 1
        )

    def _thresholded(self, argument: Tensor, rho: Tensor) -> Tensor:
        """Return Y: the threshold where D has columns, and zero elsewhere."""
        fourier = self.fourier
        return fourier.place(
            self.problem.threshold((fourier.cut(argument, fourier.corners),), 1 / rho)[0], fourier.corners
        )

    def _fitted(self, argument: Tensor, rho: Tensor) -> Tensor:
        """Return argmin ½‖x − Wy‖² + ½ρ‖y − argument‖²."""
        fourier = self.fourier
        off = self.problem.signal - fourier.cut(argument, fourier.window)
        return argument + fourier.place(off / (1 + rho), fourier.window)

    def certificate(self, code: Code) -> Certificate:
        """Return objective and duality gap of Y, with −ρv, at the optimum x − DΓ, for the dual point."""
        state, fourier = MaskedVariables(*code), self.fourier
        dual = fourier.cut(-state.fit_rho * state.dual, fourier.window)
        return self.problem.certificate(self.full_code(code), dual=dual)._replace(correlation=())

    def full_code(self, code: Code) -> Code:
        """Return Y where D has columns."""
        return self.problem.full_code((self.fourier.cut(code[0], self.fourier.corners),))


def _cheap(D: Dictionary, shape: Sequence[int]) -> tuple[Dictionary, Inverse]:
    """Return a dictionary, computed fast, and its (ρI + DDᵀ)⁻¹."""
    if isinstance(D, WithIdentity):
        fast, inner = _cheap(D.dictionary, shape)
        return WithIdentity(fast), lambda signal, rho: inner(signal, rho + 1)
    if type(D) is CircularDictionary:
        fourier = FourierDictionary(D, shape[2:])
        return fourier, on_torus(fourier)
    if type(D) is LinearDictionary:
        return D, of_matrix(D)
    raise ValueError(
        f"ADMM has no fast way to solve the least-squares problems of this {type(D).__name__}; expected a "
        "CircularDictionary or LinearDictionary, [I D] of one, or a ConvDictionary without I: take FISTA() here"
    )


def on_torus(fourier: FourierDictionary) -> Inverse:
    """Return (ρI + DDᵀ)⁻¹ on a torus."""
    torus = fourier.torus
    eigen = torus.eigen()

    def inverse(signal: Tensor, rho: Tensor) -> Tensor:
        return torus.rotate(signal, eigen, (rho.flatten(1)[:, :, None] + eigen[0]).reciprocal())

    return inverse


def of_matrix(D: LinearDictionary) -> Inverse:
    """Return (ρI + DDᵀ)⁻¹ of a matrix, from its left singular vectors."""
    vectors, values, _ = torch.linalg.svd(D.weight.detach().mT, full_matrices=False)
    squares = values.square()

    def inverse(signal: Tensor, rho: Tensor) -> Tensor:
        along = (signal @ vectors) * (squares / (squares + rho))
        return (signal - along @ vectors.mT) / rho

    return inverse


def clipped(problem: Lasso, correlation: Code) -> Code:
    """Return the nearest dⱼᵀu of a dual point, part by part."""
    parts = zip(correlation, problem.beta, strict=True)
    return tuple(d.minimum(b) if problem.nonnegative else d.minimum(b).maximum(-b) for d, b in parts)


def norm(values: Tensor) -> Tensor:
    """Return the norm of each example, (B,)."""
    return values.flatten(1).norm(dim=1)
