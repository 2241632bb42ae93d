"""Which values of a recipe's fields go together; each error says what came, what was expected, what to do."""

from typing import Any

from pursuitnet.utils.limits import check_depth, check_number

Fields = Any
"""The fields of a recipe: a ``Recipe``, which calls these checks as it is made."""

RESIDUAL = ("plain", "res", "learned", "multistep", "momentum")
"""Prefixes of the names of residual networks."""

LEAST = {
    "epochs": 1,
    "batch_size": 2,
    "unfolding": 0,
    "width": 1,
    "downsamples": 0,
    "train_images": 2,
    "test_images": 1,
    "val_images": 0,
    "shift": 0,
    "image_size": 1,
    "workers": 0,
    "patch": 1,
}
"""Smallest value of the fields that count something."""

OF_CLASSES = {
    **dict.fromkeys(("val_images", "shift", "normalize")),
    **{"margin": 0.0, "temperature": 1.0, "padding_mode": "zeros"},
}
"""Fields for networks that classify only, and their values elsewhere."""

BALANCED = {("classify", "weights"), ("classify", "sampler"), ("segment", "weights")}
"""Tasks, and how their classes can be balanced."""


def check_ranges(recipe: Fields) -> None:
    """Raise ValueError if a field lies outside its range, whatever the task."""
    _check_counts(recipe)
    _check_solved(recipe)
    _check_rates(recipe)
    _check_loss(recipe)
    _check_folder_fields(recipe)
    if recipe.init is not None and recipe.init_dictionary is not None:
        raise ValueError("init and init_dictionary both give the filters of the first layer; expected one of them")


def _check_counts(recipe: Fields) -> None:
    for name, least in LEAST.items():
        value = getattr(recipe, name)
        if isinstance(value, int) and value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    check_depth(recipe.model)
    for name in ("width", "downsamples"):
        check_number(name, getattr(recipe, name))
    if recipe.unfolding != "solved":
        check_number("unfolding", recipe.unfolding)
    if not -(2**43) <= recipe.seed < 2**44:  # times a million, it is to fit PyTorch's generators
        raise ValueError(f"seed is {recipe.seed}; expected a whole number from -2**43 to 2**44 - 1")


def _check_solved(recipe: Fields) -> None:
    """Refuse what solved layers, each a Lasso whose number of steps depends on the images, cannot have."""
    if recipe.unfolding != "solved":
        return
    if not recipe.model.startswith("msd_csc"):
        why = " (an optimum does not depend on where its steps start, which is what residual networks choose)"
        why = why if recipe.model.startswith(RESIDUAL) else ""
        raise ValueError(
            f"unfolding is 'solved', which {recipe.model} cannot be{why}; expected a model such as msd_csc_6"
        )
    refused = {
        "norm": (recipe.norm not in (None, "none"), "a Lasso has no batch statistics"),
        "sweep": (recipe.sweep == "multilayer", "each layer is solved by itself"),
        "step": (recipe.step is not None, "an optimum has no step c to learn"),
        "solver": (recipe.solver is not None, "an optimum is the same by every solver"),
        "penalty": (recipe.penalty == "free", "a Lasso has no negative β"),
        "identity": (recipe.identity == "signed", "its code would be signed in one part and not in the other"),
        "normalize": (recipe.normalized, "the identity part would be signed, and the atoms' part not"),
        "compile": (recipe.compile, "the number of steps depends on the images"),
        "cuda_graphs": (recipe.cuda_graphs is True, "the number of steps depends on the images"),
    }
    for name, (given, why) in refused.items():
        if given:
            raise ValueError(f"{name} is {getattr(recipe, name)} and unfolding 'solved', but {why}: leave out {name}")


def _check_rates(recipe: Fields) -> None:
    for name in ("lr", "momentum", "weight_decay", "warmup"):
        if not 0 <= getattr(recipe, name) < float("inf"):
            raise ValueError(f"{name} is {getattr(recipe, name)}; expected a number ≥ 0")
    milestones = recipe.milestones
    if not all(0 < drop < 1 for drop in milestones) or list(milestones) != sorted(milestones):
        raise ValueError(f"milestones are {milestones}; expected shares of the epochs between 0 and 1, in order")


def _check_loss(recipe: Fields) -> None:
    if not 0 <= recipe.margin < float("inf"):
        raise ValueError(f"margin is {recipe.margin}; expected a number ≥ 0, in units of the logits")
    if not 0 < recipe.temperature < float("inf"):
        raise ValueError(f"temperature is {recipe.temperature}; expected a number > 0, 1 for plain cross-entropy")
    if not 0 <= recipe.label_smoothing < 1:
        raise ValueError(f"label_smoothing is {recipe.label_smoothing}; expected at least 0 and below 1")
    if recipe.class_weights is not None and recipe.balance is not None:
        raise ValueError("class_weights and balance both weigh the classes; expected one of them")
    if recipe.class_weights is not None and not all(0 < w < float("inf") for w in recipe.class_weights):
        raise ValueError(f"class_weights are {recipe.class_weights}; expected a number > 0 for each class")


def _check_folder_fields(recipe: Fields) -> None:
    if recipe.data != "folder" and recipe.image_size is not None:
        raise ValueError(f"image_size is for a folder of images; {recipe.data} has its own: leave it out")
    if recipe.data != "folder" and (recipe.skip_broken or recipe.white_level is not None):
        raise ValueError(
            f"skip_broken and white_level are for a folder of images, not for {recipe.data}: leave them out"
        )
    if recipe.white_level is not None and not 0 < recipe.white_level < float("inf"):
        raise ValueError(f"white_level is {recipe.white_level}; expected a number > 0, such as 4095 for 12 bits")


def check_task(recipe: Fields) -> None:
    """Raise ValueError if a field does not belong to the recipe's task, or one that it needs is missing."""
    task = recipe.task
    if (task == "classify") != (recipe.data != "images"):
        raise ValueError(
            f"task is {task} and data is {recipe.data}; expected --data images with --task denoise, segment or "
            "regress, and another data set to classify"
        )
    if recipe.balance is not None and (task, recipe.balance) not in BALANCED:
        raise ValueError(
            f"balance is {recipe.balance!r} for task {task!r}; expected weights or sampler to classify, weights to "
            "segment, and none otherwise"
        )
    if task != "classify":
        _check_image_task(recipe)
    elif not (recipe.sigma is None and recipe.patch is None):
        raise ValueError("sigma and patch are for images to denoise, segment or regress: leave them out")
    elif recipe.dilations not in (None, "network", "block"):
        raise ValueError(
            f"dilations is {recipe.dilations!r}; expected network or block to classify (a list such as 1-10 is for "
            "networks that return images)"
        )


def _check_image_task(recipe: Fields) -> None:
    if recipe.data_dir is None:
        raise ValueError("data_dir is not given; expected the folder of the images: --data-dir FOLDER")
    if (recipe.sigma is None) == (recipe.task == "denoise"):
        raise ValueError(f"sigma is {recipe.sigma}; expected one to denoise, such as 25 or 5-55, and none otherwise")
    others = [name for name, plain in OF_CLASSES.items() if getattr(recipe, name) not in (plain, None, 0)]
    others += ["class_weights"] if recipe.class_weights is not None and recipe.task != "segment" else []
    others += ["freeze_backbone"] if recipe.freeze_backbone and recipe.model == "csc_denoiser" else []  # has no head
    if others:
        raise ValueError(f"{' and '.join(others)} cannot be chosen for the task {recipe.task}: leave it out")
    recipe.noise()
    recipe.choices()  # raises for dilations that are none
