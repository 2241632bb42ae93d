"""The Lasso of a layer, its solution, and a certificate that also holds if some β are 0."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pursuitnet.dictionaries import Code, WithIdentity
from pursuitnet.iterations import FISTA
from pursuitnet.iterations.proximal import Certificate
from pursuitnet.iterations.update import sums
from pursuitnet.problems.elastic_net import ElasticNet
from pursuitnet.problems.lasso import Lasso, ReducedLasso
from pursuitnet.problems.loop import iterate


class DualSlack(NamedTuple):
    """A signal e with dⱼᵀe ≤ −margin < 0 for every j with βⱼ = 0.

    Attributes:
        direction: e, (1, channels, …).
        reply: Dᵀe in parts.
        margin: how far below 0 every such dⱼᵀe is.
    """

    direction: Tensor
    reply: Code
    margin: float


class Solved(NamedTuple):
    """An approximate solution of a layer's Lasso.

    Attributes:
        code: Γ* in parts.
        objective: at Γ*, (B,), in float64.
        bound: a proven lower bound of the minimum, (B,), in float64.
        steps: steps of FISTA.
    """

    code: Code
    objective: Tensor
    bound: Tensor
    steps: int


@dataclass(frozen=True)
class LayerLasso(Lasso):
    """(P1) of one layer, min ½‖x − DΓ‖² + Σβ|Γ|, with a lower bound that is useful even if some β are 0.

    The certificate of ``Lasso`` scales the residual r until it is a dual point, dⱼᵀu ≤ βⱼ, and a single dⱼᵀr > 0 with
    βⱼ = 0 scales it to 0. Here r is first shifted along a slack e, as far as necessary. A slack exists unless the
    atoms without a penalty can cancel each other, Σγⱼdⱼ = 0 with γ ≥ 0; then the bound stays 0.

    Attributes:
        lipschitz: an upper bound L of λmax(DᵀD).
        slack: for codes Γ ≥ 0; None if it is not needed or not found.
        trivial: the identity part has neither penalty nor sign constraint, so that Γ = (x, 0) has objective 0.
    """

    lipschitz: float
    slack: DualSlack | None = None
    trivial: bool = False

    def prox(self, anchor: Code | None, update: Code, *, fresh: bool = False) -> Code:
        if not self.trivial:
            return super().prox(anchor, update, fresh=fresh)
        free, *cut = sums(anchor, update, fresh)
        return (free, *(self.shrink(z, self.step * b) for z, b in zip(cut, self.beta[1:], strict=True)))

    @torch.no_grad()
    def certificate(self, code: Code, residual: Tensor | None = None, dual: Tensor | None = None) -> Certificate:
        r = self.residual(code) if residual is None else residual
        plain = super().certificate(code, r)
        if self.trivial:
            return plain._replace(gap=(plain.objective > 0).double())
        if self.slack is None:
            return plain
        bound = self._bound(self.slack, r, plain.correlation).maximum(plain.objective * (1 - plain.gap))
        return plain._replace(gap=relative(plain.objective - bound, plain.objective))

    def _bound(self, slack: DualSlack, r: Tensor, correlation: Code) -> Tensor:
        """Return ⟨x, u⟩ − ½‖u‖² of the best dual feasible multiple u of r + a·e, (B,)."""
        pairs = zip(correlation, self.beta, strict=True)
        violation = _largest([c.clamp(min=0).masked_fill(b > 0, 0.0) for c, b in pairs])
        rounding = 8 * torch.finfo(r.dtype).eps * _largest([c.abs() for c in correlation])
        a = ((violation + rounding) / slack.margin).view(-1, *[1] * (r.dim() - 1))
        shifted = tuple(c + a * d for c, d in zip(correlation, slack.reply, strict=True))
        u, x = (r + a * slack.direction).flatten(1).double(), self.signal.flatten(1).double()
        overlap, energy = (x * u).sum(1), u.square().sum(1)
        best = torch.where(energy > 0, overlap / energy, 0.0).clamp(min=0)
        s = best.minimum(self.dual_scale(shifted)).nan_to_num(posinf=0.0)
        return s * overlap - 0.5 * s.square() * energy

    def first(self, count: int) -> "LayerLasso":
        """Return the problem of the first ``count`` examples."""
        return replace(self, signal=self.signal[:count])

    def with_slack(self, steps: int = 200) -> "LayerLasso":
        """Return the problem with a slack, if it needs one and one is found in ``steps`` steps."""
        if not self.nonnegative or self.trivial or all(bool((b > 0).all()) for b in self.beta):
            return self
        return replace(self, slack=_find_slack(self, steps))


@dataclass(frozen=True)
class LayerElasticNet(LayerLasso, ElasticNet):
    """The problem of a layer whose threshold has a ridge."""


@torch.no_grad()
def solve_lasso(problem: LayerLasso, max_steps: int, tol: float, start: Code | None = None) -> Solved:
    """Solve a layer's Lasso by FISTA, from zero or a code; for [I D] the identity part is minimized in closed form."""
    D, x = problem.dictionary, problem.signal
    if start is None:
        start = D.split(x.new_zeros(len(x), sum(D.code_channels), *(D.code_size(x.shape) if D.dims else ())))
    if problem.trivial:
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Solved((x, *(0 * part for part in start[1:])), zero, zero, 0)
    reduced = _reduced(problem)
    start = start[-1:] if isinstance(reduced, ReducedLasso) else start
    result = iterate(reduced, FISTA(), start, max_steps, tol)
    objective, gap, _ = result.certificate
    return Solved(reduced.full_code(result.code), objective, objective * (1 - gap), result.steps)


