"""
Unfolding
=========

A layer is the first step of an algorithm. With *unfolding* it takes more steps, with the same parameters. What does a
further step change: in the layer's Lasso, and in a network that was not trained for it?
"""

import torch
from matplotlib import pyplot as plt

import pursuitnet as pn
from pursuitnet.multilayer import with_unfolding

torch.manual_seed(0)
images, labels = pn.data.load("digits", split="train")
x = images.float() / 255

# %%
# One layer, its problem, and its objective ½‖x − DΓ‖² + β‖Γ‖₁ after more and more steps. With a threshold without
# normalization and a fixed step 1/L the layer is the algorithm itself; ``solve`` computes the minimum.
D = pn.ConvDictionary(torch.randn(12, 1, 3, 3) / 3, padding=1).requires_grad_(False)
beta, batch = 0.05, x[:32]
threshold = pn.Threshold(D.code_channels, beta, nonnegative=True)
least = pn.solve(batch, D, beta, nonnegative=True, max_steps=2000, tol=1e-3).objective
steps = [0, 1, 2, 4, 8, 16, 32]
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for solver in (pn.ISTA(), pn.FISTA()):
    above = []
    for unfolding in steps:
        step = pn.BoundedStep(1.0, learned=False)
        layer = pn.PursuitLayer(D, solver=solver, unfolding=unfolding, step=step, threshold=threshold).eval()
        code = layer(batch).detach()
        error = (batch - D.synthesize(code, batch.shape)).flatten(1).square().sum(1)
        above.append(float(((error / 2 + beta * code.flatten(1).sum(1)) / least - 1).median()))
    axis.semilogy(steps, above, "o-", label=type(solver).__name__)
axis.set(xlabel="unfolding", ylabel="objective above the minimum, relatively", title="one layer")
axis.legend()
plt.show()

# %%
# A network: trained with one further step, evaluated with none, or more. It must be trained for its number of steps.
model = pn.create_model("msd_csc_3", in_chans=1, width=8, unfolding=1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(4):
    for batch in torch.randperm(len(x)).split(64)[:-1]:
        loss = torch.nn.functional.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
test, truth = pn.data.load("digits", split="test")
accuracies = []
for unfolding in range(5):
    with torch.no_grad(), with_unfolding(model.eval(), unfolding):
        accuracies.append(float((model(test.float() / 255).argmax(1) == truth).float().mean()))
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
axis.bar(range(5), accuracies, color=["tab:blue" if n == 1 else "tab:gray" for n in range(5)])
axis.set(xlabel="unfolding in evaluation", title="a network trained with unfolding 1", ylabel="test accuracy")
plt.show()
