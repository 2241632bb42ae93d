"""
Coherence and dilation
======================

Fig. 1 of the paper shows that dilation lowers the mutual coherence of a convolutional dictionary, from 0.47 to 0. That
is right for its 4×4 image, and for no larger one: as soon as two shifts of the dilated filter overlap, μ is 0.47 again.
"""

import torch
from matplotlib import pyplot as plt

import pursuitnet as pn

# %%
# The paper's filter, and its dictionary as a matrix at dilation s on a 4×4 image (valid convolution). Two columns that
# share a pixel may be similar; for s = 2 on this image no two do.
kernel = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
figure, axes = plt.subplots(1, 2, figsize=(6, 3.4), layout="constrained", width_ratios=[2, 1])
for axis, s in zip(axes, (1, 2), strict=True):
    D = pn.ConvDictionary(kernel, dilation=s)
    matrix = D.matrix((1, 4, 4)).detach()
    axis.imshow(matrix, cmap="Blues", aspect="auto")
    axis.set(title=f"s = {s}: μ = {pn.theory.mutual_coherence(D, (1, 4, 4)):.2f}", xlabel="column", ylabel="pixel")
plt.show()

# %%
# μ against the size of the image, exact at every size, and of [I D], the dictionary of dense connection.
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
sizes = range(4, 11)
for s, marker in ((1, "o"), (2, "s"), (3, "^")):
    D = pn.ConvDictionary(kernel, dilation=s)
    mu = [pn.theory.mutual_coherence(D, (1, n, n)) for n in sizes]
    axis.plot(sizes, mu, marker + "-", label=f"D, s = {s}")
with_identity = pn.theory.mutual_coherence(pn.WithIdentity(pn.CircularDictionary(kernel)))  # 4/√30, largest tap / ‖f‖
axis.axhline(with_identity, color="tab:red", ls="--", label="[I D], any s")
axis.set(xlabel="height and width of the image", ylabel="μ", ylim=(-0.03, 0.85))
axis.legend()
plt.show()

# %%
# What μ is for: a code with fewer than ½(1 + 1/μ) non-zeros is the sparsest of its signal (Lemma 1).
for name, mu in (("D", 14 / 30), ("[I D]", with_identity)):
    print(f"{name}: μ = {mu:.2f}, unique below {pn.theory.uniqueness_bound(mu):.2f} non-zeros")
