"""
A signal in one dimension: heartbeats
=====================================

A signal like an electrocardiogram repeats a few shapes at irregular times. ``learn`` finds the shapes, and the code
says when each occurs. The signal is made here: two kinds of beats, at random intervals, and noise.
"""

import torch
from matplotlib import pyplot as plt

import pursuitnet as pn

# %%
# A normal beat and a wide one, 60 samples long, and 4,000 samples with both.
draws = torch.Generator().manual_seed(0)
t = torch.arange(60.0)


def bump(center, width, height):
    return height * torch.exp(-0.5 * ((t - center) / width) ** 2)


beats = torch.stack(
    [
        bump(14, 3, 0.15) + bump(26, 1.2, 1) - bump(30, 1.5, 0.25) + bump(46, 5, 0.3),
        bump(28, 5, 0.8) - bump(42, 6, 0.45),
    ]
)
onsets = torch.arange(20, 3900, 90) + torch.randint(-12, 13, (44,), generator=draws)
kinds = (torch.rand(44, generator=draws) < 0.25).long()
signal = 0.05 * torch.randn(1, 1, 4000, generator=draws)
for onset, kind in zip(onsets.tolist(), kinds.tolist(), strict=True):
    signal[0, 0, onset : onset + 60] += beats[kind]

# %%
# Two atoms of 61 samples, one channel; the code is not negative, since a beat is not turned over.
weight = torch.randn(2, 1, 61, generator=draws)
start = pn.ConvDictionary(weight / weight.norm(dim=2, keepdim=True), padding=30)
learned = pn.learn(signal, start, beta=0.5, nonnegative=True, max_iterations=60, codes=True)
code = learned.codes[0].detach()  # (2 atoms, 4000 samples)
print(f"{int((code > 0.5).sum())} large coefficients for {len(onsets)} beats")

# %%
# The atoms are the beats, up to a shift, and the code is zero between them.
figure, axes = plt.subplots(3, 1, figsize=(9, 5.5), layout="constrained")
axes[0].plot(signal[0, 0, :1200], color="0.3", linewidth=0.8)
axes[0].set_title("the first 1,200 samples", loc="left")
for j, color in enumerate(("#1d4ed8", "#c2410c")):
    axes[1].plot(learned.dictionary.weight[j, 0].detach(), color=color, label=f"atom {j + 1}")
    axes[2].vlines(torch.arange(1200), 0, code[j, :1200], color=color)
axes[1].set_title("atoms", loc="left")
axes[1].legend(frameon=False)
axes[2].set_title("code: when each atom occurs", loc="left")
plt.show()
