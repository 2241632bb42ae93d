"""The alternating direction method of multipliers for (P1), where (ρI + DDᵀ)⁻¹ is cheap: on a torus, or of a matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pursuitnet.dictionaries import CircularDictionary, Code, ConvDictionary, Dictionary, LinearDictionary, WithIdentity
from pursuitnet.dictionaries.fourier import FourierDictionary, direct, in_fourier_domain
from pursuitnet.iterations.proximal import Certificate
from pursuitnet.problems.lasso import Lasso, PartiallyPenalizedLasso

Inverse = Callable[[Tensor, Tensor], Tensor]
"""(signal, ρ) → (ρI + DDᵀ)⁻¹ · signal."""
FIRST_FIT_RHO = 0.3  # beside ½‖x − Wy‖², whose curvature is 1
STEPS_OF_RHO = 10
"""Steps from one change of ρ to the next."""
TARGET_POWER = 0.1
"""Power of β/β_max that primal/dual residual is to have: a larger ρ for dense codes."""


@dataclass(frozen=True)
class ADMM:
    """The alternating direction method of multipliers, which solves a least-squares problem in every step.

    For a CircularDictionary in the Fourier domain (Wohlberg, 2016): by the Sherman-Morrison formula for one channel,
    by a system as small as the channels for several (Woodbury); D and Dᵀ themselves are computed in whichever way is
    faster. For a zero-padded ConvDictionary on a torus that holds the padding, with what lies beside the signal
    decoupled by a mask (Heide et al., 2015). For a LinearDictionary by its singular values. Steps cost about what those
    of FISTA do, and fewer are needed where β is small and the code dense.

    Attributes:
        rho: ρ > 0, the weight of the constraint at the start; by default from β and the length of the atoms.
        relaxation: of the constraint, between 0 and 2; 1 is none, above 1 over-relaxation.
        adaptive_rho: whether ρ follows the residuals, each example its own (relative ones: Wohlberg, 2017), ever less,
            so that the method still converges, with a ratio of primal to dual of (β/β_max)^0.1 for a target. Where some
            β is 0 and x can be fitted exactly, the residuals say nothing, and ρ stays.
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
            circular = CircularDictionary(D.dense_weight().detach(), D.dilation)
            C = _fast(circular, (*shape[:2], *fourier.torus.size))
            masked = replace(problem, dictionary=fourier)
            return MaskedSplit(masked, self, share_of(masked), on_torus(fourier), fourier, C)
        fast, inverse = _cheap(D, shape)
        problem = replace(problem, dictionary=fast)
        return FourierSplit(problem, self, share_of(problem), inverse)

    def first_rho(self, problem: Lasso, share: Tensor) -> Tensor:
        """Return ρ to begin with, (B, 1, …).

        It has the unit of ‖dⱼ‖², and thresholds a code at β/ρ; about right is 5·‖dⱼ‖²·√(β/β_max).
        """
        if self.rho is not None:
            return torch.full_like(share, float(self.rho))
        shape = problem.signal.shape
        lengths = problem.dictionary.atom_norms(shape).square().mean().clamp(min=torch.finfo(share.dtype).tiny ** 0.5)
        return 5 * lengths * share.sqrt()

    def advanced(self, argument: Tensor, copy: Tensor, update: Tensor) -> Tensor:
        """Return Y + U after a step, Y + U + α(Γ − Y) with Γ = Y − U + update and the relaxation α."""
        return torch.lerp(argument, copy, self.relaxation).add_(update, alpha=self.relaxation)

    def balanced(
        self, before: Tensor, after: Tensor, prox: Callable[[Tensor], Tensor], share: Tensor, taken: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return Y + U after a change of ρ, and the factor of ρ, ever nearer to 1.

        It is the fourth root of the relative residuals' ratio, primal/dual, over its target, in every tenth step, since
        it takes about half as long as one.

        Args:
            before: Y + U before a step.
            after: Y + U after it.
            prox: Y + U → Y.
            share: β/β_max of each example, (B, 1, …), whose power is the target.
            taken: the steps before.
        """
        unchanged = after.new_ones(len(after), *[1] * (after.dim() - 1))
        if not self.adaptive_rho or int(taken) % STEPS_OF_RHO != STEPS_OF_RHO - 1:
            return after, unchanged
        last, copy = prox(before), prox(after)
        value, multiplier = last + (after - before) / self.relaxation, after - copy
        primal = norm(value - copy) / norm(value).maximum(norm(copy))
        dual = norm(copy - last) / norm(multiplier)
        ratio = (primal / dual).view_as(unchanged) / share**TARGET_POWER
        ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0).clamp(1e-4, 1e4)
        factor = ratio ** (0.25 / (1 + (float(taken) / 100) ** 2))
        return copy.addcdiv_(multiplier, factor), factor


class Variables(NamedTuple):
    """What is iterated, as one code.

    Attributes:
        argument: Y + U, joined, with the sparse copy Y of Γ and its multiplier U, scaled by 1/ρ.
        dual: what is proportional to a dual point, in the shape of the signal; at the optimum x − DΓ.
        rho: ρ of each example, (B, 1, …).
        taken: the steps taken, on the CPU.
    """

    argument: Tensor
    dual: Tensor
    rho: Tensor
    taken: Tensor


class MaskedVariables(NamedTuple):
    """What is iterated on the torus, as one code.

    Attributes:
        argument: Y + U, with the sparse copy Y of Γ and its multiplier U, scaled by 1/ρ.
        fit_argument: y + v, with the copy y of CΓ and its multiplier v, scaled by 1/σ.
        rho: ρ of each example, (B, 1, …).
        fit_rho: σ, that of the second constraint.
        taken: the steps taken, on the CPU.
    """

    argument: Tensor
    fit_argument: Tensor
    rho: Tensor
    fit_rho: Tensor
    taken: Tensor


@dataclass(frozen=True)
class FourierSplit:
    """min ½‖x − DΓ‖² + Σβ|Y| subject to Γ = Y.

    Y is the threshold of Y + U, which is all that is iterated (Douglas-Rachford splitting: Eckstein and Bertsekas,
    1992). Γ = z + Dᵀw with w = (ρI + DDᵀ)⁻¹(x − Dz) and z = Y − U; then x − DΓ = ρw, which is the dual point.

    Attributes:
        problem: (P1).
        method: how.
        share: β/β_max of each example, (B, 1, …).
        inverse: (ρI + DDᵀ)⁻¹.
    """

    problem: Lasso
    method: ADMM
    share: Tensor
    inverse: Inverse

    def begin(self, code: Code) -> Code:
        """Return the variables to begin at."""
        problem, D = self.problem, self.problem.dictionary
        rho, off = self.method.first_rho(problem, self.share), problem.residual(code)
        multiplier = D.join(subgradient(problem, code, D.analyze_parts(off))) * (1 / rho)
        return Variables(multiplier.add_(D.join(code)), off, rho, torch.zeros(()))

    def __call__(self, probe: Code) -> Code:
        argument, _, rho, taken = Variables(*probe)
        D, x = self.problem.dictionary, self.problem.signal
        copy = self.copy(argument, rho)
        z = torch.lerp(argument, copy, 2)  # Y − U
        w = self.inverse(x - D.synthesize_parts(D.split(z), x.shape), rho)
        after = self.method.advanced(argument, copy, D.join(D.analyze_parts(w)))
        after, factor = self.method.balanced(argument, after, lambda v: self.copy(v, rho), self.share, taken)
        return Variables(after, rho * w, rho * factor, taken + 1)

    def copy(self, argument: Tensor, rho: Tensor) -> Tensor:
        """Return Y of Y + U."""
        D = self.problem.dictionary
        return D.join(self.problem.threshold(D.split(argument), 1 / rho))

    def certificate(self, code: Code) -> Certificate:
        """Return objective and duality gap of Y, with x − DΓ for the dual point."""
        return self.problem.certificate(self._parts(code), dual=code[1])._replace(correlation=())

    def full_code(self, code: Code) -> Code:
        """Return Y."""
        return self.problem.full_code(self._parts(code))

    def _parts(self, code: Code) -> Code:
        argument, _, rho, _ = Variables(*code)
        return self.problem.dictionary.split(self.copy(argument, rho))


@dataclass(frozen=True)
class MaskedSplit:
    """min ½‖x − Wy‖² + Σβ|Y| subject to Γ = Y and CΓ = y, on a torus that holds the signal and its padding.

    C is the convolution on the torus, W cuts the signal out of it, and Y is zero where D has no column. Γ solves
    (ρI + σCᵀC)Γ = ρ(Y − U) + σCᵀ(y − v), with weights ρ and σ of the constraints that follow their own residuals.
    What is iterated is Y + U and y + v.

    Attributes:
        problem: (P1), of a dictionary with its torus.
        method: how.
        share: β/β_max of each example, (B, 1, …).
        inverse: (ρI + CCᵀ)⁻¹.
        fourier: that dictionary.
        circular: C.
    """

    problem: Lasso
    method: ADMM
    share: Tensor
    inverse: Inverse
    fourier: FourierDictionary
    circular: Dictionary

    def begin(self, code: Code) -> Code:
        """Return the variables to begin at."""
        problem, fourier = self.problem, self.fourier
        rho, off = self.method.first_rho(problem, self.share), problem.residual(code)
        (multiplier,) = subgradient(problem, code, fourier.analyze_parts(off))
        copy = fourier.place(code[0], fourier.corners)
        multiplier = fourier.place(multiplier * (1 / rho), fourier.corners)
        sigma = torch.full_like(rho, FIRST_FIT_RHO)
        dual = fourier.place(-off / sigma, fourier.window)
        fit_argument = self.circular.synthesize(copy, dual.shape) + dual
        return MaskedVariables(copy + multiplier, fit_argument, rho, sigma, torch.zeros(()))

    def __call__(self, probe: Code) -> Code:
        argument, fit_argument, rho, sigma, taken = MaskedVariables(*probe)
        C, method = self.circular, self.method
        copy, fit = self.copy(argument, rho), self.fit(fit_argument, sigma)
        z, target = torch.lerp(argument, copy, 2), torch.lerp(fit_argument, fit, 2)  # Y − U, y − v
        w = self.inverse(target - C.synthesize(z, target.shape), rho / sigma)
        after = method.advanced(argument, copy, C.analyze(w))
        fit_after = method.advanced(fit_argument, fit, -rho / sigma * w)  # CΓ = Cz + CCᵀw = y − v − ρ/σ·w
        after, factor = method.balanced(argument, after, lambda v: self.copy(v, rho), self.share, taken)
        fit_after, fit_factor = method.balanced(
            fit_argument, fit_after, lambda v: self.fit(v, sigma), self.share, taken
        )
        return MaskedVariables(after, fit_after, rho * factor, sigma * fit_factor, taken + 1)

    def copy(self, argument: Tensor, rho: Tensor) -> Tensor:
        """Return Y of Y + U: the threshold where D has columns, and zero elsewhere."""
        return self.fourier.place(self._part(argument, rho), self.fourier.corners)

    def fit(self, argument: Tensor, sigma: Tensor) -> Tensor:
        """Return y of y + v, argmin ½‖x − Wy‖² + ½σ‖y − argument‖²."""
        fourier = self.fourier
        off = self.problem.signal - fourier.cut(argument, fourier.window)
        return argument + fourier.place(off / (1 + sigma), fourier.window)

    def certificate(self, code: Code) -> Certificate:
        """Return objective and duality gap of Y, with −σv, at the optimum x − DΓ, for the dual point."""
        state, fourier = MaskedVariables(*code), self.fourier
        fit = self.fit(state.fit_argument, state.fit_rho)
        dual = fourier.cut(state.fit_rho * (fit - state.fit_argument), fourier.window)
        return self.problem.certificate(self.full_code(code), dual=dual)._replace(correlation=())

    def full_code(self, code: Code) -> Code:
        """Return Y where D has columns."""
        argument, _, rho, *_ = MaskedVariables(*code)
        return self.problem.full_code((self._part(argument, rho),))

    def _part(self, argument: Tensor, rho: Tensor) -> Tensor:
        """Return Y of Y + U where D has columns."""
        (part,) = self.problem.threshold((self.fourier.cut(argument, self.fourier.corners),), 1 / rho)
        return part


def _cheap(D: Dictionary, shape: Sequence[int]) -> tuple[Dictionary, Inverse]:
    """Return a dictionary, computed fast, and its (ρI + DDᵀ)⁻¹."""
    if isinstance(D, WithIdentity):
        fast, inner = _cheap(D.dictionary, shape)
        return WithIdentity(fast), lambda signal, rho: inner(signal, rho + 1)
    if type(D) is CircularDictionary:
        return _fast(D, shape), on_torus(FourierDictionary(D, shape[2:]))
    if type(D) is LinearDictionary:
        return D, of_matrix(D)
    raise ValueError(
        f"ADMM has no fast way to solve the least-squares problems of this {type(D).__name__}; expected a "
        "CircularDictionary or LinearDictionary, [I D] of one, or a ConvDictionary without I: take FISTA() here"
    )


def _fast(D: CircularDictionary, shape: Sequence[int]) -> Dictionary:
    """Return D computed by convolution or in the Fourier domain, where a choice on CPUs is measured."""
    return in_fourier_domain(D, shape) if D.weight.device.type == "cpu" else FourierDictionary(D, shape[2:])


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


def share_of(problem: Lasso) -> Tensor:
    """Return β/β_max of each example, (B, 1, …), between 1e-4 and 1."""
    x = problem.signal
    share = problem.dual_scale(problem.dictionary.analyze_parts(x)).clamp(1e-4, 1)
    return share.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def subgradient(problem: Lasso, code: Code, correlation: Code) -> Code:
    """Return that of the penalty at a code which is nearest to Dᵀ(x − DΓ), part by part."""
    parts = zip(code, correlation, problem.beta, strict=True)
    return tuple(
        torch.where(c == 0, _clipped(d, b, problem.nonnegative), b * c.sign() + problem.curvature() * c)
        for c, d, b in parts
    )


def _clipped(correlation: Tensor, beta: Tensor, nonnegative: bool) -> Tensor:
    below = correlation.minimum(beta)
    return below if nonnegative else below.maximum(-beta)


def norm(values: Tensor) -> Tensor:
    """Return the norm of each example, (B,)."""
    return values.flatten(1).norm(dim=1)
