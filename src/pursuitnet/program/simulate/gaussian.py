"""The simulated experiment of Section V-B: 100 Gaussian classes, two hidden layers, Definition 1 after every step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet.dictionaries import LinearDictionary, WithIdentity
from pursuitnet.layer import PursuitLayer
from pursuitnet.problems import solve
from pursuitnet.program.train.trainer import accuracy
from pursuitnet.prox.step_size import AbsorbedStep, BoundedStep
from pursuitnet.prox.threshold import IdentityPenalty, Threshold
from pursuitnet.theory import beta_of_bias, unsuccessful

LENGTH, CLASSES, TRAIN, TEST = 100, 100, 10_000, 2_000
MODELS = ("ML-CSC", "MSD-CSC")
OPTIMUM_GAP = 1e-3  # of the duality gap, relative to the objective

Curve = dict[str, list[float]]
"""The values at each counted iteration, by name."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One reading of the experiment of Fig. 4: everything that determines its curves, except the seed.

    The paper gives the length 100, the 100 classes, 10,000 and 2,000 points, two hidden layers, β = b·L with
    L = 2·λmax, and "the same regularization parameter" for both models; SGD is that of its Section VII-B. The rest is
    not specified. Of the two signs of b in the paper, the default is the one with which training gives a β > 0.
    """

    noise: float = 0.3
    """Standard deviation of the noise around a center."""

    centers: Literal["normal", "uniform"] = "normal"
    """The entries of the 100 centers: N(0, 1), or uniform in [0, 1], so that signals are mostly positive."""

    width: int = 100
    """Atoms of each hidden layer."""

    nonnegative: bool = True
    """S⁺ (ReLU) or S."""

    step: Literal["absorbed", "bounded"] = "absorbed"
    """Dᵀ holds the network's weights and c = 1 (Algorithm 1), or c = 1/L with L = λmax(DᵀD) (Eq. 3)."""

    bias: Literal["added", "subtracted", "size", "kept"] = "added"
    """The b of β = b·L. "added": the bias of ReLU(z + b), of any sign, as in networks and in Algorithms 2 and 3.
    "subtracted": the same network, written ReLU(z − b) as in Eq. 2. "size": the mean of |b|. "kept": subtracted and
    constrained to b ≥ 0 in training, so that it is the β of a Lasso problem."""

    one_bias: bool = False
    """One bias for all atoms of a layer, or one for each; β = b·L then uses their mean."""

    identity: IdentityPenalty = IdentityPenalty.OWN
    """The bias of the identity part of MSD-CSC."""

    unfolding: int = 0
    """Steps after the first."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with momentum 0.9, or Adam."""

    lr: float = 0.05
    """Learning rate."""

    batch_size: int = 128
    """Points per step of the optimizer."""

    iterations: int = 300
    """Steps of the optimizer."""

    every: int = 1
    """Number of steps between two counts; an epoch has 79."""

    lipschitz: Literal["paper", "ours"] = "paper"
    """L = 2·λmax(DᵀD), or λmax(DᵀD)."""

    beta: Literal["same", "own", "counted", "twin"] = "same"
    """MSD-CSC's β. "same": after every step its biases are set so that b·L is that of ML-CSC, for each atom (the mean
    for the identity part). "twin": the same, and its first layer has ML-CSC's filters. "own": it learns its own.
    "counted": it learns its own, and is counted with ML-CSC's."""

    layers: Literal[1, 2] = 1
    """Reconstruct the signal from the first code, D₁Γ₁, or from the second, D₁D₂Γ₂."""

    code: Literal["network", "optimum"] = "network"
    """The code of the network, or the optimum of the first layer's Lasso problem with the same D and β."""

    counted: int = TEST
    """Number of test points to count on, in random order."""


