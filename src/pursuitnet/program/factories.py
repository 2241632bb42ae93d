"""Create what a recipe names: its device, its data set, its network."""

import torch

from pursuitnet import data
from pursuitnet.networks import Network, create_model
from pursuitnet.program.recipe import GIVEN, Recipe
from pursuitnet.utils.nearest import did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
"""The usual names of devices; PyTorch may know more."""


def device_of(recipe: Recipe, local: int = 0) -> torch.device:
    """Return the device that the recipe names; "auto" takes the accelerator, if there is one.

    Args:
        recipe: the run.
        local: number of the process on its machine; it selects the device unless the recipe names one with its index.
    """
    if recipe.device != "auto":
        return _device(recipe.device, local)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if accelerator is None else torch.device(accelerator.type, local)


def _device(name: str, local: int) -> torch.device:
    """Return the device of that name, if it is available and holds numbers."""
    try:
        device = torch.device(name)
        if device.type != "cpu" and device.index is None:
            device = torch.device(device.type, local)
        device_used = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        near = "" if name.partition(":")[0] in DEVICES else did_you_mean(name, DEVICES)
        why = (str(error).splitlines() or ["unknown device"])[0]
        hint = near or f" (--device names another): {why:.200}"
        raise ValueError(f"device is {name!r}, which is not available here{hint}") from error
    if device_used.type == "meta":
        raise ValueError(f"device is {name!r}, which holds no numbers; expected {', '.join(DEVICES)}")
    return device_used


def dataset_of(recipe: Recipe) -> data.Dataset:
    """Return the description of the recipe's data set: classes, channels, sizes."""
    check_stored(recipe)
    return data.info(**recipe.images())


def check_stored(recipe: Recipe) -> None:
    """Raise ValueError if a recipe's images were passed in from Python, since those are not stored with the run."""
    if recipe.data == GIVEN:
        raise ValueError(
            "the images of this run were passed in from Python and are not stored: continue there, with "
            "train(…, data=…, resume=True); to evaluate or inspect the run, give a folder of images with --data-dir"
        )


def model_of(recipe: Recipe, device: torch.device | None = None, dataset: data.Dataset | None = None) -> Network:
    """Create the recipe's network from its seed; torch's global generator is not changed."""
    dataset, device = dataset or dataset_of(recipe), device_of(recipe) if device is None else device
    return seeded_network(recipe, dataset.num_classes, dataset.in_chans, device)


def seeded_network(recipe: Recipe, outputs: int, channels: int, device: torch.device) -> Network:
    """Create a network with these numbers of outputs and input channels from the recipe's seed, on a device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = network_of(recipe, outputs, channels)
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def network_of(recipe: Recipe, outputs: int, channels: int) -> Network:
    """Create the recipe's network with these numbers of outputs and input channels, from torch's global generator."""
    choices = recipe.choices()
    if recipe.model == "csc_denoiser" and recipe.task != "denoise":
        other = "msd_csc_6" if recipe.task == "classify" else "msd_csc_30"
        raise ValueError(f"model is csc_denoiser, which denoises; expected another network to {recipe.task}: {other}")
    if recipe.task == "classify":
        return create_model(recipe.model, outputs, channels, **choices)
    if recipe.model != "csc_denoiser":
        choices["out_chans"] = outputs
    return create_model(recipe.model, in_chans=channels, task="image", **choices)
