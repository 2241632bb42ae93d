"""How much of the networks that people have does the white box read? The table of docs/guide/white-box.md.

    python experiments/read_networks.py [--networks NAME …] [--out runs/read_networks] [--record]

The networks are those of pytorchcv and of torchvision, whichever is installed; the rest is taken from the last record.
Weights are random, and so are the statistics of batch normalization, as training may leave them; two networks are
trained for a moment on the digits. One image goes through each. Prints the table and writes read_networks.json to a
folder of its own; with --record to where the page has them, and the table into the page.
"""

import argparse
import importlib
import importlib.metadata
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet.program.whitebox.torch_models import trace_torch_layers

ROOT = Path(__file__).parents[1]
RECORD, PAGE = ROOT / "experiments" / "results" / "read_networks.json", ROOT / "docs" / "guide" / "white-box.md"
TRAINED = ("resnet20_cifar10", "densenet40_k12_cifar10")
NETWORKS = {
    "torchvision": {
        "models": ("resnet18", "resnet50", "densenet121", "vgg16", "resnext50_32x4d", "mobilenet_v2", "efficientnet_b0")
    },
    "pytorchcv": {
        "models.resnet": ("resnet18", "resnet50"),
        "models.densenet": ("densenet121",),
        "models.vgg": ("vgg16", "bn_vgg16"),
        "models.preresnet": ("preresnet18", "preresnet50"),
        "models.resnext": ("resnext50_32x4d",),
        "models.wrn_cifar": ("wrn16_10_cifar10",),
        "models.squeezenet": ("squeezenet_v1_1",),
        "models.mobilenet": ("mobilenet_w1",),
        "models.mobilenetv2": ("mobilenetv2_w1",),
        "models.seresnet": ("seresnet18",),
        "models.dpn": ("dpn68",),
        "models.efficientnet": ("efficientnet_b0",),
        "models.resnet_cifar": TRAINED[:1],
        "models.densenet_cifar": TRAINED[1:],
    },
}
COLUMNS = ("network", "convolutions", "read", "as", "not read, matrices included")


def with_random_statistics(model: nn.Module) -> nn.Module:
    """Return a model in evaluation with statistics, scales and shifts as training may leave them."""
    generator = torch.Generator().manual_seed(0)
    bounds = {"running_mean": (-0.3, 0.3), "running_var": (0.2, 2.0), "weight": (0.3, 1.5), "bias": (-0.4, 0.2)}
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for name, (low, high) in bounds.items():
                    getattr(module, name).uniform_(low, high, generator=generator)
    return model.eval()


def trained(model: nn.Module, steps: int = 60) -> nn.Module:
    """Return a model after a few steps on the digits, in three channels of 32 × 32."""
    pixels, labels = pn.data.load("digits", split="train")
    optimizer, order = torch.optim.Adam(model.parameters(), lr=3e-3), torch.randperm(len(pixels)).repeat(10)
    model.train()
    for chosen in order.split(32)[:steps]:
        images = F.interpolate(pixels[chosen].float() / 255, (32, 32)).expand(-1, 3, -1, -1)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels[chosen]).backward()
        optimizer.step()
    return model.eval()


def measure(make: Any, name: str) -> dict[str, Any]:
    """Return what is read of a network."""
    torch.manual_seed(0)
    model, size = make(), 32 if "cifar" in name else 224
    model = trained(model) if name in TRAINED else with_random_statistics(model)
    traced = trace_torch_layers(model, torch.randn(1, 3, size, size))
    convolving = Counter(at.block for _, at in traced.layers if at.convolves)
    return {
        "convolutions": traced.convolutions.met,
        "read": traced.convolutions.read,
        "as": dict(convolving) | ({"projection": len(traced.projections)} if traced.projections else {}),
        "reasons": dict(Counter(reason for _, reason in traced.unread).most_common()),
    }


def networks(chosen: list[str]) -> Iterator[tuple[str, Any, str, str]]:
    """Yield library with version, constructor and name of the networks that are installed."""
    for library, modules in NETWORKS.items():
        for module_name, names in modules.items():
            try:
                module = importlib.import_module(f"{library}.{module_name}")
            except ImportError:
                break
            version = importlib.metadata.version(library)
            yield from ((library, getattr(module, n), n, version) for n in names if not chosen or n in chosen)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return a row a network."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for name, result in results.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in result["as"].items()) or "–"
        reasons = "; ".join(f"{count}: {reason}" for reason, count in result["reasons"].items()) or "–"
        trained = ", trained" if name.split()[-1] in TRAINED else ""
        lines.append((f"{name}{trained}", str(result["convolutions"]), str(result["read"]), kinds, reasons))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(text: str, results: dict[str, dict[str, Any]]) -> str:
    """Return the page with its table made again."""
    return re.sub(
        r"(<!-- networks -->\n).*?(<!-- end -->)", lambda at: f"{at[1]}\n{table(results)}\n\n{at[2]}", text, flags=re.S
    )


def main() -> None:
    """Read all that is installed, print the table, leave the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=[], metavar="NAME", help="only these, as in resnet18")
    parser.add_argument("--out", type=Path, default=Path("runs/read_networks"), help="folder for what is written")
    parser.add_argument("--record", action="store_true", help="write to the record and the page of the documentation")
    arguments = parser.parse_args()
    results = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for library, make, name, version in networks(arguments.networks):
        results[f"{library} {name}"] = {"version": version, "torch": torch.__version__, **measure(make, name)}
        print(f"{library} {name}: {results[f'{library} {name}']}", file=sys.stderr)
    order = [f"{library} {n}" for library, modules in NETWORKS.items() for names in modules.values() for n in names]
    results = {name: results[name] for name in order if name in results}
    out = RECORD if arguments.record else arguments.out / RECORD.name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.record:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
