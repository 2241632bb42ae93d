"""Networks that return images: layers that keep the size of the image, and a 1×1 head."""

from collections.abc import Iterable

from torch import Tensor, nn

from pursuitnet.networks.dense import dense_layers, stack_of
from pursuitnet.networks.halo import halo_of
from pursuitnet.networks.network import Network
from pursuitnet.utils.limits import check_weights

HEADS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ImageNetwork(Network):
    """Features of the size of the image, and a linear map of them in every pixel, without pooling.

    Args:
        features: (B, in_chans, *size) → (B, num_features, *size), with 1 to 3 sizes.
        num_features: channels of the last code.
        out_chans: channels of the result; for segmentation, the number of classes, whose logits they are.
        dims: axes of the image.
        head: (B, num_features, *size) → (B, out_chans, *size); by default a learned linear map in every pixel.
    """

    grid = 1
    """Tiles begin at its multiples: the stride of the network."""

    def __init__(
        self, features: nn.Sequential, num_features: int, out_chans: int, dims: int = 2, head: nn.Module | None = None
    ) -> None:
        super().__init__(features, num_features, 0)
        self.num_classes = self.out_chans = out_chans
        self.dims = dims
        self.head = HEADS[dims - 1](num_features, out_chans, 1) if head is None else head

    def forward(self, x: Tensor) -> Tensor:
        """Return an image: (B, in_chans, *size) → (B, out_chans, *size)."""
        return self.head(self.forward_features(x))

    @property
    def halo(self) -> int:
        """Radius of the receptive field of an output pixel, Σ s(k−1)/2·(1+2u) over the layers, in pixels."""
        return halo_of(self.features)

    def given(self, image: Tensor, sigma: Tensor | float | None = None) -> dict[str, Tensor]:
        """Return further arguments of ``forward``, which are the same for all tiles of an image."""
        if sigma is not None:
            raise ValueError("sigma is for denoisers; this network takes only the image: leave sigma out")
        return {}


def dense_image(
    depth: int,
    *,
    out_chans: int = 1,
    in_chans: int = 3,
    width: int = 1,
    dilations: Iterable[int] = range(1, 11),
    dims: int = 2,
    unfolding: int = 0,
    solver: str = "ista",
    sweep: str = "layer",
    norm: str | None = "batch",
    step: str = "bounded",
    penalty: str = "nonnegative",
    identity: str = "own",
    signed_input: bool = False,
    boundary: str = "zeros",
) -> ImageNetwork:
    """Build the MSDNet of Pelt and Sethian (PNAS, 2018), or MSD-CSC: the input of a layer is all channels before it.

    As theirs it has no pooling, and by default layers of one atom with dilations 1 to 10 in turn. By default it pads
    with zeros; theirs reflects the image at its border, as ``boundary="reflect"`` does.

    Args:
        depth: number of layers, ≥ 1.
        out_chans: channels of the result: outputs of a regression, or logits of each pixel's class.
        in_chans: channels of the image.
        width: atoms that each layer adds.
        dilations: of the layers, in turn.
        dims: axes of the image, 1 to 3.
        unfolding: steps after the first.
        solver: "ista" or "fista".
        sweep: "layer" unfolds each layer by itself; "multilayer" sweeps over all of them.
        norm: batch normalization in every step, as in ``msd``; None for none.
        step: "bounded" keeps c inside (0, 1/L]; "free" learns it without bound.
        penalty: "nonnegative" keeps β ≥ 0; "free" lets it take either sign.
        identity: the penalty on the identity part: "own", "same", "none" or "signed" (see IdentityPenalty).
        signed_input: for images with negative values: no threshold on the identity part of any layer.
        boundary: "zeros" around the image of every layer, or "reflect", which mirrors it at its first and last pixel
            (see ReflectingDictionary) and needs images of more pixels than the largest dilation.

    Raises:
        ValueError: for a choice that does not exist.
    """
    if depth < 1:
        raise ValueError(f"a network of {depth} layers does not exist; expected at least 1")
    cycle = _dilations(dilations)
    if dims not in (1, 2, 3):
        raise ValueError(f"dims is {dims!r}; expected 1, 2 or 3, the number of the image's axes")
    check_weights(width * depth * 3**dims * (depth * width // 2 + in_chans) + out_chans * width * depth, width)
    layers = dense_layers(
        [cycle[i % len(cycle)] for i in range(depth)],
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
        dims=dims,
        boundary=boundary,
    )
    features = nn.Sequential(stack_of(layers, solver, sweep, unfolding))
    return ImageNetwork(features, in_chans + width * depth, out_chans, dims)


def _dilations(dilations: object) -> list[int]:
    """Return the dilations as a list."""
    listed = list(dilations) if isinstance(dilations, Iterable) and not isinstance(dilations, str) else []
    if not listed or not all(isinstance(d, int) and d >= 1 for d in listed):
        raise ValueError(
            f"dilations is {dilations!r}; expected integers ≥ 1, used by the layers in turn, such as range(1, 11)"
        )
    return listed
