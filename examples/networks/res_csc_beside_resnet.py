"""
Res-CSC and ResNet
==================

A residual block is one step of a pursuit that starts at the block's input, with one term left out. Res-CSC keeps it:
Dᵀ(x + c·D·X₋₁) instead of Dᵀx, with one learned number c per block. At c = 0, where it starts, it *is* ResNet.
"""

import torch
from matplotlib import pyplot as plt
from torch.nn import functional as F

import pursuitnet as pn

images, labels = pn.data.load("digits", split="train")
x = images.float() / 255


def model_of(name):
    """Return a network whose random weights are the same for both names."""
    torch.manual_seed(0)
    return pn.create_model(name, in_chans=1, width=8)


# %%
# The same weights, and c = 0: the same logits.
resnet, res_csc = model_of("resnet_20"), model_of("res_csc_20")
with torch.no_grad():
    difference = (resnet.eval()(x[:8]) - res_csc.eval()(x[:8])).abs().max()
sizes = [sum(p.numel() for p in model.parameters()) for model in (resnet, res_csc)]
print(f"largest difference of a logit {float(difference):.0e}; {sizes[0]:,} and {sizes[1]:,} parameters: nine c more")

# %%
# Trained on the same batches, with a learning rate of c that is large enough for this short training.
losses = {"resnet_20": [], "res_csc_20": []}
for name, model in (("resnet_20", resnet), ("res_csc_20", res_csc)):
    model.train()
    steps = [p for n, p in model.named_parameters() if n.endswith("step.c")]
    others = [p for n, p in model.named_parameters() if not n.endswith("step.c")]
    groups = [{"params": others}, {"params": steps, "lr": 0.01}] if steps else [{"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    for _ in range(4):
        for batch in torch.randperm(len(x), generator=order).split(64)[:-1]:
            loss = F.cross_entropy(model(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
for name, values in losses.items():
    left.semilogy(torch.tensor(values).unfold(0, 5, 1).mean(1), label=name)
left.set(xlabel="step", ylabel="training loss, mean of five")
left.legend()
learned = [p.item() for n, p in res_csc.named_parameters() if n.endswith("step.c")]
right.bar(range(1, 10), learned)
right.set(title="learned c of Res-CSC", xlabel="block", xticks=range(1, 10))
plt.show()
