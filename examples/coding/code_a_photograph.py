"""
Code a photograph, with its certificate
=======================================

A photograph is written as a sum of a few shifted filters, and the solution comes with a proof of how good it is.
The problem is min ½‖x − DΓ‖² + β‖Γ‖₁; the columns of D are all shifts of 32 random filters.
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_sample_image

import pursuitnet as pn

# %%
# A detail of a photograph that comes with scikit-learn, in gray, minus its local mean: sparse codes describe edges and
# texture, not slow changes of brightness.
photograph = torch.from_numpy(load_sample_image("china.jpg").copy())[150:246, 200:296].float().mean(-1) / 255
smooth = torch.nn.functional.avg_pool2d(photograph[None, None], 9, stride=1, padding=4, count_include_pad=False)
x = photograph[None, None] - smooth  # (batch, channels, height, width)

# %%
# The dictionary: 32 filters of 7×7, of mean zero and unit norm.
filters = torch.randn(32, 1, 7, 7, generator=torch.Generator().manual_seed(0))
filters -= filters.mean((2, 3), keepdim=True)
filters /= filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
D = pn.ConvDictionary(filters, padding=3).requires_grad_(False)

# %%
# ``beta_max`` is the smallest β whose code is zero; a fraction of it is a penalty that suits any image. ``solve`` stops
# when the duality gap proves the objective to be within ``tol`` of the minimum, relative to the objective.
beta = 0.2 * pn.beta_max(x, D)
solution = pn.solve(x, D, beta, pn.WorkingSet(), tol=1e-3)
used = int((solution.code != 0).sum())
print(f"{used} of {solution.code.numel()} coefficients are non-zero")
print(f"the objective is within {float(solution.gap):.1e} of the minimum, relatively, after {solution.steps} steps")

# %%
# The image, its reconstruction DΓ, and the positions of the coefficients in the image.
reconstruction = D.synthesize(solution.code, x.shape)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axis, picture, title in zip(
    axes,
    (x[0, 0], reconstruction[0, 0], solution.code[0].abs().sum(0)),
    ("x, detail of a photograph", f"DΓ from {used} coefficients", "where they are: Σ|Γ| over the filters"),
    strict=True,
):
    axis.imshow(picture, cmap="gray_r" if "Σ" in title else "gray")
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
