"""``solve``: (P0) and (P1) on any dictionary, to a certificate, with gradients."""

import math
import warnings
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pursuitnet.dictionaries import CircularDictionary, Code, ConvDictionary, Dictionary, WithIdentity
from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.iterations.proximal import FISTA, ISTA, Solver
from pursuitnet.problems.admm import ADMM
from pursuitnet.problems.elastic_net import ElasticNet
from pursuitnet.problems.iht import IHT, ZeroNorm
from pursuitnet.problems.inputs import tensor_of
from pursuitnet.problems.lasso import Lasso, ReducedLasso, accelerated, lasso
from pursuitnet.problems.loop import ProblemSolver, Reason, SolverResult, iterate
from pursuitnet.problems.omp import OMP
from pursuitnet.problems.projection import conjugate_gradients
from pursuitnet.problems.working_set import WorkingSet


class ConvergenceWarning(UserWarning):
    """A solver has stopped before its tolerance or criterion was met."""


@dataclass(frozen=True)
class ReducedSolver:
    """Minimizes over the identity part of [I D] in closed form, and runs a solver on the remaining problem.

    It reaches the same optimum in far fewer steps, since L falls by 1 and the identity part is always optimal
    (see ``ReducedLasso``).

    Attributes:
        solver: ISTA() or FISTA().
    """

    whole_problem: ClassVar[bool] = True
    solver: Solver = FISTA()

    def __post_init__(self) -> None:
        check_solver(self.solver)
        if isinstance(self.solver, (OMP, IHT, WorkingSet, ReducedSolver, ADMM)):
            raise ValueError(f"solver is {self.solver}; expected ISTA() or FISTA(), which need only the update")


AnySolver = Solver | ProblemSolver[Lasso] | ReducedSolver | ADMM


@dataclass(frozen=True, repr=False)
class Solution:
    """The result of ``solve``.

    Attributes:
        code: Γ, (B, code_channels, …).
        objective: its objective in each example, (B,), in float64.
        gap: proven distance of the objective from the minimum, relative to the objective, (B,), in float64, up to the
            rounding of the signal's type; NaN for OMP and IHT, since (P0) has no duality gap.
        steps: number of steps taken.
        converged: whether every gap is at most tol (OMP: whether its criterion was met in every example; IHT: whether
            each is at a fixed point).
        objectives: the objective after every step, (steps + 1, B), if a trace was asked for.
        gaps: the gap after every step, in the same shape.
        reason: why it stopped: "converged"; "max_steps"; or "stalled", where the gap cannot fall further in the
            signal's type (OMP: where no atom is left that is independent of those selected).
        solver: the solver that was used: the one given, or the one that "auto" has chosen.
    """

    code: Float[Tensor, "B code_channels *code_size"]
    objective: Float[Tensor, " B"]
    gap: Float[Tensor, " B"]
    steps: int
    converged: Bool[Tensor, ""]
    objectives: Float[Tensor, "steps B"] | None = None
    gaps: Float[Tensor, "steps B"] | None = None
    reason: Reason = "converged"
    solver: object = None

    @staticmethod
    def of(code: Tensor, run: SolverResult, tol: float, solver: object = None) -> "Solution":
        """Return the solution that a run has ended with."""
        objective, gap, _ = run.certificate
        objectives = torch.stack([c.objective for c in run.trace]) if run.trace else None
        gaps = torch.stack([c.gap for c in run.trace]) if run.trace else None
        return Solution(code, objective, gap, run.steps, (gap <= tol).all(), objectives, gaps, run.reason, solver)

    def __repr__(self) -> str:
        shown = f"code={tuple(self.code.shape)}, objective={self.objective.tolist()}, gap={self.gap.tolist()}"
        return f"Solution({shown}, steps={self.steps}, reason={self.reason!r})"


