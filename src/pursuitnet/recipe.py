"""What a training run is, as frozen data; imports nothing heavy, so that ``--help`` is quick."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run: everything that decides its result, besides the machine."""

    data: str = "digits"
    """Data set: digits (in scikit-learn) or cifar10."""

    data_dir: Path | None = None
    """Folder with the original files of the data set."""

    model: str = "msd_csc_6"
    """Network, as listed by `pursuitnet models`."""

    unfolding: int | None = None
    """Pursuit steps after the first; the network's own default if left out."""

    solver: Literal["ista", "fista"] | None = None
    """Solver of the further steps."""

    sweep: Literal["layer", "multilayer"] | None = None
    """Unfold each layer by itself, or sweep over all layers between two poolings."""

    norm: Literal["batch", "features", "whole", "none"] | None = None
    """Batch normalisation inside the threshold: of the whole code, of its new features only, or none."""

    step: Literal["bounded", "free"] | None = None
    """Step size kept inside (0, 1/L], or learned without bound."""

    identity: Literal["own", "same", "none", "signed"] | None = None
    """Penalty on the identity part of [I D]."""

    width: int | None = None
    """Atoms a layer."""

    epochs: int = 10
    """Passes over the training images."""

    batch_size: int = 64
    """Images a step."""

    lr: float = 0.05
    """Largest learning rate (SGD)."""

    momentum: float = 0.9
    """Momentum of SGD."""

    nesterov: bool = True
    """Nesterov's form of the momentum."""

    weight_decay: float = 1e-4
    """Decay of filters and head; thresholds, steps and norms never decay."""

    schedule: Literal["cosine", "steps"] = "cosine"
    """Cosine to zero, or divided by 10 after a half and three quarters."""

    warmup: float = 1.0
    """Epochs over which the learning rate rises from zero."""

    augment: bool | None = None
    """Random translation and flip; by default for cifar10 only."""

    standardise: bool | None = None
    """Subtract the mean and divide by the deviation of each channel; by default for residual networks only, others
    see [0, 1]."""

    train_images: int | None = None
    """Use only the first so many training images."""

    seed: int = 0
    """Seed of initialisation, order and augmentation."""

    device: str = "auto"
    """Device: auto, cpu, cuda, …"""

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("batch_size", 2),
            ("unfolding", 0),
            ("width", 1),
            ("train_images", 2),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
        for name in ("lr", "momentum", "weight_decay", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number ≥ 0")

    def choices(self) -> dict[str, Any]:
        """Return the network's choices that are set, as ``create_model`` takes them."""
        names = ("unfolding", "solver", "sweep", "norm", "step", "identity", "width")
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if chosen.get("norm") == "none":
            chosen["norm"] = None
        if self.standardised and self.model.startswith("msd"):
            chosen["signed_input"] = True
        return chosen

    @property
    def standardised(self) -> bool:
        return self.model.startswith(("plain", "res")) if self.standardise is None else self.standardise

    @property
    def augmented(self) -> bool:
        return self.data != "digits" if self.augment is None else self.augment

    def to_json(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Recipe":
        if not isinstance(values, dict):
            raise ValueError(f"a recipe is an object with named fields; this one is {values!r:.40}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"the recipe has unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        folder = values.get("data_dir")
        return cls(**{**values, "data_dir": None if folder is None else Path(folder)})