def _reduced(problem: LayerLasso) -> Lasso:
    """Return the problem with step size 1/L, and without its identity part if that has a closed form."""
    D = problem.dictionary
    if not isinstance(D, WithIdentity) or problem.curvature():
        return replace(problem, step=problem.step.new_tensor(1 / problem.lipschitz))
    c = problem.step.new_tensor(1 / max(problem.lipschitz - 1, 1e-12))  # I adds 1 to L, Lemma 3
    return ReducedLasso(problem.signal, D.dictionary, problem.beta[1:], problem.nonnegative, c, problem)


def relative(difference: Tensor, objective: Tensor) -> Tensor:
    """Return max(difference, 0)/objective, and 0 where the objective is 0."""
    return torch.where(objective > 0, difference.clamp(min=0) / objective, 0.0)


@torch.no_grad()
def _find_slack(problem: LayerLasso, most: int) -> DualSlack | None:
    """Search e by FISTA on ½Σ(2 + dⱼᵀe)₊² over the atoms without a penalty; D is the same for every example."""
    D, x = problem.dictionary, problem.signal[:1]
    norms = D.split(D.atom_norms(x.shape))
    free = [(b == 0) & (n > 0) for b, n in zip(problem.beta, norms, strict=True)]

    def descend(probe: Code) -> Code:
        residual = tuple(f * (2 + d).clamp(min=0) for f, d in zip(free, D.analyze_parts(probe[0]), strict=True))
        return (probe[0] - D.synthesize_parts(residual, x.shape) / problem.lipschitz,)

    solver = FISTA()
    state = solver.init((torch.zeros_like(x),))
    for step in range(most):
        state = solver.step(descend, state)
        if step % 10 == 9:
            reply = D.analyze_parts(state.code[0])
            top = max(float(d.masked_fill(~f, -torch.inf).amax()) for d, f in zip(reply, free, strict=True))
            if top <= -1:
                return DualSlack(state.code[0], reply, -top)
    return None


def _largest(parts: list[Tensor]) -> Tensor:
    """Return the largest entry of every example, (B,)."""
    return torch.stack([part.flatten(1).amax(1) for part in parts]).amax(0)
