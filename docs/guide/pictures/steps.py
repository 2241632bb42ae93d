"""A signal, its code after more and more steps, and its reconstruction."""

import torch
from matplotlib import pyplot as plt

import pursuitnet as pn

torch.manual_seed(1)
pulse = torch.tensor([0.1, 0.5, 1.0, 0.2, -0.7, -0.4, 0.0])
step = torch.tensor([-0.4, -0.4, -0.4, 0.0, 0.4, 0.4, 0.4])
D = pn.ConvDictionary(torch.stack([pulse / pulse.norm(), step / step.norm()])[:, None], padding=3)
truth = torch.zeros(1, 2, 80)
truth[0, 0, [12, 34, 60]] = torch.tensor([1.5, 1.0, 1.3])
truth[0, 1, [22, 48]] = torch.tensor([1.2, 1.6])
x = (D.synthesize(truth, (1, 1, 80)) + 0.05 * torch.randn(1, 1, 80)).detach()

figure, axes = plt.subplots(2, 4, figsize=(11, 4), layout="constrained", sharex=True, sharey="row")
for column, unfolding in zip(axes.T, (0, 1, 10, 100), strict=True):
    layer = pn.PursuitLayer(
        D, unfolding=unfolding, step=pn.BoundedStep(1.0, learned=False), threshold=pn.Threshold(D.code_channels, 0.15)
    ).eval()
    code = layer(x).detach()
    for row, color, name in zip(code[0], ("tab:blue", "tab:orange"), ("pulse", "edge"), strict=True):
        column[0].vlines(torch.arange(80), 0, row, color=color, label=f"Γ of the {name}")
    column[0].set_title(f"unfolding {unfolding}")
    column[1].plot(x[0, 0], color="0.7", label="x")
    column[1].plot(D.synthesize(code, x.shape).detach()[0, 0], color="tab:red", label="DΓ")
axes[0, 0].legend(fontsize="small")
axes[1, 0].legend(fontsize="small")
plt.show()
