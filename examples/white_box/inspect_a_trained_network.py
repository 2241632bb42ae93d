"""
Certificates of a trained network
=================================

Every layer of a network of this library solves a Lasso, more or less. ``inspect`` measures it: how far each code is
from the minimum of its problem, and whether the lemmas of the theory reach it. The numbers are plain Python objects;
``save`` writes them as JSON and as a page.
"""

import tempfile
from pathlib import Path

from matplotlib import pyplot as plt

import pursuitnet as pn

# %%
# A small network, trained for three epochs on the digits.
folder = Path(tempfile.mkdtemp(), "run")
record = pn.train(pn.Recipe(model="msd_csc_6", width=8, epochs=3, unfolding=1), folder)
print(f"accuracy {record['test_accuracy']:.3f} on the test images")
about = pn.trained(folder)

# %%
# Measured on 32 test images; the labels let it count the accuracy at other numbers of steps too.
images, labels = pn.data.load("digits", split="test")
pixels = about.prepare(images)
found = pn.inspect(about.network, pixels[:32], labeled=(pixels, labels), unfolding=3)
for layer in found.layers:
    print(f"{layer.name}: {layer.dictionary}, {100 * layer.density:.0f} % of the code is non-zero, "
          f"c·L = {layer.step_times_lipschitz:.2f}")  # fmt: skip

# %%
# Left: what can at most be missing between each layer's code and the minimum of its Lasso, and after further steps with
# the layer's own update. Right: how far the code is from what Lemma 2 asks for; below 1 the lemma applies.
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.5), layout="constrained")
for n, layer in enumerate(found.layers, 1):
    left.plot(range(len(layer.solving.gap)), layer.solving.gap, "o-", label=f"layer {n}")
left.set(xlabel="further steps", ylabel="relative gap", xticks=range(4), ylim=(0, 1.05))
left.legend(ncols=2, fontsize="small")
right.bar(range(1, 7), [layer.lemma2.ratio for layer in found.layers])
right.axhline(1, color="black", lw=1)
right.set(yscale="log", xlabel="layer", ylabel="stripe norm over its bound")
plt.show()

# %%
# The whole network with other numbers of steps, not trained again, and the page with all of it.
for at in found.steps:
    print(f"unfolding {at.unfolding}{' (trained)' * at.trained}: accuracy {at.accuracy:.3f}")
print(found.save(folder).name)
