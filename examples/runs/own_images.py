"""
Own images: from a folder to a prediction
=========================================

Training needs only one sub-folder per class. Here the photographs are drawn: crosses, disks and squares of random
position, size and brightness. Replace them by yours.
"""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

import pursuitnet as pn

draws = np.random.default_rng(0)


def draw(shape):
    """Return a noisy 24×24 picture of one shape."""
    rows, columns = np.mgrid[:24, :24] - draws.integers(8, 16, (2, 1, 1))
    radius = draws.integers(4, 8)
    inside = {
        "cross": (np.minimum(abs(rows), abs(columns)) <= 1) & (np.maximum(abs(rows), abs(columns)) <= radius),
        "disk": rows**2 + columns**2 <= radius**2,
        "square": np.maximum(abs(rows), abs(columns)) <= radius,
    }[shape]
    return np.clip(255 * (0.2 + inside * draws.uniform(0.3, 0.8) + 0.1 * draws.normal(size=(24, 24))), 0, 255)


root = Path(tempfile.mkdtemp())
for shape in ("cross", "disk", "square"):
    (root / "photographs" / shape).mkdir(parents=True)
    for number in range(100):
        Image.fromarray(draw(shape).astype(np.uint8)).save(root / "photographs" / shape / f"{number}.png")

# %%
# Every fifth image of a class is used for testing, unless there are folders train/ and test/. On the command line:
# ``pursuitnet train --data folder --data-dir photographs --model msd_csc_3 --width 12 --epochs 15 --out run``.
recipe = pn.Recipe(data="folder", data_dir=root / "photographs", model="msd_csc_3", width=12, epochs=15)
record = pn.train(recipe, root / "run")
print(f"{100 * record['test_accuracy']:.0f} % of the test images")

# %%
# New pictures, as files. The run contains its classes, its size and its normalization; no data set is needed any more.
# On the command line, with a page that explains it: ``pursuitnet predict run new --csv predictions.csv --explain``.
(root / "new").mkdir()
for number, shape in enumerate(("cross", "disk", "square") * 2):
    Image.fromarray(draw(shape).astype(np.uint8)).save(root / "new" / f"{number}.png")
predictions = pn.trained(root / "run").predict(root / "new")
figure, axes = plt.subplots(1, 6, figsize=(9, 2), layout="constrained")
for number, (axis, [(name, probability), *_]) in enumerate(zip(axes, predictions.top(3), strict=True)):
    axis.imshow(Image.open(root / "new" / f"{number}.png"), cmap="gray", vmin=0, vmax=255)
    axis.set(title=f"{name} {100 * probability:.0f} %", xticks=[], yticks=[])
plt.show()
