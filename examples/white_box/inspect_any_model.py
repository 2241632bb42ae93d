"""
Certificates of any PyTorch model
=================================

``inspect`` reads any PyTorch model of convolutions or matrices, batch normalization and ReLU: a convolution with its
ReLU is one step of a pursuit, Γ = P_θ(Dᵀx), whether it was designed as one or not. Here it reads a plain CNN.
"""

import torch
from matplotlib import pyplot as plt
from torch import nn

import pursuitnet as pn

images, labels = pn.data.load("digits", split="train")
x = images.float() / 255

# %%
# The model: three convolutions and a head, trained for a few seconds.
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
# The inspection is one call. Modules that cannot be read are listed with the reason.
inspection = pn.inspect(model, x[:32])
for layer in inspection.layers:
    print(f"{layer.name}: {layer.dictionary}; ‖x − DΓ‖/‖x‖ = {layer.error_scaled:.2f} at the best scale")
for name, reason in inspection.unread:
    print(f"{name} is not read: {reason}")

# %%
# Layer by layer: the coherence of the filters, the density of the codes, and the fraction of the possible decrease of
# the Lasso's objective that the code reaches (below 0 the zero code would have been better).
figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained")
numbers = range(1, len(inspection.layers) + 1)
for axis, title, values in (
    (axes[0], "mutual coherence μ(D)", [layer.coherence for layer in inspection.layers]),
    (axes[1], "non-zero fraction of the code", [layer.density for layer in inspection.layers]),
    (axes[2], "fraction of the possible gain", [layer.solving.gain for layer in inspection.layers]),
):
    axis.bar(numbers, values)
    axis.set(title=title, xlabel="layer", xticks=numbers)
plt.show()
