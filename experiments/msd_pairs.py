"""Regression on two kinds of pairs beside dmpelt/msdnet, in NumPy and C: validation loss against CPU time.

    python experiments/msd_pairs.py --pairs shapes [--depth 30] [--minutes 10] [--models msdnet,msd_csc] [--out DIR]
    python experiments/msd_pairs.py --pairs tomography …

The pairs are of the kinds that the examples of dmpelt/msdnet train on. ``shapes``: 24 squares, square rings, disks
and rings that do not overlap, of values from 0.2 to 1, under noise of σ = 1; 100 images to train on, 25 to validate.
``tomography``: slices of a cube with a spherical hole with a cube in it, reconstructed by filtered back-projection
from as many angles as pixels; the input with a hundred times the target's noise.

One thread. An epoch is as many pixels as the training images have; after each epoch all validation images are
computed, and that time counts too. Where ``msdnet`` can be imported, it is trained beside, by its own Adam, on images
one by one with flips and turns, for --minutes of CPU time (0: not at all); the table says when each network of this
library had reached its best loss. Losses are mean squared errors in the units of the targets. The results go to
msd_pairs.json in --out, beside those that are there.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import pursuitnet as pn
from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.versions import commit

Images = NDArray[np.float32]
Pairs = list[tuple[Images, Images]]
TRAINING, VALIDATION = 100, 25
RECORD = Path(__file__).parent / "results" / "msd_pairs.json"
COUNT = 24
"""Shapes in an image."""


class Epoch(NamedTuple):
    """CPU seconds since the training began, and the mean squared error over the validation images."""

    seconds: float
    loss: float


def shapes(size: int, count: int, rng: np.random.Generator) -> Pairs:
    """Return noisy images of shapes that do not overlap, and the images without noise."""
    side = size // 8
    x, y = np.meshgrid(*[np.linspace(-1, 1, side)] * 2)
    disk, inner = x**2 + y**2 < 1, x**2 + y**2 < 0.25
    square, middle = np.ones_like(disk), (abs(x) < 0.5) & (abs(y) < 0.5)
    kinds = (square, square & ~middle, disk, disk & ~inner)
    pairs = []
    for _ in range(count):
        image, taken = np.zeros((size, size), np.float32), np.zeros((size, size), bool)
        for number in range(COUNT):
            while True:
                top, left = rng.integers(size - side, size=2)
                at = np.s_[top : top + side, left : left + side]
                if not taken[at].any():
                    break
            image[at] = kinds[number % 4] * rng.uniform(0.2, 1)
            taken[at] = True
        pairs.append(((image + rng.normal(size=image.shape)).astype(np.float32), image))
    return pairs


def tomography(size: int, count: int, rng: np.random.Generator) -> Pairs:
    """Return slices of one phantom, reconstructed from projections with much noise and with little."""
    from skimage.transform import iradon, radon

    axes = [np.linspace(-1.5, 1.5, size) * rng.uniform(0.75, 2) for _ in range(3)]
    heights = axes[0][np.linspace(0, size - 1, count).round().astype(int)]
    y, z = np.meshgrid(*axes[1:], indexing="ij")
    angles = np.linspace(0, 180, size, endpoint=False)
    pairs = []
    for x in heights:
        largest = np.maximum(abs(x), np.maximum(abs(y), abs(z)))
        phantom = (largest <= 1) & (x**2 + y**2 + z**2 > 1) | (largest <= 1 / np.sqrt(3))
        sinogram = radon(phantom.astype(np.float64), angles, circle=False)
        low, high = (
            iradon(sinogram + rng.normal(size=sinogram.shape, scale=scale), angles, output_size=size, circle=False)
            for scale in (size / 10, size / 1000)
        )
        pairs.append((low.astype(np.float32), high.astype(np.float32)))
    return pairs


KINDS = {"shapes": shapes, "tomography": tomography}


def write(pairs: Pairs, folder: Path) -> None:
    """Write pairs as images/ and targets/."""
    for part, which in (("images", 0), ("targets", 1)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(pairs):
            np.save(folder / part / f"{number:03d}.npy", pair[which])


class LossHistory(train.NoOpCallback):
    """Keeps the loss, on the scale that the network learns, and the CPU time of every epoch."""

    def __init__(self, name: str) -> None:
        self.name, self.begin = name, time.process_time()
        self.epochs: list[Epoch] = []

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        """Keep an epoch."""
        self.epochs.append(Epoch(time.process_time() - self.begin, record["test_loss"]))
        print(f"{self.name}: {self.epochs[-1].loss:.5f} after {self.epochs[-1].seconds:.0f} s", flush=True)


def label(family: str, arguments: argparse.Namespace) -> str:
    """Return the name of a network of this library in the table."""
    return f"pursuitnet {family}, {'plain, ' if arguments.plain else ''}{arguments.epochs} epochs"


def train_pursuitnet(family: str, pairs: Path, arguments: argparse.Namespace) -> list[Epoch]:
    """Train a network of this library by its recipe for regression; it learns targets on a scale from 0 to 1."""
    choices = {"unfolding": arguments.unfolding} if family == "msd_csc" else {}
    if arguments.plain:
        choices |= {"identity": "none", "norm": "none", "boundary": "reflect"}
    recipe = Recipe(
        task="regress", data="images", data_dir=pairs, model=f"{family}_{arguments.depth}", width=1,
        epochs=arguments.epochs, lr=arguments.lr, seed=arguments.seed, device="cpu", schedule="onecycle", **choices,
    )  # fmt: skip
    name = label(family, arguments)
    history, folder = LossHistory(name), pairs.with_name(name.replace(", ", "-").replace(" ", "-"))
    pn.train(recipe, folder, history)
    targets = pn.trained(folder).targets
    return [Epoch(seconds, loss * (targets["high"] - targets["low"]) ** 2) for seconds, loss in history.epochs]


class DataPoint:
    """A pair as dmpelt/msdnet asks for it, flipped and turned at random while training."""

    def __init__(self, pair: tuple[Images, Images], rng: np.random.Generator | None = None) -> None:
        self.pair, self.rng = pair, rng

    def getall(self) -> tuple[Images, Images, None]:
        """Return image, target and no mask, each (1, H, W)."""
        turns, flip = self.rng.integers([4, 2]) if self.rng else (0, 0)
        image, target = (np.rot90(part, turns)[:: -1 if flip else 1] for part in self.pair)
        return image.copy()[None], target.copy()[None], None


def train_msdnet(training: Pairs, validation: Pairs, arguments: argparse.Namespace) -> list[Epoch]:
    """Train MSDNet of dmpelt/msdnet on one thread, as its example of regression does; nothing if it is missing."""
    try:
        import msdnet
    except ImportError:
        print("msdnet of dmpelt/msdnet is not installed: left out")
        return []
    msdnet.operations.setthreads(1)
    np.random.seed(arguments.seed)  # noqa: NPY002
    rng = np.random.default_rng(arguments.seed)
    points = [DataPoint(pair, rng) for pair in training]
    network = msdnet.network.MSDNet(arguments.depth, msdnet.dilations.IncrementDilations(10), 1, 1, gpu=False)
    begin, epochs = time.process_time(), []
    network.initialize()
    network.normalizeinout(points)
    algorithm = msdnet.train.AdamAlgorithm(network)
    while time.process_time() - begin < 60 * arguments.minutes:
        for index in rng.permutation(len(points)):
            algorithm.step(network, [points[index]])
        losses = [float(np.mean((network.forward(image[None])[0] - target) ** 2)) for image, target in validation]
        epochs.append(Epoch(time.process_time() - begin, sum(losses) / len(losses)))
        print(f"dmpelt/msdnet: {epochs[-1].loss:.5f} after {epochs[-1].seconds:.0f} s", flush=True)
    return epochs


def reached(epochs: list[Epoch], loss: float) -> float | None:
    """Return the CPU seconds after which a loss was reached, or None."""
    return next((epoch.seconds for epoch in epochs if epoch.loss <= loss), None)


def table(results: dict[str, Any]) -> str:
    """Return as Markdown what was reached, and how soon the best loss of dmpelt/msdnet was."""
    lines = [
        "| pairs | network | epochs | CPU seconds | best validation loss | CPU seconds to dmpelt's best | ratio |",
        "|---" * 7 + "|",
    ]
    for kind, result in results.items():
        runs = {name: [Epoch(*epoch) for epoch in epochs] for name, epochs in result["runs"].items()}
        rival = runs.get("dmpelt/msdnet") or []
        best = min(rival, key=lambda epoch: epoch.loss, default=None)
        for name, epochs in runs.items():
            cells = [kind, f"{name}, {result['depth']} layers", f"{len(epochs)}", f"{epochs[-1].seconds:.0f}"]
            cells.append(f"{min(epoch.loss for epoch in epochs):.5f}")
            seconds = reached(epochs, best.loss) if best else None
            cells += [f"{seconds:.0f}", f"{seconds / best.seconds:.3f}"] if best and seconds else ["not reached", "–"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def families(names: str) -> list[str]:
    """Return the families of an option; raise argparse's error for one that this library does not have."""
    chosen = names.split(",")
    if unknown := set(chosen) - {"msdnet", "msd_csc"}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is none of msdnet, msd_csc")
    return chosen


