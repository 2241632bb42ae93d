"""Other readings of Fig. 4 that the paper's text allows, each with one change."""

from dataclasses import replace
from statistics import mean

from pursuitnet.program.simulate.gaussian import MODELS, Curve, Variation
from pursuitnet.prox.threshold import IdentityPenalty

DEFAULT = Variation()
LASSO = replace(DEFAULT, bias="kept", beta="twin", code="optimum", every=20, counted=100)
SMALL_STEP = replace(DEFAULT, step="bounded")


def variations(iterations: int = DEFAULT.iterations) -> dict[str, Variation]:
    """Return every reading by its title; all but the first change what their title says.

    Args:
        iterations: steps of the optimizer; "an epoch" takes five times as many.
    """
    epochs = replace(DEFAULT, iterations=5 * iterations, every=79)
    readings = {
        "the default": DEFAULT,
        "noise 0.1": replace(DEFAULT, noise=0.1),
        "noise 1": replace(DEFAULT, noise=1.0),
        "centers uniform in [0, 1]": replace(DEFAULT, centers="uniform"),
        "width 50": replace(DEFAULT, width=50),
        "width 200": replace(DEFAULT, width=200),
        "Adam, rate 0.001": replace(DEFAULT, optimizer="adam", lr=1e-3),
        "an iteration is an epoch": epochs,
        "L = λmax": replace(DEFAULT, lipschitz="ours"),
        "MSD-CSC with its own β": replace(DEFAULT, beta="own"),
        "own biases, ML-CSC's β": replace(DEFAULT, beta="counted"),
        "MSD-CSC with ML-CSC's filters": replace(DEFAULT, beta="twin"),
        "one bias a layer": replace(DEFAULT, one_bias=True),
        "β = b·L of ReLU(z − b)": replace(DEFAULT, bias="subtracted"),
        "ReLU(z − b), b kept ≥ 0": replace(DEFAULT, bias="kept"),
        "S instead of ReLU": replace(DEFAULT, nonnegative=False),
        "identity rows: b = 0": replace(DEFAULT, identity=IdentityPenalty.NONE),
        "identity rows: no ReLU": replace(DEFAULT, identity=IdentityPenalty.SIGNED),
        "through both layers": replace(DEFAULT, layers=2),
        "c = 1/L": SMALL_STEP,
        "c = 1/L, 5 further steps": replace(SMALL_STEP, unfolding=5),
        "c = 1/L, 5 further steps, S": replace(SMALL_STEP, unfolding=5, nonnegative=False),
        "optimum of the Lasso, Γ ≥ 0": LASSO,
        "optimum of the Lasso": replace(LASSO, nonnegative=False),
    }
    return {
        title: variation
        if variation is epochs
        else replace(variation, iterations=iterations, every=max(5, variation.every))
        for title, variation in readings.items()
    }


def verdict(runs: list[dict[str, Curve]]) -> str:
    """Return whether the curves, mean over seeds, have the published shape.

    "yes": ML-CSC at least halves and stays above 0.5 dimensions, and MSD-CSC falls to 0.5 or less. "both at 0":
    ML-CSC falls to 0.5 or less too. "order": MSD-CSC ends at less than half of ML-CSC. Else "no".
    """
    (plain_first, plain_last), (_, dense_last) = (ends(runs, name) for name in MODELS)
    if dense_last <= 0.5 and plain_last <= plain_first / 2:
        return "yes" if plain_last > 0.5 else "both at 0"
    return "order" if dense_last < plain_last / 2 else "no"


def ends(runs: list[dict[str, Curve]], name: str) -> tuple[float, float]:
    """Return the first and the last count of a model, mean over seeds."""
    counts = [run[name]["unsuccessful"] for run in runs]
    return mean(c[0] for c in counts), mean(c[-1] for c in counts)
