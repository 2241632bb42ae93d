"""The measurements of one layer: its dictionary, its code, the theory's bounds, and how far its Lasso is solved."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pursuitnet import theory
from pursuitnet.dictionaries import ConvDictionary, Dictionary, LinearDictionary, WithIdentity
from pursuitnet.program.trace import best_scale, density, describe_dictionary, relative_error
from pursuitnet.program.whitebox.interpret import InterpretedLayer, with_channels_scaled
from pursuitnet.program.whitebox.problem import Solved, relative

LARGEST_MATRIX = 2**24  # entries; other dictionaries than convolutions and matrices are measured by their matrix


@dataclass(frozen=True)
class SolverBudget:
    """The budget for solving the Lasso of each layer.

    Attributes:
        images: number of images to solve for, the first ones.
        further: further steps to take from the layer's own code.
        steps: most steps of FISTA.
        tol: relative gap at which to stop.
    """

    images: int = 8
    further: int = 4
    steps: int = 150
    tol: float = 5e-3

    def __post_init__(self) -> None:
        if self.images < 1 or self.further < 0 or self.steps < 0 or not self.tol >= 0:
            raise ValueError(f"{self}: expected images ≥ 1, and the others ≥ 0")


@dataclass(frozen=True)
class Spread:
    """The smallest, the median and the largest of several numbers; None if there are none."""

    least: float | None
    median: float | None
    most: float | None

    @staticmethod
    def of(values: Tensor) -> "Spread":
        """Return the spread of the finite values."""
        finite = values.flatten().double()
        finite = finite[finite.isfinite()]
        if not len(finite):
            return Spread(None, None, None)
        return Spread(float(finite.min()), float(finite.quantile(0.5)), float(finite.max()))


@dataclass(frozen=True)
class Guarantee:
    """Whether a lemma applies, value < bound, and how far it is from applying.

    Attributes:
        value: the quantity that the lemma bounds, over the images.
        bound: ½(1 + 1/μ); None for μ = 0, where the lemma always applies, and if μ is not known.
        ratio: median of value/bound; above 1 the lemma does not apply to the median image.
        share: fraction of the images to which it applies; None if μ is not known.
    """

    value: Spread
    bound: float | None
    ratio: float | None
    share: float | None


@dataclass(frozen=True)
class Solving:
    """How far a layer's code is from the minimum P* of its Lasso; medians over ``images``.

    Attributes:
        images: number of images that the Lasso was solved for.
        objective: P(Γ)/P(0), where P(0) = ½‖x‖² is the objective of Γ = 0.
        minimum: P*/P(0): a proven lower bound, and the smallest value reached.
        gain: (P(0) − P(Γ))/(P(0) − P*), the fraction of the possible gain; negative if Γ = 0 is better.
        duality_gap: (P(Γ) − the bound that Γ itself proves)/P(Γ), as ``solve`` reports it.
        gap: (P − the best proven bound)/P at Γ and after 1, 2, … further steps: an upper bound of the true gap.
        gap_at_least: the same with the smallest objective reached: a lower bound of the true gap.
        step: c of the further steps, the layer's own unless it exceeds 1/L.
        steps: steps of FISTA of the solution.
        density: fraction of the solution's atom codes that are not zero.
        identity_density: of its identity part; None without one.
    """

    images: int
    objective: float | None
    minimum: tuple[float | None, float | None]
    gain: float | None
    duality_gap: float | None
    gap: tuple[float | None, ...]
    gap_at_least: tuple[float | None, ...]
    step: float
    steps: int
    density: float
    identity_density: float | None


@dataclass(frozen=True)
class Layer:
    """The measurements of one layer. Codes are in the units of its Lasso (``InterpretedLayer``); errors are medians.

    Attributes:
        name: of the module in the model.
        dictionary: short description.
        start: name of its start.
        block: what it is in its network: plain, dense (a code of [I D], or older channels are concatenated with its
            code), or a start at X₋₁, such as resnet.
        signal: the shape of its input, without the batch.
        code: the shape of its code.
        coherence: μ(D) of the learned atoms, away from the border; None if all atoms are zero, or if a dictionary of
            another kind is too large for its matrix.
        coherence_with_identity: μ([I D]), whether or not the layer has the I; None if I does not fit.
        lipschitz: (lower, upper) around L = λmax(DᵀD) for this size of the signal.
        step: c.
        step_times_lipschitz: c·L with the upper L; if at most 1, no step increases the objective.
        beta: of the atoms, before negative values are replaced by 0.
        beta_identity: of the identity part; None without one.
        thresholds_below_zero: number of atoms without a β ≥ 0.
        density: fraction of the atoms' code that is not zero.
        identity_density: of the identity part.
        lemma1: ‖Γ‖₀ against the bound of Lemma 1.
        lemma2: the stripe norm against the bound of Lemma 2.
        error: ‖x − DΓ‖/‖x‖.
        error_handed_on: the same with the layer's output instead of the code.
        error_scaled: the same with the best multiple of the code.
        unsuccessful: fraction of the signal's dimensions with |x − DΓ| > 2β (Definition 1).
        unsuccessful_atoms: the same for the atoms alone, without the identity part; None if there is no such part.
        proximal: whether the layer's last step is a proximal step on the Lasso.
        solving: how far it has solved the Lasso.
        notes: where the layer departs from this reading.
    """

    name: str
    dictionary: str
    start: str
    block: str
    signal: tuple[int, ...]
    code: tuple[int, ...]
    coherence: float | None
    coherence_with_identity: float | None
    lipschitz: tuple[float, float]
    step: float
    step_times_lipschitz: float
    beta: Spread
    beta_identity: Spread | None
    thresholds_below_zero: int
    density: float
    identity_density: float | None
    lemma1: Guarantee
    lemma2: Guarantee
    error: float | None
    error_handed_on: float | None
    error_scaled: float | None
    unsuccessful: float
    unsuccessful_atoms: float | None
    proximal: bool
    solving: Solving
    notes: tuple[str, ...]


@torch.no_grad()
def measure(layer: InterpretedLayer, solution: Solved, further: int) -> Layer:
    """Return the measurements of a layer.

    Args:
        layer: the layer.
        solution: of its Lasso for the first few images.
        further: further steps to take from the layer's own code.
    """
    D, x, code = layer.dictionary, layer.signal, layer.code
    mu_atoms, mu_identity = coherences(D, x.shape)
    mu = mu_identity if layer.identity_channels else mu_atoms
    lower, upper = theory.lipschitz_interval(D, x.shape, steps=12)
    reconstruction, I = D.synthesize(code, x.shape), layer.identity_channels
    return Layer(
        name=layer.name,
        dictionary=describe_dictionary(D),
        start=layer.layer.start.name,
        block=layer.block,
        signal=tuple(x.shape[1:]),
        code=tuple(code.shape[1:]),
        coherence=mu_atoms,
        coherence_with_identity=mu_identity,
        lipschitz=(lower, upper),
        step=layer.step,
        step_times_lipschitz=layer.step * upper,
        beta=Spread.of(layer.raw_beta[I:]),
        beta_identity=Spread.of(layer.raw_beta[:I]) if I else None,
        thresholds_below_zero=int((layer.raw_beta[I:] < 0).sum()),
        density=density(code[:, I:]),
        identity_density=density(code[:, :I]) if I else None,
        lemma1=_guarantee((code != 0).flatten(1).sum(1), mu, strictly=True),
        lemma2=_guarantee(theory.stripe_norm(code, D), mu, strictly=False),
        error=Spread.of(relative_error(x, reconstruction)).median,
        error_handed_on=Spread.of(relative_error(x, D.synthesize(layer.codes[-1], x.shape))).median,
        error_scaled=Spread.of(relative_error(x, scaled(x, reconstruction))).median,
        unsuccessful=_unsuccessful(layer, reconstruction),
        unsuccessful_atoms=_unsuccessful(layer, reconstruction - code[:, :I]) if I else None,
        proximal=layer.proximal,
        solving=solving(layer, solution, further),
        notes=layer.notes,
    )


@torch.no_grad()
def solving(layer: InterpretedLayer, solution: Solved, further: int) -> Solving:
    """Take further steps of the layer's own update from its code, and compare with the solution."""
    count = len(solution.objective)
    problem, D = layer.problem.first(count), layer.dictionary
    code = D.split(layer.code[:count])
    certificates = [problem.certificate(code)]
    for _ in range(further):
        code = problem(code)
        certificates.append(problem.certificate(code))
    objectives = [c.objective for c in certificates]
    bound = torch.stack([solution.bound, *(c.objective * (1 - c.gap) for c in certificates)]).amax(0)
    best = torch.stack([solution.objective, *objectives]).amin(0)
    nothing = 0.5 * problem.signal.flatten(1).double().square().sum(1)
    *identity, atoms = solution.code
    return Solving(
        images=len(problem.signal),
        objective=Spread.of(objectives[0] / nothing).median,
        minimum=(Spread.of(bound / nothing).median, Spread.of(best / nothing).median),
        gain=Spread.of((nothing - objectives[0]) / (nothing - best)).median,
        duality_gap=Spread.of(certificates[0].gap).median,
        gap=tuple(Spread.of(relative(o - bound, o)).median for o in objectives),
        gap_at_least=tuple(Spread.of(relative(o - best, o)).median for o in objectives),
        step=float(problem.step),
        steps=solution.steps,
        density=density(atoms),
        identity_density=density(identity[0]) if identity else None,
    )


