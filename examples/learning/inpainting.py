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
pixels = torch.from_numpy(load_sample_image("china.jpg").copy())[150:246, 200:296]
photograph = pixels.float().mean(-1)[None, None] / 255
known = torch.rand(photograph.shape, generator=torch.Generator().manual_seed(0)) < 0.5

# %%
# What varies slowly is filled in by a weighted local mean of the known pixels; the dictionary describes the rest.
window = torch.ones(1, 1, 9, 9)
low, count = (torch.conv2d(image, window, padding=4) for image in (photograph * known, known.float()))
low, x = low / count, (photograph - low / count) * known

# %%
# All shifts of a filter share its 49 weights, and together they see enough known pixels to learn them.
weight = torch.randn(16, 1, 7, 7, generator=torch.Generator().manual_seed(1))
start = pn.ConvDictionary(weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1), padding=3)
learned = pn.learn(x, start, beta=0.03, mask=known, max_iterations=15, gap=1e-3, codes=True)
filled = low + learned.dictionary.synthesize(learned.codes, x.shape).detach()


def psnr(image):
    """In decibels, on the missing pixels."""
    return -10 * float(((image.clamp(0, 1) - photograph)[~known]).square().mean().log10())


# %%
# The same with sporco: consensus ADMM with a mask, on a periodic image, from the same filters.
settings = {"CBPDN": {"rho": 1.0}, "CCMOD": {"rho": 1.0}, "MaxMainIter": 200}
options = {"opt": ConvBPDNMaskDictLearn.Options(settings, dmethod="cns"), "dmethod": "cns", "dimK": 1}
given = [t.detach().numpy() for t in (start.weight[:, 0].permute(1, 2, 0), x[0, 0, :, :, None], known[0, 0].float())]
peer = ConvBPDNMaskDictLearn(given[0], given[1], 0.03, given[2][..., None, None, None], **options)
peer.solve()
theirs = low + torch.from_numpy(peer.reconstruct().squeeze().copy()).float()

# %%
# Known pixels, the local mean of them, and the results.
pictures = {"local mean": low, "D·Γ added": filled, "sporco": theirs}
print(*(f"{name} {psnr(image):.2f} dB" for name, image in pictures.items()), sep=", ")
titles = ["half of the pixels", *(f"{name}, {psnr(image):.1f} dB" for name, image in pictures.items())]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for axis, title, image in zip(axes, titles, [photograph * known, *pictures.values()], strict=True):
    axis.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
