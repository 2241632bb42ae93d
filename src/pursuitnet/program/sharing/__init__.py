"""Trained networks as files to share: weights with their recipe, the hub, ONNX and PyTorch's export.

``weights`` packs and checks the file, ``loading`` loads the network, ``hub`` and ``export`` publish and convert it.
"""

from pursuitnet.program.sharing.loading import Deployed, Trained, load, trained
from pursuitnet.program.sharing.prediction import Prediction

__all__ = ["Deployed", "Prediction", "Trained", "load", "trained"]
