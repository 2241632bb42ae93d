"""Networks by name, as in the paper's tables."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pursuitnet import starts
from pursuitnet.dictionaries import Dictionary
from pursuitnet.networks.certified import certified
from pursuitnet.networks.choices import begin_with, known
from pursuitnet.networks.denoiser import csc_denoiser
from pursuitnet.networks.dense import msd
from pursuitnet.networks.image import ImageNetwork, dense_image
from pursuitnet.networks.network import Network
from pursuitnet.networks.pretrained import Pretrained, pretrained_names
from pursuitnet.networks.residual import residual
from pursuitnet.networks.six_layers import six_layers
from pursuitnet.utils.limits import check_depth, check_number
from pursuitnet.utils.nearest import did_you_mean

FAMILIES: dict[str, tuple[Callable[..., Network], tuple[int, ...]]] = {
    "plain": (partial(residual, start=starts.zero), (20, 32, 44, 56, 110, 218)),
    "resnet": (partial(residual, start=starts.resnet), (20, 32, 44, 56, 110, 218)),
    "res_csc": (partial(residual, start=starts.res_csc), (20, 32, 44, 56, 110, 218)),
    "res_csc_simplified": (partial(residual, start=starts.res_csc_simplified), (20, 32, 44, 56, 110, 218)),
    "learned": (partial(residual, start=starts.LearnedStart, c=-0.1), (20, 56)),
    "multistep": (partial(residual, start=starts.resnet, recall="learned"), (20, 56)),
    "momentum": (partial(residual, start=starts.res_csc, recall="fista", c=-0.1), (20, 56)),
    "feed_forward": (partial(six_layers, unfolding=0), ()),
    "ml_csc": (partial(six_layers, unfolding=1), ()),
    "msdnet": (partial(msd, unfolding=0), (6, 9, 12)),
    "msd_csc": (partial(msd, unfolding=1), (6, 9, 12)),
    "certified": (certified, (6, 9, 12)),
}


IMAGE_FAMILIES: dict[str, tuple[Callable[..., ImageNetwork], tuple[int, ...]]] = {
    "msdnet": (partial(dense_image, unfolding=0), (30, 100)),
    "msd_csc": (partial(dense_image, unfolding=1), (30, 100)),
    "csc_denoiser": (csc_denoiser, ()),
}
TASKS: dict[str, Mapping[str, tuple[Callable[..., Network], tuple[int, ...]]]] = {
    "classify": FAMILIES,
    "image": IMAGE_FAMILIES,
}
LEAST = {
    **{"num_classes": 0, "in_chans": 1, "width": 1, "unfolding": 0},
    **{"out_chans": 1, "layers": 1, "kernel": 1, "stride": 1},
}
"""The smallest allowed value of each number."""


def list_models(pretrained: bool = False, *, task: str = "classify") -> list[str]:
    """Return the names of the networks; a family can also be created at other depths.

    Args:
        pretrained: return only those whose weights come with the library.
        task: "classify" for the networks of the paper's tables, "image" for those that return images.

    Example:
        >>> import pursuitnet as pn
        >>> pn.list_models()[-3:]
        ['certified_6', 'certified_9', 'certified_12']
    """
    families = TASKS[known("task", task, TASKS)]
    if pretrained:
        return [name for name in pretrained_names() if Pretrained.of(name).task == task]
    return [f"{family}_{d}" if d else family for family, (_, ds) in families.items() for d in ds or (0,)]


def create_model(
    name: str,
    num_classes: int = 10,
    in_chans: int | None = None,
    *,
    task: str | None = None,
    pretrained: bool = False,
    dictionaries: Sequence[Dictionary | None] = (),
    **choices: object,
) -> Network:
    """Return the network of a name in training mode, randomly initialized from torch's global generator.

    Args:
        name: a name of ``list_models()``, or the same family at another depth: residual networks at 6n+2, MSD
            and certified networks at a multiple of 3, MSD at any depth where they return images; or "csc_denoiser".
        num_classes: size of the output; 0 leaves the head out, and ``forward`` returns pooled features. Networks that
            return images have ``out_chans`` instead.
        in_chans: channels of the image; 3 if left out, and 1 for "csc_denoiser".
        task: "classify", or "image" for a network that returns images, which "csc_denoiser" does in any case.
        pretrained: load the weights that come with the library, for a name of ``list_models(pretrained=True)``. The
            network then has ``pretrained_cfg``: mean and std, by which images in [0, 1] must be normalized, classes,
            test_accuracy (of a denoiser psnr), recipe. A head of another size is randomly initialized.
        dictionaries: learned ones, such as ``learn`` returns, whose filters initialize the first layers, scaled to the
            λmax(DᵀD) of those that they replace; None leaves a layer unchanged.
        choices: unfolding, solver, sweep, norm, width, …: the keyword arguments of ``residual``, ``msd``,
            ``six_layers``, ``certified``, ``dense_image`` and ``csc_denoiser``.

    Raises:
        ValueError: for a name, a depth or a choice that does not exist, with a list of those that do; if pretrained,
            for a choice that differs from training, and for a damaged file; for dictionaries that do not match.
        TypeError: if pretrained is not a bool.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> model = pn.create_model("msd_csc_6", num_classes=10, unfolding=2, solver="fista", width=8)
        >>> model(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
        >>> model.forward_features(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 51, 8, 8])
    """
    task = ("image" if name == "csc_denoiser" else "classify") if task is None else known("task", task, TASKS)
    family, depth = _parse(name, task)
    build = TASKS[task][family][0]
    known_choices = _choices(family, build)
    for choice in choices:
        if choice not in known_choices:
            suggestion = did_you_mean(choice, known_choices, ".")
            raise ValueError(f"{name} has no choice {choice!r}{suggestion} Its choices are {', '.join(known_choices)}")
    channels = (
        {} if in_chans is None and family == "csc_denoiser" else {"in_chans": 3 if in_chans is None else in_chans}
    )
    given = {"num_classes": num_classes, **channels, **choices}
    for what, least in LEAST.items():
        value = given.get(what, least)
        if what == "unfolding" and value == "solved" and family == "msd_csc":
            continue
        if not isinstance(value, int) or value < least:
            hint = {"num_classes": ", where 0 leaves the head out"}.get(what, "")
            hint = ", or 'solved'" if what == "unfolding" and family == "msd_csc" else hint
            raise ValueError(f"{what} is {value!r}; expected an integer ≥ {least}{hint}")
        check_number(what, value)
    if task == "image" and given.pop("num_classes") != 10:
        raise ValueError(
            f"num_classes is {num_classes}, but the network returns images; expected out_chans={num_classes}"
        )
    if not isinstance(pretrained, bool):
        raise TypeError(f"pretrained is {pretrained!r}; expected True or False")
    if pretrained:
        weights = Pretrained.of(name)
        if weights.task != task:
            raise ValueError(f"task is {task!r}; the weights of {name} are for {weights.task!r}: leave out pretrained")
        given |= weights.choices(build, channels.get("in_chans", 1), choices)
        return weights.fill(build(*depth, **given))
    network = build(*depth, **given)
    begin_with(network, dictionaries)
    return network


def _choices(family: str, build: Callable[..., Network]) -> list[str]:
    """Return the choices that a family has, besides the sizes that all have."""
    left_out = {"depth", "start", "recall", "num_classes", "in_chans"} | (set() if family == "learned" else {"corner"})
    if family in ("feed_forward", "msdnet"):
        left_out |= {"unfolding", "solver", "sweep"}  # fixed by the name
    return [p for p in inspect.signature(build).parameters if p not in left_out]


def _parse(name: str, task: str) -> tuple[str, tuple[int, ...]]:
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; expected a string, such as 'msd_csc_6'")
    match = re.fullmatch(r"(.+?)(?:_(\d+))?", name)
    family, digits = match.groups() if match else (name, None)
    families = TASKS[task]
    if family not in families or bool(digits) != bool(families[family][1]):
        models = list_models(task=task)
        raise ValueError(
            f"no model is called {name!r}{did_you_mean(name, models, '.')} The models are {', '.join(models)}"
        )
    check_depth(name)
    return family, (int(digits),) if digits else ()
