"""Trained networks as files for others: weights with their recipe, the hub, ONNX and PyTorch's export.

``weights`` packs and checks the file, ``reading`` gives the network back, ``hub`` and ``export`` pass it on.
"""

from pursuitnet.program.sharing.loading import Deployed, Trained, load, trained
from pursuitnet.program.sharing.prediction import Prediction

__all__ = ["Deployed", "Prediction", "Trained", "load", "trained"]
