"""
[I D] is sparse coding with outliers
====================================

Dense connection adds the identity to the dictionary: x ≈ Γ_I + DΓ_D. Solved, not unrolled, the identity part contains
what the atoms cannot explain, such as broken pixels. ``ReducedSolver`` minimizes over that part in closed form, which
leaves a Huber loss in Γ_D alone, and runs FISTA on it.
"""

import math

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_sample_image

import pursuitnet as pn

# %%
# Patches of 16×16 pixels of a photograph, and the 256 cosines of that size, which describe smooth pictures with few
# coefficients. Every twelfth pixel is broken: black or white.
photograph = torch.from_numpy(load_sample_image("flower.jpg").copy())[100:228, 220:348].double().mean(-1) / 255 - 0.5
generator = torch.Generator().manual_seed(0)
hit = torch.rand(photograph.shape, generator=generator)
broken = photograph.where(hit > 1 / 12, (hit * 24 > 1).double() - 0.5)

grid = torch.arange(16, dtype=torch.float64)
basis = torch.cos(math.pi / 16 * (grid + 0.5) * grid[:, None])
basis /= basis.norm(dim=1, keepdim=True)
D = pn.LinearDictionary(torch.kron(basis, basis)).requires_grad_(False)


def patches(picture):
    """Return the 64 patches of a picture (128, 128) as (64, 256)."""
    return picture.view(8, 16, 8, 16).transpose(1, 2).reshape(64, 256)


def picture_of(rows):
    """Return the picture (128, 128) of 64 patches (64, 256)."""
    return rows.view(8, 8, 16, 16).transpose(1, 2).reshape(128, 128)


# %%
# The same β for both; the objective with [I D] is that of robust regression.
x, beta = patches(broken), 0.15
plain = pn.solve(x, D, beta)
robust = pn.solve(x, pn.WithIdentity(D), beta, pn.ReducedSolver())
slow = pn.solve(x, pn.WithIdentity(D), beta, pn.FISTA())
difference = float((robust.objective / slow.objective - 1).abs().max())
print(f"{robust.steps} steps reduced, {slow.steps} with FISTA on [I D]; the minima differ by {difference:.0e}")

identity, code = robust.code.split([256, 256], dim=1)
restored = {"by D": picture_of(D.synthesize(plain.code)), "by [I D], atoms": picture_of(D.synthesize(code))}
shown = {"broken": broken, **restored, "by [I D], identity": picture_of(identity)}
figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained")
for axis, (name, picture) in zip(axes, shown.items(), strict=True):
    axis.imshow(picture, cmap="gray", vmin=-0.5, vmax=0.5)
    error = f"\nerror {float((picture - photograph).square().mean().sqrt()):.3f}" if "identity" not in name else ""
    axis.set(title=name + error, xticks=[], yticks=[])
plt.show()