def coherences(D: Dictionary, signal_shape: tuple[int, ...]) -> tuple[float | None, float | None]:
    """Return μ(D) of the learned atoms and μ([I D]), in the interior of a large signal, without zero atoms."""
    inner = D.dictionary if isinstance(D, WithIdentity) else D
    if not isinstance(inner, ConvDictionary | LinearDictionary):
        small = math.prod(signal_shape[1:]) * math.prod(D.atom_norms(signal_shape).shape) <= LARGEST_MATRIX
        return (theory.mutual_coherence(D, signal_shape), None) if small else (None, None)
    kept = _without_zeros(inner)
    if kept is None:
        return None, None
    fits = not isinstance(kept, ConvDictionary) or kept.keeps_size
    return theory.mutual_coherence(kept), theory.mutual_coherence(WithIdentity(kept)) if fits else None


def scaled(signal: Tensor, model: Tensor) -> Tensor:
    """Return the multiple a ≥ 0 of each model that is nearest to its signal."""
    a = best_scale(signal, model)
    return a.view(-1, *[1] * (model.dim() - 1)) * model


def _without_zeros(D: ConvDictionary | LinearDictionary) -> ConvDictionary | LinearDictionary | None:
    keep = D.weight.flatten(1).abs().amax(dim=1) > 0
    if keep.all() or not keep.any():
        return D if keep.all() else None
    kept = with_channels_scaled(D, torch.ones_like(D.weight.flatten(1)[:, 0]))
    kept.weight = torch.nn.Parameter(D.weight.detach()[keep])
    kept.code_channels = (int(keep.sum()),)
    return kept  # type: ignore[return-value]  # the same kind as D


def _guarantee(values: Tensor, mu: float | None, *, strictly: bool) -> Guarantee:
    value = Spread.of(values)
    if mu is None:
        return Guarantee(value, None, None, None)
    bound = theory.uniqueness_bound(mu)
    holds = values < bound if strictly else values <= bound
    ratio = None if value.median is None else value.median / bound
    return Guarantee(value, None if math.isinf(bound) else bound, ratio, float(holds.double().mean()))


def _unsuccessful(layer: InterpretedLayer, reconstruction: Tensor) -> float:
    """Return the fraction of |x − ξ| > 2β, with β of each channel's identity part, or else the mean of the atoms' β."""
    beta = layer.raw_beta.clamp(min=0)
    beta = _broadcast(beta[: layer.identity_channels], reconstruction) if layer.identity_channels else beta.mean()
    return float(theory.unsuccessful(layer.signal, reconstruction, beta).double().mean())


def _broadcast(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))
