"""
Export to ONNX and run it there
===============================

A trained network is exported as one file that ONNX Runtime runs without PyTorch, on any batch and image size. The file
takes images in [0, 1]: normalization is inside. Before it is written, it is run on images of three sizes and compared.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from matplotlib import pyplot as plt

import pursuitnet as pn
from pursuitnet.program.sharing.export import export

# %%
# A network; on the command line the export is ``pursuitnet export RUN --format onnx``.
folder = Path(tempfile.mkdtemp(), "run")
pn.train(pn.Recipe(model="msd_csc_3", width=8, epochs=4), folder)
about = pn.trained(folder)
difference = export(about, folder / "model.onnx", "onnx")
print(f"{(folder / 'model.onnx').stat().st_size:,} bytes; logits agree to {difference:.0e}")

# %%
# In ONNX Runtime: a session, NumPy arrays, and the names of the classes in the metadata of the file.
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
images, labels = pn.data.load("digits", split="test")
there = session.run(["logits"], {"images": images.numpy().astype(np.float32) / 255})[0]
here = about.deployed()(images).detach().numpy()
print(f"{(there.argmax(1) == here.argmax(1)).mean():.3f} of the predictions are the same")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(here.ravel(), there.ravel(), ".", ms=3)
left.set(xlabel="logits in PyTorch", ylabel="logits in ONNX Runtime")
first = torch.from_numpy(there[:1]).softmax(1)[0]
right.bar(classes, first)
right.set(title=f"prediction for a {classes[labels[0]]}", ylabel="probability", xlabel="class")
plt.show()
