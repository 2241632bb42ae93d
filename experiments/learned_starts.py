"""Where in the square of the four starts does training end, and does it help? Runs what is missing, prints the tables.

    python experiments/learned_starts.py --data-dir DIR [--scale small] [--depths 8,20] [--seeds 3] [--out DIR]

The four networks of Table II are the corners of a square, anchor = a·X₋₁ and probe = p·X₋₁. ``learned`` begins at each
corner and learns a and p of every block; ``multistep`` and ``momentum`` also use X₋₂. Runs are kept in a ledger and
are resumed after an interruption, so that the script may be killed and started again. The gap is that of each second
layer's Lasso after the first step, as ``inspect`` computes it, in the median block.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pursuitnet as pn
from pursuitnet.networks.residual import CORNERS, MomentumBlocks
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce.cells import SCALES
from pursuitnet.program.reproduce.jobs import Job, run_job
from pursuitnet.program.reproduce.ledger import Ledger, checksum, key
from pursuitnet.program.reproduce.statistics import Difference

FIXED = ("plain", "resnet", "res_csc_simplified", "res_csc", "multistep", "momentum")
OUT = Path("runs", "learned_starts")


def recipes(scale: str, depths: list[int], seeds: int) -> Iterator[tuple[str, Recipe]]:
    """Yield every run by the name of its row."""
    base = replace(Recipe.named("residual"), **SCALES[scale])
    base = replace(base, lr=base.lr * base.batch_size / Recipe.named("residual").batch_size)
    for seed in range(seeds):
        for depth in depths:
            for family in FIXED:
                yield f"{family}_{depth}", replace(base, model=f"{family}_{depth}", seed=seed)
            for corner in CORNERS:
                recipe = Recipe.from_json(
                    {**base.to_json(), "model": f"learned_{depth}", "corner": corner, "seed": seed}
                )
                yield f"learned_{depth} from {corner}", recipe


def places(run: Path) -> dict[str, Any]:
    """Return a and p of every block of a run, or the weight k of X₋₂."""
    model = pn.load(run)
    starts = [start.place() for start in model.modules() if isinstance(start, pn.LearnedStart)]
    recalled = [k.item() for stack in model.modules() if isinstance(stack, MomentumBlocks) for k in stack.learned]
    return {"a": [a.item() for a, _ in starts], "p": [p.item() for _, p in starts], "k": recalled}


def gap(run: Path, recipe: Recipe, images: int) -> float | None:
    """Return the relative duality gap of the second layers of the blocks, in the median block."""
    model = pn.load(run).eval()
    about = pn.trained(run)
    pixels = pn.data.load(recipe.data, recipe.data_dir, "test")[0][:images]
    layers = pn.inspect(model, about.prepare(pixels)).layers
    seconds = [layer.solving.gap[0] for layer in layers if ".second" in layer.name]
    return statistics.median(seconds) if seconds else None


def run(name: str, recipe: Recipe, out: Path, images: int) -> None:
    """Train one network, unless it is in the ledger, and keep where its starts have ended."""
    named = key(recipe, checksum(recipe.data, recipe.data_dir))
    job = Job(recipe, named, str(out / "ledger"), str(out / "runs"))
    path = out / "starts" / f"{named}.json"
    if path.exists():
        return
    run_job(job)
    result = {"name": name, **places(job.folder), "gap": gap(job.folder, recipe, images)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    print(f"{name}, seed {recipe.seed}: done", flush=True)


def results(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the finished runs by the name of their row, each with accuracy in percent and seed, from the files."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for entry in Ledger(out / "ledger").entries():
        path = out / "starts" / f"{entry['key']}.json"
        if path.exists() and entry.get("epochs"):
            accuracy = 100 * entry["epochs"][-1]["test_accuracy"]
            run = {**json.loads(path.read_text()), "accuracy": accuracy, "seed": entry["recipe"]["seed"]}
            rows.setdefault(run["name"], []).append(run)
    return dict(sorted(rows.items()))


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Return the results as Markdown."""
    lines = ["| network | n | accuracy | a | p | k of X₋₂ | gap |", "|---" * 7 + "|"]
    for name, runs in rows.items():
        accuracy = _mean([run["accuracy"] for run in runs], 1)
        learned = (_mean([value for run in runs for value in run[which]], 2) for which in ("a", "p", "k"))
        gaps = _mean([run["gap"] for run in runs if run["gap"] is not None], 3)
        lines.append(f"| {name} | {len(runs)} | {accuracy} | {' | '.join(learned)} | {gaps} |")
    return "\n".join(lines)


def differences(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Return as Markdown how each start differs from its rival, paired by seed: what is learned from its own corner."""
    pairs = [
        (name, f"{name.split(' from ')[1]}_{name.split()[0].rpartition('_')[2]}".replace("zero_", "plain_"))
        for name in rows
        if " from " in name
    ]
    pairs += [
        (name, f"res_csc_{name.rpartition('_')[2]}") for name in rows if name.startswith(("multistep", "momentum"))
    ]
    lines = ["| difference in accuracy, points | n | mean | 95 % interval | p | detectable |", "|---" * 6 + "|"]
    for name, rival in pairs:
        own, other = ({run["seed"]: run["accuracy"] for run in rows.get(which, [])} for which in (name, rival))
        values = tuple(own[seed] - other[seed] for seed in sorted(own.keys() & other.keys()))
        if len(values) > 1:
            pair = Difference(values)
            low, high = pair.interval()
            lines.append(
                f"| {name} − {rival} | {pair.n} | {pair.mean:+.2f} | {low:+.2f} to {high:+.2f} | {pair.p:.2f} | "
                f"{pair.detectable():.2f} |"
            )
    return "\n".join(lines)


def picture(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw where in the square training ends: one panel for each corner and depth, one point for each block and run."""
    from matplotlib.figure import Figure

    learned = {name: runs for name, runs in rows.items() if " from " in name}
    if not learned:
        return
    figure = Figure(figsize=(3.1 * len(learned), 3.4), layout="constrained")
    for axes, (name, runs) in zip(figure.subplots(1, len(learned), squeeze=False)[0], learned.items(), strict=True):
        corner = CORNERS[name.split(" from ")[1]]
        for run in runs:
            depths = [index / max(1, len(run["a"]) - 1) for index in range(len(run["a"]))]
            points = axes.scatter(run["a"], run["p"], c=depths, cmap="viridis", vmin=0, vmax=1, s=22)
        axes.plot(corner.anchored, corner.probed, "s", markersize=13, fillstyle="none", color="0.3")
        axes.set(title=name.replace("_", " "), xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal", xlabel="a")
    figure.axes[0].set_ylabel("p")
    figure.colorbar(points, ax=figure.axes, label="block, 0 the first, 1 the last")
    figure.savefig(path, dpi=110)


def _mean(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with cifar-10-batches-bin; without it, only the table")
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--depths", default="20", help="numbers of layers, as in 20,56")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=32, help="test images to measure the gap on")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the ledger, the runs and the starts")
    parser.add_argument("--picture", type=Path, help="PNG of where in the square training ends")
    arguments = parser.parse_args()
    depths = [int(depth) for depth in arguments.depths.split(",")]
    if arguments.data_dir:
        for name, recipe in recipes(arguments.scale, depths, arguments.seeds):
            run(name, replace(recipe, data_dir=arguments.data_dir), arguments.out, arguments.images)
    rows = results(arguments.out)
    print(table(rows), differences(rows), sep="\n\n")
    if arguments.picture:
        picture(rows, arguments.picture)


if __name__ == "__main__":
    main()
