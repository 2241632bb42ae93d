"""Fig. 4: the number of unsuccessfully reconstructed dimensions of the input while the networks train."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pursuitnet.program.simulate.gaussian import MODELS, Curve, Variation, curves
from pursuitnet.program.simulate.record import DENSE, PLAIN, SOFT, Result, caption, hide_spines
from pursuitnet.program.simulate.variations import DEFAULT, ends, variations, verdict

COLORS = dict(zip(MODELS, (PLAIN, DENSE), strict=True))
KEPT = ("unsuccessful", "bias", "beta", "error", "nothing")
LAST = ("accuracy", "error", "nothing")
Runs = list[dict[str, Curve]]


def compute(callback: Callable[[str], None], *, seeds: int = 5, iterations: int = DEFAULT.iterations) -> Result:
    """Train both models with every seed and count after every iteration, in the default reading.

    Args:
        callback: called with a line of text after every seed.
        seeds: number of seeds, from 0.
        iterations: steps of the optimizer.
    """
    variation = replace(DEFAULT, iterations=iterations)
    runs = [_curves(callback, f"seed {seed}", variation, seed) for seed in _range(seeds)]
    numbers = {"figure": "fig4", "choices": asdict(variation), "seeds": seeds, "curves": _compact(runs, KEPT)}
    return Result("fig4", numbers, {"fig4": picture(variation, runs)}, table(runs))


def compute_variations(
    callback: Callable[[str], None], *, seeds: int = 3, iterations: int = DEFAULT.iterations
) -> Result:
    """Do the same for every reading, with fewer seeds and counting less often."""
    runs_of = {
        title: [_curves(callback, f"{title}, seed {seed}", variation, seed) for seed in _range(seeds)]
        for title, variation in variations(iterations).items()
    }
    numbers: dict[str, Any] = {"figure": "fig4-variations", "seeds": seeds, "readings": {}}
    for title, variation in variations(iterations).items():
        shape = {"choices": asdict(variation), "as_published": verdict(runs_of[title])}
        numbers["readings"][title] = shape | {"curves": _compact(runs_of[title], ("unsuccessful", "beta"))}
    return Result("fig4-variations", numbers, {"fig4-variations": panels(runs_of)}, summary(runs_of))


def picture(variation: Variation, runs: Runs) -> Figure:
    """Plot the counts of both models, mean and range over seeds, and the tolerance and error that they depend on."""
    figure = Figure(figsize=(11, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, color in COLORS.items():
        _band(left, runs, name, "unsuccessful", color, name)
        _band(right, runs, name, "error", color, f"mean |ξ − x|, {name}")
    _band(left, runs, MODELS[0], "nothing", SOFT, "with ξ = 0: |x| > 2β", ":")
    _band(right, runs, MODELS[0], "beta", SOFT, "2β, the tolerance", ":", scale=2)
    _band(right, runs, MODELS[0], "size", "#000000", "mean |x|, the error of ξ = 0", "--")
    _tail(left, runs)
    left.set(ylabel="unsuccessful dimensions of 100, mean over test signals", ylim=(-2, 102))
    left.set_title("unsuccessful dimensions (Definition 1)", loc="left", fontsize=11)
    right.set_title("what they depend on: tolerance and error", loc="left", fontsize=11)
    right.set(ylim=(0, None))
    for axis in (left, right):
        axis.set_xlabel("iteration (a step of the optimizer)")
        axis.legend(frameon=False, fontsize=9, loc="upper right" if axis is left else "center right")
    hide_spines(left, right)
    caption(figure, _caption_text(variation, len(runs)))
    return figure


def _tail(axis: Axes, runs: Runs) -> None:
    """Plot the end of the curves enlarged, as an inset."""
    last = runs[0][MODELS[0]]["iteration"][-1]
    tail = axis.inset_axes((0.42, 0.2, 0.55, 0.4), ylim=(-0.2, 6))
    for name, color in COLORS.items():
        _band(tail, runs, name, "unsuccessful", color, None)
    _band(tail, runs, MODELS[0], "nothing", SOFT, None, ":")
    tail.set_xlim(last / 5, last)
    hide_spines(tail)


def panels(runs_of: dict[str, Runs]) -> Figure:
    """Plot a panel for every reading, with the first reading in gray."""
    figure = Figure(figsize=(16, 11), layout="constrained")
    first = next(iter(runs_of.values()))
    columns = 6
    grid = figure.subplots(-(-len(runs_of) // columns), columns, sharey=True, squeeze=False)
    for axis, (title, runs) in zip(grid.flat, runs_of.items(), strict=False):
        for name, color in COLORS.items():
            if runs is not first:
                _band(axis, first, name, "unsuccessful", "#cccccc", None)
            _band(axis, runs, name, "unsuccessful", color, name)
        axis.set_title(f"{title}\nas published: {verdict(runs)}", loc="left", fontsize=10)
        axis.set(ylim=(-3, 103), xlim=(0, max(1, *runs[0][MODELS[0]]["iteration"])))
        hide_spines(axis)
    grid[0, 0].legend(frameon=False, fontsize=9, loc="center right")
    figure.supylabel("unsuccessful dimensions of 100", fontsize=10)
    caption(figure, f"{len(first)} seeds, mean and range, over steps of the optimizer. {_VERDICT}")
    return figure


def table(runs: Runs) -> str:
    """Return the counts at some iterations as Markdown, mean ± standard deviation over seeds."""
    iterations = runs[0][MODELS[0]]["iteration"]
    chosen = sorted({round(part * (len(iterations) - 1)) for part in (0, 0.1, 0.2, 0.3, 0.5, 1)})
    lines = [f"| iteration | ML-CSC, n = {len(runs)} | MSD-CSC | 2β | with ξ = 0 |", "|---|---|---|---|---|"]
    for i in chosen:
        cells = [_spread([r[name]["unsuccessful"][i] for r in runs]) for name in MODELS]
        twice = mean(2 * r[MODELS[0]]["beta"][i] for r in runs)
        nothing = _spread([r[MODELS[0]]["nothing"][i] for r in runs])
        lines.append(f"| {iterations[i]:.0f} | {cells[0]} | {cells[1]} | {twice:.2f} | {nothing} |")
    accuracies = [f"{name} {100 * mean(r[name]['accuracy'][-1] for r in runs):.1f} %" for name in MODELS]
    return "\n".join([*lines, "", f"final test accuracy: {', '.join(accuracies)}"])


def summary(runs_of: dict[str, Runs]) -> str:
    """Return the first and last values of the curves of every reading as Markdown."""
    count = len(next(iter(runs_of.values())))
    titles = (
        f"reading, n = {count}",
        "ML-CSC, first → last",
        "MSD-CSC",
        "last, with ξ = 0",
        "2β, last",
        "as published",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for title, runs in runs_of.items():
        cells = [" → ".join(f"{value:.1f}" for value in ends(runs, name)) for name in MODELS]
        nothing, beta = (mean(run[MODELS[1]][key][-1] for run in runs) for key in ("nothing", "beta"))
        lines.append(f"| {title} | {' | '.join(cells)} | {nothing:.1f} | {2 * beta:.2f} | {verdict(runs)} |")
    return "\n".join([*lines, "", _VERDICT])


_VERDICT = (
    "As published, yes: ML-CSC at least halves and stays above 0.5 dimensions, MSD-CSC falls to 0.5 or less; "
    "both at 0: ML-CSC falls to 0.5 or less too; order: MSD-CSC only ends below half of ML-CSC."
)


def _range(seeds: int) -> range:
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected at least 1")
    return range(seeds)


def _curves(callback: Callable[[str], None], title: str, variation: Variation, seed: int) -> dict[str, Curve]:
    measured = curves(variation, seed)
    callback(f"{title}: " + ", ".join(f"{name} {measured[name]['unsuccessful'][-1]:.2f}" for name in MODELS))
    return measured


def _band(
    axis: Axes,
    runs: Runs,
    name: str,
    key: str,
    color: str,
    label: str | None,
    style: str = "-",
    scale: float = 1,
) -> None:
    """Plot the mean over seeds as a line and the range as a band."""
    iterations = runs[0][name]["iteration"]
    values = [[scale * value for value in column] for column in zip(*(run[name][key] for run in runs), strict=True)]
    axis.plot(iterations, [mean(v) for v in values], style, color=color, label=label, lw=1.6)
    axis.fill_between(iterations, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.2, lw=0)


def _compact(runs: Runs, names: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Return a list for each seed, by model and name, rounded to four significant digits."""
    compact: dict[str, dict[str, list[Any]]] = {}
    for model in MODELS:
        compact[model] = {key: [[_rounded(v) for v in run[model][key]] for run in runs] for key in names}
        compact[model] |= {f"last_{key}": [_rounded(run[model][key][-1]) for run in runs] for key in LAST}
        compact[model]["iteration"] = runs[0][model]["iteration"]
    return compact


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _caption_text(variation: Variation, seeds: int) -> str:
    return (
        f"Gaussian data of Section V-B: centers N(0, 1), noise {variation.noise:g}; two layers of "
        f"{variation.width} atoms, "
        f"[I D] in MSD-CSC; ReLU(Dᵀx + b), one step; SGD, rate {variation.lr:g}, momentum 0.9, batch "
        f"{variation.batch_size}.\nβ = L·(mean of b), L = 2·λmax(DᵀD); MSD-CSC's biases set to ML-CSC's β after every "
        f"step; ξ = DΓ of the first layer, on 2,000 test signals; {seeds} seeds, mean and range."
    )
