"""How well does convolutional sparse coding denoise photographs, for how much training and how many parameters?

    python experiments/denoise.py --train FOLDER --test FOLDER [FOLDER …] [--sigma 25 | 5-55] [--minutes 60]
                                  [--out runs/denoise] [--choice layers=8 width=49 …]

Trains ``csc_denoiser`` on gray patches of the photographs in a folder, for --minutes of processor time on one thread,
and prints the PSNR on each folder of test images by the usual protocol: white noise of σ/255 added to gray images in
[0, 1], not clipped, with a seed for each image, the result clipped, the mean over the images. An interrupted training
is resumed. Writes denoiser.pt (the state of the training), denoise.json and model.safetensors (for ``pursuitnet
apply``) to --out.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing.weights import pack
from pursuitnet.program.versions import commit

KINDS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}


def photographs(folder: Path) -> list[Tensor]:
    """Return the images of a folder in gray, uint8 (H, W) each, in the order of their names."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS)
    if not paths:
        raise SystemExit(f"{folder} holds no images; expected some of {', '.join(sorted(KINDS))}")
    return [torch.from_numpy(np.array(Image.open(path).convert("L"))) for path in paths]


def patches(images: list[Tensor], count: int, side: int, draws: torch.Generator) -> Tensor:
    """Return patches drawn at random, flipped and turned, in [0, 1]: (count, 1, side, side)."""
    drawn = []
    for index in torch.randint(len(images), (count,), generator=draws).tolist():
        image = images[index]
        top, left = (int(torch.randint(n - side + 1, (1,), generator=draws)) for n in image.shape)
        patch = image[top : top + side, left : left + side]
        turns, flip = torch.randint(4, (2,), generator=draws).tolist()
        patch = patch.rot90(turns)
        drawn.append(patch.flip(0) if flip % 2 else patch)
    return torch.stack(drawn)[:, None].float() / 255


def psnr(result: Tensor, image: Tensor) -> float:
    """Return 10·log₁₀(1/MSE) of a result that is clipped to [0, 1]."""
    return -10 * math.log10(float(F.mse_loss(result.clamp(0, 1), image)))


@torch.inference_mode()
def tested(denoiser: torch.nn.Module, images: list[Tensor], sigma: float) -> tuple[float, float]:
    """Return the mean PSNR at a noise of σ (of 255), and the seconds that 256² pixels took."""
    denoiser.eval()
    psnrs, seconds, pixels = [], 0.0, 0
    for number, image in enumerate(images):
        clean = image[None, None].float() / 255
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(number))
        began = time.process_time()
        result = denoiser(clean + sigma / 255 * noise, sigma / 255)
        seconds, pixels = seconds + time.process_time() - began, pixels + clean.numel()
        psnrs.append(psnr(result, clean))
    denoiser.train()
    return sum(psnrs) / len(psnrs), seconds / pixels * 256**2


