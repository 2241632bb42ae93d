"""The rows of Tables I to III as choices of factors, widths, pooling and head."""

import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet import starts
from pursuitnet.dictionaries import ConvDictionary, WithIdentity
from pursuitnet.iterations import FISTA, ISTA, Solver
from pursuitnet.iterations.checkpointing import checkpointed_scan, recompute
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import MultiLayerPursuit
from pursuitnet.prox.norms import BatchNorm
from pursuitnet.prox.step_size import AbsorbedStep, BoundedStep, FreeStep, Step
from pursuitnet.prox.threshold import IdentityPenalty, Threshold
from pursuitnet.starts import Start
from pursuitnet.utils.limits import check_depth, check_number, check_weights
from pursuitnet.utils.nearest import did_you_mean

SOLVERS: dict[str, Solver] = {"ista": ISTA(), "fista": FISTA()}
SWEEPS = ("layer", "multilayer")
STEPS = ("bounded", "free")
PENALTIES = ("nonnegative", "free")
DILATIONS = ("network", "block")
NORMS: dict[str | None, BatchNorm | None] = {
    None: None,
    "batch": BatchNorm(identity="scale"),
    "features": BatchNorm(),
    "whole": BatchNorm(identity="batch"),
}
HE = BatchNorm(on="update", affine=True, momentum=0.1)
RESIDUAL_NORMS: dict[str | None, BatchNorm | None] = {None: None, "batch": HE, "whole": replace(HE, on="sum")}


