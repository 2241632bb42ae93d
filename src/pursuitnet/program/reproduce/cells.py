"""Tables II and III and Figs. 7 and 8 as cells, each with a recipe and the paper's number."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from pursuitnet.program.recipe import RECIPES, Recipe

DATA = ("cifar10", "cifar100", "svhn")
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"}
DEPTHS = (20, 32, 44, 56, 110, 218)
RESIDUAL = {
    "plain": "plain",
    "res_csc_simplified": "Res-CSC-Simplified",
    "resnet": "ResNet",
    "res_csc": "Res-CSC",
}

# Table II, accuracy in percent by depth: plain, Res-CSC-Simplified, ResNet, Res-CSC; None where the paper has a cross
_TABLE2 = {
    "cifar10": (
        (90.74, 91.86, 91.30, 91.82),
        (90.34, 90.95, 92.52, 93.31),
        (89.41, 90.19, 92.92, 92.89),
        (87.04, 88.75, 93.15, 93.55),
        (None, None, 93.41, 93.56),
        (None, None, 94.02, 94.28),
    ),
    "cifar100": (
        (66.02, 66.33, 67.81, 68.55),
        (64.31, 65.35, 69.79, 69.35),
        (61.54, 63.24, 70.59, 70.68),
        (59.28, 60.58, 71.09, 71.40),
        (None, None, 72.47, 73.13),
        (None, None, 73.28, 73.50),
    ),
    "svhn": (
        (96.67, 96.70, 96.57, 96.81),
        (96.55, 96.63, 96.63, 96.83),
        (96.36, 96.51, 96.74, 96.91),
        (96.09, 96.38, 96.88, 97.01),
        (None, None, 96.96, 97.11),
        (None, None, 97.05, 97.22),
    ),
}

# Table III, accuracy in percent: CIFAR-10, CIFAR-100, SVHN
Solver = Literal["ista", "fista"] | None
_TABLE3: dict[tuple[str, str, int | None, Solver], tuple[float, float, float]] = {
    ("feed-forward", "feed_forward", None, None): (82.16, 43.93, 94.68),
    ("ML-CSC, ISTA", "ml_csc", 1, "ista"): (83.26, 50.23, 94.98),
    ("ML-CSC, ISTA", "ml_csc", 2, "ista"): (83.59, 50.61, 95.01),
    ("ML-CSC, FISTA", "ml_csc", 2, "fista"): (84.06, 51.66, 95.29),
    ("MSDNet", "msdnet_6", None, None): (87.22, 60.23, 94.72),
    ("MSDNet", "msdnet_9", None, None): (89.42, 63.22, 95.42),
    ("MSDNet", "msdnet_12", None, None): (90.35, 66.18, 95.73),
    ("MSD-CSC, ISTA", "msd_csc_6", 1, "ista"): (88.79, 62.08, 94.87),
    ("MSD-CSC, ISTA", "msd_csc_6", 2, "ista"): (88.85, 62.24, 95.75),
    ("MSD-CSC, ISTA", "msd_csc_9", 1, "ista"): (90.23, 64.15, 95.98),
    ("MSD-CSC, ISTA", "msd_csc_9", 2, "ista"): (90.52, 65.21, 96.10),
    ("MSD-CSC, ISTA", "msd_csc_12", 1, "ista"): (90.81, 67.31, 96.14),
    ("MSD-CSC, ISTA", "msd_csc_12", 2, "ista"): (91.76, 68.14, 96.36),
    ("MSD-CSC, FISTA", "msd_csc_6", 2, "fista"): (89.21, 62.53, 95.50),
    ("MSD-CSC, FISTA", "msd_csc_9", 2, "fista"): (90.91, 65.22, 95.84),
    ("MSD-CSC, FISTA", "msd_csc_12", 2, "fista"): (91.63, 69.23, 96.35),
}


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        method: as the paper calls it.
        layers: of the network.
        recipe: of its training, with seed 0.
        paper: the paper's accuracy, in percent; None if it has none.
        seeds: number of runs that it should have.
    """

    method: str
    layers: int
    recipe: Recipe
    paper: float | None
    seeds: int = 1

    @property
    def unfolding(self) -> int:
        return self.recipe.unfolding if isinstance(self.recipe.unfolding, int) else 0

    @property
    def name(self) -> str:
        """Description of the network."""
        steps = f", unfolding {self.unfolding}" if self.recipe.unfolding is not None else ""
        return f"{self.method}, {self.layers} layers{steps}"