class Training:
    """A denoiser, its optimizer, its draws, and the processor time that it has used."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        self.arguments = arguments
        self.denoiser = pn.create_model("csc_denoiser", **chosen(arguments.choice)).train()
        self.optimizer = torch.optim.Adam(self.denoiser.parameters(), lr=arguments.lr)
        self.draws = torch.Generator().manual_seed(arguments.seed)
        self.used, self.steps, self.loss = 0.0, 0, float("nan")

    def step(self, images: list[Tensor], low: float, high: float) -> None:
        """Take one step; the rate rises over a hundredth of the time and falls to zero as a cosine."""
        began, share = time.process_time(), self.used / (60 * self.arguments.minutes)
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.lr * min(1, 0.01 + share / 0.01) * (1 + math.cos(math.pi * share)) / 2
        clean = patches(images, self.arguments.batch, self.arguments.side, self.draws)
        sigma = (low + (high - low) * torch.rand(len(clean), generator=self.draws)) / 255
        noisy = clean + sigma.view(-1, 1, 1, 1) * torch.randn(clean.shape, generator=self.draws)
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.denoiser(noisy, sigma), clean)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 0.1)
        self.optimizer.step()
        loss = float(loss.detach())
        self.loss = loss if self.loss != self.loss else 0.98 * self.loss + 0.02 * loss
        self.used, self.steps = self.used + time.process_time() - began, self.steps + 1

    def save(self, path: Path) -> None:
        """Write the state beside its place and move it there."""
        state = {
            "choice": self.arguments.choice,
            "denoiser": self.denoiser.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "draws": self.draws.get_state(),
            "place": (self.used, self.steps, self.loss),
        }
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def resume(self, path: Path) -> None:
        """Go back to a state."""
        state = torch.load(path, weights_only=True)
        self.denoiser.load_state_dict(state["denoiser"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.draws.set_state(state["draws"])
        self.used, self.steps, self.loss = state["place"]


def chosen(pairs: list[str]) -> dict[str, Any]:
    """Return choices of the network from NAME=VALUE, values as JSON or as they are."""
    choices = {}
    for name, _, value in (pair.partition("=") for pair in pairs):
        try:
            choices[name] = json.loads(value)
        except json.JSONDecodeError:
            choices[name] = value
    return choices


def keep(denoiser: torch.nn.Module, arguments: argparse.Namespace) -> None:
    """Write model.safetensors, for pn.load and pursuitnet apply, if a recipe can say which network it is."""
    choices = chosen(arguments.choice)
    if set(choices) <= {"width", "unfolding", "solver"}:
        where = {"data": "images", "data_dir": arguments.train, "sigma": arguments.sigma}
        recipe = Recipe(task="denoise", seed=arguments.seed, **where, **choices)
        about = {"recipe": recipe.to_json(), "classes": ["channel 1"], "mean": [0.0], "std": [1.0]}
        targets = {"dtype": "uint8", "low": 0.0, "high": 1.0}
        content = pack(denoiser.state_dict(), {**about, "targets": targets})
        (arguments.out / "model.safetensors").write_bytes(content)


def main() -> None:
    """Train, test, print the table, leave state and numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="folders of test images")
    parser.add_argument("--sigma", default="25", help="σ on the scale of 255, or a range such as 5-55")
    parser.add_argument("--levels", type=float, nargs="+", help="noise to test at; by default σ, or 15 25 50 75")
    parser.add_argument("--minutes", type=float, default=60, help="processor time for training")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=64, help="side of a patch in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choice", nargs="*", default=[], help="choices of csc_denoiser, such as layers=8 width=49")
    parser.add_argument("--out", type=Path, default=Path("runs", "denoise"), help="folder for state and numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pn.keep_freed_memory()
    low, _, high = arguments.sigma.partition("-")
    levels = arguments.levels or ([15, 25, 50, 75] if high else [float(low)])
    training, images = Training(arguments), photographs(arguments.train)
    tests = {folder.name: photographs(folder) for folder in arguments.test}
    arguments.out.mkdir(parents=True, exist_ok=True)
    state = arguments.out / "denoiser.pt"
    if state.is_file():
        training.resume(state)
    parameters = sum(p.numel() for p in training.denoiser.parameters())
    print(f"{parameters} parameters, {len(images)} photographs", flush=True)
    kept, reported = time.monotonic(), training.used
    while training.used < 60 * arguments.minutes:
        training.step(images, float(low), float(high or low))
        if time.monotonic() - kept > 60:
            training.save(state)
            kept = time.monotonic()
        if training.used - reported > 5 * arguments.minutes:  # twelve times in all
            reported = training.used
            psnr = ", ".join(
                f"{name} {tested(training.denoiser, test[::8], levels[0])[0]:.2f} dB" for name, test in tests.items()
            )
            minutes = f"{training.used / 60:.1f} min, step {training.steps}"
            print(f"{minutes}: training {-10 * math.log10(training.loss):.2f} dB; every 8th of {psnr}", flush=True)
    training.save(state)
    results = []
    for name, test in tests.items():
        for level in levels:
            psnr, seconds = tested(training.denoiser, test, level)
            results.append({"images": name, "n": len(test), "sigma": level, "psnr": psnr, "seconds": seconds})
            print(f"{name} ({len(test)} images), sigma {level:g}: {psnr:.2f} dB, {seconds:.2f} s for 256²", flush=True)
    about = {
        **{"parameters": parameters, "train": arguments.sigma, "minutes": training.used / 60, "steps": training.steps},
        **{"lr": arguments.lr, "choice": arguments.choice, "seed": arguments.seed},
        **{"torch": torch.__version__, "commit": commit()},
    }
    keep(training.denoiser, arguments)
    (arguments.out / "denoise.json").write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
