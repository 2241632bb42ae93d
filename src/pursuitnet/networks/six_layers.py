"""The six-layer networks of Table III: the feed-forward baseline and ML-CSC."""

from itertools import pairwise

import torch
from torch import nn

from pursuitnet.dictionaries import ConvDictionary
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import MultiLayerPursuit
from pursuitnet.networks.choices import HE, NORMS, PENALTIES, SOLVERS, known, pool, scale_filters, step_of
from pursuitnet.networks.network import Network
from pursuitnet.networks.residual import residual_layer
from pursuitnet.prox.threshold import Threshold
from pursuitnet.utils.limits import check_weights


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
        norm: "batch" normalizes every layer in every step, each with its own statistics; None does not normalize, and
            c ≤ 1/L then makes the codes of six layers too small to learn from in reasonable time.
        step: "bounded" keeps c inside (0, 1/L]; "free" learns it without bound.
        penalty: "nonnegative" keeps β ≥ 0 in the first three layers; "free" lets it take either sign. The others
            have a bias of either sign in any case.
    """
    check_weights(width * (3904 * width + 16 * in_chans + 16 * num_classes), width)
    free = known("penalty", penalty, PENALTIES) == "free"
    widths = [in_chans, *(width * m for m in (1, 2, 4, 8, 16, 16))]
    spec = NORMS[known("norm", norm, (None, "batch"))]
    pursuit = SOLVERS[known("solver", solver, SOLVERS)]
    swept = []
    for a, b in pairwise(widths[:4]):
        dictionary = ConvDictionary(torch.randn(b, a, 4, 4), stride=2, padding=1)
        scale_filters(dictionary)
        threshold = Threshold(dictionary.code_channels, free=free, norm=spec, steps=unfolding + 1)
        swept.append(PursuitLayer(dictionary, step=step_of(step, dictionary), threshold=threshold))
    plain = [residual_layer(a, b, norm=HE if spec else None) for a, b in pairwise(widths[3:])]
    features = [MultiLayerPursuit(swept, pursuit, unfolding), plain[0], plain[1], pool(), plain[2], pool()]
    return Network(nn.Sequential(*features), widths[-1], num_classes)
