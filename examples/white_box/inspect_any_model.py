"""
Certificates of somebody else's network
=======================================

``inspect`` reads any PyTorch model of convolutions or matrices, batch normalization and ReLU: a convolution with its
ReLU is one step of a pursuit, Γ = P_θ(Dᵀx), whether or not anybody meant it. Here a plain CNN that knows nothing of
this library.
"""

import torch
from matplotlib import pyplot as plt
from torch import nn

import pursuitnet as pn

images, labels = pn.data.load("digits", split="train")
x = images.float() / 255

# %%
# Theirs: three convolutions and a head, trained for a few seconds.
torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(4):
    for batch in torch.randperm(len(x)).split(64)[:-1]:
        loss = nn.functional.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %%
# Ours: one call. What cannot be read is listed with the reason, never guessed.
found = pn.inspect(model, x[:32])
for layer in found.layers:
    print(f"{layer.name}: {layer.dictionary}; ‖x − DΓ‖/‖x‖ = {layer.error_scaled:.2f} at the best scale")
for name, reason in found.unread:
    print(f"{name} is not read: {reason}")

# %%
# What a ReLU network leaves open, layer by layer: the coherence of its filters, how full its codes are, and how much of
# the gain that its Lasso offers the code takes (below 0 no code at all would have been better).
figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained")
places = range(1, len(found.layers) + 1)
for axis, title, values in (
    (axes[0], "mutual coherence μ(D)", [layer.coherence for layer in found.layers]),
    (axes[1], "non-zero share of the code", [layer.density for layer in found.layers]),
    (axes[2], "share of the possible gain", [layer.solving.gain for layer in found.layers]),
):
    axis.bar(places, values)
    axis.set(title=title, xlabel="layer", xticks=places)
plt.show()
