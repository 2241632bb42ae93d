"""The problems that a pursuit solves, each with its update and a certificate of the distance from the optimum."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.dictionaries import Code, Dictionary, WithIdentity
from pursuitnet.dictionaries.fourier import in_fourier_domain
from pursuitnet.dictionaries.hooks import run_hooks
from pursuitnet.iterations.proximal import Certificate
from pursuitnet.iterations.update import Prox, proximal_step, residual, sums
from pursuitnet.problems.inputs import check_types, tensor_of, with_dictionary
from pursuitnet.problems.projection import projection_residual
from pursuitnet.prox.threshold import nonnegative_threshold, soft_threshold

T = TypeVar("T")


@dataclass(frozen=True)
class Lasso:
    """(P1) of the paper, min ½‖x − DΓ‖² + Σβ|Γ| over all Γ, or over Γ ≥ 0.

    Calling it is one proximal gradient step, Eq. 1: probe → P_{β·c}( probe + c·Dᵀ(x − D·probe) ).

    Attributes:
        signal: x, (B, channels, …).
        dictionary: D.
        beta: β ≥ 0 in parts, each broadcast against its part of the code.
        nonnegative: whether Γ ≥ 0.
        step: c ≤ 1/λmax(DᵀD).
    """

    signal: Tensor
    dictionary: Dictionary
    beta: Code
    nonnegative: bool
    step: Tensor

    def __call__(self, probe: Code) -> Code:
        return self.step_with(self.prox, probe)

    def step_with(self, P: Prox[T], probe: Code) -> T:
        """Return P of the probe and c·Dᵀ(x − D·probe)."""
        return proximal_step(self.dictionary, self.signal, probe, probe, P, self.step, loss_slope=self.loss_slope)

    def prox(self, anchor: Code | None, update: Code, *, fresh: bool = False) -> Code:
        """Return P_{β·c}(anchor + update) in parts."""
        return self.threshold(sums(anchor, update, fresh), self.step)

    def threshold(self, z: Code, step: Tensor) -> Code:
        """Return P of the penalty times a step, argmin ½‖Γ − z‖² + step·Σβ|Γ|, in parts."""
        return tuple(self.shrink(part, step * b) for part, b in zip(z, self.beta, strict=True))

    def prox_and_dual(self, anchor: Code | None, update: Code, *, fresh: bool = False) -> tuple[Code, Code]:
        """Return Γ = P_{β·c}(z) of z = anchor + update, and (z − Γ)/c ∈ β∂‖Γ‖₁, what the threshold has subtracted."""
        z = sums(anchor, update, fresh)
        code = self.prox(None, z)
        return code, tuple((before - after) / self.step for before, after in zip(z, code, strict=True))

    def loss_slope(self, error: Tensor) -> Tensor:
        """Return the derivative of the data fit at x − DΓ; for ½‖x − DΓ‖² it is x − DΓ itself."""
        return error

    def shrink(self, z: Tensor, theta: Tensor) -> Tensor:
        """Return P_θ(z)."""
        return nonnegative_threshold(z, theta) if self.nonnegative else soft_threshold(z, theta)

    def curvature(self) -> float:
        """Return the second derivative of the penalty where a coefficient is not zero."""
        return 0.0

    def residual(self, code: Code) -> Tensor:
        """Return x − DΓ, or the derivative of the data fit there (see ``loss_slope``)."""
        return self.loss_slope(residual(self.dictionary, self.signal, code))

    def full_code(self, code: Code) -> Code:
        """Return the code of the full problem, from that of a reduced one."""
        return code

    def over(self, columns: Dictionary, beta: Tensor) -> "Lasso":
        """Return (P1) over some columns of all examples, (1, n), as one example of one signal."""
        return replace(self, signal=self.signal.reshape(1, -1), dictionary=columns, beta=(beta,))

    @torch.no_grad()
    def certificate(self, code: Code, residual: Tensor | None = None, dual: Tensor | None = None) -> Certificate:
        """Return objective and duality gap.

        A dual point is a u with |dⱼᵀu| ≤ βⱼ for all j (for Γ ≥ 0: dⱼᵀu ≤ βⱼ), and every objective is at least
        ⟨x, u⟩ − ½‖u‖². Here u = s·(x − DΓ) with the best feasible s, which is 1 at the optimum. Where β = 0, only s = 0
        may be feasible, with the trivial bound 0 (see ``PartiallyPenalizedLasso``).

        Args:
            code: Γ in parts.
            residual: x − DΓ, if it is already computed.
            dual: replaces x − DΓ in u, if a solver has a better candidate; the correlation is then that of it.
        """
        code = self.full_code(code)
        r = self.residual(code) if residual is None else residual
        toward = r if dual is None else dual
        correlation = self.dictionary.analyze_parts(toward)
        objective = 0.5 * r.flatten(1).double().square().sum(1) + self.penalty(code)
        u, dual_correlation = self.direction(code, toward, correlation)
        most = self.dual_scale(dual_correlation)
        x, u64 = self.signal.flatten(1).double(), u.flatten(1).double()
        overlap, energy = (x * u64).sum(1), u64.square().sum(1)
        best = torch.where(energy > 0, overlap / energy, 0.0)
        s = best.clamp(min=0) if self.nonnegative else torch.maximum(best, -most)
        s = torch.minimum(s, most).nan_to_num(posinf=0.0)
        gap = (objective - s * overlap + 0.5 * s.square() * energy).clamp(min=0)
        return Certificate(objective, torch.where(objective > 0, gap / objective, 0.0), correlation)

    def direction(self, code: Code, residual: Tensor, correlation: Code) -> tuple[Tensor, Code]:
        """Return the direction of the dual point, here x − DΓ itself, and Dᵀ times it in parts."""
        return residual, correlation

    def dual_scale(self, correlation: Code) -> Float[Tensor, " B"]:
        """Return the largest s of each example with s·|dⱼᵀr| ≤ βⱼ for all j (Γ ≥ 0: s·dⱼᵀr ≤ βⱼ)."""
        worst = []
        for d, beta in zip(correlation, self.beta, strict=True):
            one = beta.numel() == 1  # then the largest correlation is taken first, without a copy of d / β
            least, most = (d if one else (d / beta).nan_to_num(0, torch.inf, -torch.inf)).flatten(1).aminmax(dim=1)
            size = most.clamp(min=0) if self.nonnegative else most.maximum(-least)
            worst.append((size / beta.flatten()).nan_to_num(0, torch.inf) if one else size)
        return torch.stack(worst).amax(0).double().reciprocal()

    def penalty(self, code: Code) -> Float[Tensor, " B"]:
        """Return Σβ|Γ| of each example, in float64."""
        parts = [
            c.flatten(1).norm(1, dim=1, dtype=torch.float64) * b.flatten()
            if b.numel() == 1
            else (b * c.abs()).flatten(1).sum(1, dtype=torch.float64)
            for c, b in zip(code, self.beta, strict=True)
        ]
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class PartiallyPenalizedLasso(Lasso):
    """(P1) with β = 0 somewhere, as in least squares or under a mask.

    A dual point has dⱼᵀu = 0 there (Γ ≥ 0: dⱼᵀu ≤ 0), which holds for x − DΓ only at the optimum. The component of
    x − DΓ orthogonal to these columns has it for every Γ, at the cost of one least-squares problem per certificate.

    Attributes:
        energy: ‖x‖² of each example, (B,); an objective within its rounding counts as 0. Computed unless given.
    """

    energy: Tensor | None = None

    @torch.no_grad()
    def certificate(self, code: Code, residual: Tensor | None = None, dual: Tensor | None = None) -> Certificate:
        """Return objective and duality gap; where DΓ = x, up to the rounding of ½‖x‖², the gap is 0."""
        certificate = super().certificate(code, residual, dual)
        energy = self._energy() if self.energy is None else self.energy
        exact = certificate.objective <= torch.finfo(self.signal.dtype).eps * energy
        return certificate._replace(gap=certificate.gap.masked_fill(exact, 0.0))

    def direction(self, code: Code, residual: Tensor, correlation: Code) -> tuple[Tensor, Code]:
        """Return the component of x − DΓ orthogonal to the columns with β = 0, and Dᵀ times it in parts.

        For Γ ≥ 0 these are the columns in use and those that violate dⱼᵀu ≤ 0. A second round corrects the error of
        conjugate gradients.
        """
        D, free = self.dictionary, tuple((b == 0).expand_as(c) for b, c in zip(self.beta, code, strict=True))
        chosen = tuple(f & (c > 0) if self.nonnegative else f for f, c in zip(free, code, strict=True))
        for _ in range(5):
            violated = tuple(
                f & ((c if self.nonnegative else c.abs()) > self._rounding)
                for f, c in zip(free, correlation, strict=True)
            )
            if not any(bool(v.any()) for v in violated):
                break
            chosen = tuple(c | v for c, v in zip(chosen, violated, strict=True))
            residual = projection_residual(D, D.join(chosen).to(residual.dtype), residual)
            correlation = D.analyze_parts(residual)
        return residual, correlation

    def dual_scale(self, correlation: Code) -> Float[Tensor, " B"]:
        """Return the largest feasible s ≤ 1, with β = 0 replaced by the rounding error: exact zeros cannot be reached.

        A residual x − DΓ of rounding errors alone would be feasible at any length; at the optimum s is 1.
        """
        betas = tuple(torch.where(b > 0, b, self._rounding) for b in self.beta)
        positive = Lasso(self.signal, self.dictionary, betas, self.nonnegative, self.step)
        return positive.dual_scale(correlation).clamp(max=1)

    def over(self, columns: Dictionary, beta: Tensor) -> Lasso:
        least = self._energy().amin()[None]  # the rounding of the sum would hide the smallest example
        return replace(self, signal=self.signal.reshape(1, -1), dictionary=columns, beta=(beta,), energy=least)

    def _energy(self) -> Float[Tensor, " B"]:
        return self.signal.flatten(1).double().square().sum(1)

    @property
    def _rounding(self) -> Tensor:
        """Rounding error of a correlation, (B, 1, …): that of |dⱼ|·|x|, with 1/√c ≥ |dⱼ|."""
        x = self.signal
        size = x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
        return 16 * torch.finfo(x.dtype).eps * size * self.step.rsqrt()


@dataclass(frozen=True)
class ReducedLasso(Lasso):
    """(P1) with [I D] after minimizing over the identity part: its code is Γ_F alone.

    With e = x − DΓ_F the best identity part is Γ_I = P_{β_I}(e), and what remains is robust sparse coding,
    min Σ Huber_{β_I}(e) + Σβ_F|Γ_F|, whose gradient −Dᵀ·clip(e, ±β_I) has a Lipschitz constant smaller by 1. For
    Γ ≥ 0 the clip is one-sided. The optimum is the same.
    """

    full: Lasso

    @staticmethod
    def of(full: Lasso) -> "ReducedLasso":
        """Return the reduced problem.

        Raises:
            ValueError: if the dictionary is not [I D].
        """
        if not isinstance(full.dictionary, WithIdentity):
            raise ValueError(f"the dictionary is a {type(full.dictionary).__name__}; only [I D], WithIdentity, reduces")
        inner = full.dictionary.dictionary
        return ReducedLasso(full.signal, inner, full.beta[1:], full.nonnegative, step_of(inner), full)

    def loss_slope(self, error: Tensor) -> Tensor:
        """Return the residual after the identity part is subtracted: clip(x − DΓ_F, ±β_I)."""
        most = self.full.beta[0]
        return error.minimum(most) if self.nonnegative else error.minimum(most).maximum(-most)

    def full_code(self, code: Code) -> Code:
        error = residual(self.dictionary, self.signal, code)
        return (self.shrink(error, self.full.beta[0]), *code)

    def certificate(self, code: Code, residual: Tensor | None = None, dual: Tensor | None = None) -> Certificate:
        certificate = self.full.certificate(self.full_code(code))
        return certificate._replace(correlation=certificate.correlation[1:])


def lasso(
    signal: Float[Tensor, "B channels *size"], dictionary: Dictionary, beta: float | Tensor, nonnegative: bool = False
) -> Lasso:
    """Return the problem (P1) after checking the arguments.

    Args:
        signal: x, (B, channels, …).
        dictionary: D.
        beta: β ≥ 0: a number, one for each channel of the code, (code_channels,), or a tensor that broadcasts
            against the code.
        nonnegative: whether Γ ≥ 0.

    Raises:
        TypeError: if signal, dictionary or β is of the wrong kind.
        ValueError: for shapes or types that do not match, an empty batch, values that are not finite, or a β < 0.
    """
    signal = _checked(signal, dictionary)
    betas = _betas(beta, signal, dictionary)
    kind = PartiallyPenalizedLasso if any(bool((b == 0).any()) for b in betas) else Lasso
    return kind(signal, dictionary, betas, nonnegative, step_of(dictionary))


@torch.no_grad()
def beta_max(
    signal: Float[Tensor, "B channels *size"], dictionary: Dictionary, nonnegative: bool = False
) -> Float[Tensor, "B 1 *one"]:
    """Return for each example the smallest β with which its code is zero: ‖Dᵀx‖∞, or max(Dᵀx, 0) for Γ ≥ 0.

    Its shape is (B, 1, …), in which ``solve`` takes a β for each example, as in ``0.1 * beta_max(x, D)``. It is
    scikit-learn's alpha_max times the size of the signal, since scikit-learn divides its objective by that. Has no
    gradient.

    Args:
        signal: x, (B, channels, …).
        dictionary: D.
        nonnegative: whether Γ ≥ 0.

    Raises:
        TypeError: if signal or dictionary is of the wrong kind.
        ValueError: for shapes or types that do not match, an empty batch, or values that are not finite.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> x, D = torch.tensor([[3.0, -4.0]]), pn.LinearDictionary(torch.eye(2))
        >>> pn.beta_max(x, D).tolist(), pn.beta_max(x, D, nonnegative=True).tolist()
        ([[4.0]], [[3.0]])
    """
    signal = _checked(signal, dictionary)
    correlation = [d.flatten(1) for d in dictionary.analyze_parts(signal)]
    most = torch.stack([(d.clamp(min=0) if nonnegative else d.abs()).amax(1) for d in correlation]).amax(0)
    return most.view(-1, *[1] * (signal.dim() - 1))


def _checked(signal: Tensor, dictionary: Dictionary) -> Tensor:
    """Return the signal as a tensor that fits the dictionary, after the dictionary's hooks have run."""
    signal = with_dictionary("the signal", signal, dictionary)
    dictionary.check_signal(signal)
    if not len(signal):
        raise ValueError("the batch is empty; expected one signal or more")
    check_types(signal, dictionary)
    run_hooks(dictionary, (signal,))
    if not signal.isfinite().all():
        raise ValueError("the signal holds NaN or infinite values; expected finite ones: remove or replace them")
    if not next(dictionary.parameters(), signal).isfinite().all():
        raise ValueError("the dictionary holds NaN or infinite values; expected finite ones")
    return signal