class Network(nn.Module):
    """Features, global average pooling, and a linear head.

    Args:
        features: (B, in_chans, H, W) → (B, num_features, h, w).
        num_features: rows of the last code.
        num_classes: size of the output; 0 leaves the head out.
    """

    def __init__(self, features: nn.Sequential, num_features: int, num_classes: int) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes is {num_classes}; expected ≥ 0, where 0 leaves the head out")
        self.features, self.num_features, self.num_classes = features, num_features, num_classes
        self.grad_checkpointing = self.recursive = False
        self.head = nn.Linear(num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last code: (B, in_chans, H, W) → (B, num_features, h, w)."""
        if not (self.grad_checkpointing and self.training):
            return self.features(x)
        if self.recursive:
            return checkpointed_scan(list(self._parts()), x, partial(recompute, self))
        for part in self._parts():
            x = recompute(part, part, x)
        return x

    def set_grad_checkpointing(self, enable: bool = True, *, recursive: bool = False) -> None:
        """Let the backward pass compute again what happens inside layers and blocks instead of keeping it.

        Memory is then that of one code a layer, and grows with the logarithm of the unfolding. The codes of dense
        layers themselves grow with depth, so that all of them together grow with its square.

        Args:
            enable: False keeps everything.
            recursive: keep the codes of about log₂(depth) layers only; a layer is computed up to log₂(depth) times
                again, half as often on average (see ``checkpointed_scan``).
        """
        self.grad_checkpointing, self.recursive = enable, recursive
        for module in self.modules():
            if isinstance(module, PursuitLayer | MultiLayerPursuit):
                module.grad_checkpointing = enable

    def _parts(self) -> Iterator[nn.Module]:
        """Yield the layers and blocks in order."""
        for stage in self.features:
            yield from stage if isinstance(stage, nn.Sequential) else (stage,)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes), or pooled features (B, num_features) where there is no head."""
        return self.head(self.forward_features(x).mean(dim=(2, 3)))

    def pursuits(self) -> list[PursuitLayer]:
        """Return the layers in the order in which the image meets them."""
        return [module for module in self.modules() if isinstance(module, PursuitLayer)]


class ResidualBlock(nn.Module):
    """Two layers: Eq. 3, then Eq. 5 from X₋₁ = the block's input, as far as ``start`` takes it (Fig. 3).

    Where the stage changes, X₋₁ is subsampled and padded with zero channels (no parameters).
    """

    def __init__(
        self, in_rows: int, rows: int, start: Start, c: float | None, norm: BatchNorm | None, scale: float
    ) -> None:
        super().__init__()
        self.stride, self.more = (1 if in_rows == rows else 2), rows - in_rows
        self.first = _residual_layer(in_rows, rows, self.stride, norm=norm)
        self.second = _residual_layer(rows, rows, start=start, c=c if start.probed else None, norm=norm, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), previous=self._shortcut(x) if self.second.start.needs_previous else None)

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.more:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def residual(
    depth: int,
    start: Start,
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 16,
    norm: str | None = "batch",
    c: float = 0.0,
) -> Network:
    """Build the plain, ResNet, Res-CSC-Simplified or Res-CSC network of 6n+2 layers (Table II).

    Args:
        depth: 6n+2: a first layer, three stages of n blocks of two layers, the head.
        start: where the second layer of each block starts.
        num_classes: size of the output; 0 leaves the head out.
        in_chans: channels of the image.
        width: rows of the first stage; the others have twice and four times as many.
        norm: "batch" normalizes Dᵀ(x + c·D·X₋₁) before X₋₁ is added, "whole" the sum with X₋₁; None leaves a free
            bias in its place.
        c: the start of the learned c of Eq. 5; at 0 Res-CSC is ResNet.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"a residual network of {depth} layers does not exist; expected 6n+2: 8, 14, 20, 26, 32, …")
    spec = RESIDUAL_NORMS[_known("norm", norm, RESIDUAL_NORMS)]
    check_weights(width * (63 * depth * width + 9 * in_chans + 4 * num_classes), width)
    rows = [width, *(width * 2**stage for stage in range(3) for _ in range(depth // 6))]
    # What n blocks add to X₋₁ has the size of X₋₁ itself, so that hundreds of layers start to learn at once.
    scale = (len(rows) - 1) ** -0.5 if start.anchored else 1.0
    blocks = [ResidualBlock(a, b, start, c, spec, scale) for a, b in pairwise(rows)]
    first = _residual_layer(in_chans, width, norm=spec)
    return Network(nn.Sequential(first, *blocks), rows[-1], num_classes)


def _residual_layer(
    in_rows: int,
    rows: int,
    stride: int = 1,
    *,
    start: Start = starts.zero,
    c: float | None = None,
    norm: BatchNorm | None = None,
    scale: float = 1.0,
) -> PursuitLayer:
    weight = nn.init.kaiming_normal_(torch.empty(rows, in_rows, 3, 3), mode="fan_out", nonlinearity="relu")
    threshold = Threshold((rows,), None if norm else 0.0, free=True, norm=norm)
    for parameter in threshold.scales():
        nn.init.constant_(parameter, scale)
    dictionary = ConvDictionary(weight, stride=stride, padding=1)
    return PursuitLayer(dictionary, start, step=AbsorbedStep(c), threshold=threshold)


def msd(
    depth: int,
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 32,
    unfolding: int = 0,
    solver: str = "ista",
    sweep: str = "layer",
    norm: str | None = "batch",
    step: str = "bounded",
    penalty: str = "nonnegative",
    identity: str = "own",
    signed_input: bool = False,
    dilations: str = "network",
) -> Network:
    """Build MSDNet (unfolding 0) or MSD-CSC with dictionaries [I Fᵀ], dilations 1, 2, 3 in turn (Fig. 6B, Table III).

    Args:
        depth: a multiple of 3; max-pooling follows a third and two thirds of the layers.
        num_classes: size of the output; 0 leaves the head out.
        in_chans: channels of the image.
        width: atoms that each layer adds, the paper's w.
        unfolding: steps after the first.
        solver: "ista" or "fista".
        sweep: "layer" unfolds each layer by itself (Algorithms 2 and 3); "multilayer" sweeps over the layers
            between two poolings.
        norm: batch normalization in every step, each with its own statistics. "batch": of the new features, while the
            identity part is divided by its root mean square; "features": of the new features only; "whole": of both
            parts alike; None: of nothing.
        step: "bounded" keeps c inside (0, 1/L]; "free" learns it without bound, as the paper does.
        penalty: "nonnegative" keeps β ≥ 0; "free" lets it take either sign, as b of Algorithms 2 and 3 does.
        identity: the penalty on the identity part: "own", "same", "none" or "signed" (see IdentityPenalty).
        signed_input: for images with negative values: no threshold on the identity part of any layer, so that all
            layers see the image as it is; takes the place of ``identity``.
        dilations: "network" goes on counting 1, 2, 3, 1, … through the whole network; "block" begins at 1 again
            after each pooling, as the authors' code does. They are the same where the depth is a multiple of 9.
    """
    if depth < 3 or depth % 3:
        raise ValueError(f"an MSD network of {depth} layers does not exist; expected a multiple of 3: 3, 6, 9, 12, …")
    check_weights(width * depth * (9 * depth * width // 2 + 9 * in_chans + num_classes), width)
    pursuit = SOLVERS[_known("solver", solver, SOLVERS)]
    sweeps = _known("sweep", sweep, SWEEPS) == "multilayer"
    on_identity = IdentityPenalty(_known("identity", identity, list(IdentityPenalty)))
    if signed_input and on_identity is IdentityPenalty.SAME:
        raise ValueError("identity 'same' puts β on the image, and signed_input none; expected one of the two")
    if signed_input:
        on_identity = IdentityPenalty.SIGNED
    free = _known("penalty", penalty, PENALTIES) == "free"
    counted = depth if _known("dilations", dilations, DILATIONS) == "network" else depth // 3
    spec = NORMS[_known("norm", norm, NORMS)]
    layers = []
    for i in range(depth):
        dictionary = _dense_dictionary(in_chans + width * i, width, dilation=i % counted % 3 + 1)
        threshold = Threshold(dictionary.rows, identity=on_identity, free=free, norm=spec, steps=unfolding + 1)
        own = 0 if sweeps else unfolding
        layers.append(
            PursuitLayer(dictionary, starts.zero, pursuit, own, step=_step(step, dictionary), threshold=threshold)
        )
    third = depth // 3
    stages = [layers[i : i + third] for i in range(0, depth, third)]
    blocks = [MultiLayerPursuit(s, pursuit, unfolding) if sweeps else nn.Sequential(*s) for s in stages]
    return Network(
        nn.Sequential(blocks[0], _pool(), blocks[1], _pool(), blocks[2]), in_chans + width * depth, num_classes
    )


def _dense_dictionary(channels: int, width: int, dilation: int) -> WithIdentity:
    filters = ConvDictionary(torch.randn(width, channels, 3, 3), padding=dilation, dilation=dilation)
    _scale(filters)
    return WithIdentity(filters)


def six_layers(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 32,
    unfolding: int = 0,
    solver: str = "ista",
    norm: str | None = "batch",
    step: str = "bounded",
    penalty: str = "nonnegative",
) -> Network:
    """Build the feed-forward baseline (unfolding 0) or ML-CSC, which sweeps over its first three layers [27].

    Args:
        num_classes: size of the output; 0 leaves the head out.
        in_chans: channels of the image.
        width: atoms of the first layer; the others have 2, 4, 8, 16 and 16 times as many.
        unfolding: sweeps after the feed-forward pass.
        solver: "ista" for ML-ISTA, "fista" for ML-FISTA.
        norm: "batch" normalizes every layer in every step, each with its own statistics; None does not, and then
            c ≤ 1/L makes the codes of six layers too small to learn from in reasonable time.
        step: "bounded" keeps c inside (0, 1/L]; "free" learns it without bound.
        penalty: "nonnegative" keeps β ≥ 0 in the first three layers; "free" lets it take either sign. The others
            have a bias of either sign in any case.
    """
    check_weights(width * (3904 * width + 16 * in_chans + 16 * num_classes), width)
    free = _known("penalty", penalty, PENALTIES) == "free"
    rows = [in_chans, *(width * m for m in (1, 2, 4, 8, 16, 16))]
    spec = NORMS[_known("norm", norm, (None, "batch"))]
    pursuit = SOLVERS[_known("solver", solver, SOLVERS)]
    swept = []
    for a, b in pairwise(rows[:4]):
        dictionary = ConvDictionary(torch.randn(b, a, 4, 4), stride=2, padding=1)
        _scale(dictionary)
        threshold = Threshold(dictionary.rows, free=free, norm=spec, steps=unfolding + 1)
        swept.append(PursuitLayer(dictionary, step=_step(step, dictionary), threshold=threshold))
    plain = [_residual_layer(a, b, norm=HE if spec else None) for a, b in pairwise(rows[3:])]
    features = [MultiLayerPursuit(swept, pursuit, unfolding), plain[0], plain[1], _pool(), plain[2], _pool()]
    return Network(nn.Sequential(*features), rows[-1], num_classes)


def _pool() -> nn.Module:
    return nn.MaxPool2d(2, ceil_mode=True)  # an odd row or column is kept


@torch.no_grad()
def _scale(dictionary: ConvDictionary) -> None:
    """Scale random filters to λmax(DᵀD) ≤ 1, so that c starts near 1, or near 1/2 beside an identity."""
    dictionary.weight.div_(dictionary.lipschitz_bound().sqrt())


def _step(name: str, dictionary: ConvDictionary | WithIdentity) -> Step:
    if _known("step", name, STEPS) == "bounded":
        return BoundedStep()
    return FreeStep(1 / dictionary.lipschitz_bound())


FAMILIES: dict[str, tuple[Callable[..., Network], tuple[int, ...]]] = {
    "plain": (partial(residual, start=starts.zero), (20, 32, 44, 56, 110, 218)),
    "resnet": (partial(residual, start=starts.resnet), (20, 32, 44, 56, 110, 218)),
    "res_csc": (partial(residual, start=starts.res_csc), (20, 32, 44, 56, 110, 218)),
    "res_csc_simplified": (partial(residual, start=starts.res_csc_simplified), (20, 32, 44, 56, 110, 218)),
    "feed_forward": (partial(six_layers, unfolding=0), ()),
    "ml_csc": (partial(six_layers, unfolding=1), ()),
    "msdnet": (partial(msd, unfolding=0), (6, 9, 12)),
    "msd_csc": (partial(msd, unfolding=1), (6, 9, 12)),
}


def list_models() -> list[str]:
    """Return the names of the paper's networks; any other depth of a family can be created too."""
    return [f"{family}_{d}" if d else family for family, (_, ds) in FAMILIES.items() for d in ds or (0,)]


