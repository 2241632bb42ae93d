"""
Reading a run
=============

A run is a folder. It contains the recipe, a line of numbers for each epoch, the weights with everything that is needed
to use them, and a page. ``pursuitnet train`` writes one; here the same is done from Python, and the folder is read.
"""

import json
import tempfile
from pathlib import Path

from matplotlib import pyplot as plt

import pursuitnet as pn

# %%
# Every field of a recipe is an option of ``pursuitnet train``, and vice versa.
folder = Path(tempfile.mkdtemp(), "digits")
recipe = pn.Recipe(data="digits", model="msd_csc_3", width=8, epochs=6, seed=1)
pn.train(recipe, folder)
for file in sorted(folder.iterdir()):
    print(f"{file.stat().st_size:>9,} bytes  {file.name}")

# %%
# ``metrics.jsonl`` has one JSON object per epoch.
records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
print(*(f"{name}: {value}" for name, value in list(records[-1].items())[:8]), sep="\n")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
epochs = [record["epoch"] for record in records]
left.plot(epochs, [record["train_loss"] for record in records], "o-")
left.set(xlabel="epoch", ylabel="training loss")
right.plot(epochs, [record["test_accuracy"] for record in records], "o-")
right.set(xlabel="epoch", ylabel="test accuracy")
plt.show()

# %%
# The trained network, with its classes and normalization. The accuracy of a run is that of its last epoch; no epoch is
# ever chosen on test data.
about = pn.trained(folder)
print(about.recipe.model, "has the classes", ", ".join(about.classes))
images, labels = pn.data.load("digits", split="test")
accuracy = (about.deployed()(images).argmax(1) == labels).float().mean()
print(f"{float(accuracy):.4f}; the record has {records[-1]['test_accuracy']:.4f}")

# %%
# What the first layer has learned: its filters.
filters = about.network.pursuits()[0].dictionary.dictionary.weight.detach()
figure, axes = plt.subplots(1, len(filters), figsize=(9, 1.4), layout="constrained")
for axis, weight in zip(axes, filters, strict=True):
    axis.imshow(weight[0], cmap="RdBu_r", vmin=-float(filters.abs().max()), vmax=float(filters.abs().max()))
    axis.set(xticks=[], yticks=[])
plt.show()