def table2() -> tuple[Cell, ...]:
    """Return Table II: four starts at six depths on three data sets."""
    return tuple(
        Cell(method, depth, _residual(f"{family}_{depth}", depth, data), paper)
        for data in DATA
        for depth, numbers in zip(DEPTHS, _TABLE2[data], strict=True)
        for (family, method), paper in zip(RESIDUAL.items(), numbers, strict=True)
    )


def table3() -> tuple[Cell, ...]:
    """Return Table III: the feed-forward baseline, ML-CSC, MSDNet and MSD-CSC on three data sets."""
    return tuple(
        Cell(method, int(model.rpartition("_")[2]) if "msd" in model else 6, recipe, paper)
        for number, data in enumerate(DATA)
        for (method, model, unfolding, solver), papers in _TABLE3.items()
        for recipe, paper in [(_dense(model, unfolding, solver, data), papers[number])]
    )


def _residual(model: str, depth: int, data: str) -> Recipe:
    return replace(Recipe.named("residual_deep" if depth >= 110 else "residual"), model=model, data=data)


def _dense(model: str, unfolding: int | None, solver: Solver, data: str) -> Recipe:
    return replace(Recipe.named("msd"), model=model, unfolding=unfolding, solver=solver, data=data)


def fig7() -> tuple[Cell, ...]:
    """Return Fig. 7: (A) the four starts at 56 layers and the plain net at 20, (B, C) Res-CSC and ResNet by depth."""
    return tuple(
        cell
        for cell in table2()
        if cell.layers == 56
        or cell.method == "Res-CSC"
        or (cell.method, cell.layers) == ("plain", 20)
        or (cell.method == "ResNet" and cell.layers > 56)
    )


def fig8() -> tuple[Cell, ...]:
    """Return Fig. 8, 12 layers: (A) MSD-CSC by FISTA at unfolding 0, 1, 2 (where 1 is ISTA), (B) all networks."""
    return tuple(cell for cell in table3() if cell.layers == 12 or cell.method.startswith(("feed", "ML")))


def ablation() -> tuple[Cell, ...]:
    """Return the choices that the paper leaves open, changed one at a time; this is not a table of the paper."""
    msd = replace(Recipe.named("msd"), model="msd_csc_6", unfolding=1)
    two = replace(msd, unfolding=2)
    residual = Recipe.named("residual")
    variants: list[tuple[str, int, Recipe]] = [
        ("MSD-CSC, layer by layer", 6, msd),
        ("MSD-CSC, layer by layer", 6, two),
        ("MSD-CSC, across layers", 6, replace(msd, sweep="multilayer")),
        ("MSD-CSC, across layers", 6, replace(two, sweep="multilayer")),
        ("MSD-CSC, new features normalized", 6, replace(msd, norm="features")),
        ("MSD-CSC, both parts normalized alike", 6, replace(msd, norm="whole")),
        ("MSD-CSC, nothing normalized", 6, replace(msd, norm="none")),
        ("MSD-CSC, one β for both parts", 6, replace(msd, identity="same")),
        ("MSD-CSC, no β on the identity", 6, replace(msd, identity="none")),
        ("MSD-CSC, no threshold on the identity", 6, replace(msd, identity="signed")),
        ("MSD-CSC, c free", 6, replace(msd, step="free")),
        ("MSD-CSC, c free, nothing normalized", 6, replace(msd, step="free", norm="none")),
        ("MSD-CSC, no weight decay", 6, replace(msd, weight_decay=0.0)),
        ("MSD-CSC, weight decay 5e-4", 6, replace(msd, weight_decay=5e-4)),
        ("Res-CSC, normalized before the sum", 20, residual),
        ("Res-CSC, normalized after the sum", 20, replace(residual, norm="whole")),
        ("Res-CSC, nothing normalized", 20, replace(residual, norm="none")),
        ("ResNet, normalized before the sum", 20, replace(residual, model="resnet_20")),
        ("ResNet, normalized after the sum", 20, replace(residual, model="resnet_20", norm="whole")),
    ]
    return tuple(Cell(method, layers, recipe, None) for method, layers, recipe in variants)