def solve(
    signal: Float[Tensor, "B channels *size"],
    dictionary: Dictionary,
    beta: float | Tensor | None = None,
    solver: AnySolver | OMP | IHT | Literal["auto"] = "auto",
    nonnegative: bool = False,
    max_steps: int = 1000,
    tol: float | None = None,
    *,
    start: Tensor | None = None,
    restart: bool = True,
    trace: bool = False,
    ridge: float = 0.0,
    gradient: Literal["implicit", "unrolled"] | None = None,
    tile: None = None,
) -> Solution:
    """Solve (P1), min ½‖x − DΓ‖² + Σβ|Γ|, to a certificate, also with a ridge ½·ridge·‖Γ‖²; or (P0) by OMP or IHT.

    Gradients flow to the signal, the weights of the dictionary and β. "implicit" differentiates the optimality
    conditions on the support, with memory that does not grow with the steps; it is as exact as the solution, assumes
    that the atoms of the support are independent, and gives first derivatives only. "unrolled" differentiates through
    every step (not for OMP, IHT, WorkingSet and ADMM). The code has gradients if the signal or β requires them, or if
    ``gradient`` is given; that the weights of a dictionary are parameters is not enough.

    Args:
        signal: x, (B, channels, …), finite, in float32 or float64: a tensor, or an array of the dictionary's type.
        dictionary: D; a column of zeros gets the code 0.
        beta: β ≥ 0: a number, one for each channel of the code, (code_channels,), or a tensor that broadcasts against
            the code, which gives a weighted ℓ1 norm; a fraction of ``beta_max``, for instance. 0 gives least squares.
            For OMP and IHT it is the penalty of a non-zero in ½‖x − DΓ‖² + β‖Γ‖₀, 0 by default; it does not change the
            code for a given number of non-zeros.
        solver: FISTA(), ISTA(), WorkingSet(), ADMM(), ReducedSolver(…) for [I D], or for (P0), without a certificate,
            OMP(nonzeros) and IHT(). "auto" chooses one of the others by the kind of dictionary, the size of the signal
            and β (see ``suitable_solver``), and ``Solution.solver`` says which.
        nonnegative: restrict Γ to Γ ≥ 0.
        max_steps: maximum number of steps; if they are not enough, ``converged`` is False and ``gap`` is above tol.
        tol: relative duality gap to reach in every example; by default 1e-6 in float64 and 1e-4 in float32, whose
            rounding hides smaller ones. The gap is about quadratic in the error of the code: for n correct digits of
            the code and of implicit gradients choose a gap of 2n digits. 0 takes max_steps, without a warning. For IHT
            it is the relative change in a step.
        start: the initial code, (B, code_channels, …); zero by default.
        restart: restart FISTA's momentum where it points uphill.
        trace: keep objective and gap of every step, which about doubles the cost.
        ridge: a weight ≥ 0 of ½·ridge·‖Γ‖² beside Σβ|Γ|, the elastic net; not for OMP, IHT and ReducedSolver.
            It is scikit-learn's alpha·(1 − l1_ratio) times the size of the signal, and β its alpha·l1_ratio times that.
        gradient: "implicit" or "unrolled"; None for implicit ones where the signal or β requires them.
        tile: not supported: an optimum is global, so the solutions of tiles are not the solution of the whole.

    Raises:
        TypeError: for an argument of the wrong kind.
        ValueError: for input that does not fit; the message names the given and the expected value.

    Warns:
        ConvergenceWarning: if it stops before the tolerance is reached, unless tol or max_steps is 0.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.LinearDictionary(torch.eye(3, dtype=torch.float64))
        >>> solution = pn.solve(torch.tensor([[3.0, -2.0, 0.5]], dtype=torch.float64), D, beta=1.0)
        >>> solution.code.tolist()  # with the identity as D: the soft threshold
        [[2.0, -1.0, 0.0]]
        >>> bool(solution.converged), float(solution.gap) <= 1e-6
        (True, True)
    """
    _check_options(solver, nonnegative, max_steps, tol, gradient)
    if tile is not None:
        raise ValueError(
            f"tile is {tile!r}, but an optimum has no tiles: each coefficient depends on the whole signal, through all "
            "atoms between. Solve the whole, or use a network of a fixed number of steps, whose output depends only on "
            "its halo: pn.apply(model, image, tile)"
        )
    if beta is None and not isinstance(solver, (OMP, IHT)):
        raise TypeError(
            "beta is missing; expected a number ≥ 0, such as 0.1 * pn.beta_max(signal, dictionary), or 0 for least "
            "squares"
        )
    problem = with_ridge(lasso(signal, dictionary, 0.0 if beta is None else beta, nonnegative), ridge, solver)
    mode = gradient or ("implicit" if any(t.requires_grad for t in (problem.signal, *problem.beta)) else None)
    tol = default_tol(problem.signal) if tol is None else tol
    if isinstance(solver, str):  # without a step the code remains the one that was given
        solver = suitable_solver(problem, mode, tol) if max_steps else FISTA()
    if isinstance(solver, IHT) and solver.nonzeros is None and not any(bool(b.any()) for b in problem.beta):
        raise ValueError("IHT has neither nonzeros nor a beta > 0; expected one, as in solve(x, D, 0.1, pn.IHT())")
    if isinstance(solver, (OMP, IHT)):
        solution = _solve_zero_norm(problem, solver, max_steps, tol, start, mode is not None, trace)
        warn(solution, f"{type(solver).__name__} has not met its criterion", max_steps > 0 and tol > 0)
        return solution
    initial = dictionary.split(_initial_code(problem, start))
    with torch.set_grad_enabled(mode == "unrolled" and torch.is_grad_enabled()):
        run, code = run_solver(
            problem if mode == "unrolled" else accelerated(problem),
            solver,
            initial,
            max_steps,
            tol,
            restart=restart,
            trace=trace,
        )
    code = attach_implicit_gradient(problem, code) if mode == "implicit" else code
    solution = Solution.of(dictionary.join(code), run, tol, solver)
    warn(
        solution, f"the duality gap is {float(solution.gap.max()):.1e}, above tol = {tol:g}", max_steps > 0 and tol > 0
    )
    return solution


