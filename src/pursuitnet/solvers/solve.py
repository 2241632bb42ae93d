"""``solve``: (P0) and (P1) on any dictionary, to a certificate, with gradients."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pursuitnet.dictionaries import Code, Dictionary
from pursuitnet.problems import Lasso, ReducedLasso, lasso
from pursuitnet.solvers.loop import ProblemSolver, Run, iterate
from pursuitnet.solvers.matching import OMP
from pursuitnet.solvers.proximal import FISTA, Solver
from pursuitnet.solvers.working_set import WorkingSet


@dataclass(frozen=True)
class Reduced:
    """Takes the identity part out of [I D] by minimising over it in closed form, and runs a solver on what is left.

    The same optimum in far fewer steps, since L falls by 1 and the identity part is always at its best
    (see ``ReducedLasso``).

    Attributes:
        solver: ISTA() or FISTA().
    """

    solver: Solver = FISTA()

    def __post_init__(self) -> None:
        if isinstance(self.solver, (OMP, WorkingSet, Reduced)):
            raise ValueError(f"solver is {self.solver}; expected ISTA() or FISTA(), which need the update alone")


@dataclass(frozen=True, repr=False)
class Solution:
    """What ``solve`` has found.

    Attributes:
        code: Γ, (B, rows, …).
        objective: its objective in each example, (B,), in float64.
        gap: proven distance of the objective from the minimum, relative to the objective, (B,), in float64, up to the
            rounding of the signal's type; NaN for OMP, since (P0) has no such proof.
        steps: steps that were taken.
        converged: whether every gap is at most tol (OMP: whether its criterion was met in every example).
        objectives: the objective after every step, (steps + 1, B), if a trace was asked for.
        gaps: the gap after every step, alike.
    """

    code: Float[Tensor, "B rows *code_size"]
    objective: Float[Tensor, " B"]
    gap: Float[Tensor, " B"]
    steps: int
    converged: Bool[Tensor, ""]
    objectives: Float[Tensor, "steps B"] | None = None
    gaps: Float[Tensor, "steps B"] | None = None

    @staticmethod
    def of(code: Tensor, run: Run, tol: float) -> "Solution":
        """Return where a run has ended."""
        objective, gap, _ = run.certificate
        traces = [torch.stack(values) for values in zip(*(c[:2] for c in run.trace), strict=True)]
        return Solution(code, objective, gap, run.steps, (gap <= tol).all(), *traces)

    def __repr__(self) -> str:
        shown = f"code={tuple(self.code.shape)}, objective={self.objective.tolist()}, gap={self.gap.tolist()}"
        return f"Solution({shown}, steps={self.steps}, converged={bool(self.converged)})"


def solve(
    signal: Float[Tensor, "B channels *size"],
    dictionary: Dictionary,
    beta: float | Tensor = 0.0,
    solver: Solver | ProblemSolver[Lasso] | Reduced | OMP = FISTA(),
    nonnegative: bool = False,
    max_steps: int = 1000,
    tol: float = 1e-6,
    *,
    start: Tensor | None = None,
    restart: bool = True,
    trace: bool = False,
    gradient: Literal["implicit", "unrolled"] = "implicit",
) -> Solution:
    """Solve (P1), min ½‖x − DΓ‖² + Σβ|Γ|, to a certificate; or (P0) by OMP.

    Gradients flow to the signal, the weights of the dictionary and β: "implicit" differentiates the conditions of
    optimality on the support, with memory that does not grow with the steps; it is as exact as the solution, and
    supposes that the atoms of the support are independent, and it is for first derivatives only. "unrolled"
    differentiates through every step (not OMP, WorkingSet).

    Args:
        signal: x, (B, channels, …), finite.
        dictionary: D; a column of zeros gets the code 0.
        beta: β ≥ 0: a number, one for each row of the code (rows,), or a tensor that broadcasts against the code. For
            OMP it is the price of a non-zero in the objective ½‖x − DΓ‖² + β‖Γ‖₀ and does not change the code.
        solver: FISTA(), ISTA(), WorkingSet(), Reduced(…) for [I D], or OMP(nonzeros).
        nonnegative: look among Γ ≥ 0 only.
        max_steps: the most steps to take; if they do not suffice, ``converged`` is False and ``gap`` says how far.
        tol: relative duality gap to reach in every example. The gap is about quadratic in the error of the code: for n
            digits of the code and of implicit gradients ask for 2n of the gap.
        start: a code to begin at, (B, rows, …); zero by default.
        restart: let FISTA's momentum start anew where it points uphill.
        trace: keep objective and gap of every step, which about doubles the cost.
        gradient: "implicit" or "unrolled".

    Raises:
        ValueError: for input that does not fit; the message says what came and what was expected.
    """
    if not isinstance(max_steps, int) or max_steps < 0:
        raise ValueError(f"max_steps is {max_steps}; expected an integer ≥ 0")
    if not tol >= 0:
        raise ValueError(f"tol is {tol}; expected a number ≥ 0")
    if gradient not in ("implicit", "unrolled"):
        raise ValueError(f"gradient is {gradient!r}; expected 'implicit' or 'unrolled'")
    if gradient == "unrolled" and isinstance(solver, (OMP, WorkingSet)):
        raise ValueError(f"gradient is 'unrolled', which {type(solver).__name__} does not offer; expected 'implicit'")
    problem = lasso(signal, dictionary, beta, nonnegative)
    if isinstance(solver, OMP):
        return _matched(problem, solver, max_steps, start)
    whole, begin = problem, dictionary.split(_begin(problem, start))
    if isinstance(solver, Reduced):
        problem, solver, begin = ReducedLasso.of(problem), solver.solver, begin[1:]
    with torch.set_grad_enabled(gradient == "unrolled" and torch.is_grad_enabled()):
        run = iterate(problem, solver, begin, max_steps, tol, restart=restart, trace=trace)
        code = problem.complete(run.code)
    if gradient == "implicit":
        code = attach(whole, code)
    return Solution.of(dictionary.join(code), run, tol)


def attach(problem: Lasso, code: Code) -> Code:
    """Return the solution with gradients to signal, weights and β, by the implicit function theorem.

    On the support S with signs s, 0 = D_Sᵀ(x − DΓ) − β_S·s =: F defines Γ_S, so dΓ_S = (D_SᵀD_S)⁻¹ dF at fixed Γ:
    the cotangent of F is the solution of one linear system, by conjugate gradients.
    """
    wanted = [problem.signal, *problem.dictionary.parameters(), *problem.beta]
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in wanted):
        return code
    D, support = problem.dictionary, [(c != 0).to(c.dtype) for c in code]
    correlation = D.analyze_parts(problem.residual(code))
    F = D.join(
        tuple(m * (d - b * c.sign()) for m, d, b, c in zip(support, correlation, problem.beta, code, strict=True))
    )
    mask = D.join(tuple(support))

    whole = D.join(code)
    probe = torch.zeros_like(whole, requires_grad=True)
    image = mask * D.analyze(D.synthesize(mask * probe, problem.signal.shape))

    def gram(v: Tensor) -> Tensor:  # symmetric, so its own transpose; it keeps the weights of this moment
        return torch.autograd.grad(image, probe, v, retain_graph=True)[0]

    if F.requires_grad:
        F.register_hook(lambda v: None if v is None else conjugate_gradients(gram, mask * v))
    return D.split(whole + (F - F.detach()))


@torch.no_grad()
def conjugate_gradients(gram: Callable[[Tensor], Tensor], right: Tensor, most: int = 1000) -> Tensor:
    """Return the solution w of gram(w) = right, each example by itself, to about the square root of rounding."""
    dims, tol = tuple(range(1, right.dim())), torch.finfo(right.dtype).eps ** 0.8
    w, rest = torch.zeros_like(right), right.clone()
    direction, energy = rest, rest.square().sum(dims, keepdim=True)
    goal = energy * tol**2
    for _ in range(most):
        active = energy > goal
        if not bool(active.any()):
            break
        image = gram(direction)
        a = torch.where(active, energy / (direction * image).sum(dims, keepdim=True), 0.0)
        w, rest = w + a * direction, rest - a * image
        energy, last = rest.square().sum(dims, keepdim=True), energy
        direction = rest + torch.where(active, energy / last, 0.0) * direction
    return w


def _begin(problem: Lasso, start: Tensor | None) -> Tensor:
    """Return the code to begin at: a guess that was given, or zero."""
    x, D = problem.signal, problem.dictionary
    if start is None:
        return x.new_zeros(len(x), sum(D.rows), *(D.code_size(x.shape) if D.dims else ()))
    D.check_code(start, x.shape, "start")
    if start.dtype != x.dtype:
        raise ValueError(f"start is {start.dtype}, the signal {x.dtype}; convert one, as in start.double()")
    if not start.isfinite().all() or (problem.nonnegative and (start < 0).any()):
        raise ValueError(f"start holds values that are not finite{' or negative' if problem.nonnegative else ''}")
    return start.detach()


def _matched(problem: Lasso, solver: OMP, max_steps: int, start: Tensor | None) -> Solution:
    """Return the solution of OMP."""
    D = problem.dictionary
    if problem.nonnegative or start is not None:
        raise ValueError("OMP takes neither nonnegative=True nor a start; it grows a support of any sign from nothing")
    code, steps, met = solver.run(problem.signal, D, max_steps)
    price = D.join(tuple(b * (c != 0) for b, c in zip(problem.beta, D.split(code), strict=True)))
    energy = problem.residual(D.split(code)).flatten(1).double().square().sum(1)
    objective = (0.5 * energy + price.flatten(1).sum(1)).detach()
    fitted = Lasso(problem.signal, D, tuple(torch.zeros_like(b) for b in problem.beta), False, problem.step)
    code = D.join(attach(fitted, D.split(code)))
    return Solution(code, objective, torch.full_like(objective, math.nan), steps, met.all())
