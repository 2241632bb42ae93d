"""Three dictionaries as matrices: what a column, an atom, looks like on the signal."""

import torch
from matplotlib import pyplot as plt

import pursuitnet as pn

weight = torch.tensor([[[0.5, 1.0, -0.6]]])
dictionaries = {
    "convolution": pn.ConvDictionary(weight, padding=1),
    "dilation 2": pn.ConvDictionary(weight, padding=2, dilation=2),
    "stride 2": pn.ConvDictionary(weight, padding=1, stride=2),
    "[I D]": pn.WithIdentity(pn.ConvDictionary(weight, padding=1)),
}
sizes = [D.matrix((1, 1, 12)).shape[1] for D in dictionaries.values()]
figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained", width_ratios=sizes)
for axis, (name, D) in zip(axes, dictionaries.items(), strict=True):
    axis.imshow(D.matrix((1, 1, 12)).detach(), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axis.set(title=name, xlabel="entry of the code", xticks=[], yticks=[])
axes[0].set_ylabel("position in the signal")
plt.show()
