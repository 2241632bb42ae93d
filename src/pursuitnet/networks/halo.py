"""The halo: the radius of the receptive field of an output pixel.

A filter of k taps at dilation s reaches s(k−1)/2 pixels to either side, and so do its Dᵀ and its D. The first step of a
pursuit applies one Dᵀ; each of the u further steps adds one D and one Dᵀ: together s(k−1)/2·(1+2u). A sweep over
several layers goes down through all D and up through all Dᵀ, so the same holds for their sum.
"""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pursuitnet.dictionaries import CircularDictionary, ConvDictionary, Dictionary, WithIdentity
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import MultiLayerPursuit


def halo_of(features: nn.Module) -> int:
    """Return the halo of layers that keep the size of the image, in pixels, the largest over all axes.

    Raises:
        ValueError: if the output of a layer depends on the whole image, or on the whole batch.
    """
    check_local(features)
    return max((sum(axis) for axis in zip(*_reaches(features), strict=True)), default=0)


def check_local(model: nn.Module) -> None:
    """Raise ValueError if a normalization uses the statistics of the batch."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            raise ValueError(
                f"{name} normalizes by the statistics of the whole batch, so that every output pixel depends on all of "
                "it; expected evaluation mode, where statistics are fixed: call model.eval()"
            )


def filters_of(dictionary: Dictionary) -> ConvDictionary:
    """Return the filters of a dictionary; raise ValueError if they are not local."""
    inner = dictionary.dictionary if isinstance(dictionary, WithIdentity) else dictionary
    if not isinstance(inner, ConvDictionary) or isinstance(inner, CircularDictionary):
        raise ValueError(
            f"the code of a {type(inner).__name__} depends on the whole image; expected ConvDictionary in every layer"
        )
    return inner


def _reaches(module: nn.Module) -> Iterator[tuple[int, ...]]:
    """Yield s(k−1)/2·(1+2u) along every axis for each layer."""
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _reaches(part)
    elif isinstance(module, PursuitLayer | MultiLayerPursuit):
        for layer in (module,) if isinstance(module, PursuitLayer) else module._each():
            filters = filters_of(layer.dictionary)
            if not filters.keeps_size:
                raise ValueError(f"{filters} changes the size of its image; expected stride 1 and padding s(k−1)/2")
            yield tuple(reach // 2 * (1 + 2 * steps_of(module)) for reach in filters.reach)
    else:
        raise ValueError(f"{module} is not known to be local; expected pursuits, which have a halo")


def steps_of(layer: PursuitLayer | MultiLayerPursuit) -> int:
    """Return the steps of a layer after the first; raise ValueError for one that is solved, whose optimum is global."""
    if isinstance(layer.unfolding, str):
        raise ValueError(
            "the code of a solved layer depends on the whole image: its optimum is global; expected a number of steps"
        )
    return layer.unfolding