def with_ridge(problem: Lasso, ridge: Any, solver: Any) -> Lasso:
    """Return (P1) with a ridge, if it has a weight; raise ValueError for none, or one that a solver cannot take."""
    if isinstance(ridge, bool) or not isinstance(ridge, Real) or not 0 <= float(ridge) < math.inf:
        raise ValueError(f"ridge is {kind_of(ridge)}; expected a finite number ≥ 0")
    if ridge and isinstance(solver, (OMP, IHT, ReducedSolver)):
        raise ValueError(f"ridge is {ridge}, which {type(solver).__name__} does not take; expected 0, or FISTA()")
    return ElasticNet.of(problem, float(ridge)) if ridge else problem


def run_solver(
    problem: Lasso,
    solver: AnySolver,
    code: Code,
    max_steps: int,
    tol: float,
    *,
    restart: bool = True,
    trace: bool = False,
) -> tuple[SolverResult, Code]:
    """Return how a solver has ended, and the code of the problem, in parts.

    Args:
        problem: (P1).
        solver: any but OMP; what it does to the problem before it runs is done here.
        code: where to begin, in parts.
        max_steps: the most steps.
        tol: the relative gap to reach.
        restart: as in ``iterate``.
        trace: as there.
    """
    options = {"restart": restart, "trace": trace}
    if isinstance(solver, WorkingSet) and solver.initial_solver is not None:
        first, code = run_solver(
            problem, solver.initial_solver, code, max_steps, max(tol, solver.initial_tol), **options
        )
        solver, left = replace(solver, initial_solver=None), max_steps - first.steps
        run = iterate(problem, solver, code, left, tol, **options)
        run = run._replace(steps=first.steps + run.steps, trace=first.trace + run.trace[1:])
        return run, run.code
    if isinstance(solver, ADMM):
        split = solver.split(problem)
        run = iterate(split, ISTA(), split.begin(code), max_steps, tol, **options)
        return run, split.full_code(run.code)
    if isinstance(solver, ReducedSolver):
        problem, solver, code = ReducedLasso.of(problem), solver.solver, code[1:]
    run = iterate(problem, solver, code, max_steps, tol, **options)
    return run, problem.full_code(run.code)


SPARSE, DENSE = 0.022, 0.0405
"""Largest density of a sparse code, and smallest one of a dense code for a gap of 1e-2."""
SMALL = 1024
"""Number of entries of a signal below which a working set costs more than it saves."""