def main() -> None:
    """Make the pairs, train, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", choices=sorted(KINDS), default="shapes")
    for name, default in (("size", 256), ("depth", 30), ("epochs", 10), ("unfolding", 1), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU time of dmpelt/msdnet")
    parser.add_argument("--lr", type=float, default=0.02, help="largest learning rate of this library")
    parser.add_argument("--models", default="msdnet,msd_csc", type=families, help="families of this library")
    parser.add_argument("--plain", action="store_true", help="no threshold on the identity part, no norm, reflection")
    parser.add_argument("--out", type=Path, default=Path("runs", "msd_pairs"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(12345)
    training, validation = (KINDS[arguments.pairs](arguments.size, count, rng) for count in (TRAINING, VALIDATION))
    folder, record = arguments.out / arguments.pairs / "pairs", arguments.out / RECORD.name
    for name, pairs in (("train", training), ("test", validation)):
        write(pairs, folder / name)
    runs = {"dmpelt/msdnet": train_msdnet(training, validation, arguments)} if arguments.minutes > 0 else {}
    for family in arguments.models:
        runs[label(family, arguments)] = train_pursuitnet(family, folder, arguments)
    results = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    settings = {"depth": arguments.depth, "size": arguments.size, "seed": arguments.seed, "lr": arguments.lr}
    before = results.get(arguments.pairs, {"runs": {}})["runs"]
    runs = before | {name: epochs for name, epochs in runs.items() if epochs}
    results[arguments.pairs] = {**settings, "torch": torch.__version__, "commit": commit(), "runs": runs}
    record.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
