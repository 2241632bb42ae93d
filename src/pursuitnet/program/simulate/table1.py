"""Table I, row by row: what a CNN computes, what the library's objects compute, and their difference."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from pursuitnet import starts
from pursuitnet.dictionaries import ConvDictionary, LinearDictionary, WithIdentity
from pursuitnet.layer import PursuitLayer
from pursuitnet.problems import solve
from pursuitnet.program.simulate.record import Result, caption
from pursuitnet.prox.step_size import AbsorbedStep, BoundedStep
from pursuitnet.prox.threshold import IdentityPenalty, Threshold

SHAPE = (2, 3, 9, 8)
BETA = 0.25
Pair = tuple[Tensor, Tensor]


class Row(NamedTuple):
    """One row of the table: both names, the library's object, the condition for equality, and the two computations."""

    cnn: str
    csc: str
    object: str
    condition: str
    pair: Callable[["RandomTensors"], Pair]


class RandomTensors:
    """Random tensors in float64, from a generator of its own."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


def convolution(draw: RandomTensors) -> Pair:
    """Return the dilated convolutions, s = 1, 2, 3, and Dᵀx with the explicit matrices."""
    x, weight = draw(*SHAPE), draw(4, 3, 3, 3)
    dictionaries = [ConvDictionary(weight, padding=s, dilation=s) for s in (1, 2, 3)]
    cnn = [F.conv2d(x, weight, padding=s, dilation=s).flatten(1) for s in (1, 2, 3)]
    return torch.stack(cnn), torch.stack([x.flatten(1) @ d.matrix(SHAPE) for d in dictionaries])


def bias(draw: RandomTensors) -> Pair:
    """Return ReLU(Wx + b) with W = Dᵀ/L and b = −β/L, and a layer with penalty β and step 1/L."""
    x, weight = draw(*SHAPE), draw(4, 3, 3, 3)
    layer = PursuitLayer(
        ConvDictionary(weight, padding=1), step=BoundedStep(1.0, learned=False), threshold=Threshold((4,), BETA)
    )
    layer.double()
    L = layer.dictionary.lipschitz_bound()  # at least λmax for every image size; any L ≥ λmax works
    return F.relu(F.conv2d(x, weight / L, (-BETA / L).expand(4), padding=1)), layer(x)


def relu(draw: RandomTensors) -> Pair:
    """Return ReLU(x − β), and the optimum of min ½‖x − Γ‖² + β‖Γ‖₁ over Γ ≥ 0, whose D is the identity."""
    x = draw(5, 12)
    identity = LinearDictionary(torch.eye(12, dtype=torch.float64))
    return F.relu(x - BETA), solve(x, identity, BETA, nonnegative=True, tol=1e-14).code


def feed_forward(draw: RandomTensors) -> Pair:
    """Return three layers of ReLU(conv + b), and three pursuits from Γ⁰ = 0 with one step each."""
    x, weights = draw(*SHAPE), [draw(4, 3, 3, 3), draw(5, 4, 3, 3), draw(6, 5, 3, 3)]
    cnn = csc = x
    for weight in weights:
        cnn = F.relu(F.conv2d(cnn, weight, torch.full((len(weight),), -BETA, dtype=x.dtype), stride=2, padding=1))
        csc = _layer(weight, stride=2)(csc)
    return cnn, csc


def resnet(draw: RandomTensors) -> Pair:
    """Return a residual block without normalization, and Eq. 3, then Eq. 5 without its last term."""
    x, first, second = draw(*SHAPE), draw(4, 3, 3, 3), draw(3, 4, 3, 3)
    hidden = F.relu(F.conv2d(x, first, padding=1) - BETA)
    cnn = F.relu(F.conv2d(hidden, second, padding=1) + x - BETA)
    return cnn, _layer(second, starts.resnet)(_layer(first)(x), previous=x)


def res_csc(draw: RandomTensors) -> Pair:
    """Return Eqs. 3 and 5 written out with convolutions and their transposes, and the start Γ⁰ = X₋₁ of the layer."""
    x, first, second, c = draw(*SHAPE), draw(4, 3, 3, 3), draw(3, 4, 3, 3), -0.25
    hidden = F.relu(F.conv2d(x, first, padding=1) - BETA)
    back = F.conv2d(F.conv_transpose2d(x, second, padding=1), second, padding=1)
    cnn = F.relu(F.conv2d(hidden, second, padding=1) + x + c * back - BETA)
    return cnn, _layer(second, starts.res_csc, c)(_layer(first)(x), previous=x)


def dense(draw: RandomTensors, positive: bool = True) -> Pair:
    """Return concatenate(x, ReLU(conv + b)), and one step with [I D], c = 1 and no penalty on the identity part."""
    x, weight = draw(*SHAPE), draw(4, 3, 3, 3)
    x = x.abs() if positive else x
    dictionary = WithIdentity(ConvDictionary(weight, padding=2, dilation=2))
    threshold = Threshold(dictionary.code_channels, BETA, IdentityPenalty.NONE)
    layer = PursuitLayer(dictionary, step=AbsorbedStep(), threshold=threshold).double()
    return torch.cat([x, F.relu(F.conv2d(x, weight, padding=2, dilation=2) - BETA)], dim=1), layer(x)


def dense_signed(draw: RandomTensors) -> Pair:
    """Return the same for signals with negative values, which ReLU sets to 0."""
    return dense(draw, positive=False)


ROWS = (
    Row("convolution, dilation s", "matrix Dˢ", "ConvDictionary(…).matrix(…)", "always", convolution),
    Row("bias term", "b = β/L, L ≥ λmax(DᵀD)", "Threshold, BoundedStep", "c = 1/L, b ≤ 0 in ReLU(z + b)", bias),
    Row("ReLU", "S⁺", "solve(…, nonnegative=True)", "b ≤ 0 in ReLU(z + b)", relu),
    Row("feed-forward", "Γ⁰ = 0, one step", "PursuitLayer(…, zero)", "always", feed_forward),
    Row("ResNet", "Γ⁰ = X₋₁, Eqs. 3 and 5", "PursuitLayer(…, resnet)", "c·DᵀD·X₋₁ left out", resnet),
    Row("Res-CSC", "Γ⁰ = X₋₁, Eqs. 3 and 5", "PursuitLayer(…, res_csc)", "always", res_csc),
    Row("dense connection", "I in [I D]", "WithIdentity(…)", "x ≥ 0, c = 1, β = 0 on I", dense),
    Row("dense connection", "I in [I D]", "WithIdentity(…)", "x of any sign: not equal", dense_signed),
)


@torch.no_grad()
def compute() -> Result:
    """Compute both sides of every row and their largest difference, in float64."""
    differences = []
    for row in ROWS:
        one, other = row.pair(RandomTensors())
        differences.append(float((one - other).abs().max()))
    keys = ("cnn", "csc", "object", "condition")
    rows = [{k: getattr(r, k) for k in keys} | {"difference": d} for r, d in zip(ROWS, differences, strict=True)]
    return Result("table1", {"figure": "table1", "rows": rows}, {"table1": picture(differences)}, table(differences))


def table(differences: list[float]) -> str:
    """Return the rows as Markdown."""
    lines = ["| CNN | CSC | here | holds | largest difference |", "|---|---|---|---|---|"]
    pairs = zip(ROWS, differences, strict=True)
    return "\n".join([*lines, *(f"| {r.cnn} | {r.csc} | `{r.object}` | {r.condition} | {d:.1e} |" for r, d in pairs)])


def picture(differences: list[float]) -> Figure:
    """Plot the differences of the rows on a logarithmic scale."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15)  # type: ignore[union-attr, call-arg]
    axis = figure.subplots()
    floor = 1e-17
    labels = [f"{r.cnn}  =  {r.csc}\n{r.condition}" for r in ROWS]
    equal = [d < 1e-12 for d in differences]
    axis.hlines(range(len(ROWS)), floor, [max(d, floor) for d in differences], color="0.8", zorder=1)
    colors = ["#047857" if e else "#c2410c" for e in equal]
    axis.scatter([max(d, floor) for d in differences], range(len(ROWS)), color=colors, zorder=2, clip_on=False)
    for place, d in enumerate(differences):
        axis.annotate(f"{d:.0e}" if d else "0", (max(d, floor), place), (8, 0), textcoords="offset points", va="center")
    axis.set(
        xscale="log", xlim=(floor, 1e2), ylim=(len(ROWS) - 0.5, -0.5), xlabel="largest difference of the two sides"
    )
    axis.set_yticks(range(len(ROWS)), labels, fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    caption(figure, "Table I on random images (2, 3, 9, 8) in float64: the CNN's operation and the library's object.")
    return figure


def _layer(weight: Tensor, start: starts.Start = starts.zero, c: float | None = None, stride: int = 1) -> PursuitLayer:
    """Return a layer whose step size is absorbed in the filters (Eq. 5), with threshold β."""
    dictionary = ConvDictionary(weight, stride=stride, padding=1)
    return PursuitLayer(dictionary, start, step=AbsorbedStep(c), threshold=Threshold((len(weight),), BETA)).double()