@torch.no_grad()
def suitable_solver(problem: Lasso, mode: str | None = None, tol: float = 0.0) -> AnySolver:
    """Return the solver that is likely to be the fastest.

    [I D] is reduced. For a convolution on large signals on a CPU it is a working set if the code is sparse, ADMM if it
    is dense, and between, a working set that ADMM begins: the smaller the gap to reach, the denser may the code be. The
    density is judged by the fraction of correlations |Dᵀx| above β. It counts the more, the larger the atoms are, since
    a step over a column takes as long as it has entries, and the less, the more atoms there are, since one over all of
    D takes as long as there are atoms. Codes of zero-padded dictionaries never count as dense. Everything else is
    solved by FISTA. The limits and exponents are fitted to the times of ``benchmarks/solvers_grid.py``.

    Args:
        problem: (P1).
        mode: of the gradient; for "unrolled" only a solver that has gradients through its steps is chosen.
        tol: the relative gap to reach.
    """
    D, x = problem.dictionary, problem.signal
    if isinstance(D, WithIdentity) and not problem.curvature():
        return ReducedSolver()
    small_or_unmeasured = x[0].numel() < SMALL or x.device.type != "cpu"
    if mode == "unrolled" or small_or_unmeasured or not isinstance(D, ConvDictionary):
        return FISTA()
    (correlation,), (beta,) = D.analyze_parts(x), problem.beta
    above = (correlation if problem.nonnegative else correlation.abs()) > beta
    density = float(above.float().mean()) * D.weight[0].numel() ** 0.15 / len(D.weight) ** 0.8
    if density <= SPARSE:
        return WorkingSet()
    if type(D) not in (ConvDictionary, CircularDictionary) or max(D.stride) > 1 or D.groups > 1:
        return FISTA()
    periodic = isinstance(D, CircularDictionary)  # with mask decoupling ADMM takes more than twice as many steps
    dense = periodic and density > DENSE * (1e-2 / max(tol, 1e-8)) ** 0.15
    return ADMM() if dense else WorkingSet(initial_solver=ADMM())


def default_tol(signal: Tensor) -> float:
    """Return the default gap to reach: what can be proven in a type despite its rounding, with some margin."""
    return 1e-6 if signal.dtype == torch.float64 else 1e-4


def warn(solution: Solution, problem: str, wanted: bool, stacklevel: int = 3) -> None:
    """Warn of a solution that has not converged, with a remedy.

    Args:
        solution: the solution.
        problem: what has not been reached, for the message.
        wanted: whether convergence was wanted, and not just a number of steps.
        stacklevel: that of the caller, as in ``warnings.warn``.
    """
    if not wanted or solution.reason == "converged":
        return
    remedy = "give more max_steps, a larger tol, or another solver"
    if solution.reason == "stalled" and solution.gap.isnan().all():
        remedy = "no other atom is independent of those selected; ask for fewer non-zeros or a larger residual"
    elif solution.reason == "stalled":
        double = ", or compute in float64" if solution.code.dtype == torch.float32 else ""
        remedy = f"it falls no further in {str(solution.code.dtype).removeprefix('torch.')}: give a larger tol{double}"
    warnings.warn(f"after {solution.steps} steps {problem}; {remedy}", ConvergenceWarning, stacklevel=stacklevel)


def check_solver(solver: Any) -> None:
    """Raise TypeError unless this is a solver: with ``init`` and ``step``, or one of the library."""
    names = {kind.__name__.lower(): kind.__name__ for kind in (ISTA, FISTA, ADMM, WorkingSet, ReducedSolver, OMP, IHT)}
    if isinstance(solver, type):
        raise TypeError(f"solver is the class {solver.__name__}; expected an object: {solver.__name__}()")
    if isinstance(solver, str):
        known = names.get(solver.lower().replace("_", ""), "FISTA")
        raise TypeError(f"solver is {solver!r}; expected an object, as in solver=pn.{known}(), or 'auto'")
    own = isinstance(solver, (ReducedSolver, ADMM, OMP, IHT))
    if not own and not (hasattr(solver, "init") and hasattr(solver, "step")):
        raise TypeError(f"solver is {kind_of(solver)}; expected one of {', '.join(f'{n}()' for n in names.values())}")


def check_budget(max_steps: Any, tol: Any, name: str = "tol") -> None:
    """Raise TypeError or ValueError unless these are a valid number of steps and a valid tolerance, so named."""
    if not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 0:
        raise ValueError(f"max_steps is {max_steps!r}; expected an integer ≥ 0")
    if tol is not None and (not isinstance(tol, Real) or isinstance(tol, bool)):
        raise TypeError(
            f"{name} is {tol!r}; expected a number ≥ 0{', or None for the default' if name == 'tol' else ''}"
        )
    if tol is not None and not float(tol) >= 0:
        raise ValueError(f"{name} is {tol}; expected a number ≥ 0")