def accelerated(problem: Lasso) -> Lasso:
    """Return the problem with convolutions in the frequency domain where that is faster: equal to rounding.

    The gradients of the filters do not pass through it.
    """
    return replace(problem, dictionary=in_fourier_domain(problem.dictionary, problem.signal.shape))


def step_of(dictionary: Dictionary) -> Tensor:
    """Return 1/L with a certified L ≥ λmax(DᵀD)."""
    with torch.no_grad():
        bound: Tensor = dictionary.lipschitz_bound()
        return bound.clamp(min=torch.finfo(bound.dtype).tiny ** 0.5).reciprocal()


def _betas(beta: float | Tensor, signal: Tensor, dictionary: Dictionary) -> Code:
    """Return β in parts, each (1 or B, 1 or code_channels, 1 or size, …)."""
    if isinstance(beta, (str, bool)):
        raise TypeError(f"beta is {beta!r}; expected a number ≥ 0 or a tensor of them")
    value = tensor_of("beta", beta, signal).to(signal)
    if not (value.isfinite() & (value >= 0)).all():
        raise ValueError(f"beta is {_described(value.detach())}; expected finite numbers ≥ 0")
    code_channels, dims = sum(dictionary.code_channels), dictionary.dims
    shaped = value.view(1, -1, *[1] * dims) if value.dim() < 2 else value
    code_shape = (len(signal), code_channels, *(dictionary.code_size(signal.shape) if dims else ()))
    fits = shaped.dim() == dims + 2 and all(n in (1, m) for n, m in zip(shaped.shape, code_shape, strict=True))
    if not fits:
        raise ValueError(
            f"beta has shape {tuple(value.shape)}; expected a number, ({code_channels},), or one that broadcasts to "
            f"{code_shape}"
        )
    return dictionary.split(shaped) if shaped.shape[1] == code_channels else (shaped,) * len(dictionary.code_channels)


def _described(beta: Tensor) -> str:
    """Return β for a message."""
    if beta.numel() == 1:
        return str(float(beta))
    return f"a tensor with values from {float(beta.min()):.3g} to {float(beta.max()):.3g}"
