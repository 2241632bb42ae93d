"""Recipes by name, and from files in TOML, YAML or JSON."""

from pathlib import Path
from typing import Any

from pursuitnet.utils.nearest import did_you_mean
from pursuitnet.utils.paths import expanded
from pursuitnet.utils.records import settings_of

RECIPES: dict[str, dict[str, Any]] = {
    # Section VI-B: SGD with Nesterov momentum, 200 epochs, 0.1 divided by 10 after 100 and 150
    "residual": {
        "data": "cifar10",
        "model": "res_csc_20",
        "epochs": 200,
        "batch_size": 128,
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        "schedule": "steps",
        "milestones": (100 / 200, 150 / 200),
        "warmup": 0.0,
    },
    # Section VII-B: SGD with momentum, 150 epochs, 0.05 divided by 10 after 75 and 115
    "msd": {
        "data": "cifar10",
        "model": "msd_csc_6",
        "epochs": 150,
        "batch_size": 128,
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "schedule": "steps",
        "milestones": (75 / 150, 115 / 150),
        "warmup": 0.0,
    },
    # ours: one cycle of a larger rate, a fifth of the paper's epochs
    "fast": {
        "data": "cifar10",
        "model": "res_csc_20",
        "epochs": 30,
        "batch_size": 128,
        "lr": 0.2,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "onecycle",
        "warmup": 6.0,
        "padding_mode": "reflect",
    },
}
# 110 layers and more: the rate rises over one epoch before it falls
RECIPES["residual_deep"] = {**RECIPES["residual"], "model": "res_csc_110", "warmup": 1.0}


def read_named(name: str | Path) -> tuple[Any, str]:
    """Return the table of a named recipe or a file, as it is written, and where it is from.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if the file cannot be read as TOML, YAML or JSON.
    """
    if str(name) in RECIPES:
        return RECIPES[str(name)], f"the recipe {name}"
    path = expanded(name)
    if not path.is_file():
        near = did_you_mean(name, RECIPES, ".")
        raise FileNotFoundError(
            f"{name} is no recipe{near} There are {', '.join(RECIPES)}, and files in TOML, YAML or JSON"
        )
    return settings_of(path, "a recipe"), str(path)
