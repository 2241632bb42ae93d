"""
Inpainting: half of the pixels
==============================

Half of the pixels of an image are missing. A dictionary is learned from the other half, ``mask`` says which they are,
and DΓ fills in the rest: the data term counts known pixels only.
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_sample_image
from sporco.dictlrn.cbpdndlmd import ConvBPDNMaskDictLearn

import pursuitnet as pn

# %%
# A detail of a photograph, and the pixels that are known, drawn at random.
photograph = (
    torch.from_numpy(load_sample_image("china.jpg").copy())[150:246, 200:296].float().mean(-1)[None, None] / 255
)
known = torch.rand(photograph.shape, generator=torch.Generator().manual_seed(0)) < 0.5

# %%
# What varies slowly is filled in by a weighted local mean of the known pixels; the dictionary describes the rest.
window = torch.ones(1, 1, 9, 9)
low = torch.conv2d(photograph * known, window, padding=4) / torch.conv2d(known.float(), window, padding=4)
x = (photograph - low) * known

# %%
# All shifts of a filter share its 49 weights, and together they see enough known pixels to learn them.
weight = torch.randn(16, 1, 7, 7, generator=torch.Generator().manual_seed(1))
start = pn.ConvDictionary(weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1), padding=3)
learned = pn.learn(x, start, beta=0.03, mask=known, max_iterations=15, gap=1e-3, codes=True)
filled = low + learned.dictionary.synthesize(learned.codes, x.shape).detach()


def psnr(image):
    """In decibels, on the missing pixels."""
    return -10 * float(((image.clamp(0, 1) - photograph)[~known]).square().mean().log10())


print(f"missing pixels: local mean {psnr(low):.2f} dB, with the learned dictionary {psnr(filled):.2f} dB")

# %%
# The same with sporco: consensus ADMM with a mask, on a periodic image, from the same filters.
method = {"dmethod": "cns"}
options = ConvBPDNMaskDictLearn.Options({"MaxMainIter": 200, "CBPDN": {"rho": 1.0}, "CCMOD": {"rho": 1.0}}, **method)
filters, image, mask = (t.detach().numpy() for t in (start.weight[:, 0].permute(1, 2, 0), x[0, 0], known[0, 0].float()))
peer = ConvBPDNMaskDictLearn(filters, image[..., None], 0.03, mask[..., None, None, None], options, dimK=1, **method)
peer.solve()
theirs = low + torch.from_numpy(peer.reconstruct().squeeze().copy()).float()
print(f"with sporco's dictionary {psnr(theirs):.2f} dB")

# %%
# Known pixels, the local mean of them, and the results.
pictures = {
    "half of the pixels": photograph * known,
    f"local mean, {psnr(low):.1f} dB": low,
    f"D·Γ added, {psnr(filled):.1f} dB": filled,
    f"sporco, {psnr(theirs):.1f} dB": theirs,
}
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for axis, (title, image) in zip(axes, pictures.items(), strict=True):
    axis.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
