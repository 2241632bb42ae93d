"""The weights that come with the library: finished runs packed, each with its card, and the table in docs/models.md.

    python experiments/pretrained.py [RUN …] [--data-dir DIR] [--out FOLDER] [--page docs/models.md]

A run becomes MODEL.safetensors: its weights in the smallest number format that preserves the accuracy, with card,
recipe, classes, mean, std and checksum in the metadata. The accuracy on the card is that of the packed weights on the
test images, measured here. A folder of experiments/denoise.py becomes csc_denoiser.safetensors; DIR then contains the
folders of test images that its denoise.json names, and the card has the PSNR of each. Without a run only the table is
updated.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from pursuitnet import load
from pursuitnet.networks.pretrained import FOLDER
from pursuitnet.networks.pretrained import NEEDED as SHIPPED
from pursuitnet.program import train
from pursuitnet.program.evaluation import evaluate
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.runs import write_whole
from pursuitnet.program.sharing import weights
from pursuitnet.utils.packed import checksum, dequantized, pack, quantized, unpack
from pursuitnet.utils.records import record_of

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
LARGE = 4_000_000
"""Bytes above which 16 bits a weight are too many, where 8 will do."""
LARGE_LAYER = 500_000
"""Weights of a layer above which it is stored in 8 bits in a large network; smaller ones do more to the accuracy."""
NEAR = 0.001
"""By how much packing may change the accuracy: ten of 10,000 images, a quarter of its standard error."""

NEAR_PSNR = 0.005
"""By how many dB packing may change the PSNR of a denoiser: half of the last digit that is printed."""

CLASSIFIER_COLUMNS = (
    ("network", "choices", "data", "test accuracy", "of the last epoch", "parameters", "stored in", "size"),
    ("network", "epochs", "schedule", "weight decay", "seed", "computed in", "PyTorch", "commit", "date", "SHA256"),
)
DENOISER_COLUMNS = (
    ("network", "choices", "σ", "PSNR", "parameters", "stored in", "size"),
    ("network", "trained for", "seed", "computed in", "PyTorch", "commit", "date", "SHA256"),
)
VERSIONS = ("precision", "pursuitnet", "torch")

Weights = dict[str, Tensor]


def packings(weights: Weights) -> Iterator[tuple[str, Weights]]:
    """Yield the weights in number formats, the smallest first; what has one axis or none stays as it is."""
    half = {name: value.half() if value.dim() > 1 else value for name, value in weights.items()}
    if sum(value.nbytes for value in half.values()) > LARGE:
        large = {name: value for name, value in weights.items() if value.numel() > LARGE_LAYER}
        yield "int8, float16", {name: value for name, value in half.items() if name not in large} | quantized(large)
    yield "float16", half
    yield "float32", weights


def packed(run: Path, data_dir: Path | None, out: Path) -> Path:
    """Pack a finished run into a folder; return the file.

    Raises:
        FileNotFoundError: if the run has not finished, or its data are not there.
        ValueError: if a file of it is damaged.
    """
    return (_packed_denoiser if (run / "denoise.json").exists() else _packed_classifier)(run, data_dir, out)


def _packed_classifier(run: Path, data_dir: Path | None, out: Path) -> Path:
    opened, last = train.open_run(run, data_dir, "cpu"), train.last_record(run)["test_accuracy"]
    path = out / f"{opened.recipe.model}.safetensors"
    about = about_of(run, opened, last)
    whole = {name: value.clone() for name, value in opened.model.state_dict().items()}
    for stored, packed_weights in packings(whole):
        opened.model.load_state_dict(dequantized(packed_weights))
        about["card"] |= {"stored": stored, "test_accuracy": accuracy_of(opened)}
        if abs(about["card"]["test_accuracy"] - last) <= NEAR:
            break
    return write_whole(path, pack(packed_weights, about))


def _packed_denoiser(run: Path, data_dir: Path | None, out: Path) -> Path:
    from denoise import photographs, tested

    record = json.loads((run / "denoise.json").read_text())
    model, (whole, about) = load(run / "model.safetensors"), weights.unpack(run / "model.safetensors")
    card = {"model": "csc_denoiser", "data": "images", "choices": Recipe.from_json(about["recipe"]).choices()}
    card |= {name: record.get(name) for name in ("parameters", "minutes", "steps", "seed", "torch", "commit")}
    card |= {"sigma": record["train"], "precision": "float32", "date": _date_of(run)}
    for stored, packed_weights in packings(whole):
        model.load_state_dict(dequantized(packed_weights))
        card |= {"stored": stored, "psnr": []}
        for result in record["results"]:
            images = photographs((data_dir or Path()) / result["images"])
            psnr = tested(model, images, result["sigma"])[0]
            card["psnr"].append({name: result[name] for name in ("images", "n", "sigma")} | {"psnr": psnr})
        before = [result["psnr"] for result in record["results"]]
        if all(abs(now["psnr"] - psnr) <= NEAR_PSNR for now, psnr in zip(card["psnr"], before, strict=True)):
            break
    about["recipe"] |= {"data_dir": "photographs", "device": "auto"}  # a task of images cannot do without a folder
    return write_whole(out / "csc_denoiser.safetensors", pack(packed_weights, about | {"card": card}))


def accuracy_of(opened: train.RunWithData) -> float:
    """Return the share of the test images that a network names rightly."""
    pixels, labels = opened.images.test
    return evaluate(opened.model.eval(), pixels, labels, opened.classes, prepare=opened.images.prepared).top1


def about_of(run: Path, opened: train.RunWithData, last: float) -> dict[str, Any]:
    """Return the metadata of a run's weights; nothing in them is of the machine it was trained on."""
    record = record_of(
        run / "record.json", {"torch": str, "pursuitnet": str, "precision": str}, {"commit": (str, None)}
    )
    recipe = replace(opened.recipe, data_dir=None, device="auto")
    card = {
        "model": recipe.model,
        "choices": recipe.choices(),
        "data": recipe.data,
        "last_epoch_accuracy": last,
        "epochs": recipe.epochs,
        "seed": recipe.seed,
        "parameters": sum(p.numel() for p in opened.model.parameters()),
        "date": _date_of(run),
        **{name: record.get(name) for name in (*VERSIONS, "commit")},
    }
    mean, std = opened.images.mean.tolist(), opened.images.std.tolist()
    identity = (opened.was or opened.images.identity).to_json()
    return {
        "card": card, "recipe": recipe.to_json(), "classes": opened.classes, "mean": mean, "std": std, "data": identity
    }  # fmt: skip