class TwoLayers(nn.Module):
    """Two pursuits and a linear classifier, (B, 100) → (B, 100 classes); with the initial weights of ``nn.Linear``.

    Args:
        variation: the reading.
        dense: [I D] instead of D in both layers: MSD-CSC instead of ML-CSC.
        seed: of the weights; torch's global generator is not changed.
    """

    def __init__(self, variation: Variation, dense: bool, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first = _layer(variation, LENGTH, dense)
            second = _layer(variation, sum(first.dictionary.code_channels), dense)
            self.head = nn.Linear(sum(second.dictionary.code_channels), CLASSES)
        self.first, self.second = first, second

    def forward(self, x: Float[Tensor, "B length"]) -> Float[Tensor, "B classes"]:
        return self.head(self.second(self.first(x)))


def draw(variation: Variation, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test data, each as signals (n, 100) and labels (n,), the test data in random order."""
    generator = torch.Generator().manual_seed(seed)
    make = torch.randn if variation.centers == "normal" else torch.rand
    centers = make(CLASSES, LENGTH, generator=generator)
    parts = []
    for count in (TRAIN, TEST):
        labels = torch.arange(count) % CLASSES
        noise = variation.noise * torch.randn(count, LENGTH, generator=generator)
        order = torch.randperm(count, generator=generator)
        parts.append(((centers[labels] + noise)[order], labels[order]))
    return parts[0], parts[1]


def curves(variation: Variation, seed: int) -> dict[str, Curve]:
    """Train both models on the same batches and return the results of ``measure``, by model.

    Raises:
        ValueError: if iterations, every, counted or width is below 1.
    """
    for name in ("iterations", "every", "counted", "width"):
        if getattr(variation, name) < 1:
            raise ValueError(f"{name} is {getattr(variation, name)}; expected at least 1")
    training, test = draw(variation, seed)
    models = [TwoLayers(variation, dense, seed) for dense in (False, True)]
    optimizers = [_optimizer(variation, model) for model in models]
    equalize(variation, *models)
    rows = [measure(variation, models, test, 0)]
    for iteration, (x, labels) in enumerate(_batches(variation, training, seed), 1):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()
        equalize(variation, *models)
        if iteration % variation.every == 0:
            rows.append(measure(variation, models, test, iteration))
    return {name: {key: [row[i][key] for row in rows] for key in rows[0][i]} for i, name in enumerate(MODELS)}


@torch.no_grad()
def equalize(variation: Variation, plain: TwoLayers, dense: TwoLayers) -> None:
    """Set the biases of MSD-CSC so that b·L is that of ML-CSC, if the reading says so (Section V-B)."""
    if variation.beta not in ("same", "twin"):
        return
    for one, other in ((plain.first, dense.first), (plain.second, dense.second)):
        if variation.beta == "twin" and one is plain.first:
            _atoms(other).weight.copy_(_atoms(one).weight)
        one.update_lipschitz()
        other.update_lipschitz()
        theta = one.threshold.penalty * (_step_times_lambda(one) / _step_times_lambda(other))
        for weight, value in ((other.threshold.atom_weight, theta), (other.threshold.identity_weight, theta.mean())):
            if weight is not None:
                weight.copy_(value.mean() if len(weight) == 1 else value)


@torch.no_grad()
def measure(
    variation: Variation, models: list[TwoLayers], test: tuple[Tensor, Tensor], iteration: int
) -> list[dict[str, float]]:
    """Return the measurements of each model on the test signals, by Definition 1.

    unsuccessful: dimensions with |ξ − x| > 2β, mean over signals, of 100. bias: b, with its sign. beta: the β used for
    counting, b·L, or 0 if b < 0. error: mean |ξ − x|. size: mean |x|, the error of ξ = 0. nothing: dimensions
    with |x| > 2β, which are unsuccessful for ξ = 0. accuracy: fraction of the test points.
    """
    rows: list[dict[str, float]] = []
    x = test[0][: variation.counted]
    for model in models:
        model.eval()
        bias, beta = penalty(variation, model.first)
        if rows and variation.beta != "own":
            beta = rows[0]["beta"]
        error = reconstruction(variation, model, x, beta) - x
        failed = unsuccessful(x, x + error, beta)
        rows.append(
            {
                "iteration": float(iteration),
                "unsuccessful": float(failed.double().sum(dim=1).mean()),
                "bias": bias,
                "beta": beta,
                "error": float(error.abs().mean()),
                "size": float(x.abs().mean()),
                "nothing": float(unsuccessful(x, torch.zeros_like(x), beta).double().sum(dim=1).mean()),
                "accuracy": accuracy(model(test[0]), test[1]),
            }
        )
        model.train()
    return rows


@torch.no_grad()
def penalty(variation: Variation, layer: PursuitLayer) -> tuple[float, float]:
    """Return b, the mean over the atoms, with its sign, and β = b·L, or 0 if b < 0, where no Lasso problem exists."""
    theta = layer.threshold.penalty * layer.step()[0]  # the threshold, which is subtracted
    b = {"added": -theta, "size": theta.abs()}.get(variation.bias, theta).mean()
    return float(b), beta_of_bias(max(float(b), 0.0), _lambda(layer), variation.lipschitz)


def reconstruction(variation: Variation, model: TwoLayers, x: Tensor, beta: float) -> Float[Tensor, "B length"]:
    """Return ξ, from the first code or from the second through both dictionaries."""
    first, second = model.first, model.second
    code = optimum(variation, first, x, beta) if variation.code == "optimum" else first(x)
    if variation.layers == 2:
        code = second.reconstruct(second(code), code.shape)
    return first.reconstruct(code, x.shape)


def optimum(variation: Variation, layer: PursuitLayer, x: Tensor, beta: float) -> Float[Tensor, "B rows"]:
    """Return the optimum of the Lasso problem of the layer, with one β for all atoms (P2).

    Raises:
        FloatingPointError: if 3,000 steps of FISTA do not bring the duality gap to a thousandth of the objective.
    """
    solution = solve(x, layer.dictionary, beta, nonnegative=variation.nonnegative, max_steps=3000, tol=OPTIMUM_GAP)
    if not solution.converged:
        raise FloatingPointError(
            f"at β = {beta:.3g} the Lasso problem was only solved to a gap of {float(solution.gap.max()):.1e}; "
            f"expected {OPTIMUM_GAP:.0e}; take fewer --iterations"
        )
    return solution.code


def _layer(variation: Variation, channels: int, dense: bool) -> PursuitLayer:
    start = nn.Linear(channels, variation.width)
    atoms = LinearDictionary(start.weight.detach().clone())
    dictionary = WithIdentity(atoms) if dense else atoms
    free = variation.bias != "kept"
    threshold = Threshold(
        dictionary.code_channels, 0.0, variation.identity, nonnegative=variation.nonnegative, free=free
    )
    bias = -start.bias.detach()  # the network adds it, the layer subtracts
    threshold.atom_weight = nn.Parameter(bias[: 1 if variation.one_bias else threshold.penalty.numel()].clone())
    if threshold.identity_weight is not None:
        own = nn.Linear(channels, 1 if variation.one_bias else channels).bias
        threshold.identity_weight = nn.Parameter(-own.detach())
    step = AbsorbedStep() if variation.step == "absorbed" else BoundedStep(1.0, learned=False)
    return PursuitLayer(dictionary, unfolding=variation.unfolding, step=step, threshold=threshold)


def _optimizer(variation: Variation, model: nn.Module) -> torch.optim.Optimizer:
    if variation.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=variation.lr, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=variation.lr)


def _batches(variation: Variation, data: tuple[Tensor, Tensor], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one batch per iteration, in a new order every epoch."""
    generator = torch.Generator().manual_seed(seed)
    left = variation.iterations
    while left:
        for chosen in torch.randperm(TRAIN, generator=generator).split(variation.batch_size)[:left]:
            yield data[0][chosen], data[1][chosen]
            left -= 1


def _atoms(layer: PursuitLayer) -> LinearDictionary:
    """Return D, also of [I D]."""
    D = layer.dictionary
    return D.dictionary if isinstance(D, WithIdentity) else D  # type: ignore[return-value]


def _lambda(layer: PursuitLayer) -> float:
    """Return λmax(DᵀD); for a matrix the bound is exact."""
    return float(layer.dictionary.lipschitz_bound())


def _step_times_lambda(layer: PursuitLayer) -> float:
    """Return c·λmax(DᵀD), by which a penalty weight becomes b·L, as θ = weight·c; a factor 2 in L cancels."""
    return float(layer.step()[0]) * _lambda(layer)