def precision() -> tuple[Cell, ...]:
    """Return ResNet and MSD-CSC in two number formats of convolutions; this is not a table of the paper."""
    networks = (
        ("ResNet", 20, replace(Recipe.named("residual"), model="resnet_20")),
        ("MSD-CSC", 6, replace(Recipe.named("msd"), model="msd_csc_6", unfolding=1)),
    )
    return tuple(
        Cell(f"{method}, {number_format}", layers, replace(recipe, precision=number_format), None)
        for method, layers, recipe in networks
        for number_format in ("float32", "bfloat16")
    )


def tables() -> tuple[Cell, ...]:
    """Return Tables II and III, one after the other."""
    return (*table2(), *table3())


TABLES = {
    "ablation": ablation,
    "precision": precision,
    "table2": table2,
    "table3": table3,
    "tables": tables,
    "fig7": fig7,
    "fig8": fig8,
}

TABLE_OF = {"fig7": "table2", "fig8": "table3"}
"""The table whose networks a figure compares; at a scale that has few of them, it compares all of these."""

_TRAINING = {name: value for name, value in RECIPES["fast"].items() if name not in ("data", "model")}
SCALES: dict[str, dict[str, Any]] = {
    "full": {},
    "fast": _TRAINING,
    "medium": {**_TRAINING, "epochs": 4},
    "small": {"train_images": 1_600, "test_images": 1_000, "epochs": 4, "batch_size": 32},
}
"""Changes of each scale to the paper's recipes: none; one cycle of 30 or of 4 epochs; few images and epochs."""

SEEDS: dict[str, dict[str, int]] = {
    "fast": dict.fromkeys(("resnet_20", "res_csc_20", "msdnet_6", "msd_csc_6"), 1),
    "medium": {
        **dict.fromkeys(("plain_20", "res_csc_simplified_20", "resnet_20", "res_csc_20"), 5),
        **dict.fromkeys(("msdnet_6", "msd_csc_6", "feed_forward", "ml_csc"), 5),
        **dict.fromkeys(("plain_56", "resnet_56", "res_csc_56"), 3),
    },
}
"""The networks of the scales that do not have all of them, with the number of runs of each."""


def cells_of(table: str, scale: str = "full") -> tuple[Cell, ...]:
    """Return the cells of a table or figure.

    Args:
        table: one of ``TABLES``.
        scale: "full", trained as in the paper; or, without numbers of the paper, "fast" and "medium", some networks on
            all of CIFAR-10, with one cycle of 30 or 4 epochs; "small", on a fixed part of CIFAR-10.
    """
    if scale == "full":
        return TABLES[table]()
    seeds = SEEDS.get(scale)
    cells = TABLES[TABLE_OF[table] if seeds and table in TABLE_OF else table]()
    return tuple(
        replace(cell, recipe=_shortened(cell.recipe, scale), paper=None, seeds=seeds[cell.recipe.model] if seeds else 1)
        for cell in cells
        if cell.recipe.data == "cifar10" and (seeds is None or cell.recipe.model in seeds)
    )


def _shortened(recipe: Recipe, scale: str) -> Recipe:
    """Return a recipe at a scale; the learning rate is scaled by the batch size."""
    short = replace(recipe, **SCALES[scale])
    return replace(short, lr=short.lr * short.batch_size / recipe.batch_size)
