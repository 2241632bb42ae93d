"""[I D] without a threshold on the identity part: the loop on the new channels compared with the loop on all channels.

    python benchmarks/gram.py [--unfolding 2] [--batch 64] [--rounds 7] [--threads 2]

With e = γ₁ + Dγ₂ − x a step is γ₁ ← γ₁ − c·e, γ₂ ← P(γ₂ − c·Dᵀe), so that g = Dᵀe follows
g ← (1 − c)·g + DᵀD·Δγ₂: DᵀD is a convolution from w channels to w with filters of twice the reach, and all C channels
are used only in the first step and in the last, when γ₁ is computed. DᵀD is a convolution only where no border cuts
it, so this is for the periodic boundary; with zero padding it would be wrong near the border. Both are run in float64
first, where they must agree.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet.dictionaries import CircularDictionary, ConvDictionary, WithIdentity
from pursuitnet.prox.step_size import BoundedStep
from pursuitnet.prox.threshold import IdentityPenalty, Threshold

SIZES = ((67, 32, 2), (131, 32, 1), (195, 16, 1), (259, 16, 2), (355, 8, 3))
"""Channels, height and width, dilation of some layers of msd_csc_12."""


def layer_of(kind: type[ConvDictionary], channels: int, dilation: int, unfolding: int, width: int = 32) -> nn.Module:
    """Return a layer of [I D] whose identity part is not thresholded."""
    weight = torch.randn(width, channels, 3, 3, generator=torch.Generator().manual_seed(0)) / (9 * channels) ** 0.5
    padding = {"padding": dilation} if kind is ConvDictionary else {}
    dictionary = WithIdentity(kind(weight, dilation=dilation, **padding))
    threshold = Threshold(dictionary.code_channels, 0.01, IdentityPenalty.SIGNED)
    return pn.PursuitLayer(dictionary, unfolding=unfolding, step=BoundedStep(0.9), threshold=threshold)


class OnNewChannels(nn.Module):
    """The same steps as a layer's, on γ₂ and Dᵀe alone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, D = self.layer, self.layer.dictionary.dictionary
        c, theta = layer.step()[0], layer.threshold.penalty.view(-1, 1, 1)
        reach = D.dilation[0] * 2
        gram = F.conv2d(D.weight, D.weight, padding=2)
        g = -D.analyze(x)  # Dᵀe at γ = 0
        e_sum, decay = 1.0, 1.0  # Σ e of the steps is e_sum·(−x) + D·atoms_sum, and e at the end decay·(−x) + …
        atoms, atoms_now, atoms_sum = torch.zeros_like(g), torch.zeros_like(g), torch.zeros_like(g)
        for step in range(layer.unfolding + 1):
            new = F.relu(atoms - c * g - c * theta)
            moved, atoms = new - atoms, new
            if step < layer.unfolding:
                spread = F.pad(moved, (reach,) * 4, mode="circular")
                g = (1 - c) * g + F.conv2d(spread, gram, dilation=D.dilation)
                decay = (1 - c) * decay
                atoms_now = (1 - c) * atoms_now + moved
                e_sum, atoms_sum = e_sum + decay, atoms_sum + atoms_now
        identity = c * (e_sum * x - D.synthesize(atoms_sum, x.shape))
        return torch.cat([identity, atoms], dim=1)


def seconds(module: nn.Module, x: Tensor, rounds: int) -> float:
    """Return the median seconds of a forward and a backward pass."""
    found = []
    for round_ in range(rounds + 1):
        began = time.perf_counter()
        module(x.requires_grad_()).square().mean().backward()
        if round_:
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("unfolding", 2), ("batch", 64), ("rounds", 7), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| channels, size, dilation | zeros | periodic | on the new channels | against zeros | largest difference |")
    print("|---" * 6 + "|")
    for channels, size, dilation in SIZES:
        zeros = layer_of(ConvDictionary, channels, dilation, arguments.unfolding)
        periodic = layer_of(CircularDictionary, channels, dilation, arguments.unfolding)
        exact = layer_of(CircularDictionary, channels, dilation, arguments.unfolding).double()
        x = torch.rand(2, channels, size, size, dtype=torch.float64)
        with torch.no_grad():
            worst = float((exact(x) - OnNewChannels(exact)(x)).abs().max())
        if worst > 1e-12:
            raise AssertionError(f"the two differ by {worst:.1e}")
        x = torch.rand(arguments.batch, channels, size, size).contiguous(memory_format=torch.channels_last)
        modules = (m.to(memory_format=torch.channels_last) for m in (zeros, periodic, OnNewChannels(periodic)))
        times = [seconds(module, x, arguments.rounds) for module in modules]
        told = [*(f"{1000 * s:.0f} ms" for s in times), f"{times[0] / times[2]:.2f}×", f"{worst:.0e}"]
        print(f"| {channels}, {size}×{size}, {dilation} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
