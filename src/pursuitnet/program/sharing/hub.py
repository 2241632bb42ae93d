"""Networks on the Hugging Face hub: ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pursuitnet.networks import create_model
from pursuitnet.program.sharing.loading import Trained, check_fit, normalize

try:
    from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
    from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
except ImportError as error:
    raise ImportError("the hub needs huggingface_hub: pip install 'pursuitnet[hub]'") from error

PAPER = (
    "Zhiyang Zhang and Shihua Zhang: Towards Understanding Residual and Dilated Dense Neural Networks via "
    "Convolutional Sparse Coding"
)


class HubNetwork(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="pursuitnet",
    tags=["sparse-coding", "image-classification"],
    license="bsd-3-clause",
):
    """A network of ``create_model`` that the hub can hold; its config is the arguments.

    Args:
        name: of ``list_models()``.
        num_classes: size of the output.
        in_chans: channels of the image.
        mean: per channel on the [0, 1] scale, subtracted from each image; None for zero.
        std: per channel, by which it is then divided; None for one.
        classes: names of the classes by label, if they have names.
        choices: keyword arguments of ``create_model``.
    """

    mean: Tensor
    std: Tensor
    card: str | None = None
    """Text of the model card; None for the hub's default."""

    def __init__(
        self,
        name: str,
        num_classes: int = 10,
        in_chans: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        classes: list[str] | None = None,
        choices: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        network = create_model(name, num_classes, in_chans, **(choices or {}))
        # the memory format of ``load``, so that logits are bit for bit the same
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # not among the weights, since they are in the config
        self.register_buffer("mean", torch.tensor([0.0] * in_chans if mean is None else mean), persistent=False)
        self.register_buffer("std", torch.tensor([1.0] * in_chans if std is None else std), persistent=False)
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, in_chans, H, W), uint8 or float in [0, 1]."""
        return self.network(normalize(images, self.mean, self.std))

    @classmethod
    def of(cls, trained: Trained, accuracy: float | None = None) -> "HubNetwork":
        """Return a trained network for the hub, with its card.

        Args:
            trained: the network.
            accuracy: on the test images, as a fraction, if it was measured.
        """
        mean, std, classes = trained.mean.tolist(), trained.std.tolist(), list(trained.classes)
        recipe = trained.recipe
        network = cls(recipe.model, len(classes), len(mean), mean, std, classes, recipe.choices())
        network.network.load_state_dict(trained.network.state_dict())
        network.card = card(trained, accuracy)
        return network.eval()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        return super().generate_model_card(*args, **kwargs) if self.card is None else ModelCard(self.card)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, strict: bool = True, **given: Any) -> "HubNetwork":
        """Return the network with its weights; the mixin alone would leave missing ones at random values."""
        if "name" not in given:
            raise ValueError(f"{model_id} is not a network of pursuitnet: its config.json has no name")
        source = {
            key: given.get(key) for key in ("revision", "cache_dir", "force_download", "token", "local_files_only")
        }
        network = {key: given[key] for key in ("num_classes", "in_chans") if key in given}
        try:
            choices = given.get("choices") or {}
            build = partial(create_model, given["name"], **network, **choices)
            check_fit(_shapes(model_id, **source), given["name"], build, choices)
            return super()._from_pretrained(model_id=model_id, strict=strict, **{**given, "force_download": False})
        except (RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"{model_id} lacks the weights of {given['name']}: {reason:.200}") from error


def _shapes(model_id: str, **source: Any) -> dict[str, Tensor]:
    """Return names and shapes of the weights in a folder or on the hub, as tensors on the meta device."""
    file = Path(model_id, SAFETENSORS_SINGLE_FILE)
    if not Path(model_id).is_dir():
        file = Path(hf_hub_download(model_id, SAFETENSORS_SINGLE_FILE, **source))
    with safe_open(file, "pt") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    return {name.removeprefix("network."): torch.empty(shape, device="meta") for name, shape in shapes.items()}


def card(trained: Trained, accuracy: float | None = None) -> str:
    """Return the text of a model card, with known facts only.

    Args:
        trained: the network.
        accuracy: on the test images, as a fraction, if it was measured.
    """
    recipe = trained.recipe
    size = sum(p.numel() for p in trained.network.parameters())
    epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"
    result = f"Test accuracy of the last epoch: {100 * accuracy:.2f} %.\n" if accuracy is not None else ""
    choices = ", ".join(f"{name}={value}" for name, value in recipe.choices().items()) or "its defaults"
    return (
        "---\nlibrary_name: pursuitnet\nlicense: bsd-3-clause\n"
        "tags: [sparse-coding, image-classification, model_hub_mixin, pytorch_model_hub_mixin]\n---\n\n"
        f"# {recipe.model} on {recipe.data}\n\n"
        f"A network of pursuits ({choices}; {size:,} parameters), trained for {epochs} with seed "
        f"{recipe.seed}. {len(trained.classes)} classes: {', '.join(trained.classes)}.\n{result}\n"
        "```python\nfrom pursuitnet.program.sharing.hub import HubNetwork\n\n"
        'model = HubNetwork.from_pretrained("…")  # images, uint8 or in [0, 1], to logits\n```\n\n'
        f"Based on the paper: {PAPER}.\n"
    )
