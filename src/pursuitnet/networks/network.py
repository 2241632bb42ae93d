"""The base class of all networks: features, pooling and a head."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from pursuitnet.dictionaries import ConvDictionary
from pursuitnet.iterations.checkpointing import checkpointed_scan, recompute
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import MultiLayerPursuit

STRIDED = (ConvDictionary, nn.MaxPool2d, nn.AvgPool2d, nn.Conv2d)
"""Modules that may reduce the size of their input."""


class Network(nn.Module):
    """Features, global average pooling, and a linear head.

    Args:
        features: (B, in_chans, H, W) → (B, num_features, h, w).
        num_features: channels of the last code.
        num_classes: size of the output; 0 leaves the head out.

    Attributes:
        pretrained_cfg: configuration of weights that came with the library, such as mean, std, classes and
            test_accuracy; None for all other weights.
    """

    def __init__(self, features: nn.Sequential, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.features, self.num_features, self.num_classes = features, num_features, num_classes
        self.grad_checkpointing = self.recursive = False
        self.pretrained_cfg: dict[str, Any] | None = None
        self.head = _head(num_features, num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the head: a linear layer, or the identity where there is none."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one, randomly initialized, on the same device and of the same dtype.

        Args:
            num_classes: size of the output; 0 leaves the head out.
        """
        like = next(self.parameters())
        self.head = _head(self.num_features, num_classes).to(like.device, like.dtype)
        self.num_classes = num_classes

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
        """Make the backward pass compute the activations inside layers and blocks again instead of keeping them.

        Memory is then that of one code per layer, and grows with the logarithm of the unfolding. The codes of dense
        layers themselves grow with depth, so that all of them together grow with its square.

        Args:
            enable: False keeps all activations.
            recursive: keep the codes of about log₂(depth) layers only; a layer is computed up to log₂(depth) times
                again, half as often on average (see ``checkpointed_scan``).
        """
        self.grad_checkpointing, self.recursive = enable, recursive
        for module in self.modules():
            if isinstance(module, PursuitLayer | MultiLayerPursuit):
                module.grad_checkpointing = enable

    def _parts(self) -> Iterator[nn.Module]:
        """Yield the layers and blocks in order."""
        yield from (part for _, part in self._named_parts())

    def _named_parts(self) -> Iterator[tuple[str, nn.Module]]:
        for name, stage in self.features._modules.items():
            inside = stage._modules if isinstance(stage, nn.Sequential) else {"": stage}
            yield from (
                (f"features.{name}.{inner}".rstrip("."), part) for inner, part in inside.items() if part is not None
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes), or pooled features (B, num_features) where there is no head."""
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Apply pooling and the head to the last code: (B, num_features, h, w) → logits (B, num_classes).

        Args:
            x: the output of ``forward_features``.
            pre_logits: return the pooled features (B, num_features) instead.
        """
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, *, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last code and the feature maps of the stages; a stage is the layers of one resolution.

        Args:
            x: images (B, in_chans, H, W).
            indices: the stages, from 0, negative ones from the last; a number n for the last n; None for all.
            intermediates_only: return the feature maps without the last code.

        Raises:
            IndexError: for a stage that does not exist.
        """
        parts = [part for _, part in self._named_parts()]
        ends, maps = [end for end, *_ in self._stages()], []
        wanted = _chosen(indices, len(ends))
        for at, part in enumerate(parts):
            x = recompute(part, part, x) if self.grad_checkpointing and self.training else part(x)
            if at in ends:
                maps.append(x)
        chosen = [maps[index] for index in wanted]
        return chosen if intermediates_only else (x, chosen)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, reduction (how many times smaller than the image) and module of each stage's feature map."""
        names = [name for name, _ in self._named_parts()]
        stages = self._stages()
        return [
            {"num_chs": channels, "reduction": reduction, "module": names[end]} for end, channels, reduction in stages
        ]

    def _stages(self) -> list[tuple[int, int, int]]:
        """Return the index of the last part of each stage, its channels, and its reduction of the image."""
        channels, reduction, outputs = 0, 1, []
        for _, part in self._named_parts():
            layers = [module for module in part.modules() if isinstance(module, PursuitLayer)]
            channels = sum(layers[-1].dictionary.code_channels) if layers else channels
            reduction *= _stride(part)
            outputs.append((channels, reduction))
        last = len(outputs) - 1
        changes = [at for at, (one, other) in enumerate(pairwise(outputs)) if one[1] != other[1]]
        return [(at, *outputs[at]) for at in (*changes, last)]

    @property
    def halo(self) -> int:
        """Radius of the receptive field of an output pixel, in pixels, for networks that return images.

        Raises:
            ValueError: for networks whose output depends on the whole image.
        """
        raise ValueError(
            "the network averages over the whole image, so that its result has no halo and no tiles; expected one "
            "that returns images, such as create_model('msd_csc_30', task='image')"
        )

    def pursuits(self) -> list[PursuitLayer]:
        """Return the layers in the order in which they are applied."""
        return [module for module in self.modules() if isinstance(module, PursuitLayer)]


def _head(num_features: int, num_classes: int) -> nn.Module:
    if not isinstance(num_classes, int) or num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}; expected an integer ≥ 0, where 0 leaves the head out")
    return nn.Linear(num_features, num_classes) if num_classes else nn.Identity()


def _stride(part: nn.Module) -> int:
    """Return the factor by which a part reduces the size of its input."""
    strides = [module.stride for module in part.modules() if isinstance(module, STRIDED)]
    return math.prod(max(stride) if isinstance(stride, Sequence) else stride for stride in strides)


def _chosen(indices: int | Sequence[int] | None, count: int) -> Sequence[int]:
    """Return the requested stages, counted from 0."""
    if isinstance(indices, int):
        if not 0 <= indices <= count:
            raise IndexError(f"there are not {indices} stages; the network has {count}, numbered from 0")
        indices = range(count - indices, count)
    chosen = range(count) if indices is None else [index + count if index < 0 else index for index in indices]
    if wrong := [index for index in chosen if not 0 <= index < count]:
        raise IndexError(f"there is no stage {wrong[0]}; the network has {count}, numbered from 0")
    return chosen