def _check_options(solver: Any, nonnegative: Any, max_steps: Any, tol: Any, gradient: Any) -> None:
    if solver != "auto":
        check_solver(solver)
    check_budget(max_steps, tol)
    if not isinstance(nonnegative, bool):
        raise TypeError(f"nonnegative is {kind_of(nonnegative)}; expected True or False")
    if gradient not in ("implicit", "unrolled", None):
        raise ValueError(f"gradient is {gradient!r}; expected 'implicit' or 'unrolled'")
    if gradient == "unrolled" and isinstance(solver, (OMP, IHT, WorkingSet, ADMM)):
        raise ValueError(f"gradient is 'unrolled', which {type(solver).__name__} does not offer; expected 'implicit'")


def attach_implicit_gradient(problem: Lasso, code: Code) -> Code:
    """Return the solution with gradients to signal, weights and β, by the implicit function theorem.

    On the support S with signs s, 0 = D_Sᵀ(x − DΓ) − β_S·s =: F defines Γ_S, so dΓ_S = (D_SᵀD_S)⁻¹ dF at fixed Γ:
    the cotangent of F is the solution of one linear system, computed by conjugate gradients.
    """
    inputs = [problem.signal, *problem.dictionary.parameters(), *problem.beta]
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in inputs):
        return code
    D, support = problem.dictionary, [(c != 0).to(c.dtype) for c in code]
    correlation = D.analyze_parts(problem.residual(code))
    F = D.join(
        tuple(m * (d - b * c.sign()) for m, d, b, c in zip(support, correlation, problem.beta, code, strict=True))
    )
    mask = D.join(tuple(support))

    solution = D.join(code)
    probe = torch.zeros_like(solution, requires_grad=True)
    gram_probe = mask * (D.analyze(D.synthesize(mask * probe, problem.signal.shape)) + problem.curvature() * probe)

    def gram(v: Tensor) -> Tensor:  # symmetric, so its own transpose; it keeps the present weights
        return torch.autograd.grad(gram_probe, probe, v, retain_graph=True)[0]

    if F.requires_grad:
        F.register_hook(lambda v: None if v is None else conjugate_gradients(gram, mask * v))
    return D.split(solution + (F - F.detach()))


def _initial_code(problem: Lasso, start: Tensor | None) -> Tensor:
    """Return the initial code: the one that was given, or zero."""
    x, D = problem.signal, problem.dictionary
    if start is None:
        return x.new_zeros(len(x), sum(D.code_channels), *(D.code_size(x.shape) if D.dims else ()))
    start = tensor_of("start", start, x)
    D.check_code(start, x.shape, "start")
    if start.dtype != x.dtype:
        raise ValueError(f"start is {start.dtype}, the signal {x.dtype}; convert one, as in start.double()")
    if not start.isfinite().all() or (problem.nonnegative and (start < 0).any()):
        raise ValueError(f"start holds values that are not finite{' or negative' if problem.nonnegative else ''}")
    return start.detach()


def _solve_zero_norm(
    problem: Lasso, solver: OMP | IHT, max_steps: int, tol: float, start: Tensor | None, gradient: bool, trace: bool
) -> Solution:
    """Return the solution of (P0) by OMP or IHT, which has no gap."""
    D = problem.dictionary
    if isinstance(solver, OMP):
        if problem.nonnegative or start is not None:
            raise ValueError(
                "OMP takes neither nonnegative=True nor a start; its codes are of any sign and start at zero"
            )
        code, steps, met = solver.run(problem.signal, D, max_steps)
        objectives = [ZeroNorm.of(problem, None).objective(D.split(code)).detach()]
    else:
        parts, steps, met, objectives = solver.run(problem, D.split(_initial_code(problem, start)), max_steps, tol)
        code = D.join(parts)
    if gradient:
        fitted = Lasso(problem.signal, D, tuple(torch.zeros_like(b) for b in problem.beta), False, problem.step)
        code = D.join(attach_implicit_gradient(fitted, D.split(code)))
    reason: Reason = "converged" if met.all() else "max_steps" if steps == max_steps else "stalled"
    nan, kept = torch.full_like(objectives[-1], math.nan), torch.stack(objectives) if trace and steps else None
    return Solution(code, objectives[-1], nan, steps, met.all(), kept, reason=reason, solver=solver)
