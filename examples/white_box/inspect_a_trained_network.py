"""
Certificates of a trained network
=================================

Every layer of a network of this library solves a Lasso approximately. ``inspect`` measures how far each code is from
the minimum of its problem, and whether the lemmas of the theory apply to it. The numbers are plain Python objects;
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
# Measured on 32 test images; with labels it also computes the accuracy at other numbers of steps.
images, labels = pn.data.load("digits", split="test")
pixels = about.prepare(images)
inspection = pn.inspect(about.network, pixels[:32], labeled=(pixels, labels), unfolding=3)
for layer in inspection.layers:
    print(f"{layer.name}: {layer.dictionary}, {100 * layer.density:.0f} % of the code is non-zero, "
          f"c·L = {layer.step_times_lipschitz:.2f}")  # fmt: skip

# %%
# Left: a bound of the distance of each layer's code from the minimum of its Lasso, and after further steps with the
# layer's own update. Right: the stripe norm divided by the bound of Lemma 2; below 1 the lemma applies.
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.5), layout="constrained")
for n, layer in enumerate(inspection.layers, 1):
    left.plot(range(len(layer.solving.gap)), layer.solving.gap, "o-", label=f"layer {n}")
left.set(xlabel="further steps", ylabel="relative gap", xticks=range(4), ylim=(0, 1.05))
left.legend(ncols=2, fontsize="small")
right.bar(range(1, 7), [layer.lemma2.ratio for layer in inspection.layers])
right.axhline(1, color="black", lw=1)
right.set(yscale="log", xlabel="layer", ylabel="stripe norm over its bound")
plt.show()

# %%
# The whole network with other numbers of steps, without further training, and the page with all results.
for at in inspection.steps:
    print(f"unfolding {at.unfolding}{' (trained)' * at.trained}: accuracy {at.accuracy:.3f}")
print(inspection.save(folder).name)
