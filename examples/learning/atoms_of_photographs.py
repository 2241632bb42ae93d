"""
Atoms of photographs
====================

From two photographs, ``learn`` finds the filters whose few shifts describe them best. No labels are needed: the
problem is min over D and Γ of ½‖x − DΓ‖² + β‖Γ‖₁, with filters of norm 1 at most.
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_sample_images

import pursuitnet as pn

# %%
# Details of the photographs that come with scikit-learn, in gray, minus their local mean and divided by their local
# contrast, so that one β suits all of them.
photographs = [torch.from_numpy(p.copy()).float().mean(-1)[None, None] / 255 for p in load_sample_images().images]
details = torch.cat([p[..., i : i + 64, j : j + 64] for p in photographs for i in (150, 250) for j in (200, 400)])


def smooth(x):
    return torch.nn.functional.avg_pool2d(x, 9, stride=1, padding=4, count_include_pad=False)


x = details - smooth(details)
x = x / smooth(x.square()).sqrt().clamp(min=0.03)

# %%
# The initial dictionary holds random filters; ``padding`` lets atoms reach over the border.
weight = torch.randn(16, 1, 9, 9, generator=torch.Generator().manual_seed(0))
start = pn.ConvDictionary(weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1), padding=4)
learned = pn.learn(x, start, beta=1.0, max_iterations=8, gap=1e-3)
last = learned.history[-1]
print(f"objective {last.objective:.0f}; no codes for these filters are better by more than {100 * last.gap:.1g} %")

# %%
# The atoms, the most used first: edges and lines of all directions.
order = learned.usage.argsort(descending=True)
figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for axis, j in zip(axes.flat, order, strict=True):
    atom = learned.dictionary.weight[j, 0].detach()
    limit = float(atom.abs().max())
    axis.imshow(atom, cmap="gray", vmin=-limit, vmax=limit)
    axis.set(xticks=[], yticks=[], title=f"{100 * float(learned.usage[j]):.0f} %")
figure.suptitle("atoms, and their fraction of Σ|Γ|", fontsize=10)
plt.show()
