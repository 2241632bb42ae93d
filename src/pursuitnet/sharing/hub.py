"""Networks on the Hugging Face hub: ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``."""

from typing import Any

from torch import Tensor, nn

from pursuitnet.networks import create_model
from pursuitnet.sharing.reading import Trained

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError as error:
    raise ImportError("the hub needs huggingface_hub: pip install 'pursuitnet[hub]'") from error

PAPER = "Towards Understanding Residual and Dilated Dense Neural Networks via Convolutional Sparse Coding"


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
        std: what it is then divided by; None for one.
        classes: their names by label, if they have any.
        choices: keyword arguments of ``create_model``.
    """

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
        self.network = create_model(name, num_classes, in_chans, **(choices or {}))
        self.mean = [0.0] * in_chans if mean is None else mean
        self.std = [1.0] * in_chans if std is None else std
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images in [0, 1], (B, in_chans, H, W)."""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return self.network((images - mean) / std)

    @classmethod
    def of(cls, trained: Trained) -> "HubNetwork":
        """Return a trained network for the hub."""
        mean, std, classes = trained.mean.tolist(), trained.std.tolist(), list(trained.classes)
        recipe = trained.recipe
        found = cls(recipe.model, len(classes), len(mean), mean, std, classes, recipe.choices())
        found.network.load_state_dict(trained.network.state_dict())
        return found.eval()


def card(trained: Trained, accuracy: float | None = None) -> str:
    """Return the text of a model card, of what is known alone.

    Args:
        trained: the network.
        accuracy: on the test images, as a fraction, if it was measured.
    """
    recipe = trained.recipe
    size = sum(p.numel() for p in trained.network.parameters())
    known = f"Test accuracy of the last epoch: {100 * accuracy:.2f} %.\n" if accuracy is not None else ""
    choices = ", ".join(f"{name}={value}" for name, value in recipe.choices().items()) or "its defaults"
    return (
        "---\nlibrary_name: pursuitnet\nlicense: bsd-3-clause\ntags: [sparse-coding, image-classification]\n---\n\n"
        f"# {recipe.model} on {recipe.data}\n\n"
        f"A network of pursuits ({choices}; {size:,} parameters), trained for {recipe.epochs} epochs with seed "
        f"{recipe.seed}. {len(trained.classes)} classes: {', '.join(trained.classes)}.\n{known}\n"
        "```python\nfrom pursuitnet.sharing.hub import HubNetwork\n\n"
        'model = HubNetwork.from_pretrained("…").eval()  # images in [0, 1] to logits\n```\n\n'
        f"After the paper: {PAPER}.\n"
    )
