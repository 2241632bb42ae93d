"""
A regularization path
=====================

Which atoms does a signal need, and in which order? ``path`` solves for decreasing β, from the largest one, at which the
code is zero, and ``plot`` draws what it finds.
"""

import torch
from matplotlib import pyplot as plt

import pursuitnet as pn

# %%
# A signal of three atoms out of sixty, with noise.
generator = torch.Generator().manual_seed(1)
atoms = torch.randn(60, 40, generator=generator)
D = pn.LinearDictionary(atoms / atoms.norm(dim=1, keepdim=True)).requires_grad_(False)
planted = torch.zeros(1, 60)
planted[0, [5, 20, 41]] = torch.tensor([2.0, -1.5, 1.0])
x = D.synthesize(planted) + 0.05 * torch.randn(1, 40, generator=generator)

# %%
# Each of the thirty solutions starts from the one before, and each has a certificate.
regularization = pn.path(x, D, eps=0.005, n_betas=30, max_steps=5000)
print(f"largest gap: {float(regularization.gaps.max()):.0e}")

# %%
# The three planted atoms enter first and grow, while noise enters late. Their final values are near the planted ones;
# at a larger β the ℓ1 norm shrinks them toward zero.
figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
regularization.plot(axes)
for value in planted[planted != 0].tolist():
    axes.axhline(value, color="#c05a1a", linewidth=0.8, linestyle=":")
axes.set_title("coefficients along the path, and the planted values (dotted)", fontsize=10)
plt.show()