def create_model(name: str, num_classes: int = 10, in_chans: int = 3, **choices: object) -> Network:
    """Return the network of that name, randomly initialized from torch's global generator.

    Args:
        name: a name of ``list_models()``, or the same family at another depth: residual networks at 6n+2, MSD
            networks at a multiple of 3.
        num_classes: size of the output; 0 leaves the head out, and ``forward`` returns pooled features.
        in_chans: channels of the image.
        choices: unfolding, solver, sweep, norm, width, …: the keyword arguments of ``residual``, ``msd`` and
            ``six_layers``.

    Raises:
        ValueError: for a name, a depth or a choice that does not exist; the message lists those that do.
    """
    family, depth = _parse(name)
    build = FAMILIES[family][0]
    known = [p for p in inspect.signature(build).parameters if p not in ("depth", "start", "num_classes", "in_chans")]
    if family in ("feed_forward", "msdnet"):
        known = [p for p in known if p not in ("unfolding", "solver", "sweep")]  # fixed by what the name says
    for choice in choices:
        if choice not in known:
            near = did_you_mean(choice, known, ".")
            raise ValueError(f"{name} has no choice {choice!r}{near} Its choices are {', '.join(known)}")
    given = {"num_classes": num_classes, "in_chans": in_chans, **choices}
    for what, least in (("num_classes", 0), ("in_chans", 1), ("width", 1), ("unfolding", 0)):
        value = given.get(what, least)
        if not isinstance(value, int) or value < least:
            hint = ", where 0 leaves the head out" if what == "num_classes" else ""
            raise ValueError(f"{what} is {value!r}; expected an integer ≥ {least}{hint}")
        check_number(what, value)
    return build(*depth, num_classes=num_classes, in_chans=in_chans, **choices)


def _parse(name: str) -> tuple[str, tuple[int, ...]]:
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; expected a string, such as 'msd_csc_6'")
    match = re.fullmatch(r"(.+?)(?:_(\d+))?", name)
    family, digits = match.groups() if match else (name, None)
    if family not in FAMILIES or bool(digits) != bool(FAMILIES[family][1]):
        models = list_models()
        raise ValueError(
            f"no model is called {name!r}{did_you_mean(name, models, '.')} The models are {', '.join(models)}"
        )
    check_depth(name)
    return family, (int(digits),) if digits else ()


T = TypeVar("T")


def _known(what: str, value: T, known: Collection[T]) -> T:
    """Return the value of a choice, if it exists."""
    if value not in known:
        listed = ", ".join(repr(str(k)) if k else "None" for k in known)
        raise ValueError(f"{what} is {value!r}; expected one of {listed}{did_you_mean(value, known)}")
    return value
