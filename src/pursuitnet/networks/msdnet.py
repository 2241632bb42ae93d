"""Loading the parameters of the MSDNet of Pelt and Sethian, from their implementation in NumPy and C."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.networks.halo import filters_of
from pursuitnet.networks.image import ImageNetwork, dense_image
from pursuitnet.prox.step_size import FreeStep
from pursuitnet.utils.paths import expanded

Array = NDArray[np.float64]
GROUP = "network"
"""Group of the parameters in an HDF5 file."""
ARRAYS = ("dl", "w", "o", "oo", "f")
"""The parameters that every network has."""
SCALES = ("gam_in", "off_in", "gam_out", "off_out")
"""Those of networks that were trained on normalized images."""


def load_msdnet(parameters: str | Path | Mapping[str, Any]) -> ImageNetwork:
    """Return an image network with the parameters of an MSDNet that was trained with dmpelt/msdnet, for evaluation.

    Channel nin + i of that network is ReLU( Σⱼ f[i][j] ⋆ channel j + o[i] ) over all channels j before it, with
    dilation dl[i] and reflection at the border; the result is w·channels + oo, for input x·gam_in + off_in and output
    times gam_out plus off_out. Here that is one layer of [I D] for every i, with D = f[i] and β = −o[i], c = 1, no
    penalty on the identity part and ``boundary="reflect"``; the scales are contained in filters, β and the head. The
    outputs are equal, at the border too, up to rounding. A network for segmentation returns logits:
    ``model(x).softmax(1)`` is its output.

    Args:
        parameters: the dict of ``network.to_dict()``: dl, w, o, oo and f, and gam_in, off_in, gam_out, off_out where
            the network has them; or an HDF5 file of ``network.to_file(path)``, which needs h5py.

    Returns:
        The network in evaluation mode: (B, nin, H, W) → (B, nout, H, W), in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: for a file, without h5py.
        ValueError: if a parameter is missing or has the wrong shape.

    Source:
        Pelt and Sethian, A mixed-scale dense convolutional neural network for image analysis, PNAS, 2018.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> import pursuitnet as pn
        >>> f = {"00000": np.ones((1, 3, 3)), "00001": np.ones((2, 3, 3))}  # of two layers
        >>> given = {"dl": [1, 2], "w": np.ones((1, 3)), "o": np.zeros(2), "oo": np.zeros(1), "f": f}
        >>> pn.load_msdnet(given)(torch.ones(1, 1, 8, 8))[0, 0, 0, 0].item()  # 1 + 9 + 9·(1 + 9)
        100.0
    """
    arrays = _arrays(parameters if isinstance(parameters, Mapping) else _read(expanded(parameters)))
    filters, dilations = _filters(arrays["f"]), [int(d) for d in arrays["dl"].flatten()]
    in_chans, out_chans = len(filters[0]), len(np.atleast_1d(arrays["oo"]))
    _check_shapes(arrays, filters, in_chans, out_chans)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        network = dense_image(
            len(filters),
            in_chans=in_chans,
            out_chans=out_chans,
            dilations=dilations,
            dims=filters[0].ndim - 1,
            norm=None,
            step="free",
            penalty="free",
            signed_input=True,
            boundary="reflect",
        )
    _fill(network, filters, arrays)
    return network.eval()


def _read(path: Path) -> dict[str, Any]:
    """Return the parameters in an HDF5 file."""
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError(f"{path} needs h5py: pip install h5py, or give the dict of network.to_dict()") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        with h5py.File(path, "r") as file:
            return _arrays(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5 ({' '.join(str(error).split()):.200})") from error


def _arrays(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as arrays in float64."""
    inner = parameters.get(GROUP, parameters)
    missing = [name for name in ARRAYS if not isinstance(inner, Mapping) or name not in inner]
    if missing:
        raise ValueError(
            f"the parameters have no {missing[0]}, but {', '.join(map(str, list(parameters)[:5])) or 'nothing'}; "
            "expected the dict of network.to_dict() of dmpelt/msdnet"
        )
    if not isinstance(inner["f"], Mapping) or not inner["f"]:
        raise ValueError(f"f is {kind_of(inner['f'])}; expected a dict of the filters of each layer, 00000, 00001, …")
    arrays = {name: _array(name, inner[name]) for name in (*ARRAYS, *SCALES) if name in inner and name != "f"}
    return {**arrays, "f": {name: _array(f"f[{name!r}]", value) for name, value in inner["f"].items()}}


def _array(name: str, value: object) -> Array:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {kind_of(value)}; expected an array of numbers") from error


def _filters(given: Mapping[str, Array]) -> list[Array]:
    """Return the filters of every layer, (nin + i, *kernel), in order."""
    names = [f"{i:05d}" for i in range(len(given))]
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"f has no {missing[0]}, but {', '.join(sorted(given)[:5])}; expected 00000, 00001, …")
    filters = [given[name] for name in names]
    if filters[0].ndim not in (2, 3, 4) or not len(filters[0]):
        raise ValueError(f"f['00000'] has shape {filters[0].shape}; expected (nin, 3, 3)")
    return filters


def _check_shapes(arrays: Mapping[str, Any], filters: list[Array], in_chans: int, out_chans: int) -> None:
    """Raise ValueError unless all parameters have the shapes of one network."""
    depth, kernel = len(filters), (3,) * (filters[0].ndim - 1)
    expected = {"dl": (depth,), "w": (out_chans, in_chans + depth), "o": (depth,), "oo": (out_chans,)}
    expected |= dict.fromkeys(("gam_in", "off_in"), (in_chans,)) | dict.fromkeys(("gam_out", "off_out"), (out_chans,))
    shapes = {name: value.shape for name, value in arrays.items() if name != "f"}
    shapes |= {f"f['{i:05d}']": value.shape for i, value in enumerate(filters)}
    expected |= {f"f['{i:05d}']": (in_chans + i, *kernel) for i in range(depth)}
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise ValueError(
                f"{name} has shape {shape}; expected {expected[name]}, for {depth} layers, {in_chans} channels of the "
                f"input and {out_chans} of the output"
            )


@torch.no_grad()
def _fill(network: ImageNetwork, filters: list[Array], arrays: Mapping[str, Any]) -> None:
    """Set all weights; the scale of the input, x·gamma + offset, is contained in all that is applied to it."""
    ones, axes = np.ones(network.pursuits()[0].dictionary.channels), tuple(range(1, filters[0].ndim))
    gamma, offset = arrays.get("gam_in", ones), arrays.get("off_in", 0 * ones)
    for i, (layer, weight) in enumerate(zip(network.pursuits(), filters, strict=True)):
        scale = np.concatenate([gamma, np.ones(i)]).reshape(-1, *[1] * len(axes))
        bias = arrays["o"][i] + weight[: len(offset)].sum(axes) @ offset
        layer.step = FreeStep(1.0)
        _copy(filters_of(layer.dictionary).weight, (weight * scale)[None])
        _copy(layer.threshold.atom_weight, -bias[None])
    scale = arrays.get("gam_out", np.ones(len(arrays["oo"])))
    head = arrays["w"] * scale[:, None]
    bias = arrays["oo"] * scale + head[:, : len(offset)] @ offset + arrays.get("off_out", 0 * scale)
    head[:, : len(gamma)] *= gamma
    own = network.head.state_dict()  # its tensors share memory with the head
    _copy(own["weight"], head.reshape(own["weight"].shape))
    _copy(own["bias"], bias)


def _copy(own: Any, values: Array) -> None:
    own.copy_(torch.from_numpy(values))
