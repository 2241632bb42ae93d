"""Fig. 4: how many dimensions of the input are not reconstructed successfully while the networks train."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pursuitnet.program.simulate.gaussian import MODELS, Curve, Variation, curves
from pursuitnet.program.simulate.record import DENSE, PLAIN, SOFT, Result, bare, caption
from pursuitnet.program.simulate.variations import DEFAULT, ends, variations, verdict

COLORS = dict(zip(MODELS, (PLAIN, DENSE), strict=True))
KEPT = ("unsuccessful", "bias", "beta", "error", "nothing")
LAST = ("accuracy", "error", "nothing")
Runs = list[dict[str, Curve]]


def run(callback: Callable[[str], None], *, seeds: int = 5, iterations: int = DEFAULT.iterations) -> Result:
    """Train both models on every seed and count after every iteration, by the default reading.

    Args:
        callback: is told of every seed.
        seeds: how many, from 0.
        iterations: steps of the optimizer.
    """
    variation = replace(DEFAULT, iterations=iterations)
    runs = [_watched(callback, f"seed {seed}", variation, seed) for seed in _range(seeds)]
    numbers = {"figure": "fig4", "choices": asdict(variation), "seeds": seeds, "curves": _compact(runs, KEPT)}
    return Result("fig4", numbers, {"fig4": picture(variation, runs)}, table(runs))


def run_variations(callback: Callable[[str], None], *, seeds: int = 3, iterations: int = DEFAULT.iterations) -> Result:
    """Do the same, for fewer seeds and less often, under every reading."""
    found = {
        title: [_watched(callback, f"{title}, seed {seed}", variation, seed) for seed in _range(seeds)]
        for title, variation in variations(iterations).items()
    }
    numbers: dict[str, Any] = {"figure": "fig4-variations", "seeds": seeds, "readings": {}}
    for title, variation in variations(iterations).items():
        shape = {"choices": asdict(variation), "as_published": verdict(found[title])}
        numbers["readings"][title] = shape | {"curves": _compact(found[title], ("unsuccessful", "beta"))}
    return Result("fig4-variations", numbers, {"fig4-variations": panels(found)}, summary(found))


def picture(variation: Variation, runs: Runs) -> Figure:
    """Draw the counts of both models, mean and range over seeds, and what they depend on."""
    figure = Figure(figsize=(11, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, color in COLORS.items():
        _band(left, runs, name, "unsuccessful", color, name)
        _band(right, runs, name, "error", color, f"mean |ξ − x|, {name}")
    _band(left, runs, MODELS[0], "nothing", SOFT, "if nothing were reconstructed: |x| > 2β", ":")
    _band(right, runs, MODELS[0], "beta", SOFT, "2β, the tolerance", ":", scale=2)
    _band(right, runs, MODELS[0], "size", "#000000", "mean |x|, the error of ξ = 0", "--")
    _tail(left, runs)
    left.set(ylabel="unsuccessful dimensions of 100, mean over test signals", ylim=(-2, 102))
    left.set_title("unsuccessful dimensions (Definition 1)", loc="left", fontsize=11)
    right.set_title("what they hang on: tolerance and error", loc="left", fontsize=11)
    right.set(ylim=(0, None))
    for axis in (left, right):
        axis.set_xlabel("iteration (a step of the optimizer)")
        axis.legend(frameon=False, fontsize=9, loc="upper right" if axis is left else "center right")
    bare(left, right)
    caption(figure, _choices(variation, len(runs)))
    return figure


def _tail(axis: Axes, runs: Runs) -> None:
    """Draw the end of the curves larger, inside the picture."""
    last = runs[0][MODELS[0]]["iteration"][-1]
    tail = axis.inset_axes((0.42, 0.2, 0.55, 0.4), ylim=(-0.2, 6))
    for name, color in COLORS.items():
        _band(tail, runs, name, "unsuccessful", color, None)
    _band(tail, runs, MODELS[0], "nothing", SOFT, None, ":")
    tail.set_xlim(last / 5, last)
    bare(tail)


def panels(found: dict[str, Runs]) -> Figure:
    """Draw a small picture for every reading, with the first one behind it."""
    figure = Figure(figsize=(16, 11), layout="constrained")
    first = next(iter(found.values()))
    columns = 6
    grid = figure.subplots(-(-len(found) // columns), columns, sharey=True, squeeze=False)
    for axis, (title, runs) in zip(grid.flat, found.items(), strict=False):
        for name, color in COLORS.items():
            if runs is not first:
                _band(axis, first, name, "unsuccessful", "#cccccc", None)
            _band(axis, runs, name, "unsuccessful", color, name)
        axis.set_title(f"{title}\nas published: {verdict(runs)}", loc="left", fontsize=10)
        axis.set(ylim=(-3, 103), xlim=(0, max(1, *runs[0][MODELS[0]]["iteration"])))
        bare(axis)
    grid[0, 0].legend(frameon=False, fontsize=9, loc="center right")
    figure.supylabel("unsuccessful dimensions of 100", fontsize=10)
    caption(figure, f"{len(first)} seeds, mean and range, over steps of the optimizer. {_VERDICT}")
    return figure


def table(runs: Runs) -> str:
    """Return the counts at some iterations as Markdown, mean ± standard deviation over seeds."""
    iterations = runs[0][MODELS[0]]["iteration"]
    chosen = sorted({round(part * (len(iterations) - 1)) for part in (0, 0.1, 0.2, 0.3, 0.5, 1)})
    lines = [f"| iteration | ML-CSC, n = {len(runs)} | MSD-CSC | 2β | nothing reconstructed |", "|---|---|---|---|---|"]
    for i in chosen:
        cells = [_spread([r[name]["unsuccessful"][i] for r in runs]) for name in MODELS]
        twice = mean(2 * r[MODELS[0]]["beta"][i] for r in runs)
        nothing = _spread([r[MODELS[0]]["nothing"][i] for r in runs])
        lines.append(f"| {iterations[i]:.0f} | {cells[0]} | {cells[1]} | {twice:.2f} | {nothing} |")
    accuracies = [f"{name} {100 * mean(r[name]['accuracy'][-1] for r in runs):.1f} %" for name in MODELS]
    return "\n".join([*lines, "", f"test accuracy at the end: {', '.join(accuracies)}"])


def summary(found: dict[str, Runs]) -> str:
    """Return where the curves of every reading begin and end as Markdown."""
    count = len(next(iter(found.values())))
    titles = (f"reading, n = {count}", "ML-CSC, first → last", "MSD-CSC", "last, if ξ = 0", "2β, last", "as published")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for title, runs in found.items():
        cells = [" → ".join(f"{value:.1f}" for value in ends(runs, name)) for name in MODELS]
        nothing, beta = (mean(run[MODELS[1]][key][-1] for run in runs) for key in ("nothing", "beta"))
        lines.append(f"| {title} | {' | '.join(cells)} | {nothing:.1f} | {2 * beta:.2f} | {verdict(runs)} |")
    return "\n".join([*lines, "", _VERDICT])


_VERDICT = (
    "As published, yes: ML-CSC at least halves and stays above 0.5 dimensions, MSD-CSC falls to 0.5 or less; "
    "both at 0: so does ML-CSC; order: MSD-CSC only ends below half of ML-CSC."
)


def _range(seeds: int) -> range:
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected at least 1")
    return range(seeds)


def _watched(callback: Callable[[str], None], title: str, variation: Variation, seed: int) -> dict[str, Curve]:
    found = curves(variation, seed)
    callback(f"{title}: " + ", ".join(f"{name} {found[name]['unsuccessful'][-1]:.2f}" for name in MODELS))
    return found


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
    """Draw the mean over seeds as a line and the range as a band."""
    at = runs[0][name]["iteration"]
    values = [[scale * value for value in column] for column in zip(*(run[name][key] for run in runs), strict=True)]
    axis.plot(at, [mean(v) for v in values], style, color=color, label=label, lw=1.6)
    axis.fill_between(at, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.2, lw=0)


def _compact(runs: Runs, names: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Return by model and name a list for each seed, to four digits."""
    compact: dict[str, dict[str, list[Any]]] = {}
    for model in MODELS:
        compact[model] = {key: [[_short(v) for v in run[model][key]] for run in runs] for key in names}
        compact[model] |= {f"last_{key}": [_short(run[model][key][-1]) for run in runs] for key in LAST}
        compact[model]["iteration"] = runs[0][model]["iteration"]
    return compact


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _choices(variation: Variation, seeds: int) -> str:
    return (
        f"Gaussian data of Section V-B: centers N(0, 1), noise {variation.noise:g}; two layers of "
        f"{variation.width} atoms, "
        f"[I D] in MSD-CSC; ReLU(Dᵀx + b), one step; SGD, rate {variation.lr:g}, momentum 0.9, batch "
        f"{variation.batch_size}.\nβ = L·(mean of b), L = 2·λmax(DᵀD); MSD-CSC's biases set to ML-CSC's β after every "
        f"step; ξ = DΓ of the first layer, on 2,000 test signals; {seeds} seeds, mean and range."
    )
