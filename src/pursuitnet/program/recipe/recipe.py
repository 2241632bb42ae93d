"""One training run as frozen data: its fields, and what follows from them."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pursuitnet.program.recipe.checks import RESIDUAL, check_ranges, check_task
from pursuitnet.program.recipe.fields import as_type, converted_fields, field_types
from pursuitnet.program.recipe.named import read_named
from pursuitnet.utils.paths import expanded

IMAGE_TASKS: dict[str, dict[str, Any]] = {
    "denoise": {"model": "csc_denoiser", "lr": 2e-3, "weight_decay": 0.0, "batch_size": 8, "optimizer": "adam"},
    "segment": {"model": "msd_csc_30", "lr": 5e-3, "weight_decay": 0.0, "batch_size": 8, "optimizer": "adam"},
    "regress": {"model": "msd_csc_30", "lr": 5e-3, "weight_decay": 0.0, "batch_size": 8, "optimizer": "adam"},
}
"""What tasks on images have in place of the defaults below."""

MACHINE_FIELDS = ("data_dir", "device", "compile", "cuda_graphs", "grad_checkpointing", "in_memory", "workers")
"""Fields of a recipe that say where and how it is run, and not what the result is."""

CHOICES = ("unfolding", "solver", "sweep", "norm", "step", "penalty", "identity", "dilations", "boundary", "width")
NETWORK = ("model", "normalize", *CHOICES)
"""Fields of a recipe that say what the network is."""

MOST_DILATION = 2**15
"""Dilations are below this."""

GIVEN = "given"
"""Value of ``data`` for images that are passed in from Python."""


class _DefaultModel(str):
    """The network of a recipe that names none, so that a task can put its own in its place."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run: everything that decides its result, besides the machine.

    Example:
        >>> import pursuitnet as pn
        >>> recipe = pn.Recipe(model="res_csc_20", epochs=30)
        >>> recipe.epochs, recipe.data, recipe.choices()
        (30, 'digits', {})
    """

    data: str = "digits"
    """Data set: digits (in scikit-learn), cifar10, cifar100, svhn, folder (of images, one sub-folder a class), or
    images (to denoise; or images/ and targets/ with equal names, to segment or regress)."""

    task: Literal["classify", "denoise", "segment", "regress"] = "classify"
    """What is learned: the class of an image, or an image from an image: without its noise, each pixel's label, or each
    pixel's value."""

    data_dir: Path | None = None
    """Folder with the original files of the data set."""

    sigma: str | None = None
    """Noise to denoise, as a standard deviation on the scale of 0 to 255: a number, or a range such as 5-55 for one
    network for all of it."""

    patch: int | None = None
    """Side of the patches that are drawn from images to denoise, segment or regress; by default 64, or what fits."""

    image_size: int | None = None
    """Height and width that the images of a folder are scaled and cropped to."""

    skip_broken: bool = False
    """Leave out the files of a folder that are no images, or broken, with a warning."""

    white_level: float | None = None
    """Value of white in images of a folder with more than 8 bits that do not say it, such as 4095 for 12 bits."""

    in_memory: bool | None = None
    """Keep all images of a folder in memory; by default unless they take more than a quarter of it. Otherwise they are
    read for every batch."""

    workers: int | None = None
    """Processes that read images which are not kept in memory; by default one a core, at most 8."""

    val_images: int = 0
    """Training images held out to choose by, drawn at random by the seed, of a folder with every class in proportion;
    never choose by the test images."""

    train_images: int | None = None
    """Use only this number of training images, the first ones; of a folder a fixed random choice, every class in
    proportion."""

    test_images: int | None = None
    """Use only this number of test images, the first ones; of a folder a fixed random choice, every class in
    proportion."""

    shift: int | None = None
    """Largest random translation in pixels; by default 4, and 0 for digits."""

    flip: bool | None = None
    """Random horizontal flip, by default for all but digits and svhn; of patches also turns and vertical flips."""

    padding_mode: Literal["zeros", "reflect"] = "zeros"
    """What moves in at the border of a translated image."""

    normalize: bool | None = None
    """Subtract the mean and divide by the deviation of each channel; by default for residual networks only, others
    see [0, 1]."""

    model: str = _DefaultModel("msd_csc_6")
    """Network, as listed by `pursuitnet models`; by default csc_denoiser to denoise, msd_csc_30 to segment or
    regress."""

    unfolding: int | Literal["solved"] | None = None
    """Pursuit steps after the first, or solved: as many as each layer's optimum takes, without batch normalization; the
    network's own default if left out."""

    solver: Literal["ista", "fista"] | None = None
    """Solver of the further steps."""

    sweep: Literal["layer", "multilayer"] | None = None
    """Unfold each layer by itself, or sweep over all layers between two poolings."""

    norm: Literal["batch", "features", "whole", "none"] | None = None
    """Batch normalization inside the threshold: batch (the network's own kind), features (of the new features only),
    whole (of the identity part, or of X₋₁, too), or none."""

    step: Literal["bounded", "free"] | None = None
    """Step size kept inside (0, 1/L], or learned without bound."""

    penalty: Literal["nonnegative", "free"] | None = None
    """Penalty β kept ≥ 0, or of either sign, as b of Algorithms 2 and 3."""

    identity: Literal["own", "same", "none", "signed"] | None = None
    """Penalty on the identity part of [I D]."""

    dilations: str | None = None
    """Dilations of the layers: network, which is 1, 2, 3 in turn, or block, from 1 again after each pooling; of
    networks that return images a list to use in turn, such as 1,2,4,8, or a range, by default 1-10."""

    boundary: Literal["zeros", "reflect"] | None = None
    """What is outside of the image in dense networks that return images: zeros, or its mirror image."""

    width: int | None = None
    """Atoms a layer."""

    unit_norm: bool | None = None
    """Certified networks: bring every image to zero mean and unit norm first."""

    downsamples: int | None = None
    """Certified networks: how often 2 x 2 pixels become four channels after the last stage; by default once, which ends
    at one pixel for images of 8 pixels; 3 times for those of 28 or 32."""

    corner: Literal["zero", "resnet", "res_csc_simplified", "res_csc"] | None = None
    """Where the learned starts of learned_20 and the like begin."""

    init: str | None = None
    """Run, model.safetensors or pretrained network whose weights training starts from; the head too, if the classes are
    the same. Images are normalized as in its training."""

    init_dictionary: str | None = None
    """Learned dictionary whose filters the first layer starts from, or its layers the first layers: a folder of
    `pursuitnet learn`, or a safetensors file with the tensor "weight"."""

    freeze_backbone: bool = False
    """Train the head alone."""

    epochs: int = 10
    """Passes over the training images."""

    batch_size: int = 64
    """Images a step, over all processes together."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    """Rule of the steps; adam to denoise, segment or regress."""

    lr: float = 0.05
    """Largest learning rate; by default 0.002 to denoise, 0.005 to segment or regress."""

    momentum: float = 0.9
    """Momentum of SGD."""

    nesterov: bool = True
    """Nesterov's form of the momentum."""

    weight_decay: float = 1e-4
    """Decay of filters and head; thresholds, steps and norms do not decay."""

    decay_all: bool = False
    """Let the weight decay pull at thresholds, steps and norms too."""

    balance: Literal["weights", "sampler"] | None = None
    """For classes of unequal size: weigh the loss of each image by what its class lacks, or draw images so that every
    class comes equally often. "weights" makes the labels of a segmentation count the same, too."""

    class_weights: tuple[float, ...] | None = None
    """Weight of each class in the loss, in the order of the labels, relative to each other."""

    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""

    margin: float = 0.0
    """How far the logit of the true class is to be ahead: what is taken from it in the loss."""

    temperature: float = 1.0
    """What logits are divided by in the loss, which is then multiplied by it."""

    schedule: Literal["cosine", "steps", "onecycle", "constant"] = "cosine"
    """Cosine to zero; divided by 10 at each of the milestones; one cycle, straight up over the warm-up (a fifth of the
    epochs at most) and straight down to zero; or constant."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the epochs after which the schedule "steps" divides the rate by 10."""

    warmup: float = 1.0
    """Epochs over which the learning rate rises from zero."""

    seed: int = 0
    """Seed of initialization, order, augmentation and validation split."""

    device: str = "auto"
    """Device: auto (the accelerator, if there is one), cpu, cuda, cuda:1, …"""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of convolutions: auto is bfloat16 on CUDA devices that have it, float32 elsewhere."""

    compile: bool = False
    """Compile the network with torch.compile; needs a compiler, and minutes before the first step."""

    cuda_graphs: bool | None = None
    """Record the kernels of a step as a CUDA graph once, and start them all at once; by default on one CUDA device
    without --compile."""

    grad_checkpointing: bool = False
    """Compute the codes again in the backward pass instead of keeping them: less memory, about a third more time."""

    sync_norm: bool = False
    """Batch statistics over all processes, so that their number does not change the result."""

    def __post_init__(self) -> None:
        for name, kind in field_types(Recipe).items():
            try:
                object.__setattr__(self, name, as_type(kind, getattr(self, name), name))
            except TypeError as error:
                raise ValueError(str(error)) from error
        self._set_task_defaults()
        check_ranges(self)
        check_task(self)

    def _set_task_defaults(self) -> None:
        """Put a task's own values in the place of defaults."""
        for name, value in IMAGE_TASKS.get(self.task, {}).items():
            default = type(self).__dataclass_fields__[name].default
            if isinstance(self.model, _DefaultModel) if name == "model" else getattr(self, name) == default:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "model", str(self.model))

    def noise(self) -> tuple[float, float]:
        """Return the smallest and the largest σ to train at, on the scale of 0 to 255; zeros where there is none."""
        parts = "0" if self.sigma is None else self.sigma
        try:
            low, high = (float(part) for part in (*parts.split("-"), *parts.split("-"))[:2])
        except ValueError:
            low, high = -1.0, -1.0
        if not 0 <= low <= high < float("inf") or parts.count("-") > 1:
            raise ValueError(f"sigma is {self.sigma!r}; expected a number ≥ 0 such as 25, or a range such as 5-55")
        return low, high

    def differs(self, other: "Recipe") -> list[str]:
        """Return the fields that decide the result and are not the same in another recipe."""
        return [
            name for name, value in vars(self).items() if name not in MACHINE_FIELDS and value != getattr(other, name)
        ]

    def resumed_with(self, given: "Recipe") -> "Recipe":
        """Return this recipe for a run that is resumed, perhaps on another machine.

        Args:
            given: this recipe, but for the fields that were asked for.

        Raises:
            ValueError: if a field that decides the result is to change.
        """
        if changed := self.differs(given):
            raise ValueError(
                f"--resume continues with the recipe that the run was started with; leave out {', '.join(changed)}, "
                "or start another run"
            )
        return replace(self, **{name: getattr(given, name) for name in MACHINE_FIELDS})

    def located(self) -> "Recipe":
        """Return this recipe with the data folder as an absolute path, so that it holds wherever it is read."""
        located = replace(self, init=_located(self.init), init_dictionary=_located(self.init_dictionary))
        return located if self.data_dir is None else replace(located, data_dir=expanded(self.data_dir).absolute())

    def images(self) -> dict[str, Any]:
        """Return where the images are and how they are read, as ``data.info`` takes it."""
        choices = {"image_size": self.image_size, "skip_broken": self.skip_broken, "white_level": self.white_level}
        if self.data == "folder":
            choices |= {"in_memory": self.in_memory, "workers": self.workers}
        return {"name": self.data, "root": self.data_dir, **choices}

    def choices(self) -> dict[str, Any]:
        """Return the network's choices that are set, as ``create_model`` takes them."""
        names = (*CHOICES, "unit_norm", "downsamples", "corner")
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if chosen.get("norm", "none" if self.unfolding == "solved" else None) == "none":
            chosen["norm"] = None  # a Lasso has no batch statistics
        if self.normalized and self.model.startswith("msd"):
            chosen["signed_input"] = True
        if self.dilations is not None and self.task != "classify":
            chosen["dilations"] = _dilations(self.dilations)
        return chosen

    @property
    def normalized(self) -> bool:
        return self.model.startswith(RESIDUAL) if self.normalize is None else self.normalize

    @property
    def shifted(self) -> int:
        return (0 if self.data == "digits" else 4) if self.shift is None else self.shift

    @property
    def flipped(self) -> bool:
        return self.data not in ("digits", "svhn") if self.flip is None else self.flip

    def to_json(self) -> dict[str, Any]:
        """Return every field as JSON has it."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str = "the recipe") -> "Recipe":
        """Return the recipe with these fields; those left out keep their defaults.

        Raises:
            ValueError: for a field that does not exist, with the nearest that does, and for a value of another type.
        """
        return cls(**converted_fields(values, field_types(Recipe), source))

    @classmethod
    def named(cls, name: str | Path) -> "Recipe":
        """Return a recipe by name (``RECIPES``) or from a TOML or YAML file.

        Raises:
            FileNotFoundError: if it is neither.
            ValueError: if the file does not hold a recipe.
        """
        return cls.from_json(*read_named(name))


def _dilations(text: str) -> list[int]:
    """Return the dilations that a list or range names, such as 1,2,4,8 or 1-10."""
    try:
        ranges = [
            (int(low), int(high if dash else low))
            for low, dash, high in (part.partition("-") for part in text.split(","))
        ]
    except ValueError:
        ranges = [(0, 0)]
    if not all(1 <= low <= high < MOST_DILATION for low, high in ranges):
        raise ValueError(
            f"dilations is {text!r}; expected whole numbers from 1 to {MOST_DILATION - 1}, as a list such as 1,2,4,8 "
            "or a range such as 1-10"
        )
    return [dilation for low, high in ranges for dilation in range(low, high + 1)]


def _located(name: str | None) -> str | None:
    """Return a name as an absolute path if it is one."""
    path = expanded(name) if name else None
    return str(path.absolute()) if path and path.exists() else name


def values_of(name: str | Path) -> dict[str, Any]:
    """Return the fields that a named recipe or a file sets; raises as ``Recipe.named`` does."""
    values, source = read_named(name)
    return converted_fields(values, field_types(Recipe), source)