def _date_of(run: Path) -> str:
    """Return the day on which a run ended."""
    return datetime.fromtimestamp((run / "model.safetensors").stat().st_mtime, UTC).date().isoformat()


def table(folder: Path = FOLDER) -> str:
    """Return the cards of the weights in a folder: what they are, then where they come from."""
    cards = [card_of(path) for path in sorted(folder.glob("*.safetensors"))]
    kinds = [(CLASSIFIER_COLUMNS, "test accuracy"), (DENOISER_COLUMNS, "PSNR")]
    shown = [(columns, [card for card in cards if measure in card]) for columns, measure in kinds]
    return "\n\n".join(_table(columns, some) for both, some in shown if some for columns in both)


def _table(columns: tuple[str, ...], cards: list[dict[str, str]]) -> str:
    lines = [columns, ("---",) * len(columns), *(tuple(card[name] for name in columns) for card in cards)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def card_of(path: Path) -> dict[str, str]:
    """Return the card of a file in words, by column."""
    about = unpack(path, SHIPPED)[1]
    card, recipe = about["card"], Recipe.from_json(about["recipe"])
    return {
        "network": f"`{card['model']}`",
        "choices": ", ".join(f"{name} {value}" for name, value in card["choices"].items()) or "–",
        **(_denoising(card) if "psnr" in card else _classification(card, recipe)),
        "parameters": f"{card['parameters']:,}",
        "stored in": card["stored"],
        "size": f"{path.stat().st_size / 1e6:.2f} MB",
        "seed": str(card["seed"]),
        "computed in": card["precision"],
        "PyTorch": card["torch"],
        "commit": (card["commit"] or "–")[:10],
        "date": card["date"],
        "SHA256": f"`{checksum(path)}`",
    }


def _classification(card: dict[str, Any], recipe: Recipe) -> dict[str, str]:
    return {
        "data": card["data"],
        "test accuracy": f"{100 * card['test_accuracy']:.2f} %",
        "of the last epoch": f"{100 * card['last_epoch_accuracy']:.2f} %",
        "epochs": str(recipe.epochs),
        "schedule": f"{recipe.schedule}, lr {recipe.lr:g}, batches of {recipe.batch_size}",
        "weight decay": f"{recipe.weight_decay:g}",
    }


def _denoising(card: dict[str, Any]) -> dict[str, str]:
    measured = (f"{one['psnr']:.2f} dB on {one['images']} (σ = {one['sigma']:g})" for one in card["psnr"])
    return {
        "σ": card["sigma"],
        "PSNR": ", ".join(measured),
        "trained for": f"{card['minutes']:.0f} CPU-minutes, {card['steps']:,} steps",
    }


def page(text: str, folder: Path = FOLDER) -> str:
    """Return a page with its table made again."""
    return re.sub(
        r"(<!-- cards -->\n).*?(<!-- end -->)", lambda at: f"{at[1]}\n{table(folder)}\n\n{at[2]}", text, flags=re.DOTALL
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--data-dir", type=Path, help="folder of the data, if they have moved")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the weights; by default the library's own")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with the table; by default docs/models.md")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        for run in arguments.runs:
            print(packed(run, arguments.data_dir, arguments.out))
    except (ValueError, OSError) as error:
        sys.exit(f"pretrained.py: {error}")
    arguments.page.write_text(page(arguments.page.read_text(encoding="utf-8"), arguments.out), encoding="utf-8")
    print(arguments.page)
