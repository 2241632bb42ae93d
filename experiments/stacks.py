"""How far do stacks of default layers learn? Trains what is missing, then prints the table of docs/trainability.md.

    python experiments/stacks.py --record        all rows into the record and the page
    python experiments/stacks.py --epochs 1 --layers 3        a reduced setting, into runs/stacks

Layers PursuitLayer(dictionary, start) with filters from torch.randn, one after the other, and a linear head, on the
digits of scikit-learn: 5 epochs of Adam in batches of 32, seed 0, accuracy on all test images after the last epoch.
Convolutional codes are averaged over all positions before the head. A row that has a result is not trained again.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet.program import train

RECORD = Path(__file__).parent / "results" / "stacks.json"
PAGE = Path(__file__).parents[1] / "docs" / "trainability.md"
EPOCHS = 5
DICTIONARIES: dict[str, tuple[int, Callable[[int, int], pn.Dictionary]]] = {
    "64 vectors": (64, lambda n, c: pn.LinearDictionary(torch.randn(n, c))),
    "64 vectors / √32": (64, lambda n, c: pn.LinearDictionary(torch.randn(n, c) / math.sqrt(32))),
    "24 filters of 3": (24, lambda n, c: pn.ConvDictionary(torch.randn(n, c, 3), padding=1)),
    "16 filters of 3×3": (16, lambda n, c: pn.ConvDictionary(torch.randn(n, c, 3, 3), padding=1)),
    "16 circular filters of 3×3": (16, lambda n, c: pn.CircularDictionary(torch.randn(n, c, 3, 3))),
    "12 filters of 3×3×3": (12, lambda n, c: pn.ConvDictionary(torch.randn(n, c, 3, 3, 3), padding=1)),
    "[I D], 16 filters of 3×3": (
        16,
        lambda n, c: pn.WithIdentity(pn.ConvDictionary(torch.randn(n, c, 3, 3), padding=1)),
    ),
}


class Stack(NamedTuple):
    """Which layers: their dictionaries by name, where all but the first start, how many, and Adam's rate."""

    dictionary: str
    start: str
    depth: int
    rate: float = 3e-3


STACKS = (
    Stack("64 vectors", "zero", 30),
    Stack("64 vectors", "zero", 30, 1e-2),
    Stack("64 vectors / √32", "zero", 30),
    Stack("16 filters of 3×3", "zero", 30),
    Stack("16 circular filters of 3×3", "zero", 30),
    Stack("24 filters of 3", "zero", 30),
    Stack("12 filters of 3×3×3", "zero", 30),
    Stack("64 vectors", "resnet", 30),
    Stack("24 filters of 3", "resnet", 30),
    Stack("64 vectors", "res_csc", 30),
    Stack("16 filters of 3×3", "res_csc", 30),
    Stack("64 vectors", "res_csc_simplified", 30, 1e-2),
    Stack("16 filters of 3×3", "res_csc_simplified", 30),
    Stack("[I D], 16 filters of 3×3", "zero", 12, 1e-2),
    Stack("64 vectors", "zero", 12),
    Stack("16 filters of 3×3", "zero", 12),
)


class Classifier(nn.Module):
    """The layers and the head; a start that begins at X₋₁ begins at the layer's own signal."""

    def __init__(self, stack: Stack, channels: int) -> None:
        super().__init__()
        number, make = DICTIONARIES[stack.dictionary]
        self.layers = nn.ModuleList()
        for index in range(stack.depth):
            dictionary = make(number, channels)
            channels = sum(dictionary.code_channels)
            self.layers.append(pn.PursuitLayer(dictionary, getattr(pn, stack.start) if index else pn.zero))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, x if layer.start.needs_previous else None)
        return self.head(x.flatten(2).mean(2) if x.dim() > 2 else x)


def digits(split: str, dims: int) -> tuple[Tensor, Tensor]:
    """Return the digits in [0, 1] as vectors, as rows of pixels, as images, or as images two pixels thick."""
    images, labels = pn.data.load("digits", split=split)
    thick = images.unsqueeze(2).expand(-1, -1, 2, -1, -1)
    return (images.flatten(1), images[:, 0], images, thick)[dims] / 255, labels


def trained(stack: Stack, epochs: int = EPOCHS) -> float:
    """Return the accuracy of a stack on the test images after so many epochs."""
    torch.manual_seed(0)
    number, make = DICTIONARIES[stack.dictionary]
    dims = make(number, 1).dims
    images, labels = digits("train", dims)
    network = Classifier(stack, images.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), stack.rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    images, labels = digits("test", dims)
    with torch.no_grad():
        return (network.eval()(images).argmax(1) == labels).float().mean().item()


def name_of(stack: Stack) -> str:
    """Return the row's beginning, which is its key in the record too."""
    return f"| {stack.dictionary} | `{stack.start}` | {stack.depth} | {stack.rate:g} |"


def table(results: dict[str, dict[str, Any]], stacks: Iterable[Stack] = STACKS) -> str:
    """Return the accuracies as Markdown."""
    lines = ["| dictionary of each layer | start | layers | rate | test accuracy |", "|---|---|---|---|---|"]
    for name in map(name_of, stacks):
        accuracy = f"{100 * results[name]['test_accuracy']:.0f} %" if name in results else "not run"
        lines.append(f"{name} {accuracy} |")
    return "\n".join(lines)


def page(text: str, results: dict[str, dict[str, Any]]) -> str:
    """Return a page with its table made again."""
    return re.sub(
        r"\| dictionary of each layer \|.*?(?=\n\n)", lambda _: table(results), text, count=1, flags=re.DOTALL
    )


def run(stacks: Iterable[Stack], epochs: int, path: Path) -> dict[str, dict[str, Any]]:
    """Train the stacks that have no result after so many epochs, keep each as it comes, and return all results."""
    results = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for stack in stacks:
        name = name_of(stack)
        if results.get(name, {}).get("epochs") != epochs:
            accuracy = trained(stack, epochs)
            about = {"torch": torch.__version__, "commit": train.commit()}
            results[name] = {"test_accuracy": accuracy, "epochs": epochs, **about}
            path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            print(name, f"{accuracy:.4f}", flush=True)
    return results


def main() -> None:
    """Train what is missing, print the table, leave numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only the rows whose beginning contains this text")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of each row")
    parser.add_argument("--layers", type=int, help="at most so many layers in every row")
    parser.add_argument("--out", type=Path, default=Path("runs", "stacks"), help="folder for the numbers")
    parser.add_argument("--record", action="store_true", help="write docs/trainability.md and its record instead")
    arguments = parser.parse_args()
    if arguments.record and (arguments.epochs != EPOCHS or arguments.layers):
        parser.error("--record takes the page's own setting: leave --epochs and --layers out")
    stacks = [s._replace(depth=min(s.depth, arguments.layers or s.depth)) for s in STACKS]
    stacks = [s for s in dict.fromkeys(stacks) if arguments.only in name_of(s)]
    results = run(stacks, arguments.epochs, RECORD if arguments.record else arguments.out / "stacks.json")
    if arguments.record:
        PAGE.write_text(page(PAGE.read_text(), results))
    print(table(results, stacks))


if __name__ == "__main__":
    main()
