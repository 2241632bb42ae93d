"""What every network is: features, pooling and a head."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from pursuitnet.iterations.checkpointing import checkpointed_scan, recompute
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import MultiLayerPursuit


class Network(nn.Module):
    """Features, global average pooling, and a linear head.

    Args:
        features: (B, in_chans, H, W) → (B, num_features, h, w).
        num_features: channels of the last code.
        num_classes: size of the output; 0 leaves the head out.

    Attributes:
        pretrained_cfg: what is known of weights that came with the library, such as mean, std, classes and
            test_accuracy; None of others.
    """

    def __init__(self, features: nn.Sequential, num_features: int, num_classes: int) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes is {num_classes}; expected ≥ 0, where 0 leaves the head out")
        self.features, self.num_features, self.num_classes = features, num_features, num_classes
        self.grad_checkpointing = self.recursive = False
        self.pretrained_cfg: dict[str, Any] | None = None
        self.head: nn.Module = nn.Linear(num_features, num_classes) if num_classes else nn.Identity()

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

    @property
    def halo(self) -> int:
        """How far an output pixel looks, in pixels, of a network that returns images.

        Raises:
            ValueError: for networks that look at the whole image.
        """
        raise ValueError(
            "the network averages over the whole image, so that its result has no halo and no tiles; expected one "
            "that returns images, as create_model('msd_csc_30', task='image') makes it"
        )

    def pursuits(self) -> list[PursuitLayer]:
        """Return the layers in the order in which the image meets them."""
        return [module for module in self.modules() if isinstance(module, PursuitLayer)]
