"""The mixed-scale dense networks of Table III: MSDNet and MSD-CSC."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from pursuitnet import starts
from pursuitnet.dictionaries import ConvDictionary, ReflectingDictionary, WithIdentity
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import MultiLayerPursuit
from pursuitnet.networks.choices import (
    BOUNDARIES,
    DILATIONS,
    NORMS,
    PENALTIES,
    SOLVERS,
    SWEEPS,
    known,
    pool,
    scale_filters,
    step_of,
)
from pursuitnet.networks.network import Network
from pursuitnet.prox.norms import BatchNorm
from pursuitnet.prox.threshold import IdentityPenalty, Threshold
from pursuitnet.utils.limits import check_weights

SOLVED_RIDGE = 0.05
"""Weight of ½‖Γ‖² in solved layers: without it, atoms of a support are nearly dependent, and gradients explode."""

SOLVED_IDENTITY = 0.2
"""Initial β of the identity part of solved layers: at that of the atoms, 0.01, the identity explains everything, and no
atom is ever used."""


def msd(
    depth: int,
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 32,
    unfolding: int | Literal["solved"] = 0,
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
        unfolding: steps after the first; "solved" solves each layer to its optimum, with norm None: the elastic net
            ½‖x − DΓ‖² + Σβ|Γ| + ½·SOLVED_RIDGE·‖Γ‖².
        solver: "ista" or "fista"; solved layers take FISTA with restart.
        sweep: "layer" unfolds each layer by itself (Algorithms 2 and 3); "multilayer" sweeps over the layers
            between two poolings.
        norm: batch normalization in every step, each with its own statistics. "batch": of the new features, while the
            identity part is divided by its root mean square; "features": of the new features only; "whole": of both
            parts; None: no normalization.
        step: "bounded" keeps c inside (0, 1/L]; "free" learns it without bound, as the paper does.
        penalty: "nonnegative" keeps β ≥ 0; "free" lets it take either sign, as b of Algorithms 2 and 3 does.
        identity: the penalty on the identity part: "own", "same", "none" or "signed" (see IdentityPenalty).
        signed_input: for images with negative values: no threshold on the identity part of any layer, so that all
            layers get the image unchanged; overrides ``identity``.
        dilations: "network" counts 1, 2, 3, 1, … through the whole network; "block" begins at 1 again after each
            pooling, as the authors' code does. They are the same where the depth is a multiple of 9.
    """
    if depth < 3 or depth % 3:
        raise ValueError(f"an MSD network of {depth} layers does not exist; expected a multiple of 3: 3, 6, 9, 12, …")
    check_weights(width * depth * (9 * depth * width // 2 + 9 * in_chans + num_classes), width)
    counted = depth if known("dilations", dilations, DILATIONS) == "network" else depth // 3
    layers = dense_layers(
        [i % counted % 3 + 1 for i in range(depth)],
        in_chans=in_chans,
        width=width,
        unfolding=unfolding,
        solver=solver,
        sweep=sweep,
        norm=norm,
        step=step,
        penalty=penalty,
        identity=identity,
        signed_input=signed_input,
    )
    third = depth // 3
    blocks = [stack_of(layers[i : i + third], solver, sweep, unfolding) for i in range(0, depth, third)]
    return Network(
        nn.Sequential(blocks[0], pool(), blocks[1], pool(), blocks[2]), in_chans + width * depth, num_classes
    )


def dense_layers(
    dilations: Sequence[int],
    *,
    in_chans: int,
    width: int,
    unfolding: int | Literal["solved"],
    solver: str,
    sweep: str,
    norm: str | None,
    step: str,
    penalty: str,
    identity: str,
    signed_input: bool,
    dims: int = 2,
    boundary: str = "zeros",
) -> list[PursuitLayer]:
    """Return layers of dictionaries [I Fᵀ], each of which adds ``width`` channels to its signal; choices as in ``msd``.

    Args:
        dilations: of each layer.
        in_chans: channels of the image.
        width: atoms that each layer adds.
        unfolding: steps after the first, or "solved".
        solver: "ista" or "fista".
        sweep: "layer", or "multilayer" for layers that take no steps of their own.
        norm: "batch", "features", "whole" or None.
        step: "bounded" or "free".
        penalty: "nonnegative" or "free".
        identity: "own", "same", "none" or "signed".
        signed_input: for images with negative values.
        dims: axes of the image.
        boundary: "zeros" or "reflect".
    """
    pursuit = SOLVERS[known("solver", solver, SOLVERS)]
    own = 0 if known("sweep", sweep, SWEEPS) == "multilayer" else unfolding
    if unfolding == "solved" and own == 0:
        raise ValueError("unfolding 'solved' solves layer by layer; expected sweep 'layer', or a number of sweeps")
    on_identity = _on_identity(identity, signed_input)
    free = known("penalty", penalty, PENALTIES) == "free"
    spec = NORMS[known("norm", norm, NORMS)]
    layers = []
    for i, dilation in enumerate(dilations):
        dictionary = _dense_dictionary(in_chans + width * i, width, dilation, dims, boundary)
        if unfolding == "solved":
            layers.append(_solved_layer(dictionary, on_identity, free, spec))
            continue
        threshold = Threshold(dictionary.code_channels, identity=on_identity, free=free, norm=spec, steps=unfolding + 1)
        layers.append(
            PursuitLayer(dictionary, starts.zero, pursuit, own, step=step_of(step, dictionary), threshold=threshold)
        )
    return layers


def _solved_layer(
    dictionary: WithIdentity, identity: IdentityPenalty, free: bool, norm: BatchNorm | None
) -> PursuitLayer:
    ridge = SOLVED_RIDGE if norm is None else 0.0  # with a norm it is refused as a layer, with the reason
    threshold = Threshold(dictionary.code_channels, identity=identity, free=free, norm=norm, ridge=ridge)
    if threshold.identity_weight is not None:
        nn.init.constant_(threshold.identity_weight, SOLVED_IDENTITY)
    return PursuitLayer(dictionary, unfolding="solved", threshold=threshold)


def stack_of(layers: list[PursuitLayer], solver: str, sweep: str, unfolding: int | Literal["solved"]) -> nn.Module:
    """Return layers one after another, or swept together."""
    if unfolding == "solved" or sweep != "multilayer":
        return nn.Sequential(*layers)
    return MultiLayerPursuit(layers, SOLVERS[solver], unfolding)


def _on_identity(identity: str, signed_input: bool) -> IdentityPenalty:
    on_identity = IdentityPenalty(known("identity", identity, list(IdentityPenalty)))
    if signed_input and on_identity is IdentityPenalty.SAME:
        raise ValueError("identity 'same' penalizes the image, and signed_input does not; expected one of the two")
    return IdentityPenalty.SIGNED if signed_input else on_identity


def _dense_dictionary(channels: int, width: int, dilation: int, dims: int, boundary: str) -> WithIdentity:
    weight = torch.randn(width, channels, *[3] * dims)
    if known("boundary", boundary, BOUNDARIES) == "reflect":
        filters: ConvDictionary = ReflectingDictionary(weight, dilation)
    else:
        filters = ConvDictionary(weight, padding=dilation, dilation=dilation)
    scale_filters(filters)
    return WithIdentity(filters)
