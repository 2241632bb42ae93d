"""
A layer in your own network
===========================

``PursuitLayer`` is an ``nn.Module``: it replaces a convolution with its normalization and ReLU, in any network, with
any optimizer. It has one more choice, ``unfolding``, which costs time but no parameters.
"""

import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.nn import functional as F

import pursuitnet as pn

images, labels = pn.data.load("digits", split="train")
test_images, test_labels = pn.data.load("digits", split="test")
x, test = images.float() / 255, test_images.float() / 255


# %%
# A network: a pursuit over 16 filters, then one over [I D], which passes its input on (dense connection).
def network(unfolding):
    """Return a small classifier; the number of its parameters does not depend on the unfolding."""
    first = pn.ConvDictionary(0.3 * torch.randn(16, 1, 3, 3), padding=1)
    second = pn.WithIdentity(pn.ConvDictionary(0.1 * torch.randn(16, 16, 3, 3), padding=1))
    return nn.Sequential(
        pn.PursuitLayer(first, unfolding=unfolding),
        nn.MaxPool2d(2),
        pn.PursuitLayer(second, unfolding=unfolding),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


# %%
# Trained like any other network.
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for unfolding in (0, 2):
    torch.manual_seed(0)
    model = network(unfolding)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for _ in range(6):
        for batch in torch.randperm(len(x)).split(64)[:-1]:
            loss = F.cross_entropy(model(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        accuracy = float((model(test).argmax(1) == test_labels).float().mean())
    size = sum(p.numel() for p in model.parameters())
    print(f"unfolding {unfolding}: {size:,} parameters, {100 * accuracy:.1f} % of the test images")
    axis.semilogy(torch.tensor(losses).unfold(0, 10, 1).mean(1), label=f"unfolding {unfolding}")
axis.set(xlabel="step", ylabel="training loss, mean of ten")
axis.legend()
plt.show()
